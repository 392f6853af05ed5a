"""GLMRegressorCV: an elastic net whose strength is chosen by cross-validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.model_selection import check_cv

from torchglm.families import Family
from torchglm.links import Link
from torchglm.model.path_fit import path
from torchglm.sklearn.linear import given
from torchglm.sklearn.regressor import GLMRegressor
from torchglm.writing.answering import answering_init


@answering_init
class GLMRegressorCV(GLMRegressor):
    """An elastic net along a path of strengths, all folds at once; the fit at the chosen strength is in `result_`.

    `l1_ratio`, `n` strengths and `standardize` are those of `torchglm.path`. `cv` is a number of folds or a splitter of
    scikit-learn whose test sets share no row and leave none out. `rule` is `"one_se"` (the strongest penalty within a
    standard error of the best), `"best"`, or a criterion without folds: `"aic"`, `"bic"`, `"ebic"`. `path_` is the
    `torchglm.Path`. Weights, offset and exposure as in `GLMRegressor`.
    """

    def __init__(
        self,
        family: str | Family = "gaussian",
        link: str | Link | None = None,
        *,
        l1_ratio: float = 1.0,
        n: int = 100,
        standardize: bool = True,
        cv: Any = 5,
        rule: str = "best",
        fit_intercept: bool = True,
    ) -> None:
        self.family = family
        self.link = link
        self.l1_ratio = l1_ratio
        self.n = n
        self.standardize = standardize
        self.cv = cv
        self.rule = rule
        self.fit_intercept = fit_intercept

    def fit(  # type: ignore[override]  # a path takes no trials or events
        self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None, exposure: Any = None
    ) -> GLMRegressorCV:
        """Fit to rows; see the class for what they are."""
        x, y, weights = self.rows_to_fit(X, y, sample_weight, y_numeric=True)
        self.path_ = path(
            x,
            y,
            family=self.one_predictor(),
            names=self.column_names,
            link=self.link,
            intercept=self.fit_intercept,
            l1_ratio=self.l1_ratio,
            n=self.n,
            standardize=self.standardize,
            folds=self._folds(x, y) if self.rule in ("best", "one_se") else None,
            **given(weights=weights, offset=offset, exposure=exposure),
        )
        chosen = self.path_.select(self.rule)
        self.keep(chosen)
        return self

    def _folds(self, x: Any, y: Any) -> Any:
        """(n,) the fold of each row. Raises `ValueError` where a splitter gives a row no fold, or two."""
        labels, seen = np.zeros(len(x), dtype=np.int64), np.zeros(len(x), dtype=np.int64)
        for k, (_, test) in enumerate(check_cv(self.cv).split(x, y)):
            labels[test] = k
            np.add.at(seen, test, 1)
        if not (seen == 1).all():
            raise ValueError(
                f"cv={self.cv} puts {int((seen != 1).sum())} rows into no test set or into several. Give a number of "
                "folds, KFold or GroupKFold."
            )
        return labels
