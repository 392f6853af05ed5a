"""The short road of one model: Newton's method by the fewest passes and operators, judged on plain numbers.

It goes by the rules of the search, for a model that needs none of its care: no penalty, columns clearly independent,
every step accepted as it is. Any other model is left to the search, which begins it anew. A pass that finds so short a
step that the one after it would move nothing is the last: what there is at the end of that step is reported without
another score. Where a Gram is dear, steps are taken with the one of an earlier pass, bent by what the scores did along
those before, and a new one is made where it saves more passes than it costs, and for the standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from torchglm.families.in_numpy import Array
from torchglm.fitting import judge
from torchglm.fitting.linalg import SINGLE_PIVOT
from torchglm.fitting.one_factor import factor_of
from torchglm.fitting.one_pass import PassSums, RowBlock, blocks_of, constants, summed, unweighted
from torchglm.fitting.one_report import reported
from torchglm.fitting.problem import Problem
from torchglm.fitting.sample import sample
from torchglm.fitting.secants import Secants
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.rows.grams import GRAM_PIVOT
from torchglm.rows.inverses import DenseRoot
from torchglm.rows.products import WIDE
from torchglm.rows.rows import Rows

PASSES = 30  # after which the model is left to the search
LARGE = 1 << 17  # numbers of a design from which on a part of it pays here
LEFT = 3e-13  # standard errors that may be left to go after the last step
OF_A_PART = 1e-2  # the same of the fit of a part, whose own maximum is farther off
SURE = 0.1  # share of the square of that, beyond which a step is not expected to be so short: forecasts are off by ten
DEAR = 2.0  # passes that a Gram costs, from which on one serves for several steps
NEXT = 0.02  # share of a decrement that the step after the first leaves, about: nothing has told yet
QUICK = 0.01  # share that steps with the expected Gram of all rows leave at most, where that is the same everywhere
NEAR = 0.1  # root mean square step of eta before which no second Gram is made, while steps
SLOW = 0.3  # leave less than this share of a decrement


def fit_one_model(problem: Problem, source: Iterable[Rows]) -> Solution | None:
    """The solution of one model, or None where the search has to look at it."""
    blocks = blocks_of(problem, source)
    if blocks is None:
        return None
    with np.errstate(all="ignore"):  # what is not finite shows in the sums
        part = _part(problem, source, blocks)
        near = None if part is None else _maximum(replace(problem, tol=OF_A_PART), part, None, OF_A_PART)
        if part is not None and near is None:
            return None
        end = _maximum(problem, blocks, near, LEFT)
        return None if end is None else _solution(problem, blocks, end)


def _part(problem: Problem, source: Iterable[Rows], blocks: list[RowBlock]) -> list[RowBlock] | None:
    """Some of the rows, where they are many and one step from anywhere does not lead to the end."""
    if sum(block.x.size for block in blocks) < LARGE or problem.canonical and problem.constant_information:
        return None
    return blocks_of(problem, sample(source, problem.p, LARGE))


class _End(NamedTuple):
    """Where Newton's method stopped: at the end `coef` (p,) of a step `delta` from where the last pass was.

    `gram` is that of the steps, `total` the weight of the rows; with `known` the information at the end has that Gram.
    """

    coef: Array
    delta: Array
    last: PassSums
    gram: Array
    total: float
    n_iter: int
    known: Array | None


class _Bent:
    """Steps with one Gram (p, p), each bent by what the scores did along those before.

    `sound`: it is positive; `single`: so clearly that those near by may be summed in float32.
    """

    def __init__(self, matrix: Array) -> None:
        self.secants = Secants[Array]()
        self.factor = factor_of(matrix)
        self.sound, self.single = self.factor.pivot > 0, self.factor.pivot >= SINGLE_PIVOT

    def take(self, coef: Array, score: Array) -> Array | None:
        """The step (p,) from here; None where the Gram has none."""
        self.secants.add(coef, score)
        return self.secants.bend(score, self.factor.solve) if self.sound else None


@dataclass
class _Pace:
    """What steps leave of the squared distance to the maximum, which their decrements are.

    `before` is that of the last step, `own` the one where the Gram of the steps was made. A step contracts as far as
    its Gram is off: as the last one did, times how much nearer than its own this one is.
    """

    before: float
    own: float

    def left(self, decrement: float, anew: bool) -> float:
        """What a step leaves, `anew` with a Gram of its own."""
        own = decrement if anew else self.own
        contraction = min(1.0, decrement / self.before if self.before > 0 else 1.0)
        nearer = min(1.0, own / self.own if self.own > 0 else 1.0)
        self.before, self.own = decrement, own
        return decrement * contraction * nearer

    def pays(self, after: float, aim: float, price: float) -> bool:
        """Whether a Gram after the last step, which leaves so much, saves more passes to an aim than it costs."""
        if not aim < after < self.before:
            return after > aim
        left, here, there = math.log(after / aim), math.log(self.before / after), math.log(self.own / after)
        return left / here > price + left / (here + there)


def _price(blocks: list[RowBlock], p: int) -> float:
    """How many passes without a Gram one takes, about, by the nanoseconds a row that both take on one core."""
    n, by_columns = sum(len(block.x) for block in blocks), blocks[0].x.flags.f_contiguous
    return min(10.0, n * p * (p + 60) / (70 if by_columns else 40) / (n * (4 + 0.35 * p) + 1e4))


def _maximum(problem: Problem, blocks: list[RowBlock], near: _End | None, left: float) -> _End | None:
    """Newton's method to the step that leaves no more than so many standard errors, from the fit of a part if given."""
    saturated, count, total = constants(blocks)
    fixed, canonical = problem.constant_information, problem.canonical
    single, price = problem.p >= WIDE and not fixed, _price(blocks, problem.p)
    begin = _first_step(problem, blocks, total, single) if near is None else _of_all(near, blocks, total, fixed)
    if begin is None:
        return None
    coef, matrix, same = begin.coef, begin.gram, fixed and canonical
    bent = _Bent(matrix) if near is not None or price >= DEAR or same else None
    curved, last, bound = bent is None, False, math.inf
    for turn in range(min(PASSES, problem.max_iter)):
        sums = summed(problem, blocks, coef, curved, single and not last and bent is not None and bent.single)
        if curved:
            matrix, bent = sums.gram, None if bent is None else _Bent(sums.gram)
        delta = _solved(matrix, sums.score) if bent is None else bent.take(coef, sums.score)
        value = sums.objective - saturated
        if delta is None or not value <= bound:
            return None
        worth, floor = abs(value), (10 * judge.EPS) ** 2 * float(coef @ matrix @ coef)  # see `judge.floor`
        decrement, unit = float(sums.score @ delta), 2 * worth / count if problem.family.has_dispersion else 1.0
        if not -floor <= decrement < math.inf:
            return None
        if not turn:
            pace, first = _Pace(unit, unit) if bent is None else _Pace(decrement / NEXT, decrement), worth
            if near is None and decrement > 0.5 * worth:  # so far off the search looks for a better point
                return None
        after = pace.left(decrement, curved)
        if decrement <= problem.tol * (2 * worth + 2e-3 * first) + floor and after <= left**2 * unit + floor:
            still = canonical and curved and decrement <= judge.STILL**2 * total + floor
            known = begin.gram if fixed else matrix if still else None
            return _End(coef + delta, delta, sums, matrix, total, turn + 1, known)
        coef, bound = coef + delta, value + judge.SLACK * worth + floor
        if bent is not None and not same:
            aim = judge.STILL**2 * total if canonical else left**2 * unit
            last = canonical and after <= SURE * aim  # so near that the Gram is that of the end
            soon = after > (QUICK if fixed else SLOW) * decrement or not fixed and after <= NEAR**2 * total
            curved = last or soon and pace.pays(after, aim, price)
    return None


