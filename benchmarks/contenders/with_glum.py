"""glum without a penalty, coefficients only: its standard errors are a second call, which is not timed."""

from __future__ import annotations

import numpy as np
import pandas as pd
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


def fit_factors(problem: Problem) -> Fit:
    frame = pd.DataFrame(problem.x[:, 1:], columns=[f"x{j}" for j in range(1, problem.x.shape[1])])
    for k, codes in enumerate(problem.factors):
        frame[f"f{k}"] = pd.Categorical.from_codes(codes, [f"{i:05d}" for i in range(codes.max() + 1)])
    model = GeneralizedLinearRegressor(
        family=problem.family,
        link=problem.link,
        alpha=0,
        drop_first=True,
        solver="irls-ls",
        gradient_tol=problem.gradient_tol,
    )
    model.fit(frame, problem.y, offset=np.log(problem.exposure))
    return Fit(np.concatenate([[model.intercept_], model.coef_]))
