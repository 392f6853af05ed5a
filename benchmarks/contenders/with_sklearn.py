"""scikit-learn's Newton-Cholesky solvers without a penalty, coefficients only.

It takes no part where there are factors: on sparse columns it offers L-BFGS alone, which stops short of the accuracy.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import GammaRegressor, LogisticRegression, PoissonRegressor

from benchmarks.problem import Array, Fit, Problem, one_by_one

MODELS = {
    "poisson": lambda **options: PoissonRegressor(alpha=0, **options),
    "gamma": lambda **options: GammaRegressor(alpha=0, **options),
    "bernoulli": lambda **options: LogisticRegression(C=np.inf, **options),
}


def fit(problem: Problem) -> Fit:
    def one(x: Array, y: Array) -> Fit:
        model = MODELS[problem.family](fit_intercept=False, solver="newton-cholesky", tol=problem.gradient_tol)
        return Fit(np.asarray(model.fit(x, y).coef_, dtype=float).reshape(-1))

    return one_by_one(one, problem)
