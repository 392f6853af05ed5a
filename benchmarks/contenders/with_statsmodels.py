"""statsmodels GLM by IRLS, standard errors included.

Its `cov_type="HC3"` is HC0 for GLMs (0.15), so that HC3 errors are put together here from its hat values, scores and
covariance, as a user has to.
"""

from __future__ import annotations

from typing import Any

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
        result = fitted(x, y, problem.family)
        return Fit(np.asarray(result.params), np.asarray(result.bse))

    return one_by_one(one, problem)


def infer(problem: Problem) -> Fit:
    def one(x: Array, y: Array) -> Fit:
        result = fitted(x, y, problem.family)
        influence = result.get_influence(observed=False)
        leverage = np.asarray(influence.hat_matrix_diag)
        score = x * (result.model.score_factor(result.params, scale=1.0) / (1 - leverage))[:, None]
        moved = score @ result.normalized_cov_params
        return Fit(
            np.asarray(result.params),
            np.asarray(result.bse),
            np.sqrt((moved**2).sum(0)),
            leverage,
            np.asarray(influence.cooks_distance[0]),
        )

    return one_by_one(one, problem)


def fitted(x: Array, y: Array, family: str) -> Any:
    return sm.GLM(y, x, family=FAMILIES[family]()).fit(tol=1e-10)
