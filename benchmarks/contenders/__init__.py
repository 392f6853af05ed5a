"""One adapter per contender: `fit(problem) -> Fit`, and `infer(problem) -> Fit` where it offers HC3 and influence.

A contender not installed is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata

from benchmarks.problem import Fit, Problem

NAMES = {"torchglm": "torchglm", "glum": "glum", "sklearn": "scikit-learn", "statsmodels": "statsmodels", "jax": "jax"}


def installed() -> dict[str, str]:
    """The contenders at hand and their versions."""
    versions = {}
    for name, distribution in NAMES.items():
        try:
            versions[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return versions


@dataclass(frozen=True)
class Contender:
    """What an adapter offers; `infer` fits and gives standard errors, HC3 errors, leverage and Cook's distance;
    `fit_factors` takes categories."""

    fit: Callable[[Problem], Fit]
    infer: Callable[[Problem], Fit] | None = None
    fit_factors: Callable[[Problem], Fit] | None = None

    def able(self, problem: Problem) -> Callable[[Problem], Fit] | None:
        """What it has for a problem; None: it does not take part."""
        if problem.factors:
            return self.fit_factors
        return self.infer if problem.inference else self.fit


def load(name: str) -> Contender:
    adapter = import_module(f"benchmarks.contenders.with_{name}")
    return Contender(adapter.fit, getattr(adapter, "infer", None), getattr(adapter, "fit_factors", None))
