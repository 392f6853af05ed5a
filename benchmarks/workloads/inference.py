"""All of inference: standard errors, HC3 errors, leverage and Cook's distance of every row, tall and many."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks.problem import Problem, Workload
from benchmarks.workloads import many, tall

FAMILIES = ("poisson", "gamma")


def make_tall(n: int, p: int, family: str) -> Problem:
    return replace(tall.make(n, p, family), inference=True)


def make_many(models: int, n: int, p: int) -> Problem:
    return replace(many.make(models, n, p), inference=True)


def workloads(size: str) -> list[Workload]:
    n, p = tall.SIZES[size][0]
    models, rows, columns = many.SIZES[size]
    what = "SE, HC3, leverage, Cook's distance"
    made = [
        Workload(f"inference-tall-{f}-{n}x{p}", f"{what}: {f}, {n:,} × {p}", partial(make_tall, n, p, f))
        for f in FAMILIES
    ]
    title = f"{what}: {models:,} Poisson models, own x of {rows} × {columns}"
    return [*made, Workload(f"inference-many-{models}", title, partial(make_many, models, rows, columns))]
