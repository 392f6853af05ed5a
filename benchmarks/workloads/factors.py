"""One model with categories: a million rows, five factors of 5 to 1,000 levels beside five numbers, and exposure."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.problem import Problem, Workload

SIZES = {
    "quick": (3_000, (3, 8, 20)),
    "bench": (1_000_000, (5, 20, 50, 100, 1_000)),
    "full": (1_000_000, (5, 20, 50, 100, 1_000)),
}
NUMBERS = 5


def make(n: int, levels: tuple[int, ...]) -> Problem:
    rng = np.random.default_rng(24)
    x = np.concatenate([np.ones((n, 1)), rng.standard_normal((n, NUMBERS))], axis=1)
    eta = x @ np.concatenate([[0.2], rng.normal(0, 0.2, NUMBERS)])
    factors = []
    for count in levels:
        codes = np.concatenate([np.arange(count), rng.integers(0, count, n - count)]).astype(np.int32)
        eta += rng.normal(0, 0.2, count)[codes]
        factors.append(codes)
    exposure = rng.uniform(0.5, 2.0, n)
    y = rng.poisson(exposure * np.exp(eta)).astype(float)
    return Problem("factors", "poisson", "log", x, y, factors=tuple(factors), exposure=exposure)


def workloads(size: str) -> list[Workload]:
    n, levels = SIZES[size]
    title = f"poisson–log, {n:,} rows: {NUMBERS} numbers, factors of {', '.join(f'{k:,}' for k in levels)} levels"
    return [Workload(f"factors-{n}", title, partial(make, n, levels))]
