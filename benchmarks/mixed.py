"""python -m benchmarks.mixed [--only NAME] [--rounds N]: random effects, beside statsmodels' MixedLM.

The peer's log-likelihood is held against ours, as in `benchmarks.several`. Loops are timed on some of their models.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

import torchglm as tg
from benchmarks.several import SOME, Peer, Workload, tell


def clinics() -> Workload:
    """A random intercept at a size that the peer can do."""
    data = _clustered(100_000, 12_500)
    formula = "y ~ x + z + (1 | g)"
    return Workload(
        "random intercept, Gaussian REML, 100,000 rows, 12,500 groups",
        lambda: tg.fit(formula, data, family="gaussian"),
        lambda result: float(result.loglik),
        [Peer("statsmodels MixedLM", lambda: _mixed(data))],
    )


def many_clinics() -> Workload:
    data = _clustered(1_000_000, 125_000)
    return Workload(
        "random intercept, Gaussian REML, 1,000,000 rows, 125,000 groups",
        lambda: tg.fit("y ~ x + z + (1 | g)", data, family="gaussian"),
        lambda result: float(result.loglik),
        [],
    )


def many_counts() -> Workload:
    data = _clustered(1_000_000, 125_000)
    return Workload(
        "random intercept, Poisson by Laplace, 1,000,000 rows, 125,000 groups",
        lambda: tg.fit("count ~ x + z + (1 | g)", data, family="poisson"),
        lambda result: float(result.loglik),
        [],
    )


def power_gaussian() -> Workload:
    data = _studies(1000)
    few = [data[data["study"] == k] for k in range(SOME)]
    return Workload(
        "1,000 random intercepts, Gaussian REML, 200 rows in 20 groups each",
        lambda: tg.fit("y ~ x + z + (1 | g)", data, family="gaussian", by="study"),
        lambda result: float(result.loglik[:SOME].sum()),
        [Peer("statsmodels MixedLM", lambda: sum(map(_mixed, few)), SOME / 1000)],
    )


def power_counts() -> Workload:
    data = _studies(1000)
    return Workload(
        "1,000 random intercepts, Poisson by Laplace, 200 rows in 20 groups each",
        lambda: tg.fit("count ~ x + z + (1 | g)", data, family="poisson", by="study"),
        lambda result: float(result.loglik[:SOME].sum()),
        [],
    )


WORKLOADS = [clinics, many_clinics, many_counts, power_gaussian, power_counts]


def _clustered(n: int, groups: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g, x, z = rng.integers(0, groups, n), rng.normal(size=n), rng.normal(size=n)
    eta = 0.2 + 0.5 * x - 0.3 * z + 0.6 * rng.normal(size=groups)[g]
    return pd.DataFrame({"x": x, "z": z, "g": g, "y": eta + rng.normal(size=n), "count": rng.poisson(np.exp(eta))})


def _studies(count: int) -> pd.DataFrame:
    return pd.concat([_clustered(200, 20, k).assign(study=k) for k in range(count)])


def _mixed(data: pd.DataFrame) -> float:
    import statsmodels.formula.api as smf

    return float(smf.mixedlm("y ~ x + z", data, groups="g").fit().llf)


def main(argv: list[str] | None = None) -> None:
    tell("python -m benchmarks.mixed", str(__doc__), WORKLOADS, argv)


if __name__ == "__main__":
    main()
