"""The short road of one model: Newton's method by the fewest passes and operators, judged on plain numbers.

It goes by the rules of the search, for a model that needs none of its care: no penalty, columns clearly independent,
every step accepted as it is. Any other model is left to the search, which begins it anew. A pass that finds so short a
step that the one after it would move nothing is the last: what there is at the end of that step is reported without
another score. The algebra of a step is numpy's, which hands small matrices to LAPACK in a third of the time of torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchglm.fitting import judge
from torchglm.fitting.kernel import census, objective, outside, report
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.problem import Problem
from torchglm.fitting.sample import sample
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.rows.grams import GRAM_PIVOT, Dense, Gram
from torchglm.rows.inverses import DenseRoot
from torchglm.rows.products import FEW, gram, linear_predictor, project, times
from torchglm.rows.responses import Response
from torchglm.rows.rows import BLOCK, Rows, is_all, to_float64, wide
from torchglm.rows.threads import spread

PASSES = 14  # after which the model is left to the search
LARGE = 1 << 17  # numbers of a design from which on a part of it pays here
LEFT = 3e-13  # standard errors that may be left to go after the last step
OF_A_PART = 1e-2  # the same of the fit of a part, whose own maximum is farther off
STILL = 1e-10  # root mean square step of eta from which on the information, and its standard errors, stay as they are
CHORD = 0.03  # of the distance to the maximum: a step with an earlier Gram that leaves more is not taken
PIVOT = math.sqrt(GRAM_PIVOT)

Array: TypeAlias = NDArray[np.floating[Any]]


def fit_one_model(problem: Problem, source: Iterable[Rows]) -> Solution | None:
    """The solution of one model, or None where the search has to look at it."""
    blocks = _blocks(problem, source)
    if blocks is None:
        return None
    with np.errstate(all="ignore"):  # what is not finite shows in the sums
        part = _blocks(problem, sample(source, problem.p, LARGE))
        near = None if part is None else _maximum(replace(problem, tol=OF_A_PART), part, None, OF_A_PART)
        if part is not None and near is None:
            return None
        end = _maximum(problem, blocks, near, LEFT)
        return None if end is None else _solution(problem, blocks, end)


class _Block(NamedTuple):
    """Rows of one model; `x` (n, p) where their design is of few numbers, `weight` (1, n) where not all are 1."""

    rows: Rows
    response: Response
    x: Array | None
    weight: Tensor | None


def _blocks(problem: Problem, source: Iterable[Rows] | None) -> list[_Block] | None:
    """The rows of one model in memory on a CPU, each with a weight; None where others are."""
    if problem.several or problem.chord or problem.penalty is not None:
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
    n = rows.y.shape[-1]
    rows = rows if rows.shared else rows._replace(x=rows.x[0])
    if n * rows.columns <= FEW:  # a column of ones costs less than operators beside it at each pass
        rows = wide(rows)
        return [_Block(rows, rows.response, rows.x.numpy(), None if plain else rows.weight)]
    return [_Block(part, part.response, None, None if plain else part.weight) for _, part in rows.blocks()]


class _Sums(NamedTuple):
    """What a pass leaves: `gram` (p, p), `score` (p,), `objective`, half the deviance but for what belongs to y alone.

    `rows` are the predictors and the information (1, n) of each block. A pass without a Gram has the number 0 there.
    """

    gram: Array
    score: Array
    objective: float
    rows: list[tuple[Tensor, Tensor]]

    def plus(self, other: _Sums) -> _Sums:
        """The sums over the rows of both."""
        value = self.objective + other.objective
        return _Sums(self.gram + other.gram, self.score + other.score, value, self.rows + other.rows)


class _End(NamedTuple):
    """Where Newton's method stopped: at the end `coef` (p,) of a step `delta` from where the last pass was.

    `total` is the weight of the rows. `still`: the step is so short that the information is the same at its end.
    """

    coef: Array
    delta: Array
    last: _Sums
    total: float
    n_iter: int
    still: bool


def _maximum(problem: Problem, blocks: list[_Block], near: _End | None, left: float) -> _End | None:
    """Newton's method to the step that leaves no more than so many standard errors, from the fit of a part if given.

    With a part steps are taken with the Gram of an earlier pass, at first that of the part, while these contract well.
    """
    saturated, count, total = _constants(problem, blocks)
    coef = _first(problem, blocks) if near is None else near.coef
    if coef is None:
        return None
    matrix: Array = np.zeros(()) if near is None else near.last.gram * (total / near.total)
    bound, before, distance, scale, curved = math.inf, 0.0, 0.0, 0.0, near is None
    for turn in range(min(PASSES, problem.max_iter)):
        sums = _summed(problem, blocks, coef, curved)
        matrix = sums.gram if curved else matrix
        value, delta = sums.objective - saturated, _solved(matrix, sums.score)
        if delta is None or not value <= bound:
            return None
        worth, floor = abs(value), (10 * judge.EPS) ** 2 * float(coef @ matrix @ coef)  # see `judge.floor`
        decrement, unit = float(sums.score @ delta), 2 * worth / count if problem.family.has_dispersion else 1.0
        if not -floor <= decrement < math.inf:
            return None
        if not turn:
            before, scale = unit, worth
            if near is None and decrement > 0.5 * worth:  # so far off the search looks for a better point
                return None
        # steps contract as far as their Gram is off: as the last did, times how much nearer than its own this one is
        own = decrement if curved or not turn else distance
        nearer = own / distance if turn and distance > 0 else decrement / before if before > 0 else 1.0
        after = decrement * min(1.0, decrement / before if before > 0 else 1.0) * min(1.0, nearer)
        if decrement <= problem.tol * (2 * worth + 2e-3 * scale) + floor and after <= left**2 * unit + floor:
            still = problem.canonical and curved and decrement <= STILL**2 * total + floor
            return _End(coef + delta, delta, sums._replace(gram=matrix), total, turn + 1, still)
        coef, bound, before, distance = coef + delta, value + judge.SLACK * worth + floor, decrement, own
        curved = near is None or after > CHORD**2 * decrement or problem.canonical and after <= STILL**2 * total
    return None


def _first(problem: Problem, blocks: list[_Block]) -> Array | None:
    """(p,) the coefficients that a mean for each row leads to; None where the columns are not clearly independent."""
    first = _summed(problem, blocks, None, True)
    return None if _factor(first.gram) is None else _solved(first.gram, first.score)


def _summed(problem: Problem, blocks: Sequence[_Block], coef: Array | None, curved: bool) -> _Sums:
    """The sums of a pass at coefficients (p,), or those that the first of them come from."""
    if len(blocks) == 1:
        return _of_block(problem, blocks[0], coef, curved)

    def work(part: Sequence[_Block]) -> _Sums:
        return reduce(_Sums.plus, [_of_block(problem, block, coef, curved) for block in part])

    return reduce(_Sums.plus, spread(work, blocks))


def _of_block(problem: Problem, block: _Block, coef: Array | None, curved: bool) -> _Sums:
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
    mu = link(eta)
    score, information = family.score_and_weight(y, eta, mu, link, coef is not None and not problem.canonical)
    half = family.cheap(y, eta, mu, link, True)[0]
    if weight is not None:
        score, information, half = score * weight, information * weight, half * weight
    if coef is None:  # the first step solves for the coefficients themselves
        score = score + information * (eta if is_all(rows.offset, 0.0) else eta - rows.offset)
    if x is None:
        slope = project(rows, score)[0].numpy()
        matrix = gram(rows, information).written_out()[0].numpy() if curved else np.zeros(())
    else:
        slope, matrix = score.numpy()[0] @ x, (x * information.numpy().T).T @ x
    return _Sums(matrix, slope, float(half.sum()), [(eta, information)])


def _constants(problem: Problem, blocks: list[_Block]) -> tuple[float, float, float]:
    """What passes leave in the objective that belongs to y alone, the rows with their repeats, and their weight."""
    saturated = count = total = 0.0
    for block in blocks:
        own = problem.family.nll_saturated(block.response)
        saturated += float((own if block.weight is None else own * block.weight).sum())
        weight, number, _ = census(block.rows, block.weight is None)
        count, total = count + float(number), total + float(weight)
    return saturated, count, total


def _solved(matrix: Array, score: Array) -> Array | None:
    """The step (p,) that a Gram asks for; None where it is singular."""
    try:
        return np.linalg.solve(matrix, score)
    except np.linalg.LinAlgError:
        return None


def _factor(matrix: Array) -> Array | None:
    """The Cholesky factor (p, p) of a Gram; None where its columns are not clearly independent.

    Its pivots are those on columns scaled to one length, each times that length.
    """
    try:
        lower = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return None
    return lower if bool((lower.diagonal() >= PIVOT * np.sqrt(matrix.diagonal())).all()) else None


def _solution(problem: Problem, blocks: list[_Block], end: _End) -> Solution | None:
    """The solution where the last pass stands, taken along its step; None where that still moves a row."""

    def work(part: Sequence[tuple[_Block, tuple[Tensor, Tensor]]]) -> Moments:
        return reduce(add, [_last(problem, block, *before, end) for block, before in part])

    pairs = list(zip(blocks, end.last.rows, strict=True))
    last = work(pairs) if len(pairs) == 1 else reduce(add, spread(work, pairs))
    matrix = end.last.gram if end.still else last.gram.written_out()[0].numpy()
    lower = _factor(matrix)
    if lower is None or float(last.invalid) or not float(last.change) <= judge.STEADY:
        return None
    gram = Dense(torch.from_numpy(matrix[None]))
    score = torch.from_numpy((end.last.score - end.last.gram @ end.delta)[None])
    moments = replace(last, gram=gram, score=score)
    return Solution(
        torch.from_numpy(end.coef[None]),
        torch.ones(1, problem.p, dtype=torch.bool),
        moments,
        DenseRoot(torch.from_numpy(np.linalg.inv(lower).T[None])),
        torch.tensor([int(Status.CONVERGED)]),
        torch.tensor([end.n_iter]),
        torch.zeros(1, dtype=torch.bool),
    )


def _last(problem: Problem, block: _Block, before: Tensor, information: Tensor, end: _End) -> Moments:
    """What a search reports of a block at the end, but the score; predictors and information (1, n) are of before."""
    family, link, plain, rows = problem.family, problem.link, block.weight is None, to_float64(block.rows)
    eta = before + times(rows, torch.from_numpy(end.delta[None]))
    coef, mu = torch.from_numpy(end.coef[None]), link(eta)
    half = objective(rows, eta, mu, Point(coef, before=coef), family, link)
    matrix: Gram = Dense(eta.new_zeros(1, 0, 0))
    if not end.still:
        information = family.score_and_weight(block.response, eta, mu, link, False)[1]
        information = information if plain else information * rows.weight
        matrix = gram(rows, information)
    none = eta.new_zeros(1)
    return Moments(
        matrix,
        none,
        (half if plain else half * rows.weight).sum(-1),
        torch.linalg.vecdot(information, eta.square()),
        outside(mu, eta, family, link),
        *census(rows, plain),
        *report(rows, eta, mu, before, family, link, plain),
        torch.full_like(none, math.inf),
    )
