"""torchglm through its public door: coefficients and standard errors, batches in one call."""

import torchglm
from benchmarks.problem import Fit, Problem


def fit(problem: Problem) -> Fit:
    result = torchglm.fit(
        problem.x, problem.y, family=problem.family, link=problem.link, intercept=False, device="cpu"
    )
    return Fit(result.coef.numpy(), result.std_err.numpy())
