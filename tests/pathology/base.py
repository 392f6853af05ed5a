"""What problems are made of: a dict of X (with its intercept), y, family, link, and what else `fit` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CASES: dict[str, Callable[[], dict[str, Any]]] = {}


def case(make: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Enter a function without arguments as the problem of its name."""
    CASES[make.__name__] = make
    return make


def problem(X: Any, y: Any, family: str, link: str, **more: Any) -> dict[str, Any]:
    return {"X": X, "y": y, "family": family, "link": link, **more}


def with_one(x: Any) -> np.ndarray:
    """The columns of `x` behind a column of ones."""
    x = np.asarray(x, float)
    return np.column_stack([np.ones(len(x)), x])


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def table(name: str, names: Any = True) -> np.ndarray:
    """A CSV file of this folder: a structured array, or with `names=None` a matrix."""
    path = Path(__file__).parent / name
    return np.genfromtxt(path, delimiter=",", names=names, skip_header=0 if names else 1)


def base(n: int = 60, seed: int = 1) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """A tame design `(n, 3)`, its Poisson means, and the generator that goes on from there."""
    g = rng(seed)
    x = g.normal(size=(n, 2))
    return g, with_one(x), np.exp(0.5 + 0.4 * x[:, 0] - 0.3 * x[:, 1])


def poisson(**more: Any) -> dict[str, Any]:
    """A tame Poisson problem, to be spoiled in one place."""
    g, X, mu = base()
    return problem(X, g.poisson(mu).astype(float), "poisson", "log", **more)
