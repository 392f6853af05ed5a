"""The passes of the short road of one model: its rows in blocks, and the sums that a step needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchglm.families.in_numpy import Array, Formulas, formulas_of, has_formulas
from torchglm.fitting.problem import Problem
from torchglm.rows.products import FEW, NARROW, gram
from torchglm.rows.rows import BLOCK, Rows, is_all, to_float64, wide
from torchglm.rows.threads import spread

TALL = 2048  # rows of a block, where the columns are many: the sums of few would be most of the work
PIECE = 4096  # rows of a design that are turned at a time: one matrix of 20,000 x 10 takes 140 us so, 175 at once


class RowBlock(NamedTuple):
    """Rows of one model, and the `formulas` at their responses.

    `x` (n, q) is the design, with an `intercept` in front of it if so; `weight` and `offset` (n,) are None where all
    are 1, or 0.
    """

    rows: Rows
    formulas: Formulas
    x: Array
    intercept: bool
    weight: Array | None
    offset: Array | None

    def start(self) -> Array:
        """(n,) the predictors of a mean for each row."""
        return self.formulas.start(self.weight, self.offset)

    def times(self, coef: Array) -> Array:
        """(n,) the design times coefficients (p,)."""
        if not self.intercept:
            return self.x @ coef
        eta: Array = self.x @ coef[1:]
        eta += coef[0]
        return eta

    def project(self, values: Array) -> Array:
        """(p,) the design, transposed, times a value for each row (n,)."""
        slopes: Array = values @ self.x
        return np.concatenate(([values.sum()], slopes)) if self.intercept else slopes

    def gram(self, information: Array | None, single: bool) -> Array:
        """(p, p) the Gram at the information (n,) of the rows, None where it is 1; a `single` one in float32."""
        if self.x.flags.f_contiguous:
            return _gram_by_columns(self.x, information)
        weight = torch.ones(1, len(self.x), dtype=torch.float64) if information is None else as_row(information)
        return gram(self.rows, weight, single).written_out()[0].numpy()

    def predictors(self, coef: Array) -> Array:
        """(n,) the linear predictors at coefficients (p,)."""
        eta = self.times(coef)
        return eta if self.offset is None else eta + self.offset

    def weighted(self, information: Array | None) -> Array | None:
        """The information of the rows (n,), None where it is 1, with their weights."""
        if self.weight is None:
            return information
        return self.weight if information is None else information * self.weight

    def census(self) -> tuple[float, float]:
        """The weight of the rows, and their number with repeats."""
        n, repeats, weight = len(self.x), self.rows.repeats, self.weight
        return float(n if weight is None else weight.sum()), float(n if repeats is None else repeats[0].sum())

    def in_float64(self) -> RowBlock:
        """The same with a design in the precision of the sums."""
        if self.x.dtype == np.float64:
            return self
        rows = to_float64(self.rows)
        return self._replace(rows=rows, x=rows.x.numpy())


class PassSums(NamedTuple):
    """What a pass leaves: `gram` (p, p), `score` (p,), `objective`, half the deviance but for what belongs to y alone.

    `predictors` (n,) are those of each block. A pass without a Gram has the number 0 there.
    """

    gram: Array
    score: Array
    objective: float
    predictors: list[Array]

    def plus(self, other: PassSums) -> PassSums:
        """The sums over the rows of both."""
        value = self.objective + other.objective
        return PassSums(self.gram + other.gram, self.score + other.score, value, self.predictors + other.predictors)


def blocks_of(problem: Problem, source: Iterable[Rows] | None) -> list[RowBlock] | None:
    """The rows of one model in memory on a CPU, each with a weight; None where others are."""
    if problem.several or problem.penalty is not None:
        return None
    if not isinstance(source, list) or len(source) > 1:
        return None
    rows: Rows = source[0]
    if not rows.columns or not rows.y.numel() or rows.indexed is not None or rows.on_card:
        return None
    if not (has_formulas(problem.family, problem.link) or problem.open_ended):
        return None
    plain = is_all(rows.weight, 1.0)
    if not plain and not bool((rows.weight > 0).all()):
        if rows.x.numel() > BLOCK:  # too many for a copy without those that have no weight
            return None
        rows = rows.at((rows.weight[0] > 0).nonzero()[:, 0])
    n, p = rows.y.shape[-1], rows.columns
    rows = rows if rows.shared else rows._replace(x=rows.x[0])
    if p < NARROW and n * p <= BLOCK:  # products on columns: 20,000 x 10 by 0.06 ms a pass and 0.1 a Gram faster
        rows = wide(rows)
        return [_block(problem, rows, plain, _by_columns(rows.x.numpy()))]
    step = max(256, 2 * BLOCK // p, min(TALL, 4 * BLOCK // p))
    parts = [rows] if n <= step else [rows.between(start, start + step) for start in range(0, n, step)]
    return [_block(problem, part, plain, part.x.numpy()) for part in parts]


def _block(problem: Problem, rows: Rows, plain: bool, x: Array) -> RowBlock:
    """Rows with what is the same at each pass, of which the design alone may stay in float32."""
    if not rows.y.dtype == rows.weight.dtype == rows.offset.dtype == torch.float64:
        rows = to_float64(rows._replace(x=rows.x[:0]))._replace(x=rows.x)
    formulas = formulas_of(rows.response, problem.family, problem.link)
    weight = None if plain else rows.weight[0].numpy()
    offset = None if is_all(rows.offset, 0.0) else rows.offset[0].numpy()
    return RowBlock(rows, formulas, x, rows.intercept, weight, offset)


def _by_columns(x: Array) -> Array:
    """The same (n, p), column behind column: products with few columns take half the time."""
    columns = np.empty(x.shape[::-1])
    for start in range(0, len(x), PIECE):
        columns[:, start : start + PIECE] = x[start : start + PIECE].T
    return columns.T


def _gram_by_columns(x: Array, information: Array | None) -> Array:
    """(p, p) the Gram of a design whose columns lie one behind the other, by pieces that stay in a cache."""
    n, p = x.shape
    step, total = max(256, FEW // p), np.zeros((p, p))
    for start in range(0, n, step):
        piece = x[start : start + step]
        total += (piece.T if information is None else piece.T * information[start : start + step]) @ piece
    return total


def constants(blocks: list[RowBlock]) -> tuple[float, float, float]:
    """What passes leave in the objective that belongs to y alone, the rows with their repeats, and their weight."""
    saturated = count = total = 0.0
    for block in blocks:
        own = block.formulas.saturated()
        saturated += float(own.sum() if block.weight is None else own @ block.weight)
        weight, number = block.census()
        count, total = count + number, total + weight
    return saturated, count, total


def summed(
    problem: Problem, blocks: Sequence[RowBlock], coef: Array | None, curved: bool = True, single: bool = False
) -> PassSums:
    """The sums of a pass at coefficients (p,), or those that the first of them come from.

    With a Gram if `curved`, a `single` one in float32 where that is worth it.
    """
    if len(blocks) == 1:
        return _of_block(problem, blocks[0], coef, curved, single)

    def work(part: Sequence[RowBlock]) -> PassSums:
        return reduce(PassSums.plus, [_of_block(problem, block, coef, curved, single) for block in part])

    return reduce(PassSums.plus, spread(work, blocks))


def unweighted(blocks: Sequence[RowBlock]) -> Array:
    """(p, p) the Gram where the information of a row is 1, which leaves its weight."""

    def work(part: Sequence[RowBlock]) -> Array:
        return reduce(np.add, [block.in_float64().gram(block.weight, False) for block in part])

    return reduce(np.add, spread(work, blocks))


def _of_block(problem: Problem, block: RowBlock, coef: Array | None, curved: bool, single: bool) -> PassSums:
    block = block.in_float64()
    eta = block.start() if coef is None else block.predictors(coef)
    score, information, loss = block.formulas.values(eta, coef is not None and not problem.canonical)
    if block.weight is not None:
        score, information, loss = score * block.weight, block.weighted(information), loss * block.weight
    if coef is None:  # the first step solves for the coefficients themselves
        own = eta if block.offset is None else eta - block.offset
        score = score + (own if information is None else information * own)
    matrix = block.gram(information, single) if curved else np.zeros(())
    return PassSums(matrix, block.project(score), float(loss.sum()), [eta])


def as_row(values: Array) -> Tensor:
    """(1, n) values as a tensor."""
    return torch.from_numpy(values).unsqueeze(0)
