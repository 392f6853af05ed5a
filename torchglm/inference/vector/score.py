"""Rao's score test of columns added to the predictors of a fit of several, which is not refitted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of
from torchglm.rows.grams import Dense
from torchglm.rows.plan import Plan, PlanBlock
from torchglm.rows.planned import gram_of, plan_of, predictors, project_each
from torchglm.rows.rows import Rows, to_float64, whole


def added_sums(result: Fitted, columns: Tensor, contrast: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The score (B, Q) of added coefficients, their information (B, Q, Q), and what the fit leaves of it.

    `columns` (n, q) or (B, n, q) enter the predictors through `contrast` (K, r), `Q = q r`. The information is the
    expected one where the family has it in closed form, else the observed one.
    Raises `ValueError` for another number of rows.
    """
    family, flat, start = family_of(result), result.flat, 0
    p, total, score = flat.coef.shape[-1], None, None
    for rows in _pieces(result):
        n = rows.y.shape[-1]
        z = columns[..., start : start + n, :]
        if z.shape[-2] != n:
            raise ValueError(f"added has {columns.shape[-2]} rows, fewer than the fit. Give one for each row.")
        start += n
        eta, used = predictors(rows, flat.coef), rows.weight > 0
        slope, pairs = family.derivatives(rows.response, eta)
        expected = family.expected(eta)
        pairs = pairs if expected is None else expected
        beside = _beside(rows, z, contrast)
        own = gram_of(beside, {pair: torch.where(used, v * rows.weight, 0.0) for pair, v in pairs.items()})
        rise = project_each(beside, torch.where(used, slope * rows.weight, 0.0))
        total, score = (own, rise) if total is None or score is None else (total + own, score + rise)
    if start != columns.shape[-2] or total is None or score is None:
        raise ValueError(f"added has {columns.shape[-2]} rows, the fit {start}. Give one for each row.")
    matrix = total.matrix
    known = Dense(matrix[:, :p, :p]).invert(flat.keep).root
    added = matrix[:, p:, p:]
    return score[:, p:], added, added - known.within(matrix[:, :p, p:])


def _pieces(result: Fitted) -> Iterator[Rows]:
    return (to_float64(piece) for rows in result.source for piece in rows.pieces())


def _beside(rows: Rows, z: Tensor, contrast: Tensor) -> Rows:
    """The rows with columns (n, q) or (B, n, q) behind their design, which has every column written out."""
    x, plan = whole(rows), plan_of(rows)
    if x.dim() != z.dim():
        x, z = (part.expand(rows.y.shape[0], *part.shape[-2:]) for part in (x, z))
    width = x.shape[-1]
    block = PlanBlock(tuple(range(width, width + z.shape[-1])), contrast)
    wider = Plan(plan.predictors, (*plan.blocks, block), plan.ones)
    return rows._replace(x=torch.cat([x, z], -1), intercept=False, indexed=None, plan=wider)
