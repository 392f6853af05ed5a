"""Coefficients in units of the standard deviation of their column, and of the response."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchglm.families.several import Ordinal
from torchglm.inference.by_plan import answered_by
from torchglm.inference.estimates import Estimates, delta
from torchglm.inference.fitted import Fitted
from torchglm.inference.margins import repeats
from torchglm.inference.vector.columns import design_columns
from torchglm.rows.rows import Rows, wide

# the variance of the law behind a link of classes: that of a latent response at known columns
LATENT = {"logit": math.pi**2 / 3, "probit": 1.0, "cloglog": math.pi**2 / 6, "loglog": math.pi**2 / 6}


def _standardized_several(result: Fitted, level: float = 0.95, response: bool = False) -> Estimates:
    """`standardized` of several predictors; thresholds have no column and are left out."""
    count = len(result.names)
    columns = design_columns(result)[:count]
    if not response:
        scale = _deviations(_second_moments(result, False))[:, columns]
        return delta(result, lambda coef: coef[:, :count] * scale + 0.0, result.names, level)
    latent = _latent(result)
    inside = _second_moments(result, True)[:, columns][:, :, columns]
    scale = _deviations(inside.diagonal(dim1=-2, dim2=-1))

    def scaled(coef: Tensor) -> Tensor:
        slopes = coef[:, :count]
        spread = ((slopes.unsqueeze(-2) @ inside).squeeze(-2) * slopes).sum(-1, keepdim=True) + latent
        return slopes * scale / spread.sqrt() + 0.0

    return delta(result, scaled, result.names, level)


def _latent(result: Fitted) -> float:
    """The variance of the latent response of an ordinal model. Raises `ValueError` for another family or link."""
    family = result.family
    if not isinstance(family, Ordinal) or family.kind != "cumulative" or family.free:
        raise ValueError(
            "response=True divides by the standard deviation of a response, which only the first predictor would be "
            f"measured in. Of several predictors it is for cumulative ordinal models with shared slopes, this is "
            f"{family.name}. Leave it out."
        )
    if family.link.name not in LATENT:
        raise ValueError(f"the latent response of a {family.link.name} model has no variance. Leave response= out.")
    return LATENT[family.link.name]


@answered_by(_standardized_several)
def standardized(result: Fitted, level: float = 0.95, response: bool = False) -> Estimates:
    """(*B, p) coefficients per standard deviation of their column; the intercept and constant columns are 0.

    With `response` also divided by the standard deviation of `y` ("beta coefficients"); of a cumulative ordinal model
    by that of the latent response, `var(x beta)` and the variance of the link's law, delta method errors. Of several
    predictors each coefficient goes by its own column. The deviations are those of the rows of positive weight, each
    counted as often as it was seen. Takes one pass over the rows. Source: McKelvey & Zavoina (1975), J. Math.
    Sociology 4.
    """
    deviation = _deviations(_second_moments(result, False))
    scale = deviation[:, :-1] / (deviation[:, -1:] if response else 1.0)
    return delta(result, lambda coef: coef * scale + 0.0, result.names, level)


def _deviations(variance: Tensor) -> Tensor:
    return variance.clamp(min=0).sqrt()


def _second_moments(result: Fitted, between: bool) -> Tensor:
    """(B, columns + 1) the variances of the columns of the design and, the last, of the response; `between` them also.

    Then (B, columns + 1, columns + 1).
    """
    count: Any = 0.0
    total: Any = 0.0
    square: Any = 0.0
    shift = None
    for rows in (wide(piece) for chunk in result.source for piece in _plain(chunk).pieces()):
        times = repeats(rows)
        x = rows.x.expand(*times.shape, -1) if rows.shared else rows.x
        table = torch.cat([x, rows.y.unsqueeze(-1)], -1)
        shift = table[:, :1] if shift is None else shift
        far = (table - shift) * times.unsqueeze(-1)
        count, total = count + times.sum(-1, keepdim=True), total + far.sum(-2)
        square = square + (far.mT @ (table - shift) if between else (far * (table - shift)).sum(-2))
    if not between:
        return (square - total.square() / count) / (count - 1)
    return (square - total.unsqueeze(-1) * total.unsqueeze(-2) / count.unsqueeze(-1)) / (count.unsqueeze(-1) - 1)


def _plain(rows: Rows) -> Rows:
    """The rows with the columns of their design and no predictors."""
    return rows if rows.plan is None else rows._replace(plan=None, offset=torch.zeros_like(rows.y))
