"""python -m benchmarks.mixed [--only NAME] [--rounds N]: random effects, beside statsmodels' MixedLM and R's lme4.

The peer's log-likelihood is held against ours, as in `benchmarks.several`. Loops are timed on some of their models.
lme4 is an optional peer, by `Rscript`: it reads the data from a file and times its fits itself.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import torchglm as tg
from benchmarks.several import SOME, Peer, Workload, tell

SCRIPT = """suppressMessages(library(lme4)); total <- 0; value <- 0
for (path in Sys.glob("{folder}/*.csv")) {{
  d <- read.csv(path)
  for (name in intersect(names(d), c("g", "student", "teacher", "department"))) d[[name]] <- factor(d[[name]])
  t <- system.time(m <- suppressMessages(suppressWarnings({call}))); total <- total + t[1] + t[2]
  value <- value + as.numeric(logLik(m))
}}
cat(total, format(value, digits = 15))
"""


def lme4(call: str, tables: Sequence[pd.DataFrame], share: float = 1.0) -> list[Peer]:
    """A call of lme4 on one table after the other, where R is at hand."""
    if shutil.which("Rscript") is None:
        return []

    def fit() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            for k, table in enumerate(tables):
                table.to_csv(Path(folder) / f"{k:06d}.csv", index=False)
            script = SCRIPT.format(folder=folder, call=call)
            said = subprocess.run(["Rscript", "-e", script], capture_output=True, text=True, check=True).stdout
        seconds, value = map(float, said.split())
        return seconds, value

    return [Peer(f"lme4 {call.split('(')[0]}", fit, share)]


LMER, GLMER = "lmer(y ~ x + z + (1 | g), d)", "glmer(count ~ x + z + (1 | g), d, family = poisson)"


def clinics() -> Workload:
    """A random intercept at a size that the peer can do."""
    data = _clustered(100_000, 12_500)
    formula = "y ~ x + z + (1 | g)"
    return Workload(
        "random intercept, Gaussian REML, 100,000 rows, 12,500 groups",
        lambda: tg.fit(formula, data, family="gaussian"),
        lambda result: float(result.loglik),
        [Peer("statsmodels MixedLM", lambda: _mixed(data)), *lme4(LMER, [data])],
    )


def many_clinics() -> Workload:
    data = _clustered(1_000_000, 125_000)
    return Workload(
        "random intercept, Gaussian REML, 1,000,000 rows, 125,000 groups",
        lambda: tg.fit("y ~ x + z + (1 | g)", data, family="gaussian"),
        lambda result: float(result.loglik),
        lme4(LMER, [data]),
    )


def many_counts() -> Workload:
    data = _clustered(1_000_000, 125_000)
    return Workload(
        "random intercept, Poisson by Laplace, 1,000,000 rows, 125,000 groups",
        lambda: tg.fit("count ~ x + z + (1 | g)", data, family="poisson"),
        lambda result: float(result.loglik),
        lme4(GLMER, [data]),
    )


def power_gaussian() -> Workload:
    data = _studies(1000)
    few = [data[data["study"] == k] for k in range(SOME)]
    return Workload(
        "1,000 random intercepts, Gaussian REML, 200 rows in 20 groups each",
        lambda: tg.fit("y ~ x + z + (1 | g)", data, family="gaussian", by="study"),
        lambda result: float(result.loglik[:SOME].sum()),
        [Peer("statsmodels MixedLM", lambda: sum(map(_mixed, few)), SOME / 1000), *lme4(LMER, few, SOME / 1000)],
    )


def power_counts() -> Workload:
    data = _studies(1000)
    few = [data[data["study"] == k] for k in range(SOME)]
    return Workload(
        "1,000 random intercepts, Poisson by Laplace, 200 rows in 20 groups each",
        lambda: tg.fit("count ~ x + z + (1 | g)", data, family="poisson", by="study"),
        lambda result: float(result.loglik[:SOME].sum()),
        lme4(GLMER, few, SOME / 1000),
    )


def crossing() -> Workload:
    return _crossing("2 groupings of 1,000 levels that cross, Gaussian REML, 20,000 rows", 20_000, 1_000, 1_000, 0)


def ratings() -> Workload:
    """The shape of lme4's InstEval, simulated."""
    title = "2,972 students × 1,128 teachers in 14 departments, Gaussian REML, 73,000 ratings"
    return _crossing(title, 73_000, 2_972, 1_128, 14)


def _crossing(title: str, n: int, students: int, teachers: int, departments: int) -> Workload:
    rng = np.random.default_rng(0)
    student, teacher, x = rng.integers(0, students, n), rng.integers(0, teachers, n), rng.normal(size=n)
    columns = {"x": x, "student": student, "teacher": teacher}
    eta = 0.3 + 0.4 * x + 0.5 * rng.normal(size=students)[student] + 0.4 * rng.normal(size=teachers)[teacher]
    formula = "y ~ x + (1 | student) + (1 | teacher)"
    if departments:
        columns["department"] = rng.integers(0, departments, teachers)[teacher]
        eta, formula = eta + 0.3 * rng.normal(size=departments)[columns["department"]], formula + " + (1 | department)"
    data = pd.DataFrame(columns | {"y": eta + rng.normal(size=n)})
    return Workload(
        title,
        lambda: tg.fit(formula, data, family="gaussian"),
        lambda result: float(result.loglik),
        lme4(f"lmer({formula}, d)", [data]),
    )


WORKLOADS = [clinics, many_clinics, many_counts, power_gaussian, power_counts, crossing, ratings]


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