def _first_step(problem: Problem, blocks: list[RowBlock], total: float, single: bool) -> _End | None:
    """To where a mean for each row leads; None where the columns are not clearly independent."""
    first = summed(problem, blocks, None, True, single)
    factor = factor_of(first.gram)
    if single and not factor.pivot >= SINGLE_PIVOT:
        return _first_step(problem, blocks, total, False)
    if not factor.pivot >= GRAM_PIVOT:
        return None
    coef = factor.solve(first.score)
    return _End(coef, coef, first, first.gram, total, 0, None)


def _of_all(near: _End, blocks: list[RowBlock], total: float, fixed: bool) -> _End:
    """The fit of a part as one of all rows, with the Gram of the part, or their own where it is the same everywhere."""
    gram = unweighted(blocks) if fixed else near.gram * (total / near.total)
    return near._replace(gram=gram, total=total)


def _solved(matrix: Array, score: Array) -> Array | None:
    """The step (p,) that a Gram asks for; None where it is singular."""
    try:
        return np.linalg.solve(matrix, score)
    except np.linalg.LinAlgError:
        return None


def _solution(problem: Problem, blocks: list[RowBlock], end: _End) -> Solution | None:
    """The solution where the last pass stands, taken along its step; None where that still moves a row."""
    last = reported(problem, blocks, end.last.predictors, end.coef, end.delta, end.known is None)
    if last is None or not last.change <= judge.STEADY:
        return None
    matrix = last.gram if end.known is None else end.known
    factor = factor_of(matrix)
    if not factor.pivot >= GRAM_PIVOT:
        return None
    return Solution(
        torch.from_numpy(end.coef[None]),
        torch.from_numpy(np.ones((1, problem.p), bool)),
        last.moments(matrix, end.last.score - end.gram @ end.delta),
        DenseRoot(factor.inverse_root()),
        torch.from_numpy(np.array([int(Status.CONVERGED)])),
        torch.from_numpy(np.array([end.n_iter])),
        torch.from_numpy(np.zeros(1, bool)),
    )
