"""A fast driver for small models: Newton's method on groups of them that stay in a core's cache.

A thread takes a group from its first pass to its last. Steps are judged as in the search, for a model that needs none
of its care: columns clearly independent, every step accepted as it is, the last one confirmed by a pass of its own.
Any other model is left to the search, which begins it anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting import judge, linalg
from torchglm.fitting.kernel import take_family
from torchglm.fitting.moments import Moments
from torchglm.fitting.problem import Problem
from torchglm.fitting.small_classes import ClassPasses
from torchglm.fitting.small_passes import PlainPasses, SeveralPasses, SmallPasses, numbers_of
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.rows.grams import GRAM_PIVOT, Dense, Gram
from torchglm.rows.inverses import Root
from torchglm.rows.rows import Rows, to_float64
from torchglm.rows.threads import spread

NEAR = 1e-3  # share of a decrement that steps leave, from which on one more goes by the Gram of the last: what that
# leaves of the information is the cube; a pass without a Gram takes two fifths of one with
PASSES = 12  # after which a model is left to the search
SMALL = 1 << 15  # numbers that a model has to itself
GROUP = 1 << 21  # numbers that the models of a group have: with what a pass makes of them they fit a cache
MEMBERS = 1024  # models of a group at most; smaller groups cost more of Python, a seventh of the time at 320


@dataclass(frozen=True)
class _Ends:
    """Where the models of a group stopped: `coef` and `before`, the point the last step came from, are (B, p).

    `level` (B,) is the objective at `before` and what rounding may add to it; `regular` (B,) says that nothing stood
    against the steps so far, which are counted in `n_iter`. `gram` (B, p, p) is the information that the last step was
    made of, kept where it is not the one of the last pass.
    """

    coef: Tensor
    before: Tensor
    level: Tensor
    regular: Tensor
    n_iter: Tensor
    gram: Tensor | None


def fit_small_models(problem: Problem, source: Iterable[Rows], lane: Tensor, out: Solution) -> Tensor:
    """Write the models that can be fitted so into `out`, and return those of `lane` that cannot."""
    rows = _rows_of(problem, source)
    if rows is None:
        return lane
    models, size = rows.y.shape[0], _members(rows)
    wanted = torch.zeros(models, dtype=torch.bool)
    wanted[lane] = True

    def work(parts: Sequence[slice]) -> None:
        for part in parts:
            own = to_float64(rows.take(part))
            _fit(own, take_family(problem.family, part), problem, part, wanted, out)

    spread(work, [slice(start, min(models, start + size)) for start in range(0, models, size)])
    return wanted.nonzero()[:, 0]


def _rows_of(problem: Problem, source: Iterable[Rows]) -> Rows | None:
    """The rows of small models in memory whose maximum lies inside, where the short road leads there."""
    if not isinstance(source, list) or len(source) > 1 or problem.penalty is not None:
        return None
    rows: Rows = source[0]
    narrow = 0 < rows.columns and _numbers(rows) <= SMALL and rows.indexed is None
    if not narrow or not problem.open_ended or rows.y.device.type != "cpu":
        return None
    return rows


def _numbers(rows: Rows) -> int:
    """The numbers that a model has to itself."""
    if rows.plan is not None:
        return numbers_of(rows)
    return rows.y.shape[-1] * (1 if rows.shared and rows.y.shape[0] > 1 else rows.columns)


def _members(rows: Rows) -> int:
    """How many models make a group: as many groups for each thread where there are several, sixteens of models."""
    models, most = rows.y.shape[0], max(16, min(MEMBERS, GROUP // max(1, _numbers(rows))))
    count = -(-models // most)
    count += -count % 4 if count > 1 else 0
    return -(-models // (16 * count)) * 16


def _fit(rows: Rows, family: Family, problem: Problem, part: slice, wanted: Tensor, out: Solution) -> None:
    """Fit the group `part`, and write those of its models that are wanted and regular; they are wanted no more."""
    passes = _passes_of(rows, family, problem)
    begin = passes.begin()
    ends = _newton(passes, begin)
    last = passes.last(ends.coef, ends.before, begin)
    if problem.canonical or problem.whole:
        ends, last = _unsteady(passes, begin, ends, last)
    inverse = last.gram.invert(torch.ones_like(ends.coef, dtype=torch.bool))
    fine = ends.regular & last.valid & (last.objective <= ends.level) & (last.change <= judge.STEADY)
    fine &= inverse.positive & (inverse.pivot >= GRAM_PIVOT) & wanted[part]
    observed = None if ends.gram is None else Dense(ends.gram).invert(torch.ones_like(ends.coef, dtype=torch.bool))
    step = None if observed is None else observed.solve
    coef, last = problem.polished(ends.coef, last, inverse, fine, last.weight, step)
    chosen = fine.nonzero()[:, 0]
    lane = chosen + part.start
    whole = chosen.numel() == fine.numel()

    def write(target: Any, value: Tensor | Gram | Root) -> None:
        if whole:
            target[part] = value
        else:
            target[lane] = value[chosen]

    write(out.coef, coef)
    write(out.root, inverse.root)
    write(out.n_iter, ends.n_iter)
    for f in fields(Moments):
        if f.name not in ("factor", "statistics"):
            write(getattr(out.moments, f.name), getattr(last, f.name))
    out.keep[lane], out.status[lane] = True, int(Status.CONVERGED)
    wanted[lane] = False


def _passes_of(rows: Rows, family: Family, problem: Problem) -> SmallPasses:
    if rows.plan is None:
        return PlainPasses(rows, family, problem)
    passes = SeveralPasses.of(rows, family, problem)
    return ClassPasses.summed(passes) if ClassPasses.serves(family, passes.packed) else passes


def _unsteady(passes: SmallPasses, begin: Moments, ends: _Ends, last: Moments) -> tuple[_Ends, Moments]:
    """The ends and last sums where a last step that still moved a predictor by much is followed by one more.

    The information of the last pass has to be the one that steps take.
    """
    problem, objective = passes.problem, last.objective
    again = ends.regular & last.valid & (objective <= ends.level) & (last.change > judge.STEADY)
    index = (again & (ends.n_iter < problem.max_iter) & torch.isfinite(last.change)).nonzero()[:, 0]
    if not index.numel():
        return ends, last
    own, whole = passes.take(index), last.take(index)
    delta, decrement, sound = linalg.newton_step(whole)
    size, floor = problem.size(whole.objective, begin.weight[index]), judge.floor(whole)
    small = judge.arrived(decrement, size, torch.zeros_like(decrement), floor, problem.tol)
    coef, before = ends.coef[index] + delta, ends.coef[index]
    level = judge.bound(whole.objective, size, floor)
    for name, value in (("coef", coef), ("before", before), ("level", level), ("regular", sound & small)):
        getattr(ends, name)[index] = value
    ends.n_iter[index] += 1
    return ends, last.place(index, own.last(coef, before, begin.take(index)))


@dataclass
class _Walk:
    """The models of a group that are on their way, and those that stopped and were not taken out yet (not `moving`)."""

    passes: SmallPasses
    index: Tensor  # places in the group
    coef: Tensor
    saturated: Tensor  # the part of the objective that depends on y alone
    regular: Tensor
    bound: Tensor  # what the objective must not exceed
    first: Tensor  # the objective at the first point, as a scale
    count: Tensor
    total: Tensor  # of the weights
    decrement: Tensor  # of the step that led here, 0 for none
    moving: Tensor
    factored: linalg.Factored  # the Gram of the last step
    near: Tensor  # whether it serves for the next one as well: of each by itself, whatever the others need

    def take(self, chosen: Tensor) -> _Walk:
        """Some of them."""
        apart = ("passes", "factored")
        parts = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name not in apart}
        return _Walk(self.passes.take(chosen), factored=self.factored.take(chosen), **parts)


def _newton(passes: SmallPasses, begin: Moments) -> _Ends:
    """Newton's method from the sums `begin` to a step that leaves nothing to gain."""
    problem = passes.problem
    factored = linalg.Factored.of(begin.gram)
    coef, sound = factored.step(begin.score)[0], factored.sound
    saturated = passes.saturated()
    models = torch.arange(coef.shape[0])
    ends = _Ends(
        torch.zeros_like(coef),
        torch.zeros_like(coef),
        torch.zeros_like(saturated),
        torch.zeros_like(sound),
        torch.zeros_like(models),
        None if problem.canonical or problem.whole else coef.new_zeros(*coef.shape, coef.shape[-1]),
    )
    walk = _Walk(
        passes,
        models,
        coef,
        saturated,
        regular=sound,
        bound=torch.full_like(saturated, math.inf),
        first=saturated,
        count=begin.count,
        total=begin.weight,
        decrement=torch.zeros_like(saturated),
        moving=sound,
        factored=factored,
        near=torch.zeros_like(sound),
    )
    for turn in range(min(PASSES, problem.max_iter)):
        walk = _step(walk, ends, turn)
        left = walk.moving.nonzero()[:, 0]
        if not left.numel():
            break
        if 2 * left.numel() <= walk.index.numel() and (left.numel() > 1 or not passes.shared):  # one is summed apart
            walk = walk.take(left)
    return ends


