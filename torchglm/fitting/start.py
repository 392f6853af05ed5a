"""Where a search begins: the rank of the design, first coefficients, and the first point with valid means."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchglm.fitting import linalg
from torchglm.fitting.edges import room
from torchglm.fitting.interior import interior
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.problem import Problem
from torchglm.fitting.state import Ask, Columns, Passes, State
from torchglm.rows.grams import GRAM_PIVOT

SCORING = 2  # steps of several predictors by scoring, before Newton's, which take the observed information
FAR = 1e8  # half a unit deviance; from a first point that is farther off, the objective there is no scale of a fit


def columns_of(problem: Problem, lane: Tensor) -> Passes[Columns | None]:
    """What the first pass finds of the design; None where border and diagonal of a Gram do not tell."""
    if problem.several:
        return (yield from _columns_of_several(problem, lane))
    first = yield Ask(Point(), lane)
    level = _level_of(first)
    bad = (~first.valid).nonzero()[:, 0]
    if bad.numel():  # a mean per row with no linear predictor, such as log 0
        first = first.place(bad, (yield Ask(_some(level, bad), lane[bad])))
    found = yield from _rank(problem, first, lane)
    if found is None:
        return None
    keep, factored = found
    if bool(factored.any()):
        first = yield Ask(Point(factor=True), lane)
        if bad.numel():
            first = first.place(bad, (yield Ask(replace(_some(level, bad), factor=True), lane[bad])))
    return Columns(lane, keep, factored, first)


def _columns_of_several(problem: Problem, lane: Tensor) -> Passes[Columns | None]:
    """The same where rows have several predictors: the first pass counts, the second starts from constants."""
    counted = yield Ask(Point(), lane)
    assert counted.statistics is not None
    start = Point(averages=counted.statistics / counted.weight.unsqueeze(-1))
    first = yield Ask(start, lane)
    found = yield from _rank(problem, first, lane)
    if found is None:
        return None
    keep, factored = found
    if bool(factored.any()):
        first = yield Ask(replace(start, factor=True), lane)
    names = ("weight", "count", "response", "statistics")
    return Columns(lane, keep, factored, replace(first, **{name: getattr(counted, name) for name in names}))


def _level_of(first: Moments) -> Point:
    """The point of constants for the averages of a first pass."""
    if first.statistics is None:
        return Point(constant=first.response / first.weight)
    return Point(constant=first.statistics / first.weight.unsqueeze(-1))


def from_rows(problem: Problem, columns: Columns) -> Passes[tuple[State, Tensor]]:
    """The state at the first point that the rows suggest, and (B,) where its means are valid."""
    coef = _solved(problem, columns)
    moments = yield from _at(problem, columns, coef)
    moments, coef = yield from _made_valid(problem, columns, coef, moments)
    moments, coef = yield from _better(problem, columns, moments, coef)
    return state_at(problem, columns, coef, moments), moments.valid


def from_coefficients(problem: Problem, columns: Columns, start: Tensor) -> Passes[tuple[State, Tensor, Tensor]]:
    """The state at coefficients `start` (B, p), or where the rows suggest if those have no valid means.

    With it (B,) where the means are valid, and where those of `start` were.
    """
    first = columns.first
    coef = problem.among(columns.lane).projected(
        first, torch.where(columns.keep, start, 0.0), columns.keep, first.weight
    )
    moments = yield from _at(problem, columns, coef)
    taken = moments.valid
    moments, coef = yield from _made_valid(problem, columns, coef, moments)
    return state_at(problem, columns, coef, moments), moments.valid, taken


def from_known(
    problem: Problem, lane: Tensor, coef: Tensor, part: Moments | None, lend: bool
) -> Passes[tuple[State, Tensor]]:
    """The state at `coef` (B, p) where all columns are known to have a value, and (B,) where the means are valid.

    `part` are the moments of some of the rows near by. Where these are many enough to `lend` their Gram, scaled to all
    rows, the first steps are taken with it.
    """
    problem = problem.among(lane)
    no, every = torch.zeros_like(lane, dtype=torch.bool), torch.ones_like(coef, dtype=torch.bool)
    single = False
    if part is not None and problem.chord:
        single = bool(linalg.allows_single(part.gram, part.gram.invert(every)).all())
    observed = False if problem.canonical else ~no
    moments = yield Ask(Point(coef, observed, census=True, curved=not lend, single=single), lane)
    if lend:
        assert part is not None
        moments = replace(moments, gram=part.gram.scaled(moments.weight / part.weight))
    state = state_at(problem, Columns(lane, every, no, moments), coef, moments)
    state.fisher = torch.zeros_like(state.fisher)
    if lend:
        state = replace(state, stale=~no, decrement=torch.full_like(state.decrement, torch.inf))
    return state, moments.valid


def state_at(problem: Problem, columns: Columns, coef: Tensor, moments: Moments) -> State:
    """The state of models that have made no step."""
    lane, total, problem = columns.lane, columns.first.weight, problem.among(columns.lane)
    whole, no = torch.zeros_like(lane), torch.zeros_like(lane, dtype=torch.bool)
    zero = torch.zeros_like(total)
    return State(
        lane=lane,
        coef=coef,
        keep=columns.keep,
        moments=moments,
        objective=problem.objective(moments, coef, total),
        first=torch.minimum(moments.objective, FAR * total),
        total=total,
        count=columns.first.count,
        volume=columns.first.response.abs(),
        factored=columns.factored,
        fisher=torch.full_like(whole, SCORING) if problem.several and not problem.canonical else whole,
        delta=torch.zeros_like(coef),
        decrement=zero,
        light=no,
        single=no,
        stale=no,
        step=torch.ones_like(total),
        closing=no,
        refresh=no,
        drift=whole,
        stagnant=whole,
        hit=no,
        cut=no,
        shortened=whole,
        n_iter=whole.clone(),
    )


def _rank(problem: Problem, first: Moments, lane: Tensor) -> Passes[tuple[Tensor, Tensor] | None]:
    """Columns that depend on those before them are dropped, unless they are penalised."""
    curved = held_all = torch.zeros_like(first.score, dtype=torch.bool)
    gram, problem = first.gram, problem.among(lane)
    if problem.penalty is not None:
        ridge = problem.penalty.ridge(first.score, first.weight)
        curved = (ridge if problem.penalty.diagonal else ridge.diagonal(dim1=-2, dim2=-1)) > 0
        gram, held_all = gram.with_ridge(ridge), curved | problem.penalty.holds(first.score, first.weight)
    keep, unclear = gram.independent(held_all)
    factored, doubtful = torch.zeros_like(unclear), unclear.nonzero()[:, 0]
    if doubtful.numel():
        if problem.layout.levels is not None:
            return None
        held = held_all[doubtful]
        design = (yield Ask(Point(design=True), lane[doubtful])).factor
        assert design is not None
        own = torch.where(held.unsqueeze(-2), 0.0, design)
        keep[doubtful] = linalg.independent_columns(own, problem.rank_tol) | held
        again = gram[doubtful].invert(keep[doubtful] & ~(held & ~curved[doubtful]))
        factored[doubtful] = ~again.positive | ~(again.pivot >= GRAM_PIVOT)
    return keep, factored


def _made_valid(problem: Problem, columns: Columns, coef: Tensor, moments: Moments) -> Passes[tuple[Moments, Tensor]]:
    """Moments and coefficients; where those are invalid, at a constant mean, or at any valid point."""
    bad = (~moments.valid).nonzero()[:, 0]
    if not bad.numel():
        return moments, coef
    level = yield from _level(problem, columns.take(bad))
    coef = coef.index_copy(0, bad, level)
    moments = moments.place(bad, (yield from _at(problem, columns.take(bad), level)))
    bad = (~moments.valid).nonzero()[:, 0]
    if bad.numel() and problem.ends is not None:
        own = columns.take(bad)
        size = room(own.first.response / own.first.weight, problem.family, problem.link, problem.ends)
        found = yield from interior(own.lane, torch.nan_to_num(coef[bad]), own.keep, size)
        found = problem.among(own.lane).projected(own.first, found, own.keep, own.first.weight)
        coef = coef.index_copy(0, bad, found)
        moments = moments.place(bad, (yield from _at(problem, own, found)))
    return moments, coef


def _some(point: Point, models: Tensor) -> Point:
    """A point of one mean for some of the models."""
    assert point.constant is not None
    return replace(point, constant=point.constant[models])


def _at(problem: Problem, columns: Columns, coef: Tensor) -> Passes[Moments]:
    """The moments at coefficients, with Newton's curvature where a Gram holds it.

    A factor needs weights that are not negative; beside a shape it takes their absolute values.
    """
    observed = False if problem.canonical or problem.several else ~columns.factored | (problem.shapes > 0)
    return (yield Ask(Point(coef, observed, bool(columns.factored.any())), columns.lane))


def _level(problem: Problem, columns: Columns) -> Passes[Tensor]:
    """(B, p) the coefficients that come nearest to one mean for all rows."""
    moments = yield Ask(_level_of(columns.first), columns.lane)
    return _solved(problem, replace(columns, first=moments, factored=torch.zeros_like(columns.factored)))


def _solved(problem: Problem, columns: Columns) -> Tensor:
    """(B, p) the coefficients that a first pass leads to."""
    first = columns.first
    problem = problem.among(columns.lane)
    none = torch.zeros_like(first.score)
    return problem.settled(problem.direction(first, none, columns.keep, columns.factored, first.weight)[0])


def _better(problem: Problem, columns: Columns, moments: Moments, coef: Tensor) -> Passes[tuple[Moments, Tensor]]:
    """The constant mean instead, for models whose first point promises to be far off and is the worse one.

    Far off: the Newton decrement is a quarter of the deviance. From such a point the search may end in
    another, lower maximum of a likelihood that has several.
    """
    total, here = columns.first.weight, problem.among(columns.lane)
    _, decrement, _ = here.direction(moments, coef, columns.keep, columns.factored, total)
    size = here.size(here.objective(moments, coef, total), total)
    far = ((decrement > 0.5 * size) & moments.valid).nonzero()[:, 0]
    if not far.numel():
        return moments, coef
    own = columns.take(far)
    level = yield from _level(problem, own)
    other = yield from _at(problem, own, level)
    objective = here.objective(moments, coef, total)[far]
    better = other.valid & (problem.among(own.lane).objective(other, level, own.first.weight) < objective)
    index = better.nonzero()[:, 0]
    return moments.place(far[index], other.take(index)), coef.index_copy(0, far[index], level[index])
