"""The covariance that a result is asked for, and the result that stands on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from torchglm.inference import covariance as sandwich
from torchglm.inference.fitted import Fitted, Kind
from torchglm.inference.row_labels import row_labels


def covariance(
    result: Fitted,
    kind: str | None = None,
    clusters: Any = None,
    type: str | None = None,
    lags: int | None = None,
    order: Any = None,
) -> Tensor:
    """(*B, p, p) the covariance of the coefficients; NaN for aliased columns.

    `model`: dispersion times the inverse expected information (of a penalised fit also `bayes`); `observed`: with
    the observed one; `HC0` to `HC3` and `cluster` (`clusters`: labels of the rows): sandwiches. None is the one
    behind `std_err`. A clustered one is corrected by `G / (G - 1)` for its `G` clusters, and of least squares, or
    with `type="HC1"`, by `(n - 1) / (n - p)` as well, as `vcovCL` and Stata do; `type="CR2"` and `"CR3"` (also
    `"HC2"`, `"HC3"`) correct for the leverage of clusters instead, see `clusters`. `HAC` is Newey and West's, in
    the `order` of time (within `clusters`) with a bandwidth `lags`, and `driscoll_kraay` that of the sums of each
    time, see `serial`. Raises `ValueError` for unknown kinds and types, and those that have no meaning here.
    """
    if kind is None and clusters is None and type is None and lags is None and order is None:
        return result.shaped(result.flat_covariance)
    return result.shaped(sandwich.covariance(result, kind or "model", clusters, type, lags, order)[0])


def robust(
    result: Kind,
    kind: str = "HC3",
    clusters: Any = None,
    type: str | None = None,
    lags: int | None = None,
    order: Any = None,
) -> Kind:
    """The same fit whose standard errors, statistics, intervals and Wald tests use another covariance.

    The arguments are those of `covariance`; `clusters` holds a label for each row, `(n,)` or `(*B, n)`, or several
    label columns for multi-way clusters: a frame, a dict, a tuple of columns, or an array `(n, k)`. Columns that the
    formula or a role reads go by their names, `"firm"` or `"firm + year"`.
    The reference distribution stays: t with `df_resid` where the dispersion is estimated, else z; with CR2 and CR3
    it is t with Satterthwaite's degrees of freedom for each coefficient (`reference_df`), of several labels the least
    of theirs, and joint Wald tests are those of Pustejovsky and Tipton (HTZ). Clusters of
    one member count as any other (all of them: HC0 times `G / (G - 1)`); one cluster is a `ValueError`; fewer
    clusters than coefficients warn, for the covariance is then singular.
    """
    clusters = row_labels(result, clusters, "clusters")
    value, df = sandwich.covariance(result, kind, clusters, type, lags, order)
    named = kind if df is None else f"{kind} {type}"
    told = {} if df is None else {"corrected": (clusters, type)}
    context = {name: value for name, value in result.context.items() if name != "corrected"} | told
    flat = replace(result.flat, covariance=value, reference=df)
    return replace(result, flat=flat, covariance_kind=named, context=context)
