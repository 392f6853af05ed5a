"""python -m benchmarks.several [--only NAME] [--rounds N]: families of several predictors, beside their fastest peers.

Each peer runs in the same process on the same arrays, in turn with torchglm, and its optimum is held against ours: the
log-likelihoods agree to 1e-6 of themselves, or the row says so. Loops over many models are timed on some of them. The
seconds are of processor, so that other work on the machine counts for little.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import torchglm as tg

SOME = 20  # of the models of a loop that are timed


@dataclass(frozen=True)
class Peer:
    """A contender: `fit()` gives a log-likelihood, of `share` of the work of the whole; or its seconds and that."""

    name: str
    fit: Callable[[], float | tuple[float, float]]
    share: float = 1.0


@dataclass(frozen=True)
class Workload:
    """The same problem for torchglm and its peers; `whole()` gives the log-likelihood of what the peers fit."""

    title: str
    ours: Callable[[], tg.Result]
    whole: Callable[[tg.Result], float]
    peers: list[Peer]


def many_multinomials() -> Workload:
    import statsmodels.api as sm

    x, y = _classes(1000, 200, 4, 3)

    def loop() -> float:
        return sum(sm.MNLogit(y[k], sm.add_constant(x[k])).fit(disp=0).llf for k in range(SOME))

    return Workload(
        "1,000 multinomials, 200 x 4, 3 classes",
        lambda: tg.fit(x, y, family=tg.Multinomial()),
        lambda result: float(result.loglik[:SOME].sum()),
        [Peer("statsmodels MNLogit", loop, SOME / 1000)],
    )


def many_ordinals() -> Workload:
    x, y = _levels(1000, 200, 4, 3)
    return Workload(
        "1,000 ordinals, 200 x 4, 3 levels",
        lambda: tg.fit(x, y, family=tg.Ordinal()),
        lambda result: float(result.loglik[:SOME].sum()),
        [Peer("statsmodels OrderedModel", lambda: sum(_ordered(x[k], y[k]) for k in range(SOME)), SOME / 1000)],
    )


def ordinal() -> Workload:
    return _ordinal(20_000)


def tall_ordinal() -> Workload:
    return _ordinal(1_000_000)


def _ordinal(n: int) -> Workload:
    x, y = _levels(1, n, 20, 5)
    return Workload(
        f"one ordinal, {n:,} x 20, 5 levels",
        lambda: tg.fit(x[0], y[0], family=tg.Ordinal()),
        lambda result: float(result.loglik),
        [Peer("statsmodels OrderedModel", lambda: _ordered(x[0], y[0]))],
    )


def tall_multinomial() -> Workload:
    from sklearn.linear_model import LogisticRegression

    x, y = _classes(1, 200_000, 30, 5)

    def peer(solver: str, tol: float) -> Callable[[], float]:
        def run() -> float:
            model = LogisticRegression(C=np.inf, solver=solver, tol=tol, max_iter=1000).fit(x[0], y[0])
            return float(model.predict_log_proba(x[0])[np.arange(len(y[0])), y[0]].sum())

        return run

    return Workload(
        "one multinomial, 200,000 x 30, 5 classes",
        lambda: tg.fit(x[0], y[0], family=tg.Multinomial()),
        lambda result: float(result.loglik),
        [
            Peer(f"scikit-learn {solver}, tol={tol:g}", peer(solver, tol))
            for solver, tol in (("newton-cg", 1e-6), ("newton-cg", 1e-8), ("lbfgs", 1e-6), ("lbfgs", 1e-8))
        ],
    )


def thousand_classes() -> Workload:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8_000, 256))
    y = (x @ (rng.standard_normal((256, 1000)) * 0.15) + rng.gumbel(size=(8_000, 1000))).argmax(1)
    return Workload(
        "a thousand classes, 8,000 x 256, a ridge of 0.01",
        lambda: tg.fit(x, y, family=tg.Multinomial(), penalty=tg.Ridge(0.01)),
        lambda result: float(result.loglik),
        [],
    )


def zero_inflated() -> Workload:
    from statsmodels.discrete.count_model import ZeroInflatedNegativeBinomialP

    rng = np.random.default_rng(4)
    n = 200_000
    x = rng.standard_normal((n, 20))
    mu = np.exp(0.5 + x[:, :5] @ np.full(5, 0.2))
    y = rng.negative_binomial(2.0, 2.0 / (2.0 + mu)) * (rng.random(n) > 0.3)
    columns = np.column_stack([np.ones(n), x])

    def peer() -> float:
        model = ZeroInflatedNegativeBinomialP(y, columns, exog_infl=np.ones((n, 1)))
        return float(model.fit(method="bfgs", maxiter=500, disp=0).llf)

    return Workload(
        "zero-inflated negative binomial, 200,000 x 20",
        lambda: tg.fit(x, y, family=tg.ZeroInflated(tg.NegativeBinomial())),
        lambda result: float(result.loglik),
        [Peer("statsmodels ZINB", peer)],
    )


WORKLOADS = [
    many_multinomials,
    many_ordinals,
    ordinal,
    tall_ordinal,
    tall_multinomial,
    thousand_classes,
    zero_inflated,
]


def _classes(models: int, n: int, p: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((models, n, p))
    eta = np.concatenate([np.zeros((models, n, 1)), x @ (rng.standard_normal((p, classes - 1)) * 0.3)], -1)
    return x, (eta + rng.gumbel(size=eta.shape)).argmax(-1)


def _levels(models: int, n: int, p: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((models, n, p))
    latent = x @ np.full(p, 0.2) + rng.logistic(size=(models, n))
    return x, np.digitize(latent, np.linspace(-1.5, 1.5, levels - 1))


def _ordered(x: np.ndarray, y: np.ndarray) -> float:
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    return float(OrderedModel(y, x, distr="logit").fit(method="bfgs", maxiter=500, disp=0).llf)


def _timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    value = work()
    return time.process_time() - start, value


def run(workload: Workload, rounds: int) -> list[str]:
    """The rows of the table of one workload, medians of interleaved rounds."""
    own, other = list[float](), {peer.name: list[float]() for peer in workload.peers}
    apart = dict.fromkeys(other, 0.0)
    workload.ours()
    for _ in range(rounds):
        seconds, result = _timed(workload.ours)
        own.append(seconds)
        assert isinstance(result, tg.Result)
        reference = workload.whole(result)
        for peer in workload.peers:
            seconds, value = _timed(peer.fit)
            if isinstance(value, tuple):
                seconds, value = value
            other[peer.name].append(seconds / peer.share)
            assert isinstance(value, float)
            apart[peer.name] = abs(value / reference - 1)
    ours = statistics.median(own)
    rows = [f"| {workload.title} | torchglm | {ours:.3g} | 1 | |"]
    for name, seconds_of in other.items():
        theirs, off = statistics.median(seconds_of), apart[name]
        same = "" if off < 1e-6 else f"its log-likelihood is off by {off:.0e}"
        rows.append(f"| | {name} | {theirs:.3g} | {theirs / ours:.3g} | {same} |")
    return rows


def main(argv: list[str] | None = None) -> None:
    tell("python -m benchmarks.several", str(__doc__), WORKLOADS, argv)


def tell(prog: str, said: str, workloads: Sequence[Callable[[], Workload]], argv: list[str] | None) -> None:
    """Print the table of the workloads that the command line asks for."""
    parser = argparse.ArgumentParser(prog=prog, description=said.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[workload.__name__ for workload in workloads])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(argv)
    print("| workload | contender | seconds | times torchglm | |\n|---|---|---:|---:|---|")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for workload in workloads:
            if workload.__name__ in given.only:
                print("\n".join(run(workload(), given.rounds)), flush=True)


if __name__ == "__main__":
    main()
