"""Newton's steps to the minima of elastic nets, from several points at once: a lane each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.faces import excess, minimise, times
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.moments import Point
from torchglm.fitting.slopes import Slopes, slopes, together
from torchglm.links import Identity, Link
from torchglm.rows.ranks import members, seen
from torchglm.rows.rows import Rows, select

STEPS = 100  # of Newton at one strength
HALVINGS = 40
INNER = 1e-3  # of the tolerance, for the quadratic models
ROUNDING = 1e-12  # of the objective
NEAR = 1e-2  # of the largest slope: from here on the observed information
DIGITS = 8.0  # that a search at a strength gains
DEAR = 20.0  # columns whose Gram costs as much as a pass
SLOWEST = 0.3  # an excess left by a step, as a share, at which a Gram is old whatever it costs
LEARNT = 0.05  # of the curvature of a Gram that one along a step must have, to be taken for it
SEEN = 1e-7  # of the largest slope: changes below are too near to rounding to be learnt from
FLATTEST = 1e-10  # share of a curvature that rounding may take from it


@dataclass(frozen=True)
class Terms:
    """What a strength of 1 weighs each coefficient with, `absolute |b| + square b^2 / 2`, and its limits; all (B, P).

    Those with neither are free; with both limits 0 a coefficient is held there.
    """

    absolute: Tensor
    square: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def free(self) -> Tensor:
        """(P,) the coefficients without a penalty."""
        return ((self.absolute == 0) & (self.square == 0)).all(0)

    @property
    def held(self) -> Tensor:
        """(B, P) those that do not move."""
        return self.lower == self.upper


@dataclass(frozen=True)
class Nets:
    """The elastic nets of `B` models: `mean half deviance + strength * terms`, to an excess of `tol unit` (B,).

    `ratio` is that of the absolute values, `total` (B,) the weight of the rows, `lever` (P,) what the slope of a
    coefficient counts.
    """

    source: Iterable[Rows]
    family: Family
    link: Link
    terms: Terms
    ratio: float
    tol: float
    lever: Tensor
    total: Tensor
    unit: Tensor

    @property
    def steady(self) -> bool:
        """Whether the Gram is the same everywhere."""
        return type(self.link) is Identity and self.family.least_squares


# Grams (B K, w, w) of the rows of every fold at coefficients (B, P), of some columns (w,)
LeftOut: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Lanes:
    """The `slots` points of each of `B` models: lane `s B + b` is that of model b in slot s.

    The Gram of a quadratic model stays for as long as its steps do well; every pass brings it the curvature along its
    step. `columns` are those of the quadratic models, the others stay at zero.
    """

    def __init__(self, nets: Nets, coef: Tensor, here: Slopes, slots: int, columns: Tensor) -> None:
        self.nets, self.count, self.slots = nets, len(coef), slots
        self.models = torch.arange(self.count, device=coef.device).repeat(slots)
        terms = nets.terms
        self.lower, self.upper = terms.lower[self.models], terms.upper[self.models]
        self.unit = nets.unit[self.models]
        self.coef = coef[self.models]
        self.here = here.at(self.models)
        self.l1, self.l2 = torch.zeros_like(self.coef), torch.zeros_like(self.coef)
        self.kkt = torch.zeros_like(self.unit)
        self.before = torch.zeros_like(self.unit)
        self.tried = torch.zeros_like(self.models)
        self.moving, self.stalled, self.firm, self._fresh, self._exact = torch.zeros(
            5, len(self.models), dtype=torch.bool, device=coef.device
        ).unbind()
        self.gram: Tensor | None = None
        self.columns = columns
        self.together = together(nets.source)
        self._subset: dict[str, tuple[Tensor, Iterable[Rows]]] = {}
        self._narrow = self._chosen()

    def of(self, slot: int) -> slice:
        """The lanes of a slot."""
        return slice(slot * self.count, (slot + 1) * self.count)

    def enter(self, slot: int, after: int, strength: Tensor) -> None:
        """Set out for strengths (B,) in a slot, from the points of another."""
        own, from_ = self.of(slot), self.of(after)
        if slot != after:
            self.coef[own], self._fresh[own] = self.coef[from_], self._fresh[from_]
            self._exact[own] = self._exact[from_]
            self.here.put(own, self.here.at(from_))
            if self.gram is not None:
                self.gram[own] = self.gram[from_]
        weight, terms, ratio = strength.unsqueeze(-1), self.nets.terms, self.nets.ratio
        self.l1[own], self.l2[own] = weight * ratio * terms.absolute, weight * (1 - ratio) * terms.square
        self.tried[own], self.before[own] = 0, torch.inf
        self.stalled[own] = self.firm[own] = False
        self.moving[own] = True
        self._judge()

    def settled(self, slot: int) -> bool:
        """Whether every model has ended in a slot."""
        return not bool(self.moving[self.of(slot)].any())

    def begun(self, slot: int) -> bool:
        """Whether the models of a slot have been somewhere since they set out."""
        own = self.of(slot)
        return not bool((self.moving[own] & (self.tried[own] == 0)).any())

    def step(self) -> None:
        """A step of all that are on their way."""
        lane = self.moving.nonzero()[:, 0]
        most = self._excess(lane, self.coef[lane], self.here.slope[lane])
        kkt = most.amax(-1) / self.unit[lane]
        self.join((most > self.nets.tol * self.unit[lane, None]).any(0))
        if not self.nets.steady:
            self._fresh[lane] &= (kkt <= self._slow * self.before[lane]) | (self.tried[lane] == 0)
        self.firm[lane] |= ~self._curve(lane, (kkt < NEAR) & ~self.firm[lane])
        aim = self._aim(lane)
        exact = self._exact[lane]
        still = self._walk(lane, aim, kkt)
        self.stalled[lane] = still & self.firm[lane] & exact
        self.firm[lane] |= still & exact
        self._fresh[lane[still]] = self.nets.steady  # by a Gram of this point, then the expected information
        self.before[lane] = kkt
        self.tried[lane] += 1
        self._judge()

    def _judge(self) -> None:
        """The excess of all that are on their way, and which of them have ended."""
        lane = self.moving.nonzero()[:, 0]
        self.kkt[lane] = self._excess(lane, self.coef[lane], self.here.slope[lane]).amax(-1) / self.unit[lane]
        self.moving &= (self.kkt > self.nets.tol) & ~self.stalled & (self.tried < STEPS)

    @property
    def _slow(self) -> float:
        """The share of an excess that a step with an old Gram may leave, where a new one costs so many passes."""
        return min(10 ** (-DIGITS / (3 * (1 + self.columns.numel() / DEAR))), SLOWEST)

    def _excess(self, lane: Tensor, coef: Tensor, slope: Tensor) -> Tensor:
        pull = slope - self.l2[lane] * coef
        return self.nets.lever * excess(coef, pull, self.l1[lane], self.lower[lane], self.upper[lane])

    # a step ------------------------------------------------------------------------------------------------

    def _aim(self, lane: Tensor) -> Tensor:
        """(T, P) the minima of the quadratic models."""
        assert self.gram is not None
        at, coef, l1 = self.columns, self.coef[lane], self.l1[lane][:, self.columns]
        own, gram, l2 = coef[:, at], self.gram[lane], self.l2[lane][:, at]
        pull = self.here.slope[lane][:, at] + times(gram, own)
        limits = (self.lower[lane][:, at], self.upper[lane][:, at])
        gram.diagonal(dim1=-2, dim2=-1).add_(l2)  # a copy of these lanes
        rounding = 1e-15 * (pull.abs().amax(-1) + l1.amax(-1))
        tol = torch.maximum(INNER * self.nets.tol * self.unit[lane], rounding)
        coef[:, at] = minimise(gram, pull, own, l1, *limits, tol)
        return coef

    def _walk(self, lane: Tensor, aim: Tensor, kkt: Tensor) -> Tensor:
        """Go to `aim`, or half as far for as long as the objective rises; (T,) whether nothing was gained."""
        start, still = self.coef[lane], torch.zeros_like(lane, dtype=torch.bool)
        value = self._value(lane, start, self.here.half[lane])
        left, share = torch.arange(lane.numel(), device=lane.device), 1.0
        for _ in range(HALVINGS):
            own, trial = lane[left], start[left] + share * (aim[left] - start[left])
            trial = aim[left] if share == 1.0 else trial
            there = self.evaluate(self.models[own], trial)
            new = self._value(own, trial, there.half)
            worst = self._excess(own, trial, there.slope).amax(-1) / self.unit[own]
            slack = ROUNDING * (value[left].abs() + 1)
            nearer, lower = worst < kkt[left], new < value[left] - slack
            good = there.valid & (lower | (new <= value[left] + slack))
            if not self.nets.steady:
                self._learn(own[good], trial[good] - start[left][good], there.slope[good])
            self.coef[own[good]] = trial[good]
            self.here.put(own[good], there.at(good))
            self._exact[own[good]] = self.nets.steady
            self._fresh[own[good]] &= share == 1.0
            still[left[good]] = ~(nearer | lower)[good]
            left, share = left[~good], share / 2
            if not left.numel():
                break
        still[left] = True
        return still

    def _value(self, lane: Tensor, coef: Tensor, half: Tensor) -> Tensor:
        return half + (self.l1[lane] * coef.abs() + self.l2[lane] * coef.square() / 2).sum(-1)

    # Grams -------------------------------------------------------------------------------------------------

    def _learn(self, lane: Tensor, step: Tensor, slope: Tensor) -> None:
        """Bring Grams the curvature along a step, from the slopes (T, P) at its end: the rule of Broyden and others.

        Source: Nocedal & Wright (2006), equation 6.19.
        """
        assert self.gram is not None
        at = self.columns
        step, change = step[:, at], (self.here.slope[lane] - slope)[:, at]
        gram = self.gram[lane]
        image = times(gram, step)
        bend, own = (step * change).sum(-1), (step * image).sum(-1)
        sound = (bend > LEARNT * own) & (own > 0) & (change.abs().amax(-1) > SEEN * self.unit[lane])
        change = torch.where(sound.unsqueeze(-1), change / torch.where(sound, bend, 1.0).sqrt().unsqueeze(-1), 0.0)
        image = torch.where(sound.unsqueeze(-1), image / torch.where(sound, own, 1.0).sqrt().unsqueeze(-1), 0.0)
        gram += change.unsqueeze(-1) * change.unsqueeze(-2)
        gram -= image.unsqueeze(-1) * image.unsqueeze(-2)
        self.gram[lane] = gram

    def _curve(self, lane: Tensor, observed: Tensor) -> Tensor:
        """Bring the Grams of lanes up to date; (T,) whether the kind of information asked for is sound."""
        w = self.columns.numel()
        sound = torch.ones_like(lane, dtype=torch.bool)
        if self.gram is None:
            self.gram = self.coef.new_zeros(len(self.models), w, w)
        stale = lane[~self._fresh[lane]]
        if not stale.numel():
            return sound
        asked = observed[~self._fresh[lane]]
        self.gram[stale] = self._curvature(stale, asked)
        if not self.nets.family.is_canonical(self.nets.link) and bool(asked.any()):
            bent = asked & ~_convex(self.gram[stale], self.l2[stale][:, self.columns])
            again = stale[bent]
            if again.numel():
                self.gram[again] = self._curvature(again, torch.zeros_like(again, dtype=torch.bool))
                sound &= ~torch.isin(lane, again)
        self._fresh[stale] = self._exact[stale] = True
        return sound

    def _curvature(self, lane: Tensor, observed: Tensor) -> Tensor:
        nets, models = self.nets, self.models[lane]
        point = Point(self.coef[lane][:, self.columns], observed)
        sums = fold(self._of("narrow", self._narrow, models), point, take_family(nets.family, models), nets.link)
        return sums.gram.written_out() / nets.total[models, None, None]

    def evaluate(self, models: Tensor, coef: Tensor) -> Slopes:
        """Means over the rows at points (T, P) of some `models` (T,)."""
        nets, total = self.nets, self.nets.total[models]
        if self.together:
            sums = slopes(nets.source, models, coef, nets.family, nets.link)
            return Slopes(sums.half / total, sums.slope / total.unsqueeze(-1), sums.valid)
        source = self._of("all", nets.source, models)
        found = fold(source, Point(coef, curved=False), take_family(nets.family, models), nets.link)
        return Slopes(found.objective / total, found.score / total.unsqueeze(-1), found.valid)

    def _of(self, which: str, source: Iterable[Rows], models: Tensor) -> Iterable[Rows]:
        """A source of some models, which stays at hand until others are asked for."""
        if torch.equal(models, self.models[: self.count]):
            return source
        known = self._subset.get(which)
        if known is None or not torch.equal(known[0], models):
            known = self._subset[which] = (models, members(source, models))
        return known[1]

    # columns -----------------------------------------------------------------------------------------------

    def join(self, wanted: Tensor) -> None:
        """Take columns (P,) into the quadratic models, and leave the Grams behind if there are new ones."""
        inside = torch.zeros_like(wanted)
        inside[self.columns] = True
        if bool((wanted & ~inside).any()):
            self.choose((wanted | inside).nonzero()[:, 0])

    def choose(self, columns: Tensor) -> None:
        """Take these columns and no others, without a Gram yet."""
        self.columns, self.gram = columns, None
        self._narrow = self._chosen()
        self._fresh.zero_()
        self._exact.zero_()

    def begin_with(self, other: Lanes, slot: int, left_out: LeftOut) -> None:
        """Take the columns of other models, and their Grams less those of the rows that these lack.

        There are as many of these in turn for each of the others.
        """
        own, nets = other.of(slot), self.nets
        if self.gram is not None or other.gram is None:
            return
        self.choose(other.columns)
        times = self.count // other.count
        whole = (other.gram[own] * other.nets.total[:, None, None]).repeat_interleave(times, 0)
        part = left_out(other.coef[own], self.columns)
        self.gram = ((whole - part) / nets.total[:, None, None]).repeat(self.slots, 1, 1)
        self._fresh.fill_(True)
        self._exact.fill_(nets.steady)

    def _chosen(self) -> Iterable[Rows]:
        self._subset.pop("narrow", None)
        at, source = self.columns, self.nets.source
        return source if at.numel() == self.coef.shape[-1] else seen(source, lambda rows: select(rows, at))


def _convex(gram: Tensor, ridge: Tensor) -> Tensor:
    """(T,) whether a Gram with a ridge is nowhere negative, up to rounding."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1) + ridge
    least = FLATTEST * diagonal.abs().amax(-1, keepdim=True)
    return torch.linalg.cholesky_ex(gram + torch.diag_embed(ridge + least)).info == 0
