"""python -m benchmarks.small [--rounds N]: one model of few rows, beside the fastest peer of each size.

All run in one process in turn, with one thread each; torchglm and statsmodels give standard errors as well. The seconds
are of processor, so that other work on the machine counts for little. Answers are held to the reference as elsewhere.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import torchglm
from benchmarks import contenders
from benchmarks.measure import Record, judge
from benchmarks.problem import Fit, Problem, reference

SIZES = ((200, 4), (2_000, 5), (20_000, 10), (100_000, 20))
LINKS = {"poisson": "log", "gamma": "log", "bernoulli": "logit"}
PEERS = ("torchglm", "statsmodels", "sklearn", "glum")
WORK = 400_000  # numbers of a design in a round: so many small fits are a turn


class Closer(Problem):
    """A problem on which peers that stop on the gradient take a tenth of the usual tolerance."""

    @property
    def gradient_tol(self) -> float:
        return super().gradient_tol / 10


def problem(n: int, p: int, family: str, kind: type[Problem] = Problem) -> Problem:
    """One model of normal columns beside a column of ones."""
    made = np.random.default_rng(0)
    x = np.column_stack([np.ones(n), made.normal(size=(n, p - 1))])
    eta = 0.5 + x[:, 1:] @ (0.6 / np.sqrt(p) * made.normal(size=p - 1))
    if family == "poisson":
        y = made.poisson(np.exp(eta))
    elif family == "gamma":
        y = made.gamma(2.0, np.exp(eta) / 2)
    else:
        y = made.random(n) < 1 / (1 + np.exp(-eta))
    return kind(f"{n} x {p}", family, LINKS[family], x, np.asarray(y, dtype=float))


def exact(fit: Callable[[Problem], Fit], n: int, p: int, family: str) -> Callable[[], Fit]:
    """A fit that passes the check of accuracy, at the loosest tolerance. Raises `ValueError` where none does."""
    for kind in (Problem, Closer):
        given, record = problem(n, p, family, kind), Record("")
        judge(record, fit(given), reference(given))
        if not record.failure:
            return lambda: fit(given)
    raise ValueError(f"{n} x {p}, {family}: {record.failure}")


def compare(fits: Mapping[str, Callable[[], Any]], rounds: int, turns: int) -> dict[str, float]:
    """Median milliseconds of each, in turn, the order rotated from round to round."""
    spent: dict[str, list[float]] = {name: [] for name in fits}
    names = list(fits)
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            begin = time.process_time()
            for _ in range(turns):
                fits[name]()
            spent[name].append((time.process_time() - begin) / turns)
    return {name: 1e3 * statistics.median(values) for name, values in spent.items()}


def ours_by_formula(rounds: int) -> None:
    """A formula on a frame of 2,000 rows and 11 coefficients, and a head that fits itself."""
    import pandas as pd
    import statsmodels.formula.api as smf
    from statsmodels.api import families

    given = problem(2_000, 9, "poisson")
    frame = pd.DataFrame(given.x[:, 1:], columns=[f"x{j}" for j in range(1, 9)])
    frame["y"], frame["g"] = given.y, np.array(["a", "b", "c"])[np.arange(2_000) % 3]
    formula = "y ~ " + " + ".join(f"x{j}" for j in range(1, 9)) + " + C(g)"
    x, y = torch.from_numpy(given.x[:, 1:]), torch.from_numpy(given.y)
    fits: dict[str, Callable[[], Any]] = {
        "torchglm": lambda: torchglm.fit(formula, frame, family="poisson").std_err,
        "torchglm head.fit": lambda: torchglm.GLMHead(8, "poisson").fit(x, y),
        "statsmodels": lambda: smf.glm(formula, frame, family=families.Poisson()).fit().bse,
    }
    times = compare(fits, rounds, 2)
    print("formula, 2,000 x 11:", ", ".join(f"{name} {value:.2f} ms" for name, value in times.items()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    adapters = {name: contenders.load(name) for name in PEERS if name in contenders.installed()}
    others = [name for name in adapters if name != "torchglm"]
    print(f"| rows × columns | model | {' | '.join(adapters)} | share of the fastest |\n|---|---|" + "---:|" * 5)
    with threadpool_limits(1):
        for n, p in SIZES:
            for family in LINKS:
                fits = {name: exact(adapter.fit, n, p, family) for name, adapter in adapters.items()}
                times = compare(fits, rounds, max(1, min(10, WORK // (n * p * 10))))
                share = times["torchglm"] / min(times[name] for name in others)
                shown = " | ".join(f"{times[name]:.2f}" for name in adapters)
                print(f"| {n:,} × {p} | {family} | {shown} | {share:.2f} |", flush=True)
        ours_by_formula(rounds)


if __name__ == "__main__":
    main()
