"""Many small models, each with its own design: 10,000 Poisson models of 200 × 8."""

from __future__ import annotations

import numpy as np

from benchmarks.problem import Problem, Workload

SIZES = {"quick": (20, 60, 3), "bench": (10_000, 200, 8), "full": (10_000, 200, 8)}


def make(models: int, n: int, p: int) -> Problem:
    rng = np.random.default_rng(21)
    x = rng.standard_normal((models, n, p))
    x[:, :, 0] = 1.0
    coef = rng.standard_normal((models, p, 1)) * 0.3
    coef[:, 0] += 0.5
    y = rng.poisson(np.exp(x @ coef)[..., 0]).astype(float)
    return Problem("many", "poisson", "log", x, y)


def workloads(size: str) -> list[Workload]:
    models, n, p = SIZES[size]
    title = f"{models:,} Poisson models, own x of {n} × {p}"
    return [Workload(f"many-{models}", title, lambda: make(models, n, p))]
