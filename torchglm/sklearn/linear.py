"""What the estimators share: rows as scikit-learn validates them, and a fit in its attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from torchglm.model.face import Result

Column = NDArray[np.float64]


class Linear(BaseEstimator):
    """An estimator whose fit is the `Result` in `result_`."""

    result_: Result
    coef_: Column
    intercept_: Any

    def rows_to_fit(self, x: Any, y: Any, sample_weight: Any, **checks: Any) -> tuple[Column, Any, Column | None]:
        """`x` (n, p) float64, `y` and the weights, which are None where every row has the same.

        Raises `ValueError` for what scikit-learn refuses, and where no weight is above 0.
        """
        x, y = validate_data(self, x, y, dtype=np.float64, **checks)
        if sample_weight is None:
            return x, y, None
        weights = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        return x, y, weights

    @property
    def column_names(self) -> list[str] | None:
        """The names of the columns of the frame in the fit; None for an array."""
        names = getattr(self, "feature_names_in_", None)
        return None if names is None else list(names)

    def rows_to_predict(self, x: Any) -> torch.Tensor:
        """`x` (n, p), looked at as the fit looked at its own."""
        check_is_fitted(self)
        return torch.as_tensor(np.array(validate_data(self, x, dtype=np.float64, reset=False)))

    def mean(self, x: torch.Tensor, kind: str = "mean", **roles: Any) -> Column:
        """What the fit predicts at validated rows."""
        found: Any = self.result_.predict(x, kind=kind, **given(**roles))
        values: Column = found.cpu().numpy()
        return values

    def keep(self, result: Result) -> None:
        """Take a fit into `result_`, `n_iter_`, `coef_` and `intercept_`; aliased columns have the coefficient 0."""
        coef = result.coef.nan_to_num(nan=0.0).cpu().numpy()
        first = int(result.added_intercept)
        self.result_ = result
        self.n_iter_ = int(result.n_iter)
        self.coef_ = coef[first:]
        self.intercept_ = float(coef[0]) if first else 0.0


def given(**roles: Any) -> dict[str, Any]:
    """The roles that were given, as columns of numbers."""
    return {name: np.asarray(value, dtype=np.float64) for name, value in roles.items() if value is not None}
