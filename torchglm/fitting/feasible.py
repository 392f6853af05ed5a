"""Coefficients for which every linear predictor lies inside its range, where the link or family sets one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from torchglm.rows.grams import Gram
from torchglm.rows.products import gram, linear_predictor, project
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows, to_float64

SHARES = (0.5, 0.1, 0.01, 0.001)  # of the distance of the mean response from the edge, asked of every row
STEPS = 50


def feasible(source: Iterable[Rows], coef: Tensor, keep: Tensor, ends: tuple[float, float], room: Tensor) -> Tensor:
    """(B, p) coefficients with `ends[0] < eta < ends[1]` in every row of positive weight, where they can be found.

    Least squares of what each row lacks to a distance from the edges, by Newton's method on the rows that lack
    some; `room` (B,) is the distance of the mean response, and smaller shares of it are asked in turn.
    """
    for share in SHARES:
        margin = (share * room).unsqueeze(-1)
        for _ in range(STEPS):
            curvature, score, inside = _lacking(source, coef, ends, margin)
            if bool(inside.all()):
                return coef
            step = curvature.invert(keep).solve(torch.where(keep, score, 0.0))
            moving = ~inside & torch.isfinite(step).all(-1)
            if not bool((step.abs() > 1e-12 * coef.abs())[moving].any()):
                break
            coef = torch.where(moving.unsqueeze(-1), coef + step, coef)
    return coef


def _lacking(
    source: Iterable[Rows], coef: Tensor, ends: tuple[float, float], margin: Tensor
) -> tuple[Gram, Tensor, Tensor]:
    """Gram and score of the squared lacks, and (B,) True where no row lacks half of the margin."""
    curvature: Gram | None = None
    score = torch.zeros_like(coef)
    outside, ranks = torch.zeros_like(margin[:, 0]), ranks_of(source)
    with ranks.together():
        for chunk in own_rows(source):
            rows = to_float64(chunk)
            eta = linear_predictor(rows, coef)
            low, high = (ends[0] + margin - eta).clamp(min=0), (eta - ends[1] + margin).clamp(min=0)
            low, high = (torch.where(rows.weight > 0, lack, 0.0) for lack in (low, high))
            own = gram(rows, ((low + high) > 0).to(eta.dtype) + 1e-8)
            curvature = own if curvature is None else curvature + own
            score = score + project(rows, low - high)
            outside = outside + (~((low + high) <= margin / 2)).sum(-1)
    assert curvature is not None  # every process has rows
    parts = curvature.parts
    *summed, score, outside = ranks.sum(*parts.values(), score, outside)
    return curvature.of(dict(zip(parts, summed, strict=True))), score, outside == 0


def distance(source: Iterable[Rows], coef: Tensor, ends: tuple[float, float]) -> Tensor:
    """(B,) how near the linear predictor of a row of positive weight comes to an edge."""
    least, ranks = torch.full_like(coef[:, 0], torch.inf), ranks_of(source)
    with ranks.together():
        for chunk in own_rows(source):
            rows = to_float64(chunk)
            eta = linear_predictor(rows, coef)
            near = torch.minimum(eta - ends[0], ends[1] - eta)
            least = torch.minimum(least, torch.where(rows.weight > 0, near, torch.inf).amin(-1))
    return -ranks.largest(-least)[0]
