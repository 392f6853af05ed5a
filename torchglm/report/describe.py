"""The facts about a fit as plain data."""

from __future__ import annotations

from typing import Any

from torchglm.fitting.status import Status
from torchglm.inference.fitted import Fitted
from torchglm.report.provisos import penalty_name
from torchglm.writing.numbers import jsonable

NUMBERS = (
    "nobs",
    "rank",
    "edf",
    "df_resid",
    "df_null",
    "deviance",
    "null_deviance",
    "pearson_chi2",
    "dispersion",
    "loglik",
    "aic",
    "bic",
    "n_iter",
    "apart_rows",
    "apart_levels",
    "converged",
)


def describe(fitted: Fitted) -> dict[str, Any]:
    """The facts about the fit as plain numbers, lists and strings."""
    codes = [str(Status(code)) for code in fitted.flat.status.tolist()]
    facts: dict[str, Any] = {
        "family": str(fitted.family),
        "link": fitted.link.name,
        "formula": fitted.formula,
        "penalty": penalty_name(fitted),
        "dispersion_kind": fitted.dispersion_kind,
        "covariance": fitted.covariance_kind,
        "status": codes if fitted.batch_shape else codes[0],
    }
    return facts | {name: jsonable(getattr(fitted, name).tolist()) for name in NUMBERS}
