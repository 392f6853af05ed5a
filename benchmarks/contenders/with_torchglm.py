"""torchglm through its public door: coefficients and standard errors, batches in one call."""

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
    return torchglm.fit(
        problem.x, problem.y, family=problem.family, link=problem.link, intercept=False, device="cpu"
    )
