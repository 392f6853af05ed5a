"""GLMRegressor: a generalised linear model as an estimator of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import Tags

from torchglm import families
from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.penalties import Penalty
from torchglm.links import Link
from torchglm.metrics import functional
from torchglm.model.face import fit
from torchglm.sklearn.linear import Column, Linear, given
from torchglm.writing.answering import answering_init


@answering_init
class GLMRegressor(RegressorMixin, Linear):
    """A GLM by IRLS: `g(E[y]) = intercept_ + X coef_ + offset`, with all that a `Result` tells in `result_`.

    `family` (of one predictor), `link`, `penalty`, `dispersion`, `tol` and `max_iter` are those of `torchglm.fit`.
    `X` is `(n, p)`, `y` `(n,)`. `sample_weight` are prior weights, `phi_i = phi / w_i`; `freq`, `offset`, `exposure`,
    `trials` and `event` are the roles of `fit`, and can be routed: `GLMRegressor().set_fit_request(exposure=True)`.
    `coef_` `(p,)`, `intercept_`, `n_iter_`; an aliased column has the coefficient 0. `score` is the share of the null
    deviance that is explained, D2. Raises `ValueError` for responses outside the family's support, and a
    family of several predictors.
    """

    def __init__(
        self,
        family: str | Family = "gaussian",
        link: str | Link | None = None,
        *,
        penalty: Penalty | None = None,
        fit_intercept: bool = True,
        dispersion: str | float | None = None,
        tol: float = 1e-8,
        max_iter: int = 50,
    ) -> None:
        self.family = family
        self.link = link
        self.penalty = penalty
        self.fit_intercept = fit_intercept
        self.dispersion = dispersion
        self.tol = tol
        self.max_iter = max_iter

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = families.get(self.family).name not in ("gaussian", "bernoulli")
        tags.regressor_tags.poor_score = families.get(self.family).name != "gaussian"
        return tags

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        freq: Any = None,
        offset: Any = None,
        exposure: Any = None,
        trials: Any = None,
        event: Any = None,
    ) -> GLMRegressor:
        """Fit to rows; see the class for what they are."""
        x, y, weights = self.rows_to_fit(X, y, sample_weight, y_numeric=True)
        self.keep(
            fit(
                x,
                y,
                family=self.one_predictor(),
                names=self.column_names,
                link=self.link,
                intercept=self.fit_intercept,
                penalty=self.penalty,
                dispersion=self.dispersion,
                tol=self.tol,
                max_iter=self.max_iter,
                **given(weights=weights, freq=freq, offset=offset, exposure=exposure, trials=trials, event=event),
            )
        )
        return self

    def one_predictor(self) -> Family:
        """The family. Raises `ValueError` for one of several predictors: a column has not one coefficient there."""
        family = families.get(self.family)
        if isinstance(family, VectorFamily):
            raise ValueError(
                f"{type(self).__name__} has families of one predictor, and {family.name} has several. Classes "
                "are fitted by GLMClassifier, the others by torchglm.fit."
            )
        return family

    def predict(self, X: Any, offset: Any = None, exposure: Any = None) -> Column:
        """(n,) means; of a fit with an offset or exposure these are asked for again."""
        x = self.rows_to_predict(X)
        return self.mean(x, offset=offset, exposure=exposure)

    def score(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None, exposure: Any = None) -> float:
        """D2, `1 - D(y, mu) / D(y, mean of y)`, weighted by `sample_weight` and, of rates, the exposure."""
        means = self.predict(X, offset, exposure)
        roles = given(weights=sample_weight, exposure=exposure)
        return float(functional.d2(means, np.asarray(y, dtype=np.float64), self.result_.family, **roles))
