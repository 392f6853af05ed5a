"""Models whose maximum lies on an edge of the means, or so near that a search cannot tell."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.fitting.descent import Descent
from torchglm.fitting.edges import room
from torchglm.fitting.moments import Point
from torchglm.fitting.problem import Problem
from torchglm.fitting.start import state_at
from torchglm.fitting.state import Ask, Columns, Passes, Solution
from torchglm.fitting.status import Status

FENCES = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10)  # strengths of the barrier, one after the other
BESIDE = 1e-6  # nearer to the edge, as a share of the distance of the mean response, a fit is looked at again
APPROACH = 10  # times the last change of eta: nearer than that a search may still be on its way to the edge
MULTIPLIER = 1e-6  # a smaller slope of the objective towards the edge says that the maximum lies inside


def beside_the_edge(problem: Problem, lane: Tensor, out: Solution) -> Tensor:
    """The places in `lane` of models that ended on an edge of the means, or beside one."""
    if problem.ends is None:
        return lane[:0]
    status, margin = out.status[lane], out.moments.margin[lane]
    close = (margin < BESIDE * _room(problem, lane, out)) | (margin < APPROACH * out.moments.change[lane])
    near = (status == int(Status.CONVERGED)) & close
    return (near | (status == int(Status.BOUNDARY))).nonzero()[:, 0]


def along_the_edge(problem: Problem, columns: Columns, out: Solution) -> Passes[None]:
    """Take models that stopped beside an edge on to the maximum inside it, written into `out`.

    A logarithmic barrier of falling strength bends the path along the edge; its slope at the end is the
    multiplier of the constraint, and zero where the maximum lies inside after all (interior point method;
    Nocedal & Wright (2006), Numerical Optimization, section 19.6).
    """
    lane = columns.lane
    size, steps, cut = _room(problem, lane, out), out.n_iter[lane], out.cut[lane]
    for strength in FENCES:
        yield from _descend(problem.fenced(strength), columns, out)
    coef = out.coef[lane]
    moments = yield Ask(Point(coef, False, bool(columns.factored.any()), coef), lane)
    state = state_at(problem, columns, coef, moments)
    yield from Descent(problem, out).finish(state, Status.BOUNDARY, at_hand=True)
    inside = (FENCES[-1] * size < MULTIPLIER * out.moments.margin[lane]).nonzero()[:, 0]
    if inside.numel():
        yield from _descend(problem, columns.take(inside), out)
        steps[inside] += out.n_iter[lane[inside]]
    out.n_iter[lane], out.cut[lane] = steps, cut


def _descend(problem: Problem, columns: Columns, out: Solution) -> Passes[None]:
    """The descent of models from where they stand to its end."""
    coef = torch.where(columns.keep, out.coef[columns.lane], 0.0)
    point = Point(coef, False, bool(columns.factored.any()), fence=problem.fence)
    moments = yield Ask(point, columns.lane)
    yield from Descent(problem, out).run(state_at(problem, columns, coef, moments))


def _room(problem: Problem, lane: Tensor, out: Solution) -> Tensor:
    """(B,) the unit of distance from an edge: that of the mean response."""
    assert problem.ends is not None
    mean = out.moments.response[lane] / out.moments.weight[lane]
    return room(mean, problem.family, problem.link, problem.ends)
