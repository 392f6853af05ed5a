"""The descent from a first point to the end: take the step or halve it. `B` models at once.

Newton's method with the observed information where it is positive definite, Fisher scoring where it is not,
and a halved step where the objective rises or a mean leaves its range (Marschner 2011, R Journal 3(2), 12-15).
Every pass is a trial: it yields the objective at the trial point and the sums for the next step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from torchglm.fitting import judge, linalg
from torchglm.fitting.judge import DRIFT, EPS, GOING, ROUNDING, SHORTEST, STAGNANT, STEADY, Judged
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.problem import Problem, Solve
from torchglm.fitting.secants import Secants
from torchglm.fitting.state import Ask, Passes, Solution, State
from torchglm.fitting.status import Status
from torchglm.rows.grams import GRAM_PIVOT, Dense, Gram
from torchglm.rows.inverses import GramInverse

ABSURD = 1e12  # nats that a step promises for each row: the observed information is rounding, of an exact fit
NEAR = 0.1  # root mean square step of eta from which on the Gram of an earlier point may serve
NEAR_OF_SEVERAL = 0.2  # the same over all predictors of a row
CONTRACTION = 0.15  # share of the distance that steps with such a Gram may leave, else a new one is made
CONTRACTION_OF_SEVERAL = 0.4  # the same of several predictors, whose Gram costs as much as four such steps
STALE = 10  # times what a step with the Gram of an earlier point leaves the next may leave
AIMED = ("delta", "decrement", "step", "closing", "refresh", "hit", "fisher", "factored", "light", "single")


class Descent:
    """Steps of one problem, written into `out` where they end; `tell` is told every state before its pass.

    `state` are the models on their way. `needs_pairs` turns true where columns are so nearly dependent that border and
    diagonal of a Gram do not tell.
    """

    def __init__(self, problem: Problem, out: Solution, tell: Callable[[State], None] = lambda _: None) -> None:
        self.problem, self.out, self.tell = problem, out, tell
        self.state: State | None = None
        self.needs_pairs = False
        self._inverted: tuple[Gram, GramInverse] | None = None
        self._secants = Secants()
        self._aim: tuple[Tensor, GramInverse] | None = None  # the models last aimed, and what their steps came from

    def run(self, s: State) -> Passes[None]:
        """Take every model to its end, from a first point."""
        self.state = s
        s = self._aimed(s) if s.lane.numel() else s
        while s.lane.numel() and not self.needs_pairs:
            self.state = s
            self.tell(s)
            s = yield from self._advance(s)
        self.state = None

    # one pass --------------------------------------------------------------------------------------------

    def _advance(self, s: State) -> Passes[State]:
        """Evaluate the trial of every model, accept or halve, and aim again."""
        problem = self.problem.among(s.lane)
        trial = self.problem.settled(s.coef + s.step.unsqueeze(-1) * s.delta)
        point = self._point(s, trial)
        moments = yield Ask(point, s.lane)
        if not point.curved:
            moments = replace(moments, gram=s.moments.gram)
        objective = problem.objective(moments, trial, s.total)
        accepted = moments.valid & (objective <= self._bound(s))
        gain = s.objective - objective
        self.state = s = _moved(s, trial, moments, objective, accepted)
        steady = moments.change <= STEADY
        if bool((s.stale & s.closing).any()):
            steady = steady & self._verified(s)
        s.stale = torch.where(accepted, torch.full_like(s.stale, not point.curved), s.stale)
        s.drift = torch.where(s.closing & accepted & ~steady, s.drift + 1, s.drift)
        flat = accepted & ~s.refresh & (gain <= 1e-14 * problem.size(s.objective, s.total))
        s.stagnant = torch.where(flat, s.stagnant + 1, torch.where(accepted & ~s.refresh, 0, s.stagnant))
        ended = judge.verdicts(self._judged(s, moments, accepted, steady))
        if bool((ended != GOING).any()):
            s, accepted = yield from self._settle(s, accepted, ended, point)
        return self._again(s, accepted) if s.lane.numel() and bool(accepted.any()) else s

    def _point(self, s: State, trial: Tensor) -> Point:
        """Where the next pass evaluates, and what of it is needed."""
        problem = self.problem
        # the report has the information that inference takes: the expected one, the observed of several predictors
        observed = (s.fisher == 0) & (~s.closing | problem.whole) & (~s.factored | (problem.shapes > 0))
        last = bool(s.closing.any()) or bool((s.n_iter + 1 >= problem.max_iter).any())
        return Point(
            trial,
            False if problem.canonical else observed,
            bool(s.factored.any()),
            s.coef if last else None,
            fence=problem.fence,
            curved=last or not bool(s.light.all()),
            single=bool(s.single.all()) and not last,
        )

    def _judged(self, s: State, moments: Moments, accepted: Tensor, steady: Tensor) -> Judged:
        cuts, shortest = self.problem.creep
        return Judged(
            accepted=accepted,
            valid=moments.valid,
            closing=s.closing,
            steady=steady,
            drifting=s.drift >= DRIFT,
            small=self._small(s, max(self.problem.tol, ROUNDING)),
            short=s.step < 0.1,
            exhausted=s.step < torch.where(moments.valid, SHORTEST, shortest),
            blocked=s.shortened >= cuts,
            stagnant=s.stagnant >= STAGNANT,
            spent=s.n_iter >= self.problem.max_iter,
            moving=(moments.change > 10 * STEADY) & (s.n_iter >= 20),
            optimal=self._optimal(s, accepted),
        )

    def _optimal(self, s: State, accepted: Tensor) -> Tensor:
        """(B,) whether the models stand where their penalty says, for those of which it is asked."""
        asked = s.closing | ~accepted | (s.stagnant >= STAGNANT)
        if not bool(asked.any()):
            return asked
        return self.problem.among(s.lane).optimal(s.moments, s.coef, s.keep, s.objective, s.total)

    def _verified(self, s: State) -> Tensor:
        """(B,) arrivals by steps with an earlier Gram, judged once more with their own."""
        _, decrement, inverse = self._direction(s)
        return inverse.positive & self._small(replace(s, decrement=decrement), self.problem.arrived)

    def _small(self, s: State, tol: Tensor | float) -> Tensor:
        size = self.problem.size(s.objective, s.total)
        return judge.arrived(s.decrement, size, s.first, judge.floor(s.moments), tol)

    def _bound(self, s: State) -> Tensor:
        size = self.problem.size(s.objective, s.total)
        return judge.bound(s.objective, size, judge.floor(s.moments)) + _rounding(s)

    # the next step ---------------------------------------------------------------------------------------

    def _again(self, s: State, accepted: Tensor) -> State:
        """Models that moved take a new aim, the others keep theirs."""
        aimed = self._aimed(s)
        if bool(accepted.all()):
            return aimed
        for name in AIMED:
            new, old = getattr(aimed, name), getattr(s, name)
            mask = accepted if new.dim() == 1 else accepted.unsqueeze(-1)
            setattr(aimed, name, torch.where(mask, new, old))
        return aimed

    def _aimed(self, s: State) -> State:
        """The next direction of every model, and whether the pass along it may be the last."""
        problem = self.problem.among(s.lane)
        delta, decrement, inverse = self._direction(s)
        turned = problem.whole and problem.smooth_penalty and not problem.canonical and problem.layout.levels is None
        bent = ~inverse.positive & (s.fisher == 0) & ~s.factored if turned else torch.zeros_like(s.closing)
        if bool(bent.any()):
            delta, decrement, inverse = self._direction(_turned_down(s, bent))
        self._aim = None if bool(s.stale.any()) else (s.lane, inverse)
        positive = inverse.positive
        if problem.whole and not problem.canonical:
            positive = positive & ~((decrement > ABSURD * s.total) & (s.fisher == 0) & ~s.factored)
        if not problem.smooth_penalty:
            positive = positive & ~(problem.bent(s.moments, s.coef, s.keep, s.total) & (s.fisher == 0))
        indefinite = ~positive & ~s.factored
        poor = inverse.positive & ~(inverse.pivot >= GRAM_PIVOT) & ~s.factored & (s.drift == 0)
        expected_failed = indefinite & ((s.fisher > 0) | problem.canonical)
        self.needs_pairs = problem.layout.levels is not None and bool((poor | expected_failed).any())
        factored = s.factored | poor | expected_failed
        refresh = (poor | indefinite) & ~(s.refresh & s.factored)
        fisher = torch.where(indefinite & ~expected_failed, 3, s.fisher)
        aimed = replace(
            s,
            delta=torch.where(refresh.unsqueeze(-1), 0.0, delta),
            decrement=decrement,
            step=torch.ones_like(s.step),
            refresh=refresh,
            fisher=fisher,
            factored=factored,
            hit=torch.zeros_like(s.hit),
        )
        aimed.closing = self._small(aimed, problem.tol) & ~refresh & ~bent
        if problem.canonical:
            aimed.closing &= judge.leaves_still(decrement, s.decrement, s.total, judge.floor(s.moments))
        else:
            unit = problem.unit(s.moments.objective, s.count)
            aimed.closing &= judge.leaves_little(decrement, s.decrement, unit, judge.floor(s.moments))
            aimed.closing &= problem.optimal(s.moments, s.coef, s.keep, s.objective, s.total)
        if problem.chord:
            # the step with an earlier Gram will leave about the share of the decrement that the one before it left
            left = (STALE * decrement / s.decrement).clamp(max=1)
            ahead = torch.where(torch.isinf(s.decrement), decrement, decrement * left)
            arrives = self._small(replace(aimed, decrement=ahead), problem.arrived) & ~refresh
            aimed.closing = torch.where(s.stale, arrives, aimed.closing)
            near = decrement <= (NEAR_OF_SEVERAL if problem.several else NEAR) ** 2 * s.total
            aimed.single = ~factored & ~refresh & linalg.allows_single(s.moments.gram, inverse)
            least = CONTRACTION_OF_SEVERAL if problem.several else CONTRACTION
            aimed.light = near & ~factored & ~refresh & (~s.stale | (decrement <= least**2 * s.decrement))
        return aimed

    def _direction(self, s: State) -> tuple[Tensor, Tensor, GramInverse]:
        """The step, its decrement and the inverse; steps with the Gram of an earlier point share its factor."""
        known = self._inverted if self.problem.chord else None
        inverse = known[1] if known is not None and known[0] is s.moments.gram else None
        found = self.problem.among(s.lane).direction(s.moments, s.coef, s.keep, s.factored, s.total, inverse)
        self._inverted = (s.moments.gram, found[2])
        if not self.problem.chord or not self.problem.several:
            return found
        score = self.problem.among(s.lane).slope(s.moments, s.coef, s.keep, s.total)
        if inverse is None:
            self._secants = Secants()
        self._secants.add(s.coef, score)
        delta = self._secants.bend(score, found[2].solve)
        return delta, torch.linalg.vecdot(score, delta), found[2]

    # the end ---------------------------------------------------------------------------------------------

    def _settle(self, s: State, accepted: Tensor, ended: Tensor, point: Point) -> Passes[tuple[State, Tensor]]:
        """Write the models that ended, and go on with the others; the last pass, at `point`, may have reported."""
        stop = ended != GOING
        index, going = stop.nonzero()[:, 0], (~stop).nonzero()[:, 0]
        own = point.observed if self.problem.whole else s.closing
        fitting = accepted if self.problem.canonical else accepted & own  # the information that inference takes
        at_hand = point.before is not None and bool(fitting[index].all())
        yield from self.finish(s.take(index), ended[index], at_hand)
        return s.take(going), accepted[going]

    def finish(self, s: State, status: Tensor | Status, at_hand: bool = False) -> Passes[None]:
        """Write the models that ended, with the expected information at their coefficients.

        `at_hand`: the last pass has taken it there already.
        """
        last, out, problem = s.moments, self.out, self.problem.among(s.lane)
        if not at_hand:
            observed = problem.whole and not problem.canonical
            factor = bool(s.factored.any()) and (problem.shapes > 0 or not observed)
            point = Point(s.coef, observed, factor, s.coef, fence=problem.fence)
            last = yield Ask(point, s.lane)
        factored = s.factored & (last.factor is not None)
        inverse = problem.inverse(last, s.coef, s.keep, factored, s.total)
        code = torch.as_tensor(status, device=problem.device)
        sound = (code == int(Status.CONVERGED)) & (~s.factored | (problem.shapes > 0))
        coef, last = problem.polished(s.coef, last, inverse, sound, s.total, self._observed(s.lane))
        out.coef[s.lane], out.keep[s.lane] = coef, s.keep
        for f in fields(Moments):
            if f.name not in ("factor", "statistics"):
                getattr(out.moments, f.name)[s.lane] = getattr(last, f.name)
        out.root[s.lane] = inverse.root.only(inverse.positive)
        out.status[s.lane] = code.to(out.status.dtype)
        out.n_iter[s.lane] = s.n_iter
        out.cut[s.lane] = s.cut

    def _observed(self, lane: Tensor) -> Solve | None:
        """What solves for models `lane` with the information of their last step; None where the report has it."""
        if self.problem.canonical or self.problem.whole or self._aim is None:
            return None
        aimed, inverse = self._aim
        place = torch.searchsorted(aimed, lane)

        def solve(score: Tensor) -> Tensor:
            return inverse.solve(score.new_zeros(aimed.numel(), score.shape[-1]).index_copy(0, place, score))[place]

        return solve


def _moved(s: State, trial: Tensor, moments: Moments, objective: Tensor, accepted: Tensor) -> State:
    """Move the models whose trial was accepted, halve the step of the others."""
    index = accepted.nonzero()[:, 0]
    moved = accepted & ~s.refresh
    short = moved & s.hit & (s.step < 1e-2)
    kept = (
        s.moments
        if s.moments.factor is not None or moments.factor is None
        else replace(s.moments, factor=torch.zeros_like(moments.factor))
    )
    return replace(
        s,
        coef=torch.where(accepted.unsqueeze(-1), trial, s.coef),
        moments=kept.place(index, moments.take(index)),
        objective=torch.where(accepted, objective, s.objective),
        step=torch.where(accepted, s.step, s.step / 2),
        hit=s.hit | ~moments.valid,
        cut=s.cut | ~moments.valid,
        shortened=torch.where(short, s.shortened + 1, torch.where(moved, 0, s.shortened)),
        fisher=torch.where(moved, (s.fisher - 1).clamp(min=0), s.fisher),
        n_iter=s.n_iter + moved.to(s.n_iter.dtype),
    )


def _turned_down(s: State, bent: Tensor) -> State:
    """The state with the Grams of the models `bent` made positive, so that their steps lead down."""
    index = bent.nonzero()[:, 0]
    matrix = s.moments.gram.written_out().clone()
    matrix[index] = linalg.made_positive(matrix[index], s.keep[index])
    return replace(s, moments=replace(s.moments, gram=Dense(matrix)))


def _rounding(s: State) -> Tensor:
    """What rounding does to the objective: of the terms `x_j coef_j`, which may cancel in `eta`, and of `y`."""
    terms = (s.coef.square() * s.moments.gram.diagonal().abs()).sum(-1)
    return 4 * EPS * ((terms * s.objective.abs()).sqrt() + s.volume)
