"""The loop: fold the rows into sums, solve p x p, take the step or halve it. `B` models at once.

Newton's method with the observed information where it is positive definite, Fisher scoring where it is not,
and a halved step where the objective rises or a mean leaves its range (Marschner 2011, R Journal 3(2), 12-15).
Every pass is a trial: it yields the objective at the trial point and the sums for the next step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, replace

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting import linalg
from torchglm.fitting.kernel import edges, fold, take_family
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.quadratic import soft_step
from torchglm.fitting.state import Search, Solution, Taken
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.grams import GRAM_PIVOT, Gram
from torchglm.rows.inverses import Inverse
from torchglm.rows.ranks import rows_in_memory, seen
from torchglm.rows.rows import Rows

SLACK = 1e-10  # a rise of the objective below this share of itself is rounding
STEADY = 1e-3  # a converged step moves no linear predictor by more than this share of 1 + |eta|
DRIFT = 5  # as many steps that gain nothing while eta keeps moving are separation
SHORTEST = 2.0**-40
BLOCKED = 2.0**-12  # a step cut below this by an edge of the mean's range is the business of a barrier
ROUNDING = 1e-8  # a search that can go no further has converged if its decrement is below this share
NEAR = 0.1  # root mean square step of eta from which on the Gram of an earlier point may serve
CONTRACTION = 0.15  # share of the distance that steps with such a Gram may leave, else a new one is made
STALE = 10  # times what a step with the Gram of an earlier point leaves the next may leave
ARRIVED = (1e-3, 1e-6)  # share of the tolerance that a step with a Gram of its own may still show after such steps:
# of a canonical link, where the last such step is taken as well and squares what is left, and of the others
CHORD_COLUMNS = 24  # with fewer columns a Gram costs no more than the rest of a pass
CHORD_PRODUCTS = 1 << 28  # and below so many products in one, a few more of them are no matter
EPS = torch.finfo(torch.float64).eps


class Unsuited(Exception):
    """The layout of the Grams does not suit: a step needs all pairs of their columns."""


class Solver:
    """What stays fixed while a search goes on, and its steps; `fence` is the barrier of `Point`."""

    def __init__(
        self,
        source: Iterable[Rows],
        head: Rows,
        family: Family,
        link: Link,
        penalty: Penalty | None,
        tol: float,
        max_iter: int,
        rank_tol: float,
        fence: float = 0.0,
        observe: Observer | None = None,
    ) -> None:
        self.source, self.full_source, self.fence, self.observe = source, source, fence, observe
        self.family, self.full_family, self.link = family, family, link
        self.penalty, self.tol, self.max_iter, self.rank_tol = penalty, tol, max_iter, rank_tol
        self.models, self.p, self.device = head.y.shape[0], head.columns, head.y.device
        self.layout = head.layout
        if head.indexed is not None:
            self.layout.check()
        self.canonical = family.is_canonical(link) and not fence
        self.smooth_penalty = penalty is None or penalty.nonsmooth(torch.zeros(1, self.p), torch.ones(1)) is None
        if not self.smooth_penalty:
            self.need_all_pairs()
        self.open_ended = not any(map(math.isfinite, edges(family, link)))
        # where a barrier can take over, a search that an edge stops need not creep up to it
        self.creep = (4, SHORTEST) if self.open_ended or fence else (2, BLOCKED)
        self.held: tuple[Gram, Inverse] | None = None
        # one model over many rows in memory: the Gram is the dearest part of a pass
        self.chord = (
            self.models == 1
            and self.p >= CHORD_COLUMNS
            and self.smooth_penalty
            and self.open_ended
            and rows_in_memory(source) * self.p**2 >= CHORD_PRODUCTS
        )
        self.arrived = ARRIVED[0 if self.canonical else 1] * tol

    def fold(self, point: Point) -> Moments:
        """A pass over the rows of the models still fitted."""
        return fold(self.source, replace(point, fence=self.fence), self.family, self.link)

    def need_all_pairs(self) -> None:
        """Raise `Unsuited` where Grams are not kept with all pairs of columns."""
        if self.layout.levels is not None:
            raise Unsuited

    def run(self, search: Search, out: Solution) -> None:
        """Take every model to its end, from a first point, and write it into `out`."""
        while search.lane.numel():
            self.tell(search, out)
            search = self.advance(search, out)

    def tell(self, search: Search, out: Solution) -> None:
        """Hand the observer, where there is one, what the models that ended and those that go on have reached."""
        if self.observe is None:
            return
        lane, objective = search.lane, out.moments.objective
        parts = ((out.coef, search.coef), (out.n_iter, search.n_iter), (2 * objective, 2 * search.moments.objective))
        self.observe(Progress(*(whole.index_copy(0, lane, part) for whole, part in parts)))

    def blank(self) -> Solution:
        """A solution of no model yet."""
        zero = Moments.zero(self.models, self.layout, self.device)
        whole = torch.zeros(self.models, dtype=torch.int64, device=self.device)
        return Solution(
            zero.score.clone(),
            torch.zeros_like(zero.score, dtype=torch.bool),
            zero,
            self.layout.root(self.models, self.device),
            whole,
            whole.clone(),
            whole.bool(),
        )

    def restrict(self, lane: Tensor) -> None:
        """Work on the rows of these models only."""
        if lane.numel() == self.models:
            return
        self.source = seen(self.full_source, lambda own: Taken(own, lane))
        self.family = take_family(self.full_family, lane)

    # one pass --------------------------------------------------------------------------------------------

    def advance(self, s: Search, out: Solution) -> Search:
        """Evaluate the trial of every model, accept or halve, and aim again."""
        trial = s.coef + s.step.unsqueeze(-1) * s.delta
        observed = False if self.canonical else (s.fisher == 0) & ~s.closing & ~s.factored
        report = bool(s.closing.any()) or bool((s.n_iter + 1 >= self.max_iter).any())
        light = bool(s.light.all()) and not report
        moments = self.fold(
            Point(
                trial,
                observed,
                bool(s.factored.any()),
                s.coef if report else None,
                curved=not light,
                single=bool(s.single.all()) and not report,
            )
        )
        if light:
            moments = replace(moments, gram=s.moments.gram)
        objective = self.objective(moments, trial, s.total)
        noise = SLACK * s.objective.abs() + self.floor(s.moments) + self.rounding(s)
        accepted = moments.valid & (objective <= s.objective + noise)
        gain = s.objective - objective
        s = self._accept(s, trial, moments, objective, accepted)
        steady = moments.change <= STEADY
        if bool((s.stale & s.closing).any()):
            steady = steady & self._verified(s)
        s.stale = torch.where(accepted, torch.full_like(s.stale, light), s.stale)
        done = torch.full_like(s.lane, -1)
        done[s.closing & accepted & steady] = int(Status.CONVERGED)
        s.drift = torch.where(s.closing & accepted & ~steady, s.drift + 1, s.drift)
        done[s.closing & accepted & (s.drift >= DRIFT)] = int(Status.SEPARATED)
        small = self.small(s, max(self.tol, ROUNDING))
        done[~accepted & moments.valid & (s.closing | small & (s.step < 0.1))] = int(Status.CONVERGED)
        cuts, shortest = self.creep
        stuck = ~accepted & (s.step < torch.where(moments.valid, SHORTEST, shortest)) & (done < 0)
        done[stuck & small] = int(Status.CONVERGED)
        done[stuck & ~small] = torch.where(moments.valid, int(Status.STALLED), int(Status.BOUNDARY))[stuck & ~small]
        done[accepted & (s.shortened >= cuts) & (done < 0)] = int(Status.BOUNDARY)
        flat = accepted & ~s.refresh & (gain <= 1e-14 * s.objective.abs())
        s.stagnant = torch.where(flat, s.stagnant + 1, torch.where(accepted & ~s.refresh, 0, s.stagnant))
        done[(s.stagnant >= 4) & (done < 0)] = torch.where(small, int(Status.CONVERGED), int(Status.STALLED))[
            (s.stagnant >= 4) & (done < 0)
        ]
        limit = (s.n_iter >= self.max_iter) & (done < 0) & accepted
        moving = (moments.change > 10 * STEADY) & (s.n_iter >= 20)
        done[limit] = torch.where(moving, int(Status.SEPARATED), int(Status.ITERATION_LIMIT))[limit]
        return self._settle(s, accepted, done, out)

    def _verified(self, s: Search) -> Tensor:
        """(B,) arrivals by steps with an earlier Gram, judged once more with their own."""
        _, decrement, inverse = self.direction(s.moments, s.coef, s.keep, s.factored, s.total)
        return inverse.positive & self.small(replace(s, decrement=decrement), self.arrived)

    def _accept(self, s: Search, trial: Tensor, moments: Moments, objective: Tensor, accepted: Tensor) -> Search:
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

    def _settle(self, s: Search, accepted: Tensor, done: Tensor, out: Solution) -> Search:
        ended = done >= 0
        if bool(ended.any()):
            index = ended.nonzero()[:, 0]
            part = s.take(index)
            self.finish(part, done[index], out, at_hand=bool((s.closing & accepted)[index].all()))
            s, accepted = self.keep(s, ~ended), accepted[~ended]
        if s.lane.numel() == 0 or not bool(accepted.any()):
            return s
        aimed = self.aim(s)
        for name in (
            "delta",
            "decrement",
            "step",
            "closing",
            "refresh",
            "hit",
            "fisher",
            "factored",
            "light",
            "single",
        ):
            new, old = getattr(aimed, name), getattr(s, name)
            mask = accepted if new.dim() == 1 else accepted.unsqueeze(-1)
            setattr(aimed, name, torch.where(mask, new, old))
        return aimed

    def aim(self, s: Search) -> Search:
        """The next direction of every model, and whether the pass along it may be the last."""
        delta, decrement, inverse = self.direction(s.moments, s.coef, s.keep, s.factored, s.total)
        indefinite = ~inverse.positive & ~s.factored
        poor = inverse.positive & ~(inverse.pivot >= GRAM_PIVOT) & ~s.factored & (s.drift == 0)
        expected_failed = indefinite & ((s.fisher > 0) | self.canonical)
        if bool((poor | expected_failed).any()):
            self.need_all_pairs()
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
        # the step with an earlier Gram will leave about the share of the decrement that the one before it left
        left = (STALE * decrement / s.decrement).clamp(max=1)
        ahead = torch.where(torch.isinf(s.decrement), decrement, decrement * left)
        arrives = self.small(replace(aimed, decrement=ahead), self.arrived)
        aimed.closing = torch.where(s.stale, arrives, self.small(aimed, self.tol)) & ~refresh
        if self.chord:
            near = decrement <= NEAR**2 * s.total
            aimed.single = ~factored & ~refresh & linalg.allows_single(s.moments.gram, inverse)
            aimed.light = near & ~factored & ~refresh & (~s.stale | (decrement <= CONTRACTION**2 * s.decrement))
        return aimed

    def small(self, s: Search, tol: Tensor | float) -> Tensor:
        """True where the Newton decrement says that nothing is left to gain."""
        deviance = 2 * s.objective.abs() + 2e-3 * s.first.abs()
        return s.decrement.abs() <= tol * deviance + self.floor(s.moments)

    @staticmethod
    def floor(moments: Moments) -> Tensor:
        """What rounding of the linear predictor alone adds to the deviance."""
        return (10 * EPS) ** 2 * moments.scale.abs()

    @staticmethod
    def rounding(s: Search) -> Tensor:
        """What rounding does to the objective: of the terms `x_j coef_j`, which may cancel in `eta`, and of `y`."""
        terms = (s.coef.square() * s.moments.gram.diagonal().abs()).sum(-1)
        return 4 * EPS * ((terms * s.objective.abs()).sqrt() + s.volume)

    def objective(self, moments: Moments, coef: Tensor, total: Tensor) -> Tensor:
        if self.penalty is None:
            return moments.objective
        return moments.objective + self.penalty.value(coef, total)

    def direction(
        self, moments: Moments, coef: Tensor, keep: Tensor, factored: Tensor, total: Tensor
    ) -> tuple[Tensor, Tensor, Inverse]:
        """The step that minimises the quadratic model, its Newton decrement, and the inverse behind it."""
        ridge = None if self.penalty is None else self.penalty.ridge(coef, total)
        score = moments.score if ridge is None else moments.score - ridge * coef
        score = torch.where(keep, score, 0.0)
        if self.chord and self.held is not None and self.held[0] is moments.gram:
            inverse = self.held[1]  # steps with the Gram of an earlier point share its factor
        else:
            inverse = linalg.invert(moments, self.smooth(coef, keep, total), factored, ridge)
            self.held = (moments.gram, inverse)
        l1 = None if self.penalty is None else self.penalty.nonsmooth(coef, total)
        if l1 is not None and ridge is not None:
            curvature = moments.gram.with_ridge(ridge).written_out()
            delta = soft_step(curvature, score, coef, l1, keep)
            bend = (delta * (curvature @ delta.unsqueeze(-1)).squeeze(-1)).sum(-1)
            kink = (l1 * ((coef + delta).abs() - coef.abs())).sum(-1)
            return delta, 2 * ((score * delta).sum(-1) - bend / 2 - kink), inverse
        delta = inverse.solve(score)
        if moments.factor is not None and bool(factored.any()):
            exact = linalg.factor_step(moments.factor, keep, ridge, coef)
            delta = torch.where(factored.unsqueeze(-1), exact, delta)
        return delta, (score * delta).sum(-1), inverse

    def smooth(self, coef: Tensor, keep: Tensor, total: Tensor) -> Tensor:
        """(B, p) the kept columns in which the objective has a derivative: not those an l1 penalty holds at zero."""
        l1 = None if self.penalty is None else self.penalty.nonsmooth(coef, total)
        return keep if l1 is None else keep & ((coef != 0) | (l1 == 0))

    # the end ---------------------------------------------------------------------------------------------

    def keep(self, s: Search, going: Tensor) -> Search:
        """Go on with these models only."""
        index = going.nonzero()[:, 0]
        s = s.take(index)
        if index.numel():
            self.restrict(s.lane)
        return s

    def finish(self, s: Search, status: Tensor | Status, out: Solution, at_hand: bool = False) -> None:
        """Write the models that ended, with the expected information at their coefficients.

        `at_hand`: the last pass has taken it there already.
        """
        last = s.moments
        if not at_hand:
            source, family = self.source, self.family
            self.restrict(s.lane)
            last = self.fold(Point(s.coef, False, bool(s.factored.any()), s.coef))
            self.source, self.family = source, family
        ridge = None if self.penalty is None else self.penalty.ridge(s.coef, s.total)
        inverse = linalg.invert(last, self.smooth(s.coef, s.keep, s.total), s.factored, ridge)
        sound = (torch.as_tensor(status, device=self.device) == int(Status.CONVERGED)) & ~s.factored
        coef, last = self.polished(s.coef, last, inverse, sound, ridge)
        out.coef[s.lane], out.keep[s.lane] = coef, s.keep
        for f in fields(Moments):
            value = getattr(last, f.name)
            if f.name != "factor":
                getattr(out.moments, f.name)[s.lane] = value
        out.root[s.lane] = inverse.root.only(inverse.positive)
        out.status[s.lane] = torch.as_tensor(status, device=self.device).to(out.status.dtype)
        out.n_iter[s.lane] = s.n_iter
        out.cut[s.lane] = s.cut

    def polished(
        self, coef: Tensor, last: Moments, inverse: Inverse, sound: Tensor, ridge: Tensor | None = None
    ) -> tuple[Tensor, Moments]:
        """Converged models, where `sound` (B,), taken along the step that the last sums show: it costs no pass.

        The step is the square of a small one: the sums are those of its end, to their last digits. Where two fits
        of the same rows came by different ways (from a part of them, say) their coefficients then agree to rounding.
        """
        if not self.smooth_penalty or not self.open_ended or not (self.canonical or self.chord):
            return coef, last
        score = last.score if ridge is None else last.score - ridge * coef
        delta = inverse.solve(score)
        decrement = (score * delta).sum(-1)
        sound = sound & inverse.positive & torch.isfinite(decrement)
        return (
            torch.where(sound.unsqueeze(-1), coef + delta, coef),
            replace(last, objective=torch.where(sound, last.objective - decrement / 2, last.objective)),
        )
