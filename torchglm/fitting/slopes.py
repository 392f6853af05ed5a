"""A pass that leaves objectives and slopes alone, at several points of each model at once.

Most of the time of a pass over tall data goes to fetching the design from memory: products with the coefficients of
several points cost little more than with those of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.kernel import row_values, take_family
from torchglm.fitting.moments import Point
from torchglm.links import Link
from torchglm.rows.products import product
from torchglm.rows.ragged import Ragged
from torchglm.rows.rows import BLOCK, Rows, is_all, to_float64
from torchglm.rows.threads import spread


@dataclass
class Slopes:
    """At points (T,): `half` the deviance, `slope` (T, P) that of its fall, and whether they are `valid`."""

    half: Tensor
    slope: Tensor
    valid: Tensor

    def put(self, points: Tensor | slice, other: Slopes) -> None:
        """Write those of other points in the place of some."""
        self.half[points], self.slope[points], self.valid[points] = other.half, other.slope, other.valid

    def at(self, points: Tensor | slice) -> Slopes:
        """Those of some points."""
        return Slopes(self.half[points], self.slope[points], self.valid[points])


def together(source: Iterable[Rows]) -> bool:
    """Whether points of any models are evaluated in one pass: their design is one, in the memory of the processor."""
    first = None if isinstance(source, Ragged) else next(iter(source), None)
    return first is not None and first.shared and first.plan is None and first.indexed is None and not first.on_card


def slopes(source: Iterable[Rows], models: Tensor, coef: Tensor, family: Family, link: Link) -> Slopes:
    """The sums over the rows at coefficients (T, P), each of one of the `models` (T,), evaluated `together`."""
    family, total = take_family(family, models), None
    for rows in source:
        part = _of_chunk(rows, models, coef, family, link)
        total = part if total is None else total + part
    assert total is not None
    half, outside, slope = total[:, 0], total[:, 1], total[:, 2:]
    return Slopes(half, slope, torch.isfinite(half) & torch.isfinite(slope).all(-1) & (outside == 0))


def _of_chunk(rows: Rows, models: Tensor, coef: Tensor, family: Family, link: Link) -> Tensor:
    """(T, 2 + P) half the deviance, whether a mean is out of range, and the slopes, over a chunk of a shared design."""
    n, points = rows.y.shape[-1], models.numel()
    step = max(256, 4 * BLOCK // (rows.columns + 8 * points))
    point = Point(coef, curved=False)

    def work(starts: Sequence[int]) -> Tensor:
        total = coef.new_zeros(points, 2 + coef.shape[-1])
        for start in starts:
            block = to_float64(_seen_by(rows.between(start, min(n, start + step)), models))
            eta = product(coef[:, int(block.intercept) :], block.x.mT)
            if block.intercept:
                eta += coef[:, :1]
            if not is_all(block.offset, 0.0):
                eta += block.offset
            half, score = _sums(block, eta, family, link)
            summed = score.sum(-1)
            if not bool(torch.isfinite(half + summed).all()):  # perhaps of rows without weight alone
                values = row_values(block, eta, False, point, family, link)
                half, score, summed = values.half.sum(-1), values.score, values.score.sum(-1)
                total[:, 1] += values.outside
            total[:, 0] += half
            if block.intercept:
                total[:, 2] += summed
            total[:, 2 + int(block.intercept) :] += product(score, block.x)
        return total

    parts = spread(work, range(0, n, step))
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _sums(block: Rows, eta: Tensor, family: Family, link: Link) -> tuple[Tensor, Tensor]:
    """(T,) half the deviance, not finite where a mean is out of range, and the weighted scores (T, n)."""
    mu = link(eta)
    ends = family.valid_mean(torch.stack(torch.aminmax(mu))).all()
    if not bool(ends & link.inside(eta.amin()) if math.isfinite(link.lower) else ends):
        return eta.new_full(eta.shape[:1], torch.nan), eta
    score, _ = family.score_and_weight(block.response, eta, mu, link, False)
    half, _ = family.cheap(block.response, eta, mu, link)
    if is_all(block.weight, 1.0):
        return half.sum(-1), score
    return torch.linalg.vecdot(half, block.weight), score * block.weight


def _seen_by(block: Rows, models: Tensor) -> Rows:
    """A block whose responses, weights and offsets are those of each point."""
    count = models.numel()

    def seen(value: Tensor) -> Tensor:
        same = value.shape[0] == 1 or value.stride(0) == 0
        return value[:1].expand(count, -1) if same else value[models]

    y, weight, offset = (seen(value) for value in (block.y, block.weight, block.offset))
    repeats, second = (None if v is None else seen(v) for v in (block.repeats, block.second))
    return block._replace(y=y, weight=weight, offset=offset, repeats=repeats, second=second)
