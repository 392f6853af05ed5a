"""The step of a model whose penalty has kinks: which curvature it takes, and where the penalty says it must end."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.fitting.penalties import Penalty

FLATTEST = 1e-10  # share of a curvature that rounding may take from it


def kinked_direction(
    penalty: Penalty, curvature: Tensor, score: Tensor, coef: Tensor, keep: Tensor, total: Tensor, convex: bool
) -> tuple[Tensor, Tensor]:
    """The step (B, p) that minimises the quadratic model with a penalty's kinks, and its Newton decrement.

    `curvature` (B, p, p) and `score` (B, p) are those of all that has derivatives, but for the curvature of a concave
    part of the penalty: it is taken where the model with it has a minimum, and else the part stands as its tangent,
    which lies above it. `convex` says that the curvature itself is nowhere negative.
    """
    curvature, moving = _model(penalty, curvature, score, coef, keep, total, convex)
    delta = penalty.step(curvature, score, coef, total, moving)
    bend = (delta * (curvature @ delta.unsqueeze(-1)).squeeze(-1)).sum(-1)
    kink = penalty.kink(coef + delta, total) - penalty.kink(coef, total)
    return delta, 2 * ((score * delta).sum(-1) - bend / 2 - kink)


def _model(
    penalty: Penalty, curvature: Tensor, score: Tensor, coef: Tensor, keep: Tensor, total: Tensor, convex: bool
) -> tuple[Tensor, Tensor]:
    """The curvature of the quadratic model, and the columns that move.

    Newton's model of the other columns, where that of all of them has no minimum but these stay at zero.
    """
    concave = penalty.bend(coef, total)
    if concave is None and (convex or penalty.nonsmooth(coef, total) is None):
        return curvature, keep
    inside = within(penalty, score, coef, total)
    away = keep & penalty.free(coef, total)
    moving = keep
    if not convex and penalty.nonsmooth(coef, total) is not None:
        still = falls(curvature, keep, ~inside) & inside.all(-1)
        moving = keep & (away | ~still.unsqueeze(-1))
    if concave is None:
        return curvature, moving
    bent = curvature + torch.diag_embed(concave)
    down = falls(bent, keep, ~inside)
    face = down & inside.all(-1) & ~falls(bent, away, ~inside)
    usable = (~down | face).view(-1, 1, 1)
    return torch.where(usable, bent, curvature), torch.where(face.unsqueeze(-1), away, moving)


def within(penalty: Penalty, score: Tensor, coef: Tensor, total: Tensor) -> Tensor:
    """(B, p) False for columns at zero whose slope is beyond the threshold of an absolute value."""
    l1 = penalty.nonsmooth(coef, total)
    if l1 is None:
        return torch.ones_like(coef, dtype=torch.bool)
    return (coef != 0) | (l1 == 0) | (score.abs() <= l1)


def falls(curvature: Tensor, keep: Tensor, steep: Tensor) -> Tensor:
    """(B,) whether the quadratic model has a direction that falls for ever, along columns held at zero as well.

    An inverse leaves these out; a step that left them where they are would pass for the last one.
    """
    diagonal = curvature.diagonal(dim1=-2, dim2=-1)
    used = keep & (diagonal > 0)
    scale = torch.where(used, 1 / torch.where(used, diagonal, 1.0).sqrt(), 0.0)
    scaled = curvature * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    rest = torch.diag_embed(torch.where(used, FLATTEST, 1.0))
    ever = (keep & ((diagonal < 0) | (diagonal == 0) & steep)).any(-1)
    return ever | (torch.linalg.cholesky_ex(scaled + rest).info != 0)
