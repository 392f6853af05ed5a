"""torchglm through its public door: coefficients and standard errors, batches in one call."""

from __future__ import annotations

import pyarrow as pa

import torchglm
from benchmarks.problem import Fit, Problem


def fit(problem: Problem) -> Fit:
    result = fitted(problem)
    return Fit(result.coef.numpy(), result.std_err.numpy())


def infer(problem: Problem) -> Fit:
    result = fitted(problem)
    robust, leverage, cook = result.robust("HC3").std_err, result.leverage(), result.cooks_distance()
    return Fit(*(value.numpy() for value in (result.coef, result.std_err, robust, leverage, cook)))


def fitted(problem: Problem) -> torchglm.Result:
    return torchglm.fit(problem.x, problem.y, family=problem.family, link=problem.link, intercept=False, device="cpu")


def fit_factors(problem: Problem) -> Fit:
    columns = {f"x{j}": pa.array(problem.x[:, j]) for j in range(1, problem.x.shape[1])}
    for k, codes in enumerate(problem.factors):
        columns[f"f{k}"] = pa.DictionaryArray.from_arrays(pa.array(codes), [f"{i:05d}" for i in range(codes.max() + 1)])
    table = pa.table({"y": problem.y, "exposure": problem.exposure, **columns})
    result = torchglm.fit("y ~ " + " + ".join(columns), table, family=problem.family, exposure="exposure")
    return Fit(result.coef.numpy(), result.std_err.numpy())
