"""One search, stepped from outside: it says where to evaluate next, and judges what the pass has summed.

search = Search(Problem.of(source, head, family, link))
while not search.done:
    search.take(fold(source, search.point, ...))  # over the rows of the models search.lane
search.solution
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchglm.fitting.barrier import along_the_edge, beside_the_edge
from torchglm.fitting.descent import Descent
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.problem import Problem
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.start import columns_of, from_coefficients, from_known, from_rows, state_at
from torchglm.fitting.state import Ask, Columns, Passes, Solution, State
from torchglm.fitting.status import Status
from torchglm.rows.inverses import Root


class Search:
    """The search for the maxima of `B` models: one pass over the rows is one call of `take`.

    It begins at the mean of every row or at `start` (B, p); with `stay` it ends there, and only says what is there.
    Where all columns are known to have a value it begins at `known` (B, p), perhaps with the moments `part` of some of
    the rows there, which may `lend` their Gram. Models not in `lane` are left as they are in `out`. `observe` is told
    of every step; with `reports` every pass at coefficients reports, for a driver that may stop at any.

    `point` is where the next pass evaluates and `lane` the models whose rows it takes; `solution` holds those that
    ended, and all once `done`. `refused` counts the models whose `start` has no valid means. `needs_pairs` ends a
    search early: it has to begin anew on Grams of all pairs of columns.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        start: Tensor | None = None,
        stay: bool = False,
        known: Tensor | None = None,
        part: Moments | None = None,
        lend: bool = False,
        lane: Tensor | None = None,
        out: Solution | None = None,
        observe: Observer | None = None,
        reports: bool = False,
    ) -> None:
        self.problem, self.observe, self.reports = problem, observe, reports
        self.solution = Solution.blank(problem.models, problem.layout, problem.device) if out is None else out
        self.needs_pairs, self.refused = problem.needs_pairs, 0
        self._descent: Descent | None = None
        lane = torch.arange(problem.models, device=problem.device) if lane is None else lane
        ended = self.needs_pairs or not lane.numel()
        passes = self._whole(lane, start, stay) if known is None else self._from_known(lane, known, part, lend)
        self._passes: Passes[None] | None = None if ended else passes
        self._ask: Ask | None = None if ended else next(passes)

    @property
    def done(self) -> bool:
        """Whether every model has ended, or the search has to begin anew."""
        return self._ask is None

    @property
    def point(self) -> Point:
        """Where the next pass evaluates."""
        point, ends = self._next.point, self.problem.ends
        if self.reports and point.coef is not None and point.before is None and point.lack is None:
            point = replace(point, before=point.coef)
        return replace(point, ends=ends, shapes=self.problem.shapes)

    @property
    def lane(self) -> Tensor:
        """The models that the next pass takes the rows of, in ascending order."""
        return self._next.lane

    @property
    def _next(self) -> Ask:
        if self._ask is None:
            raise ValueError("The search has ended. Look at its solution.")
        return self._ask

    @torch.no_grad()
    def take(self, moments: Moments) -> None:
        """Judge the pass at `point`."""
        if self._passes is None:
            raise ValueError("The search has ended. Look at its solution.")
        try:
            self._ask = self._passes.send(moments)
        except StopIteration:
            self._ask, self._passes = None, None

    @property
    def reached(self) -> bool:
        """Whether the models have coefficients."""
        return self._descent is not None

    @property
    def state(self) -> State | None:
        """Of the models on their way from their first coefficients to their end, while there are such."""
        return None if self._descent is None else self._descent.state

    @property
    def coef(self) -> Tensor:
        """(B, p) the coefficients that every model has reached."""
        state = self.state
        return self.solution.coef if state is None else self.solution.coef.index_copy(0, state.lane, state.coef)

    def here(self) -> tuple[Moments, Tensor, Root]:
        """The moments at `coef`, the columns `keep` (B, p), and a root of the inverse information."""
        state, out = self.state, self.solution
        if state is None:
            return out.moments, out.keep, out.root
        problem = self.problem.among(state.lane)
        inverse = problem.inverse(state.moments, state.coef, state.keep, state.factored, state.total)
        return state.moments, state.keep, inverse.root

    # from the first pass to the last ---------------------------------------------------------------------

    def _whole(self, lane: Tensor, start: Tensor | None, stay: bool) -> Passes[None]:
        """From the first pass to the maxima."""
        columns = yield from columns_of(self.problem, lane)
        if columns is None:
            self.needs_pairs = True
            return
        if start is None:
            state, usable = yield from from_rows(self.problem, columns)
        elif stay:
            yield from self._stay(columns, start[lane])
            return
        else:
            state, usable, taken = yield from from_coefficients(self.problem, columns, start[lane])
            self.refused = int((~taken).sum())
        yield from self._descend(columns, state, usable)

    def _from_known(self, lane: Tensor, coef: Tensor, part: Moments | None, lend: bool) -> Passes[None]:
        """From known coefficients, where their means are valid in all rows; else from the first pass."""
        state, valid = yield from from_known(self.problem, lane, coef, part, lend)
        if bool(valid.all()):
            yield from self._descend(Columns(lane, state.keep, state.factored, state.moments), state, valid)
        else:
            yield from self._whole(lane, None, False)

    def _stay(self, columns: Columns, coef: Tensor) -> Passes[None]:
        """What there is at given coefficients, with the information that standard errors are from."""
        coef = torch.where(columns.keep, coef, 0.0)
        moments = yield Ask(Point(coef, self.problem.several, bool(columns.factored.any()), coef), columns.lane)
        state = state_at(self.problem, columns, coef, moments)
        yield from Descent(self.problem, self.solution).finish(state, Status.ITERATION_LIMIT, at_hand=True)

    def _descend(self, columns: Columns, state: State, usable: Tensor) -> Passes[None]:
        """To the end from a first point, and along an edge that is met; models without a first point have ended."""
        self._descent = descent = Descent(self.problem, self.solution, self._tell)
        if not bool(usable.all()):
            yield from descent.finish(state.take((~usable).nonzero()[:, 0]), Status.INVALID_START)
            state = state.take(usable.nonzero()[:, 0])
        yield from descent.run(state)
        self.needs_pairs = descent.needs_pairs
        beside = beside_the_edge(self.problem, columns.lane, self.solution)
        if beside.numel() and not self.needs_pairs:
            yield from along_the_edge(self.problem, columns.take(beside), self.solution)

    def _tell(self, state: State) -> None:
        """Hand the observer, where there is one, what the models that ended and those that go on have reached."""
        if self.observe is None:
            return
        lane, objective = state.lane, self.solution.moments.objective
        parts = (
            (self.solution.coef, state.coef),
            (self.solution.n_iter, state.n_iter),
            (2 * objective, 2 * state.moments.objective),
        )
        self.observe(Progress(*(whole.index_copy(0, lane, part) for whole, part in parts)))
