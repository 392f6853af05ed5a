"""What the short road of one model reports at the maximum: the sums of a search there, to their last digits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch

from torchglm.families.in_numpy import Array, ReportValues
from torchglm.fitting.kernel import COARSE, objective, outside
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.one_pass import RowBlock, as_row
from torchglm.fitting.problem import Problem
from torchglm.rows.grams import Dense
from torchglm.rows.threads import spread


class Report(NamedTuple):
    """The sums of some rows: `gram` (p, p), or the number 0 where it was not asked for; `sums` (6,) in the order of

    half the deviance, `scale`, weight, count, response and Pearson's statistic of `Moments`; and `change`, see there.
    """

    gram: Array
    sums: Array
    change: float

    def plus(self, other: Report) -> Report:
        """The sums of the rows of both."""
        return Report(self.gram + other.gram, self.sums + other.sums, max(self.change, other.change))

    def moments(self, gram: Array, score: Array) -> Moments:
        """The same as a search leaves them, with a Gram (p, p) and a score (p,)."""
        numbers = np.concatenate((self.sums, (self.change, 0.0, np.inf)))[:, None]
        half, scale, weight, count, response, pearson, change, none, far = map(torch.from_numpy, numbers)
        matrix, slope = torch.from_numpy(gram[None]), torch.from_numpy(score[None])
        return Moments(Dense(matrix), slope, half, scale, none, weight, count, response, pearson, change, far)


def reported(
    problem: Problem, blocks: Sequence[RowBlock], predictors: Sequence[Array], coef: Array, delta: Array, curved: bool
) -> Report | None:
    """The report at coefficients (p,) that a step `delta` leads to from `predictors` (n,) of each block.

    With a Gram if `curved`. None where a mean is out of range.
    """

    def work(part: Sequence[tuple[RowBlock, Array]]) -> Report:
        return reduce(Report.plus, [_of_block(problem, block, before, coef, delta, curved) for block, before in part])

    pairs = list(zip(blocks, predictors, strict=True))
    report = work(pairs) if len(pairs) == 1 else reduce(Report.plus, spread(work, pairs))
    return report if np.isfinite(report.sums).all() else None


def _of_block(problem: Problem, block: RowBlock, before: Array, coef: Array, delta: Array, curved: bool) -> Report:
    block = block.in_float64()
    step = block.times(delta)
    eta = before + step
    ends = block.formulas.ends(eta)
    ends = _asked(problem, block, eta, coef) if ends is None else ends
    information, weight = block.weighted(ends.information), block.weight
    half, size, square, response = (
        0.0 if value is None else float(value.sum() if weight is None else value @ weight)
        for value in (ends.half, ends.size, ends.square, block.rows.y[0].numpy())
    )
    if ends.size is not None and not half > COARSE * size:
        half = _exact(problem, block, eta)
    scale = float(eta @ (eta if information is None else information * eta))
    change = float((np.abs(step) / (np.abs(eta) + 1)).max())
    matrix = block.gram(information, False) if curved else np.zeros(())
    return Report(matrix, np.array([half, scale, *block.census(), response, square]), change)


def _exact(problem: Problem, block: RowBlock, eta: Array) -> float:
    """Half the deviance, no digit lost in the differences it is the sum of."""
    family, link, predictor = problem.family, problem.link, as_row(eta)
    half = family.half_deviance(block.rows.response, predictor, link(predictor), link)[0].numpy()
    return float(half.sum() if block.weight is None else half @ block.weight)


def _asked(problem: Problem, block: RowBlock, eta: Array, coef: Array) -> ReportValues:
    """The ends by the formulas of the family itself; NaN where a mean is out of its range."""
    family, link, rows, predictor, at = problem.family, problem.link, block.rows, as_row(eta), as_row(coef)
    mu = link.inverse(predictor)
    half = objective(rows, predictor, mu, Point(at, before=at), family, link)[0].numpy()
    square = ((rows.y - mu).square() / family.variance(mu))[0].numpy()
    information = family.score_and_weight(rows.response, predictor, mu, link, False)[1][0].numpy()
    return ReportValues(
        half * np.nan if float(outside(mu, predictor, family, link)) else half, None, square, information
    )
