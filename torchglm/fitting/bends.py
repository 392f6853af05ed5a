"""How the information of a fit changes with its coefficients and its shape: one pass over the rows.

Per row these are the third and fourth derivatives of the log-density by `eta`, and mixed ones with the raw shape, by
central differences of score and information.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.edges import Ends, edges
from torchglm.fitting.kernel import take_family
from torchglm.links import Link
from torchglm.rows.inverses import DenseRoot
from torchglm.rows.products import gram, linear_predictor, project, quadratic, times
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows, to_float64
from torchglm.rows.threads import spread

STEP = 1e-3  # of differences, as a share of the distance to an edge of `eta`, of one unit where there is none
NODES = (-2, -1, 1, 2)
FIRST = (1 / 12, -2 / 3, 2 / 3, -1 / 12)  # weights of the first derivative, of fourth order
SECOND = (-1 / 12, 4 / 3, 4 / 3, -1 / 12)  # of the second, beside -5/2 of the middle


@dataclass(frozen=True)
class Bends:
    """Sums over rows of `B` models along `K` directions `d eta = x b_k` (and of the shape, where it is the last).

    With `a = x' A x`: `pull` (B, p) is `sum a W' x`, the derivative of `tr A X'WX` by the coefficients; `grams`
    (B, K, p, p) the derivatives of `X'WX`; `twice` (B, K, K) the second derivatives of `tr A X'WX` at fixed directions;
    `mixed` (B, K, p) those of `X' ds/dshape`, None without a shape.
    """

    pull: Tensor
    grams: Tensor
    twice: Tensor
    mixed: Tensor | None


class RowBends:
    """The derivatives by row at coefficients `(B, p)`; `name` is that of the shape parameter, or empty."""

    def __init__(self, source: Iterable[Rows], family: Family, link: Link, coef: Tensor, name: str = "") -> None:
        self.source, self.ranks = own_rows(source), ranks_of(source)
        self.family, self.link, self.coef, self.name = family, link, coef, name
        self.ends: Ends = edges(family, link)

    def along(self, inner: Tensor, directions: Tensor) -> Bends:
        """The sums for a root `inner` (B, p, p) of `A` and directions (B, K, p), the last that of the shape if any."""

        def sums(part: RowBends, rows: Rows, models: slice) -> tuple[Tensor, ...]:
            return part._sums(rows, part._predictor(rows), DenseRoot(inner[models]), directions[models])

        pull, grams, twice, *mixed = self._over_rows(sums)
        return Bends(pull, grams, twice, mixed[0] if mixed else None)

    def of_shape(self) -> tuple[Tensor, Tensor, Tensor]:
        """`X' ds/dshape` (B, p), and the first and second derivative of the log-likelihood by the raw shape (B,)."""
        slope, first, second = self._over_rows(RowBends._shape_sums)
        return slope, first, second

    def _shape_sums(self, rows: Rows, models: slice) -> tuple[Tensor, ...]:
        eta = self._predictor(rows)
        score = difference([self._values(rows, eta, k)[0] for k in NODES], FIRST, STEP)
        first, second = self.family.shape_slopes(rows.y, self.link(eta))
        each = [torch.where(rows.weight > 0, rows.weight * value, 0.0) for value in (score, first, second)]
        return project(rows, each[0]), each[1].sum(-1), each[2].sum(-1)

    def _over_rows(self, sums: Callable[[RowBends, Rows, slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What `sums` gives for rows of some models, over all rows and processes."""

        def of(pieces: Sequence[tuple[slice, Rows]]) -> dict[int, tuple[Tensor, ...]]:
            found: dict[int, tuple[Tensor, ...]] = {}
            for models, rows in pieces:
                _add(found, models.start, sums(self._among(models), rows, models))
            return found

        total: dict[int, tuple[Tensor, ...]] = {}
        with self.ranks.together():
            for chunk in self.source:
                for part in spread(of, _pieces(to_float64(chunk))):
                    for first, new in part.items():
                        _add(total, first, new)
        joined = [torch.cat(values) for values in zip(*(total[first] for first in sorted(total)), strict=True)]
        return self.ranks.sum(*joined)

    def _among(self, models: slice) -> RowBends:
        """Those of some of the models."""
        if models == slice(0, len(self.coef)):
            return self
        part = copy.copy(self)
        part.coef, part.family = self.coef[models], take_family(self.family, models)
        return part

    def _predictor(self, rows: Rows) -> Tensor:
        eta = linear_predictor(rows, self.coef)
        return torch.where(rows.weight > 0, eta, self.link.link(eta.new_tensor(self.family.inner_mean)))

    def _values(self, rows: Rows, eta: Tensor, shift: int = 0) -> tuple[Tensor, Tensor]:
        """Score and observed information (B, n), the raw shape moved by `shift` steps."""
        family = self.family
        if shift:
            family = family.with_parameters({self.name: family.shapes[self.name] + shift * STEP})
        return family.score_and_weight(rows.response, eta, self.link(eta), self.link, True)

    def _sums(self, rows: Rows, eta: Tensor, root: DenseRoot, directions: Tensor) -> tuple[Tensor, ...]:
        near = [(eta - end).abs() for end in self.ends if math.isfinite(end)]
        step = STEP * torch.stack(near).amin(0) if near else STEP
        middle, around = self._values(rows, eta)[1], [self._values(rows, eta + k * step)[1] for k in NODES]
        weight = torch.where(rows.weight > 0, rows.weight, 0.0)
        bend, again = (difference(around, FIRST, step) * weight, difference(around, SECOND, step, middle) * weight)
        length, many = quadratic(rows, root), directions.shape[1]
        moves = [times(rows, directions[:, k]) for k in range(many)]
        changes = [bend * move for move in moves]
        both = torch.stack(moves, 1)  # (B, K, n)
        twice = torch.einsum("bn,bjn,bkn->bjk", length * again, both, both)
        extra: list[Tensor] = []
        if self.name:
            beside, cross, flat, change = self._of_shape(rows, eta, step, middle)
            changes[-1] = changes[-1] + weight * beside
            along = torch.einsum("bn,bkn->bk", length * weight * cross, both)
            twice[:, -1] += along
            twice[:, :, -1] += along
            twice[:, -1, -1] += (length * weight * flat).sum(-1)
            own = [project(rows, -weight * beside * move) for move in moves]
            own[-1] = own[-1] + project(rows, weight * change)
            extra = [torch.stack(own, 1)]
        grams = torch.stack([gram(rows, change).written_out() for change in changes], 1)
        return (project(rows, length * bend), grams, twice, *extra)

    def _of_shape(self, rows: Rows, eta: Tensor, step: Tensor | float, middle: Tensor) -> tuple[Tensor, ...]:
        """`dW/dshape`, `d2W/deta dshape`, `d2W/dshape2` and `d2s/dshape2` of each row."""
        around = [self._values(rows, eta, k) for k in NODES]
        scores, weights = [score for score, _ in around], [weight for _, weight in around]
        ahead, behind = ([self._values(rows, eta + j * step, k)[1] for k in (1, -1)] for j in (1, -1))
        cross = (ahead[0] - ahead[1] - behind[0] + behind[1]) / (4 * step * STEP)
        return (
            difference(weights, FIRST, STEP),
            cross,
            difference(weights, SECOND, STEP, middle),
            difference(scores, SECOND, STEP, self._values(rows, eta)[0]),
        )


def _pieces(rows: Rows) -> list[tuple[slice, Rows]]:
    """The rows in pieces whose values for each row, of which there are many, are no more than fit a cache or so."""
    if rows.indexed is not None or not (rows.shared or rows.on_card):
        return list(rows.blocks())
    every = slice(0, rows.y.shape[0])
    return [(every, piece) for piece in rows.pieces()]


def _add(sums: dict[int, tuple[Tensor, ...]], key: int, new: tuple[Tensor, ...]) -> None:
    sums[key] = added((sums[key], new)) if key in sums else new


def added(many: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The sums of the like tensors; every process has rows, so that there is one."""
    return reduce(lambda total, new: tuple(a + b for a, b in zip(total, new, strict=True)), many)


def difference(
    values: list[Tensor], weights: tuple[float, ...], step: Tensor | float, middle: Tensor | None = None
) -> Tensor:
    """A derivative by values at `NODES` steps: the first, or with the `middle` the second."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = torch.add(total, value, alpha=weight)
    return total / step if middle is None else (total - 2.5 * middle) / step**2
