"""Distance to the limit: the least time that the passes of a tall fit over `x` can take on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from threadpoolctl import threadpool_limits

from benchmarks.contenders import Contender
from benchmarks.problem import Array, Problem

BLOCK = 1 << 19  # bytes of the rows that a core works on at a time


def applies(problem: Problem) -> bool:
    """True for one model over a design of numbers."""
    return problem.y.ndim == 1 and not problem.factors and not problem.inference


def of(problem: Problem, contender: Contender) -> dict[str, float]:
    """Grams and mere reads of all of `x` that torchglm makes, the seconds of one of each here, and their sum."""
    with counted() as passes:
        contender.fit(problem)
    n = len(problem.y)
    grams = sum(rows for rows, curved in passes if curved) / n
    reads = sum(rows for rows, curved in passes if not curved) / n
    gram, read = seconds(problem.x, lambda x: x.T @ x), seconds(problem.x, lambda x: x.sum())
    return {
        "grams": grams,
        "reads": reads,
        "gram_seconds": gram,
        "read_seconds": read,
        "seconds": grams * max(gram, read) + reads * read,
    }


@contextmanager
def counted() -> Iterator[list[tuple[int, bool]]]:
    """Within it every block that torchglm's kernel sees is listed: its rows, and whether it made a Gram."""
    from torchglm.fitting import kernel, one_pass, one_report, small_passes

    passes: list[tuple[int, bool]] = []
    moments, of_block, last = kernel.block_moments, one_pass._of_block, one_report._of_block

    def seen(rows: Any, point: Any, *rest: Any) -> Any:
        passes.append((rows.y.shape[-1], point.curved))
        return moments(rows, point, *rest)

    def seen_of_one(problem: Any, block: Any, coef: Any, curved: bool, single: bool) -> Any:
        passes.append((len(block.x), curved))
        return of_block(problem, block, coef, curved, single)

    def seen_last(problem: Any, block: Any, before: Any, coef: Any, delta: Any, curved: bool) -> Any:
        passes.append((len(block.x), curved))
        return last(problem, block, before, coef, delta, curved)

    with (
        patch.object(kernel, "block_moments", seen),
        patch.object(small_passes, "block_moments", seen),
        patch.object(one_pass, "_of_block", seen_of_one),
        patch.object(one_report, "_of_block", seen_last),
    ):
        yield passes


def seconds(x: Array, work: Callable[[Array], Any]) -> float:
    """The least of five times that `work` on all blocks of `x` takes, each core with its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    step = max(1, BLOCK // (8 * x.shape[1]))
    parts = [range(len(x) * i // cores, len(x) * (i + 1) // cores, step) for i in range(cores)]

    def own(part: range) -> None:
        for start in part:
            work(x[start : min(start + step, part.stop)])

    times = []
    with threadpool_limits(1), ThreadPoolExecutor(cores) as pool:
        for _ in range(5):
            begin = time.perf_counter()
            list(pool.map(own, parts))
            times.append(time.perf_counter() - begin)
    return min(times)
