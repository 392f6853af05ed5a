"""scikit-learn's Newton-Cholesky solvers without a penalty, coefficients only."""

import numpy as np
from scipy import sparse
from sklearn.linear_model import GammaRegressor, LogisticRegression, PoissonRegressor

from benchmarks.problem import Array, Fit, Problem, one_by_one

MODELS = {
    "poisson": lambda **options: PoissonRegressor(alpha=0, **options),
    "gamma": lambda **options: GammaRegressor(alpha=0, **options),
    "bernoulli": lambda **options: LogisticRegression(C=np.inf, **options),
}


def fit(problem: Problem) -> Fit:
    def one(x: Array, y: Array) -> Fit:
        model = MODELS[problem.family](
            fit_intercept=False, solver="newton-cholesky", tol=problem.gradient_tol
        )
        return Fit(np.asarray(model.fit(x, y).coef_, dtype=float).reshape(-1))

    return one_by_one(one, problem)


def fit_factors(problem: Problem) -> Fit:
    n = len(problem.y)
    parts = [sparse.csr_matrix(problem.x[:, 1:])]
    for codes in problem.factors:
        table = sparse.csr_matrix((np.ones(n), (np.arange(n), codes)), shape=(n, codes.max() + 1))
        parts.append(table[:, 1:])
    model = PoissonRegressor(alpha=0, solver="lbfgs", tol=1e-8, max_iter=2000)
    model.fit(sparse.hstack(parts, format="csr"), problem.y / problem.exposure, sample_weight=problem.exposure)
    return Fit(np.concatenate([[model.intercept_], model.coef_]))
