"""Predictions for new rows, with the delta method's standard errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted

if TYPE_CHECKING:
    from torchglm.rows.indexed import Indexed

KINDS = ("mean", "link")


def predict(
    result: Fitted, x: Any, offset: Any = None, kind: str = "mean", se: bool = False, unseen: str | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """(*B, m) means or linear predictors for new rows `(m, columns)`, with standard errors on request.

    `x` has the columns of the fit without its intercept, or is a data frame (or a `Design`) for a formula fit. `unseen`
    is what a level of it counts as that the fit never saw: `"error"`, `"reference"` or `"other"`; None is what the fit
    was told. The standard error of a mean is `|dmu/deta|` times that of its linear predictor. Raises `ValueError` for
    an unknown kind, and where the fit had an offset and none is given.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}. Known: {', '.join(KINDS)}.")
    coef = result.coef
    design, indexed = _design(result, x, coef, unseen)
    known = torch.where(torch.isfinite(coef), coef, 0.0)
    if indexed is None:
        eta = (known.unsqueeze(-2) @ design.mT).squeeze(-2)
    else:
        eta = indexed.times(design, known.flatten(0, -2) if coef.dim() > 1 else known.unsqueeze(0))
        eta = eta.reshape(*coef.shape[:-1], -1)
    eta = eta + _offset(result, offset, eta, x)
    value = eta if kind == "link" else result.link(eta)
    if not se:
        return value
    error = _variance(result, design, indexed).reshape(eta.shape).clamp(min=0).sqrt()
    return value, error if kind == "link" else error * result.link.inverse_deriv(eta).abs()


def _variance(result: Fitted, design: Tensor, indexed: Indexed | None) -> Tensor:
    """The variances of linear predictors, without the covariance of all pairs of levels where there are very many."""
    if result.covariance_is_root:
        return result.flat.dispersion.unsqueeze(-1) * result.flat.root.lengths(design, indexed)
    cov = result.covariance()
    spread = torch.where(torch.isfinite(cov), cov, 0.0)
    if indexed is None:
        return (design @ spread * design).sum(-1)
    return indexed.quadratic(design, spread.reshape(-1, *cov.shape[-2:]))


def _design(result: Fitted, x: Any, coef: Tensor, unseen: str | None = None) -> tuple[Tensor, Indexed | None]:
    """The columns of new rows, with the index columns beside them where factors have many levels."""
    if result.spec is not None and not isinstance(x, Tensor):
        from torchglm.design import Design

        made = x if isinstance(x, Design) else result.spec.design(x, missing="error", unseen=unseen)
        indexed = None if made.indexed is None else made.indexed.to(coef.device, coef.dtype)
        return made.numbers.to(coef), indexed
    from torchglm import inputs

    design = inputs.tensor(x, "x", coef.device).to(coef.dtype)
    added = result.names[:1] == ["(Intercept)"]
    columns = len(result.names) - int(added)
    if design.dim() < 2 or design.shape[-1] != columns:
        raise ValueError(
            f"x has shape {tuple(design.shape)}; new rows need the fit's {columns} columns"
            + (" (without the intercept)." if added else ".")
        )
    inputs.finite(design, "x")
    return torch.cat([design.new_ones(*design.shape[:-1], 1), design], -1) if added else design, None


def _offset(result: Fitted, offset: Any, eta: Tensor, x: Any) -> Tensor | float:
    from torchglm import inputs

    columns = result.context.get("columns") or {}
    if (
        offset is None
        and result.spec is not None
        and not isinstance(x, Tensor)
        and ("offset" in columns or "exposure" in columns)
    ):
        from torchglm import tables

        table = tables.as_table(x, [columns[role] for role in ("offset", "exposure") if role in columns])
        total = torch.zeros_like(eta)
        if "offset" in columns:
            total = total + torch.as_tensor(tables.numbers(table, columns["offset"])).to(eta)
        if "exposure" in columns:
            total = total + torch.as_tensor(tables.numbers(table, columns["exposure"])).to(eta).log()
        return total
    if offset is None:
        if result.context.get("offset"):
            raise ValueError(
                "the model was fitted with an offset (or exposure), and none is given for the new rows. "
                "Pass offset= (0 for a unit of exposure)."
            )
        return 0.0
    value = torch.as_tensor(offset) if isinstance(offset, (int, float)) else inputs.tensor(offset, "offset")
    value = value.to(eta)
    inputs.finite(value.reshape(-1), "offset")
    if value.dim() == 0 or value.shape in (eta.shape, eta.shape[-1:]):
        return value
    raise ValueError(
        f"offset has shape {tuple(value.shape)}, the predictions {tuple(eta.shape)}. Pass one offset for each row."
    )
