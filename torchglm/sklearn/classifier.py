"""GLMClassifier: logistic, multinomial and ordinal regression as an estimator of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from torchglm.families import Family
from torchglm.families.several import Multinomial, Ordinal
from torchglm.fitting.penalties import Penalty
from torchglm.links import Link
from torchglm.model.face import fit
from torchglm.sklearn.linear import Column, Linear, given
from torchglm.writing.answering import answering_init


@answering_init
class GLMClassifier(ClassifierMixin, Linear):
    """Classes by a GLM, with all that a `Result` tells in `result_`; unpenalised unless `penalty` is given.

    Two classes are a Bernoulli response with this `link`; more are multinomial, against the first class, or with
    `ordinal=True` ordered as `classes_`, by the cumulative model with this `link`. `X` is `(n, p)`, `y` `(n,)`
    labels. Where columns separate the classes there is no maximum: `result_.status` says so, in a `FitWarning`.
    `coef_` and `intercept_` have scikit-learn's shapes, `(1, p)` and `(1,)`, of more classes `(C - 1, p)` against the
    first; of ordered ones `coef_` is `(1, p)` and `intercept_` the thresholds. Raises `ValueError` for one class.
    """

    def __init__(
        self,
        link: str | Link = "logit",
        *,
        ordinal: bool = False,
        penalty: Penalty | None = None,
        fit_intercept: bool = True,
        tol: float = 1e-8,
        max_iter: int = 50,
    ) -> None:
        self.link = link
        self.ordinal = ordinal
        self.penalty = penalty
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = self.ordinal  # of classes without an order
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None, freq: Any = None, offset: Any = None) -> GLMClassifier:
        """Fit to rows; see the class for what they are."""
        x, y, weights = self.rows_to_fit(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has one class, {self.classes_[0]!r}; a classifier needs two. Give rows of another class."
            )
        family, link = self._law()
        self.keep(
            fit(
                x,
                codes,
                family=family,
                link=link,
                names=self.column_names,
                intercept=self.fit_intercept,
                penalty=self.penalty,
                tol=self.tol,
                max_iter=self.max_iter,
                **given(weights=weights, freq=freq, offset=offset),
            )
        )
        self._shape()
        return self

    def _law(self) -> tuple[str | Family, str | Link | None]:
        if self.ordinal:
            return Ordinal(self.link, classes=len(self.classes_)), None
        if len(self.classes_) > 2:
            return Multinomial(classes=len(self.classes_)), None
        return "bernoulli", self.link

    def _shape(self) -> None:
        """Coefficients in scikit-learn's shapes."""
        result = self.result_
        if result.plan is None:
            self.coef_, self.intercept_ = self.coef_[None], np.array([self.intercept_])
            return
        coef = result.coef.nan_to_num(nan=0.0).cpu().numpy()
        if self.ordinal:
            self.coef_, self.intercept_ = coef[None], result.thresholds.numpy()
            return
        whole = coef.reshape(len(self.classes_) - 1, -1)
        first = int(self.fit_intercept)
        self.coef_ = whole[:, first:]
        self.intercept_ = whole[:, 0] if first else np.zeros(len(whole))

    def predict_proba(self, X: Any, offset: Any = None) -> Column:
        """(n, C) the probability of each class, in the order of `classes_`."""
        x = self.rows_to_predict(X)
        found = self.mean(x, offset=offset)
        return np.stack([1 - found, found], -1) if found.ndim == 1 else found

    def predict_log_proba(self, X: Any, offset: Any = None) -> Column:
        """(n, C) the logarithms of `predict_proba`; of two classes exact where a probability is nearly 0."""
        check_is_fitted(self)
        result = self.result_
        if result.plan is not None:
            return np.log(np.maximum(self.predict_proba(X, offset), np.finfo(np.float64).tiny))
        eta = torch.as_tensor(self.mean(self.rows_to_predict(X), kind="link", offset=offset))
        return torch.stack([result.link.log_complement(eta), result.link.log_inverse(eta)], -1).numpy()

    def decision_function(self, X: Any, offset: Any = None) -> Column:
        """(n,) the linear predictor of two classes; of more `(n, C)` logarithms of probabilities."""
        x = self.rows_to_predict(X)
        if self.result_.plan is None:
            return self.mean(x, kind="link", offset=offset)
        logs = self.predict_log_proba(X, offset)
        return logs[:, 1] - logs[:, 0] if logs.shape[1] == 2 else logs

    def predict(self, X: Any, offset: Any = None) -> NDArray[Any]:
        """(n,) the most probable class of each row."""
        check_is_fitted(self)
        best: NDArray[Any] = self.classes_[self.predict_proba(X, offset).argmax(-1)]
        return best
