"""glum without a penalty, coefficients only: its standard errors are a second call, which is not timed."""

import numpy as np
from glum import GeneralizedLinearRegressor

from benchmarks.problem import Array, Fit, Problem, one_by_one

FAMILIES = {"poisson": "poisson", "gamma": "gamma", "bernoulli": "binomial"}


def fit(problem: Problem) -> Fit:
    def one(x: Array, y: Array) -> Fit:
        model = GeneralizedLinearRegressor(
            family=FAMILIES[problem.family],
            link=problem.link,
            alpha=0,
            fit_intercept=False,
            solver="irls-ls",
            gradient_tol=problem.gradient_tol,
            check_input=False,
        )
        return Fit(np.asarray(model.fit(x, y).coef_))

    return one_by_one(one, problem)
