"""Predictions for new rows, with the delta method's standard errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import inputs
from torchglm.design import Design
from torchglm.inference.absorbed import shift_of_levels
from torchglm.inference.fitted import Fitted
from torchglm.inference.for_each import shift_of
from torchglm.inference.several import predict_several
from torchglm.inference.vector.quantities import ELSEWHERE, OF_TIMES, places_of
from torchglm.inputs import Roles
from torchglm.tables.columns import names_of
from torchglm.writing.nearest import unknown

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues
    from torchglm.rows.indexed import Indexed

KINDS = ("mean", "link")


def predict(
    result: Fitted,
    x: Any = None,
    *,
    kind: str = "mean",
    se: bool = False,
    unseen: str | None = None,
    predictors: Mapping[str, Any] | None = None,
    random: bool | None = None,
    at: Any = None,
    **roles: Unpack[RoleValues],
) -> Tensor | tuple[Tensor, Tensor]:
    """(*B, m) means or linear predictors for new rows `(m, columns)`, with standard errors on request.

    `x` has the columns of the fit without its intercept, or is a data frame (or a `Design`) for a formula fit. `unseen`
    is what a level of it counts as that the fit never saw: `"error"`, `"reference"` or `"other"`; None is what the fit
    was told. `offset` and `exposure` are one number, one for each row, or the name of a column of the frame; a formula
    fit that had them as columns takes them from the frame where neither is given. The standard error of a mean is
    `|dmu/deta|` times that of its linear predictor. With `random` (the default without `se`) the random effects of the
    groups of the rows are in the linear predictor, 0 for groups never seen with `unseen="reference"`; without, all are
    0, and standard errors are those of the fixed effects. Of families of times `kind` may be `"survival"`, the
    probability of a longer time than `at`, or `"quantile"`, the time within which the event comes with probability
    `at`: one number, or a list of T for (*B, m, T). For fits of several predictors see `several.predict_several`.
    Raises `ValueError` for an unknown kind, an exposure that `fit` would refuse, and where the fit had an offset and
    none is given; `TypeError` for roles that say nothing of it, and without `x`.
    """
    if x is None:
        Roles.of(roles, "predict", ("offset", "exposure"))
        raise TypeError("predict needs rows: predict(x). The means of the rows of the fit are result.fitted.")
    if result.plan is not None:
        with_effects = _with_effects(result, random, se, x)
        return predict_several(result, x, kind, se, predictors, unseen, at, with_effects, **roles)
    beside = Roles.of(roles, "predict", ("offset", "exposure"))
    if predictors:
        raise ValueError(
            "predictors= are columns of further parameters of the law, and this fit has none. Leave it out."
        )
    _check_kind(result, kind, at)
    coef = result.coef
    if se and result.flat.absorbed is not None:
        raise ValueError(
            "the effects of absorbed factors have no errors, nor have predictions with them. Leave out se=."
        )
    with_effects = _with_effects(result, random, se, x)
    design, indexed, effects, codes = _design(result, x, coef, unseen, with_effects)
    known = torch.where(torch.isfinite(coef), coef, 0.0)
    if indexed is None:
        eta = (known.unsqueeze(-2) @ design.mT).squeeze(-2)
    else:
        eta = indexed.times(design, known.flatten(0, -2) if coef.dim() > 1 else known.unsqueeze(0))
        eta = eta.reshape(*coef.shape[:-1], -1)
    eta = eta + shift_of(result, beside, eta, x)
    if effects is not None and result.flat.modes is not None:
        eta = eta + result.shaped(effects.times(design[:, :0], result.flat.modes))
    if codes is not None:
        eta = eta + shift_of_levels(result, codes)
    if kind in OF_TIMES:
        value, slope = _of_times(result, eta, kind, at)
    else:
        value = eta if kind == "link" else result.link(eta)
        slope = torch.ones_like(eta) if kind == "link" or not se else result.link.inverse_deriv(eta).abs()
    if not se:
        return value
    error = _variance(result, design, indexed).reshape(eta.shape).clamp(min=0).sqrt()
    return value, (error.unsqueeze(-1) if slope.dim() > error.dim() else error) * slope


def _check_kind(result: Fitted, kind: str, at: Any) -> None:
    known = [*KINDS, *(OF_TIMES if result.family.durations else ())]
    if kind not in known:
        raise ValueError(unknown("kind", kind, known, ELSEWHERE))
    if kind not in OF_TIMES and at is not None:
        raise ValueError(f"at= are the times of a survival, or the shares of a quantile; kind={kind!r} has none.")


def _of_times(result: Fitted, eta: Tensor, kind: str, at: Any) -> tuple[Tensor, Tensor]:
    """(*B, m) or (*B, m, T) the survival or quantiles of exponential times, and the size of their slopes by `eta`."""
    places = places_of(kind, at).to(eta)
    log_mean, relative = result.link.log_inverse(eta), result.link.relative_slope(eta)
    if places.dim():
        log_mean, relative = log_mean.unsqueeze(-1), relative.unsqueeze(-1)
    if kind == "quantile":
        value = -torch.log1p(-places) * log_mean.exp()
        return value, (value * relative).abs()
    hazard = places * torch.exp(-log_mean)
    return torch.exp(-hazard), torch.exp(-hazard) * hazard * relative.abs()


def _variance(result: Fitted, design: Tensor, indexed: Indexed | None) -> Tensor:
    """The variances of linear predictors, without the covariance of all pairs of levels where there are very many."""
    if result.covariance_is_root:
        found = result.flat.dispersion.unsqueeze(-1) * result.flat.root.lengths(design, indexed)
    else:
        cov = result.covariance()
        spread = torch.where(torch.isfinite(cov), cov, 0.0)
        if indexed is None:
            found = (design @ spread * design).sum(-1)
        else:
            found = indexed.quadratic(design, spread.reshape(-1, *cov.shape[-2:]))
    lost = _unbounded(result, design, indexed)
    return found if lost is None else torch.where(lost.reshape(found.shape), torch.nan, found)


def _unbounded(result: Fitted, design: Tensor, indexed: Indexed | None) -> Tensor | None:
    """Where nothing is known of a linear predictor: of levels set apart, and of all where a penalty chose."""
    flat = result.flat
    if flat.unknown is None or not bool(flat.unknown.any()):
        return None
    if bool(flat.determined.any()) and flat.multiplier is not None:  # the others are what constraints make them
        return None
    exact = flat.infinite is not None and result.covariance_is_root  # other rows lie in the span of what is known
    along = flat.infinite if exact else flat.unknown.to(design.dtype)
    assert along is not None
    design = design if exact else design.abs()
    if indexed is not None:
        return indexed.times(design, along.to(design.dtype)).abs() > 0.5 * float(exact)
    along = along.to(design.dtype).reshape(*result.batch_shape, -1, 1)
    return (design @ along).squeeze(-1).abs() > 0.5 * float(exact)


def _with_effects(result: Fitted, random: bool | None, se: bool, x: Any) -> bool:
    """Whether random effects are in a prediction of new rows.

    Raises `ValueError` where there are none, beside `se`, and where the rows lack a column that they need.
    """
    known = result.flat.modes is not None
    if random is not None and not isinstance(random, bool):
        raise TypeError(f"random must be True, False or None, got {random!r}.")
    if random and not known:
        raise ValueError("random=True asks for random effects, and this fit has none. Leave it out.")
    if random and se:
        raise ValueError(
            "standard errors are those of the fixed effects. Ask for them with random=False; those of the effects of "
            "each group are result.random[name].std_err."
        )
    random = known and not se if random is None else random
    if random and result.spec is not None and not isinstance(x, (Tensor, Design)):
        names = names_of(x)
        absent = [name for name in result.spec.random_columns if name not in names]
        if absent:
            raise ValueError(
                f"No column {absent[0]!r} in the data, which the random effects need. Add it, or predict without "
                "random effects: random=False."
            )
    return random


def _design(
    result: Fitted, x: Any, coef: Tensor, unseen: str | None = None, random: bool = False
) -> tuple[Tensor, Indexed | None, Indexed | None, Tensor | None]:
    """The columns of new rows, the index columns beside them where factors have many levels, random effects, codes."""
    if result.spec is not None and not isinstance(x, Tensor):
        also = random or bool(result.spec.absorbed)
        made = x if isinstance(x, Design) else result.spec.design(x, missing="error", unseen=unseen, random=also)
        indexed = None if made.indexed is None else made.indexed.to(coef.device, coef.dtype)
        effects = None if made.random is None else made.random.to(coef.device, coef.dtype)
        return made.numbers.to(coef), indexed, effects if random else None, made.codes
    design = inputs.tensor(inputs.in_order(x, result.context.get("inputs")), "x", coef.device).to(coef.dtype)
    added = result.added_intercept
    columns = len(result.names) - int(added)
    if design.dim() < 2 or design.shape[-1] != columns:
        raise ValueError(
            f"x has shape {tuple(design.shape)}; new rows need the fit's {columns} columns"
            + (" (without the intercept)." if added else ".")
        )
    inputs.finite(design, "x")
    return torch.cat([design.new_ones(*design.shape[:-1], 1), design], -1) if added else design, None, None, None
