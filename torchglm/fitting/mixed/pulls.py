"""How the information of the rows pulls at what the Laplace approximation maximises: one pass over the rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.bends import FIRST, NODES, STEP, difference
from torchglm.fitting.bends_several import RowThirds
from torchglm.fitting.edges import edges
from torchglm.fitting.kernel import take_family
from torchglm.links import Link
from torchglm.rows.meetings import EffectGram
from torchglm.rows.meetings import lengths as row_lengths
from torchglm.rows.planned import project_each
from torchglm.rows.planned_meetings import lengths_of
from torchglm.rows.products import linear_predictor, project
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows, to_float64
from torchglm.rows.threads import spread


class Pulls(NamedTuple):
    """Sums over rows with `a = x' A x`: `pull` (B, P) is `sum a W' x / 2`, the derivative of half the log-determinant.

    Of a shape that is estimated `score` (B, P) is `sum x ds/dshape`, and `slope` (B,) the derivative of the
    log-likelihood less that of half the log-determinant.
    """

    pull: Tensor
    score: Tensor | None = None
    slope: Tensor | None = None


def pulls(source: Iterable[Rows], family: Family, link: Link, coef: Tensor, inverse: EffectGram, name: str) -> Pulls:
    """The sums for `A` the covariance `inverse`; `name` is that of the shape parameter, or empty."""
    if isinstance(source, Ragged):
        whole: list[Tensor] = []
        for models, rows in source.parts:
            part = _summed([rows], take_family(family, models), link, coef[models], inverse[models], name)
            whole = whole or [value.new_zeros(len(coef), *value.shape[1:]) for value in part]
            for out, value in zip(whole, part, strict=True):
                out[models] = value
        return Pulls(*whole)
    ranks, total = ranks_of(source), None
    with ranks.together():
        new = _summed(own_rows(source), family, link, coef, inverse, name)
        total = new
    return Pulls(*ranks.sum(*total))


def _summed(
    source: Iterable[Rows], family: Family, link: Link, coef: Tensor, inverse: EffectGram, name: str
) -> tuple[Tensor, ...]:
    total: tuple[Tensor, ...] | None = None
    several = isinstance(family, VectorFamily)
    ends = [] if several else [end for end in edges(family, link) if math.isfinite(end)]

    def work(pieces: Sequence[Rows]) -> tuple[Tensor, ...] | None:
        own: tuple[Tensor, ...] | None = None
        for rows in pieces:
            new = _of_piece(rows, family, link, coef, inverse, name, ends)
            own = new if own is None else tuple(a + b for a, b in zip(own, new, strict=True))
        return own

    for chunk in source:
        rows = to_float64(chunk)
        pieces = list(rows.pieces()) if rows.indexed is None else [block for _, block in rows.blocks()]
        for new in spread(work, pieces) if rows.y.device.type == "cpu" else [work(pieces)]:
            if new is not None:
                total = new if total is None else tuple(a + b for a, b in zip(total, new, strict=True))
    assert total is not None  # every process has rows
    return total


def _of_piece(
    rows: Rows, family: Family, link: Link, coef: Tensor, inverse: EffectGram, name: str, ends: list[float]
) -> tuple[Tensor, ...]:
    if isinstance(family, VectorFamily):
        at = RowThirds(rows, family, coef)
        lengths = {pair: length * at.weight / 2 for pair, length in lengths_of(rows, inverse).items()}
        return (project_each(rows, at.first_of(lengths)),)
    used = rows.weight > 0
    eta = linear_predictor(rows, coef)
    eta = torch.where(used, eta, link.link(eta.new_tensor(family.inner_mean)))
    near = [(eta - end).abs() for end in ends]
    step = STEP * (torch.stack(near).amin(0) if near else torch.ones_like(eta))

    def values(at: Tensor, law: Family = family) -> tuple[Tensor, Tensor]:
        return law.score_and_weight(rows.response, at, link(at), link, True)

    weight = torch.where(used, rows.weight, 0.0)
    half = row_lengths(rows, inverse) * weight / 2
    bend = difference([values(eta + k * step)[1] for k in NODES], FIRST, step)
    pull = project(rows, half * bend)
    if not name:
        return (pull,)
    laws = [family.with_parameters({name: family.shapes[name] + k * STEP}) for k in NODES]
    around = [values(eta, law) for law in laws]
    score = difference([one for one, _ in around], FIRST, STEP)
    change = difference([one for _, one in around], FIRST, STEP)
    first = family.shape_slopes(rows.y, link(eta))[0]
    slope = (torch.where(used, rows.weight * first, 0.0) - half * change).sum(-1)
    return pull, project(rows, weight * score), slope