def _step(walk: _Walk, ends: _Ends, turn: int) -> _Walk:
    """Evaluate where the models stand and aim again; those whose next step is the last are written into `ends`."""
    problem = walk.passes.problem
    curved = not bool((walk.near | ~walk.moving).all())
    moments = walk.passes.step(walk.coef, turn, curved)
    objective, floor = moments.objective - walk.saturated, judge.floor(moments)
    size = problem.size(objective, walk.total)
    factored = linalg.Factored.of(moments.gram).beside(walk.factored, walk.near) if curved else walk.factored
    delta, decrement = factored.step(moments.score)
    first = walk.first if turn else walk.passes.scale(objective, walk.total)
    # from a first point far off, the search looks for a better one
    good = objective <= walk.bound if turn else decrement <= 0.5 * size
    regular = walk.regular & good & factored.sound & (moments.invalid == 0) & (decrement < math.inf)
    closing = judge.arrived(decrement, size, first, floor, problem.tol)
    if problem.canonical:
        closing &= judge.leaves_still(decrement, walk.decrement, walk.total, floor, walk.near)
    else:
        closing &= judge.leaves_little(decrement, walk.decrement, problem.unit(objective, walk.count), floor)
    bound, trial = judge.bound(objective, size, floor), walk.coef + delta
    stops = (walk.moving & (closing | ~regular)).nonzero()[:, 0]
    if stops.numel():
        index = walk.index[stops]
        ends.coef[index], ends.before[index], ends.level[index] = trial[stops], walk.coef[stops], bound[stops]
        ends.regular[index], ends.n_iter[index] = regular[stops], turn + 1
        if ends.gram is not None:
            ends.gram[index] = moments.gram.written_out()[stops]
    moving = walk.moving & regular & ~closing
    coef = torch.where(moving.unsqueeze(-1), trial, walk.coef)
    near = ~walk.near & (decrement <= NEAR * walk.decrement) if walk.passes.chords else walk.near
    return replace(
        walk,
        coef=coef,
        regular=regular,
        bound=bound,
        first=first,
        decrement=decrement,
        moving=moving,
        factored=factored,
        near=near,
    )
