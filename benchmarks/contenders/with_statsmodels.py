"""statsmodels GLM by IRLS, standard errors included."""

import numpy as np
import statsmodels.api as sm

from benchmarks.problem import Array, Fit, Problem, one_by_one

FAMILIES = {
    "poisson": lambda: sm.families.Poisson(),
    "gamma": lambda: sm.families.Gamma(sm.families.links.Log()),
    "bernoulli": lambda: sm.families.Binomial(),
}


def fit(problem: Problem) -> Fit:
    def one(x: Array, y: Array) -> Fit:
        result = sm.GLM(y, x, family=FAMILIES[problem.family]()).fit(tol=1e-10)
        return Fit(np.asarray(result.params), np.asarray(result.bse))

    return one_by_one(one, problem)
