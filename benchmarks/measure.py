"""Time, memory and accuracy of one contender at a time, interleaved so that drift hits all alike."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from benchmarks import limit
from benchmarks.contenders import Contender
from benchmarks.problem import Array, Fit, Problem, Workload, reference

ACCURACY = 1e-6  # largest allowed |coef - reference| / max(|reference|, standard error)


@dataclass
class Record:
    """All that is known of one contender on one workload."""

    contender: str
    seconds: list[float] = field(default_factory=list)
    peak_mb: float | None = None  # resident memory above the data and the loaded libraries
    coef_error: float | None = None
    std_err_error: float | None = None  # None: the contender gives no standard errors
    inference_error: float | None = None  # of HC3 errors, leverage and Cook's distance; None: not asked for
    failure: str | None = None


def gap(got: Array, want: Array, scale: Array) -> float:
    if got.shape != want.shape:
        return float("inf")
    error = np.max(np.abs(got - want) / scale)
    return float(error) if np.isfinite(error) else float("inf")


def judge(record: Record, fit: Fit, want: Fit) -> None:
    """Fill in the errors of `fit`; an answer that is off is a failure, and its time is never shown."""
    assert want.std_err is not None
    record.coef_error = gap(fit.coef, want.coef, np.maximum(np.abs(want.coef), want.std_err))
    if record.coef_error > ACCURACY:
        record.failure = f"coefficients off by {record.coef_error:.1e}"
    if fit.std_err is not None:
        record.std_err_error = gap(fit.std_err, want.std_err, want.std_err)
        if record.std_err_error > 1e-4:
            record.failure = f"standard errors off by {record.std_err_error:.1e}"
    if want.hc3 is not None and record.failure is None:
        judge_inference(record, fit, want)


def judge_inference(record: Record, fit: Fit, want: Fit) -> None:
    """Hold HC3 errors, leverage and Cook's distance to the reference, each on its own scale."""
    errors = []
    for name in ("hc3", "leverage", "cook"):
        got, right = getattr(fit, name), getattr(want, name)
        errors.append(float("inf") if got is None else gap(got, right, np.full_like(right, np.abs(right).max())))
    record.inference_error = max(errors)
    if record.inference_error > 1e-4:
        record.failure = f"HC3, leverage or Cook's distance off by {record.inference_error:.1e}"


def memory_mb(key: str) -> float:
    """A line of /proc/self/status (VmRSS, VmHWM) in MB; NaN where there is none."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith(key))
    except (OSError, StopIteration):
        return float("nan")


def reset_peak() -> None:
    """Hand freed memory back and set the peak to the present, so that VmHWM is this run's own."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            with open("/proc/self/clear_refs", "w", encoding="ascii") as refs:
                refs.write("5")
        except OSError:
            pass


def run_once(
    fit: Callable[[Problem], Fit], problem: Problem, clock: Callable[[], float] = time.perf_counter
) -> tuple[Fit, float, float]:
    """The fit, its seconds by a clock, and the megabytes it needed at its peak above what was there before."""
    reset_peak()
    before = memory_mb("VmRSS")
    start = clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = fit(problem)
    seconds = clock() - start
    return answer, seconds, max(memory_mb("VmHWM") - before, 0.0)


def compare(
    workload: Workload,
    contenders: dict[str, Contender],
    rounds: int,
    budget: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Run every contender `rounds` times in turn; one that would pass `budget` seconds runs fewer times.

    Where the problem asks for inference, only contenders that offer it take part.
    """
    start = time.perf_counter()
    problem = workload.make()
    generation = time.perf_counter() - start
    want = reference(problem)
    runs = {name: one.able(problem) for name, one in contenders.items()}
    able = {name: run for name, run in runs.items() if run is not None}
    records = {name: Record(name) for name in able}
    names = list(able)
    for turn in range(rounds):
        shift = turn % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            record = records[name]
            spent = sum(record.seconds)
            if record.failure or (record.seconds and spent + record.seconds[-1] > budget):
                continue
            try:
                answer, seconds, peak = run_once(able[name], problem, clock)
            except Exception as error:  # a contender that breaks is a result, and must not end the others
                record.failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                continue
            judge(record, answer, want)
            record.seconds.append(seconds)
            record.peak_mb = max(peak, record.peak_mb or 0.0)
            print(f"  {workload.name}: {name}, run {len(record.seconds)}", file=sys.stderr, flush=True)
    tall = limit.applies(problem) and "torchglm" in contenders and clock is time.perf_counter  # of all cores
    return {
        "name": workload.name,
        "title": workload.title,
        "processor_time": clock is not time.perf_counter,
        "data_mb": problem.megabytes,
        "generation_seconds": generation,
        "limit": limit.of(problem, contenders["torchglm"]) if tall else None,
        "contenders": [asdict(record) for record in records.values()],
    }
