"""Models drawn from a seed: families, links, roles, penalties, and data that no one would wish for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import torchglm
from tests.fuzz.judge import Drawn

POSITIVE = ("log", "identity", "inverse", "inverse_squared", "sqrt", "softplus")
PROPORTION = ("logit", "probit", "cloglog", "loglog", "cauchit")
SUITS: dict[str, tuple[str, ...]] = {
    "gaussian": ("identity", "log", "inverse", "sqrt", "logit"),
    "bernoulli": (*PROPORTION, "identity", "log"),
    "binomial": (*PROPORTION, "identity", "log"),
    "poisson": POSITIVE,
    "gamma": POSITIVE,
    "exponential": ("log", "inverse", "identity", "sqrt"),
    "inverse_gaussian": POSITIVE,
    "negative_binomial": POSITIVE,
    "tweedie": ("log", "identity", "sqrt", "inverse"),
}
SHAPES = {"negative_binomial": ("alpha", (0.01, 0.5, 3.0)), "tweedie": ("power", (1.1, 1.5, 1.9))}


def draw(seed: int) -> tuple[dict[str, Any], Drawn]:
    """The arguments of a fit, and the model that they mean."""
    g = np.random.default_rng(seed)
    family = str(g.choice(list(SUITS)))
    link = str(g.choice(SUITS[family]))
    n, p = int(g.choice([3, 8, 20, 60, 300])), int(g.integers(1, 5))
    intercept = bool(g.random() < 0.8)
    x = _columns(g, n, p)
    shape = float(g.choice(SHAPES[family][1])) if family in SHAPES else 1.0
    y = _response(g, family, n)
    roles: dict[str, Any] = {}
    weight, offset = np.ones(n), np.zeros(n)
    event = None
    if g.random() < 0.35:
        roles["weights"] = _weights(g, n)
        weight = weight * roles["weights"]
    if g.random() < 0.2:
        roles["freq"] = g.integers(0, 4, n).astype(float)
        weight = weight * roles["freq"]
    if g.random() < 0.25:
        roles["offset"] = g.normal(size=n) * float(g.choice([0.3, 3, 30, 700])) * (0.1 if link != "log" else 1)
        offset = offset + roles["offset"]
    if link == "log" and g.random() < 0.2:
        roles["exposure"] = np.exp(g.normal(size=n) * 2)
        offset = offset + np.log(roles["exposure"])
    if family == "binomial":
        trials = g.integers(1, 40, n).astype(float)
        roles["trials"], y = trials, np.round(y * trials)
    if family == "exponential" and g.random() < 0.5:
        event = (g.random(n) < g.choice([0.1, 0.6, 0.95])).astype(float)
        roles["event"] = event
    l1, l2 = _strengths(g)
    design = np.concatenate([np.ones((n, 1)), x], 1) if intercept else x
    free = np.r_[0.0, np.ones(p)] if intercept else np.ones(p)
    proportion, whole = (y, weight) if family != "binomial" else (y / roles["trials"], weight * roles["trials"])
    drawn = Drawn(family, link, design, proportion, whole, offset, shape, event, l1 * free, l2 * free)
    arguments: dict[str, Any] = {
        "x": x,
        "y": y,
        "family": torchglm.families.get(family, **({SHAPES[family][0]: shape} if family in SHAPES else {})),
        "link": link,
        "intercept": intercept,
        **roles,
    }
    if l1 or l2:
        arguments["penalty"] = torchglm.ElasticNet(l1=l1, l2=l2)
    return arguments, drawn


def _columns(g: np.random.Generator, n: int, p: int) -> np.ndarray:
    x = g.normal(size=(n, p)) * 10.0 ** g.choice([0, 0, 0, -6, 6, 3], size=p)
    kind = g.random()
    if kind < 0.1:
        x[:, -1] = 2000 + g.integers(0, 30, n)  # a year
    elif kind < 0.2:
        x[:, -1] = (g.random(n) < 0.05).astype(float)  # a rare level
    elif kind < 0.27 and p > 1:
        x[:, -1] = x[:, 0] * 3  # a column twice
    elif kind < 0.34 and p > 1:
        x[:, -1] = x[:, 0] * (1 + 1e-5 * g.normal(size=n))  # nearly twice
    elif kind < 0.4:
        x[:, -1] = 7.0
    elif kind < 0.45:
        x[:, -1] *= 10.0 ** g.choice([-90, 40])
    return x


def _response(g: np.random.Generator, family: str, n: int) -> np.ndarray:
    kind = g.random()
    scale = 10.0 ** float(g.choice([0, 0, 0, 0, 3, -3, -97, 30]))
    if family in ("bernoulli", "binomial"):
        share = float(g.choice([0.5, 0.5, 0.9, 0.02, 0.0, 1.0]))
        return (g.random(n) < share).astype(float) if family == "bernoulli" else g.random(n) * share
    if family == "gaussian":
        return (np.abs(g.normal(size=n)) if kind < 0.5 else g.normal(size=n)) * scale
    if family in ("poisson", "negative_binomial"):
        y = g.poisson(float(g.choice([0.2, 2.0, 50.0])), n).astype(float)
        return np.zeros(n) if kind < 0.06 else y * scale if kind < 0.2 else y
    if family == "tweedie":
        y = g.gamma(1.0, size=n) * (g.random(n) < 0.6) * max(scale, 1e-3)
        return np.zeros(n) if kind < 0.06 else y
    y = g.gamma(float(g.choice([0.2, 1.0, 20.0])), size=n) * scale + 1e-290
    return np.full(n, y[0]) if kind < 0.05 else y


def _weights(g: np.random.Generator, n: int) -> np.ndarray:
    kind = g.random()
    if kind < 0.5:
        return g.uniform(0.2, 3, n)
    if kind < 0.75:
        return g.uniform(0.2, 3, n) * (g.random(n) < 0.7)
    return 10.0 ** g.uniform(-6, 6, n)


def _strengths(g: np.random.Generator) -> tuple[float, float]:
    kind = g.random()
    if kind < 0.7:
        return 0.0, 0.0
    l1, l2 = (float(10 ** g.uniform(-4, 0)) for _ in range(2))
    return (l1, 0.0) if kind < 0.8 else (0.0, l2) if kind < 0.9 else (l1, l2)


def fit(arguments: dict[str, Any]) -> torchglm.Result:
    """The fit of drawn arguments."""
    x, y, rest = arguments["x"], arguments["y"], {k: v for k, v in arguments.items() if k not in ("x", "y")}
    return torchglm.fit(torch.as_tensor(x), torch.as_tensor(y), **rest)
