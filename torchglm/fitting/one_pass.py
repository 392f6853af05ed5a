"""The passes of the short road of one model: its rows in blocks, and the sums that a step needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchglm.fitting.kernel import census
from torchglm.fitting.problem import Problem
from torchglm.rows.products import FEW, gram, linear_predictor, project
from torchglm.rows.responses import Response
from torchglm.rows.rows import BLOCK, Rows, is_all, to_float64, wide
from torchglm.rows.threads import spread

TALL = 2048  # rows of a block, where the columns are many: the sums of few would be most of the work

Array: TypeAlias = NDArray[np.floating[Any]]


class RowBlock(NamedTuple):
    """Rows of one model; `x` (n, p) where their design is of few numbers, `weight` (1, n) where not all are 1."""

    rows: Rows
    response: Response
    x: Array | None
    weight: Tensor | None


class PassSums(NamedTuple):
    """What a pass leaves: `gram` (p, p), `score` (p,), `objective`, half the deviance but for what belongs to y alone.

    `rows` are the predictors and the information (1, n) of each block. A pass without a Gram has the number 0 there.
    """

    gram: Array
    score: Array
    objective: float
    rows: list[tuple[Tensor, Tensor]]

    def plus(self, other: PassSums) -> PassSums:
        """The sums over the rows of both."""
        value = self.objective + other.objective
        return PassSums(self.gram + other.gram, self.score + other.score, value, self.rows + other.rows)


def blocks_of(problem: Problem, source: Iterable[Rows] | None) -> list[RowBlock] | None:
    """The rows of one model in memory on a CPU, each with a weight; None where others are."""
    if problem.several or problem.penalty is not None:
        return None
    if not isinstance(source, list) or len(source) > 1:
        return None
    rows: Rows = source[0]
    if not rows.columns or not rows.y.numel() or rows.indexed is not None or rows.on_card or not problem.open_ended:
        return None
    plain = is_all(rows.weight, 1.0)
    if not plain and not bool((rows.weight > 0).all()):
        if rows.x.numel() > BLOCK:  # too many for a copy without those that have no weight
            return None
        rows = rows.at((rows.weight[0] > 0).nonzero()[:, 0])
    n, p = rows.y.shape[-1], rows.columns
    rows = rows if rows.shared else rows._replace(x=rows.x[0])
    if n * p <= FEW:  # a column of ones costs less than operators beside it at each pass
        rows = wide(rows)
        return [RowBlock(rows, rows.response, rows.x.numpy(), None if plain else rows.weight)]
    step = max(256, 2 * BLOCK // p, min(TALL, 4 * BLOCK // p))
    parts = [rows] if n <= step else [rows.between(start, start + step) for start in range(0, n, step)]
    return [RowBlock(part, part.response, None, None if plain else part.weight) for part in parts]


def constants(problem: Problem, blocks: list[RowBlock]) -> tuple[float, float, float]:
    """What passes leave in the objective that belongs to y alone, the rows with their repeats, and their weight."""
    saturated = count = total = 0.0
    for block in blocks:
        own = problem.family.nll_saturated(block.response)
        saturated += float((own if block.weight is None else own * block.weight).sum())
        weight, number, _ = census(block.rows, block.weight is None)
        count, total = count + float(number), total + float(weight)
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


def _of_block(problem: Problem, block: RowBlock, coef: Array | None, curved: bool, single: bool) -> PassSums:
    family, link, (rows, y, x, weight) = problem.family, problem.link, block
    if x is None:
        rows = to_float64(rows)
    if coef is None:
        eta = link.link(family.initial_mean(y, rows.weight))
    elif x is None:
        eta = linear_predictor(rows, torch.from_numpy(coef).unsqueeze(0))
    else:
        eta = torch.from_numpy(x @ coef).unsqueeze(0)
        eta = eta if is_all(rows.offset, 0.0) else eta.add_(rows.offset)
    mu = link.inverse(eta)
    score, information = family.score_and_weight(y, eta, mu, link, coef is not None and not problem.canonical)
    half = family.cheap(y, eta, mu, link, True)[0]
    if weight is not None:
        score, information, half = score * weight, information * weight, half * weight
    if coef is None:  # the first step solves for the coefficients themselves
        score = score + information * (eta if is_all(rows.offset, 0.0) else eta - rows.offset)
    if x is None:
        slope = project(rows, score)[0].numpy()
        matrix = gram(rows, information, single).written_out()[0].numpy() if curved else np.zeros(())
    else:
        slope = score.numpy()[0] @ x
        matrix = (x * information.numpy().T).T @ x if curved else np.zeros(())
    return PassSums(matrix, slope, float(half.sum()), [(eta, information)])
