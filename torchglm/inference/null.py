"""The null model of a fit: the intercept and the offset alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.moments import Point
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.ranks import members, seen
from torchglm.rows.rows import Rows, without_columns
from torchglm.special.roots import root

LOST = (Status.ITERATION_LIMIT, Status.STALLED, Status.SEPARATED)  # how a search ends that creeps or overshoots
LONGEST = 50.0  # step of the intercept, on the scale of a logarithm
MOST = 100  # passes of a search for one number


@torch.no_grad()
def null_deviance(
    source: Iterable[Rows], family: Family, link: Link, intercept: bool, tol: float, skip: Tensor
) -> Tensor:
    """(B,) the deviance of the flat models with an intercept, where they have one, and their offset.

    Where an offset contradicts the data by hundreds of units, Newton's method creeps or overshoots; the root of the
    score is then sought within its bracket.
    """
    rows = seen(source, lambda chunk: without_columns(chunk, intercept))
    null = irls(rows, family, link, tol=tol, skip=skip)
    deviance = 2 * null.moments.objective
    lost = torch.stack([null.status == int(code) for code in LOST]).any(0)
    index = lost.nonzero()[:, 0]
    if intercept and index.numel() and null.coef.shape[-1] == 1:
        found = _bracketed(members(rows, index), take_family(family, index), link, null.coef[index])
        better = found < deviance[index]
        deviance = deviance.index_copy(0, index, torch.where(better, found, deviance[index]))
    return deviance


def _bracketed(source: Iterable[Rows], family: Family, link: Link, start: Tensor) -> Tensor:
    """(B,) the deviance where the score of one coefficient, from `start` (B, 1) on, is zero."""

    def step(at: Tensor) -> Tensor:
        moments = fold(source, Point(at.unsqueeze(-1)), family, link)
        score, information = moments.score[:, 0], moments.gram.diagonal()[:, 0]
        newton = score / torch.where(information > 0, information, 1.0)
        return torch.where(torch.isfinite(newton), newton, LONGEST * score.nan_to_num().sign())

    best = root(step, start[:, 0].nan_to_num(), longest=(LONGEST, LONGEST), most=MOST)
    last = fold(source, Point(best.unsqueeze(-1), before=best.unsqueeze(-1)), family, link)
    return torch.where(last.valid, 2 * last.objective, torch.inf)
