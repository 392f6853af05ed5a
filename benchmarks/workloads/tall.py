"""One model on many rows: a million rows of 50 columns, Poisson, Gamma and logistic; 200,000 rows of 300, Poisson."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.problem import Array, Problem, Workload, mean_of

SIZES = {"quick": [(2_000, 5)], "bench": [(1_000_000, 50), (200_000, 300)], "full": [(1_000_000, 50), (200_000, 300)]}
MODELS = {"poisson": "log", "gamma": "log", "bernoulli": "logit"}


def draw(rng: np.random.Generator, mean: Array, family: str) -> Array:
    if family == "poisson":
        return rng.poisson(mean).astype(float)
    if family == "gamma":
        return rng.gamma(2.0, mean / 2.0)
    return (rng.random(mean.shape) < mean).astype(float)


def make(n: int, p: int, family: str) -> Problem:
    rng = np.random.default_rng(20)
    x = rng.standard_normal((n, p))
    x[:, 0] = 1.0
    coef = rng.standard_normal(p) * 0.5 / np.sqrt(p)
    coef[0] = 0.3
    link = MODELS[family]
    return Problem(f"tall-{family}", family, link, x, draw(rng, mean_of(x @ coef, link), family))


def workloads(size: str) -> list[Workload]:
    cases = [(n, p, family) for n, p in SIZES[size] for family in MODELS if family == "poisson" or p <= 50]
    return [Workload(f"tall-{f}-{n}x{p}", f"{f}–{MODELS[f]}, {n:,} × {p}", partial(make, n, p, f)) for n, p, f in cases]
