"""Many responses over one design: 2,000 Poisson responses on one x of 500 × 10."""

from __future__ import annotations

import numpy as np

from benchmarks.problem import Problem, Workload

SIZES = {"quick": (20, 80, 3), "bench": (2_000, 500, 10), "full": (2_000, 500, 10)}


def make(responses: int, n: int, p: int) -> Problem:
    rng = np.random.default_rng(22)
    x = rng.standard_normal((n, p))
    x[:, 0] = 1.0
    coef = rng.standard_normal((responses, p)) * 0.3
    coef[:, 0] += 0.5
    return Problem("shared", "poisson", "log", x, rng.poisson(np.exp(coef @ x.T)).astype(float))


def workloads(size: str) -> list[Workload]:
    responses, n, p = SIZES[size]
    title = f"{responses:,} Poisson responses, one x of {n} × {p}"
    return [Workload(f"shared-{responses}", title, lambda: make(responses, n, p))]
