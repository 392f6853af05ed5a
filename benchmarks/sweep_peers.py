"""The peers of `benchmarks.sweep`, each by the roads of it that may be its fastest: a plain GLM, its coefficients.

A road is given a problem and a tolerance. Standard errors come with torchglm and statsmodels alone.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.problem import Array, Problem

Road = Callable[[Problem, float], Any]  # -> the coefficients


def torchglm(problem: Problem, tol: float) -> Array:
    import torchglm

    kind: dict[str, Any] = {"family": problem.family, "link": problem.link}
    fitted = torchglm.fit(problem.x, problem.y, **kind, intercept=False, device="cpu")
    _ = fitted.std_err
    return fitted.coef.numpy()


def glum(problem: Problem, tol: float) -> Array:
    from glum import GeneralizedLinearRegressor

    family = {"poisson": "poisson", "gamma": "gamma", "bernoulli": "binomial"}[problem.family]
    options: dict[str, Any] = {"alpha": 0, "fit_intercept": False, "solver": "irls-ls", "check_input": False}
    model = GeneralizedLinearRegressor(family=family, link=problem.link, gradient_tol=tol, **options)
    return model.fit(problem.x, problem.y).coef_


def sklearn(solver: str) -> Road:
    def fit(problem: Problem, tol: float) -> Array:
        from sklearn.linear_model import GammaRegressor, LogisticRegression, PoissonRegressor

        options: dict[str, Any] = {"fit_intercept": False, "solver": solver, "tol": tol, "max_iter": 2000}
        if problem.family != "bernoulli":
            regressor = PoissonRegressor if problem.family == "poisson" else GammaRegressor
            return regressor(alpha=0, **options).fit(problem.x, problem.y).coef_
        return LogisticRegression(C=np.inf, **options).fit(problem.x, problem.y).coef_[0]

    return fit


def statsmodels_glm(problem: Problem, tol: float) -> Array:
    import statsmodels.api as sm

    links = sm.families.links
    family = {
        "poisson": sm.families.Poisson(),
        "gamma": sm.families.Gamma(links.Log()),
        "bernoulli": sm.families.Binomial(),
    }[problem.family]
    fitted = sm.GLM(problem.y, problem.x, family=family).fit(tol=tol)
    _ = fitted.bse
    return fitted.params


def statsmodels_discrete(problem: Problem, tol: float) -> Array:
    import statsmodels.api as sm

    model = {"poisson": sm.Poisson, "bernoulli": sm.Logit}[problem.family]
    fitted = model(problem.y, problem.x).fit(method="newton", disp=0, tol=tol)
    _ = fitted.bse
    return fitted.params


def adelie(problem: Problem, tol: float) -> Array:
    import adelie as ad

    family = {"poisson": ad.glm.poisson, "bernoulli": ad.glm.binomial}[problem.family](problem.y)
    options: dict[str, Any] = {"intercept": False, "progress_bar": False, "early_exit": False, "lmda_path": [0.0]}
    found = ad.grpnet(np.asfortranarray(problem.x), family, tol=tol**1.5, irls_tol=tol, **options)
    return np.asarray(found.betas.todense()).ravel()


ROADS: dict[str, Road] = {
    "torchglm": torchglm,
    "glum": glum,
    "sklearn": sklearn("newton-cholesky"),
    "sklearn L-BFGS": sklearn("lbfgs"),
    "statsmodels": statsmodels_glm,
    "statsmodels discrete": statsmodels_discrete,
    "adelie": adelie,
}


WITHOUT_GAMMA = ("statsmodels discrete", "adelie")


def installed(family: str) -> dict[str, Road]:
    """The roads of what is at hand, by the name of their package and what tells them from another of it."""
    known = {name: road for name, road in ROADS.items() if family != "gamma" or name not in WITHOUT_GAMMA}
    return {name: road for name, road in known.items() if find_spec(name.split()[0]) is not None}


def by_formula(problem: Problem) -> dict[str, Road]:
    """Of a Poisson model whose columns are a constant, two levels of three, and numbers: by a formula on a frame."""
    import pandas as pd
    from statsmodels.api import families
    from statsmodels.formula.api import glm

    import torchglm

    numbers = [f"x{j}" for j in range(1, problem.x.shape[1] - 2)]
    frame = pd.DataFrame(problem.x[:, 3:], columns=numbers)
    frame["y"], frame["g"] = problem.y, np.array(["a", "b", "c"])[(problem.x[:, 1:3] @ [1, 2]).astype(int)]
    formula = f"y ~ C(g) + {' + '.join(numbers)}"

    def ours(given: Problem, tol: float) -> Array:
        fitted = torchglm.fit(formula, frame, family="poisson")
        _ = fitted.std_err
        return fitted.coef.numpy()

    def theirs(given: Problem, tol: float) -> Array:
        fitted = glm(formula, frame, family=families.Poisson()).fit(tol=tol)
        _ = fitted.bse
        return fitted.params.to_numpy()

    return {"torchglm": ours, "statsmodels": theirs}
