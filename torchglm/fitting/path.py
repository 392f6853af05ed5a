"""Elastic nets of falling strength: from the null model down, each from the last, for many models at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.faces import excess, minimise
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.moments import Point
from torchglm.fitting.status import Status
from torchglm.links import Identity, Link
from torchglm.rows.ranks import members, seen
from torchglm.rows.rows import Rows, select

STEPS = 100  # of Newton at one strength
HALVINGS = 40
INNER = 1e-3  # of the tolerance, for the quadratic models
ROUNDING = 1e-12  # of the objective
NEAR = 1e-2  # of the largest slope: from here on the observed information
ALL = 256  # with so many columns none is left out of the quadratic models
CONSTANT = 2048  # nor with so many where their Gram is the same everywhere
AHEAD = 0.7  # of a strength: columns that may enter above it come with the first that does
FEWEST = 1e-3  # the ratio of absolute values that the largest strength is found for where it is less
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


class Found(NamedTuple):
    """Coefficients (B, L, P), the mean half deviance (B, L) there, and the largest excess of a slope (B, L).

    The excess is by how much the objective could still fall along a coefficient, as a share of the largest slope of
    the null model.
    """

    coef: Tensor
    half: Tensor
    kkt: Tensor


@dataclass
class _Here:
    """Where every model stands: `half` the mean half deviance, `slope` (B, P) that of its fall, and whether valid."""

    half: Tensor
    slope: Tensor
    valid: Tensor

    def put(self, lane: Tensor, other: _Here) -> None:
        self.half[lane], self.slope[lane], self.valid[lane] = other.half, other.slope, other.valid


class WayDown:
    """The way down of `B` models of a source, with columns of like spread, from their null models.

    The objective is the mean half deviance plus strength times the `terms`. `failed` (B,) are models whose null
    model has no regular maximum. `lever` (P,) is what the slope of a coefficient counts in the certificate: that of an
    intercept as much as it adds to the slopes of the columns as they came. `largest` (B,) is the least strength at
    which all penalised coefficients are 0 for the `ratio` of absolute values.

    The Gram of a quadratic model stays for as long as its steps do well, from one strength to the next; every pass
    brings it the curvature along its step.
    """

    def __init__(
        self, source: Iterable[Rows], family: Family, link: Link, terms: Terms, ratio: float, tol: float, lever: Tensor
    ) -> None:
        self.source, self.family, self.link, self.tol, self.ratio, self.lever = source, family, link, tol, ratio, lever
        self.coef, self.failed, fixed = null_coefficients(source, family, link, terms.free & ~terms.held.all(0))
        held = terms.held | fixed
        zero = torch.zeros_like(terms.lower)
        self.terms = terms = replace(
            terms, lower=torch.where(held, zero, terms.lower), upper=torch.where(held, zero, terms.upper)
        )
        self.coef = self.coef.clamp(terms.lower, terms.upper)
        self.every = torch.arange(len(self.coef), device=self.coef.device)
        self.steady = type(link) is Identity and family.least_squares
        self._subset: dict[str, tuple[Tensor, Iterable[Rows]]] = {}
        self.total = fold(source, Point(self.coef, curved=False, census=True), family, link).weight
        self.here = self._pass(self.every, self.coef)
        pull = excess(self.coef, self.here.slope, zero, terms.lower, terms.upper)
        weight = max(ratio, FEWEST) * terms.absolute
        self.largest = torch.where(weight > 0, pull / torch.where(weight > 0, weight, 1.0), 0.0).amax(-1)
        self.unit = pull.amax(-1).clamp(min=torch.finfo(torch.float64).tiny)
        p = terms.lower.shape[-1]
        whole = p <= (CONSTANT if self.steady else ALL)
        self.columns = torch.arange(p, device=self.coef.device) if whole else terms.free.nonzero()[:, 0]
        self._narrow = self._chosen()
        self._gram: Tensor | None = None
        self._fresh = torch.zeros_like(self.failed)  # the Gram may serve
        self._exact = torch.zeros_like(self.failed)  # it is that of the very point

    def follow(self, strength: Tensor, beside: Sequence[WayDown] = ()) -> tuple[Found, ...]:
        """The minima at strengths (B, L), none of which rises, of these models and of those `beside` them.

        The latter are as many for each of these in turn (without a fold each, say), and begin where these lead.
        """
        before, reached = torch.maximum(self.largest, strength[:, 0]), self.coef
        ways, found = (self, *beside), list[list[tuple[Tensor, Tensor, Tensor]]]()
        found = [[] for _ in ways]
        for now in strength.unbind(-1):
            for way, points in zip(ways, found, strict=True):
                count = len(way.every) // len(self.every)
                own, last = now.repeat_interleave(count), before.repeat_interleave(count)
                if way is not self:
                    way._lean(self, (self.coef - reached).repeat_interleave(count, 0), own, count)
                way._screen(own, last)
                points.append((way.coef, way.here.half, way._descend(own)))
                points[-1] = (way.coef.clone(), way.here.half.clone(), points[-1][2])
                if way is self:
                    moved = self.coef.clone()
            before, reached = now, moved
        return tuple(Found(*(torch.stack(parts, 1) for parts in zip(*points, strict=True))) for points in found)

    def _lean(self, other: WayDown, moved: Tensor, strength: Tensor, count: int) -> None:
        """Take the step that other models took, and their Grams, where either serves."""
        l1, l2 = self._penalties(strength)
        trial = torch.where((self.coef == 0) & (moved == 0), 0.0, self.coef + moved)
        stays = other.coef.repeat_interleave(count, 0) == 0
        trial = torch.where(stays & (l1 > 0), 0.0, trial).clamp(self.terms.lower, self.terms.upper)
        there = self._pass(self.every, trial)
        better = self._excess(self.every, trial, there, l1, l2).amax(-1)
        better = better < self._excess(self.every, self.coef, self.here, l1, l2).amax(-1)
        lane = (better & there.valid & ~self.failed).nonzero()[:, 0]
        self.coef = self.coef.index_copy(0, lane, trial[lane])
        self.here.put(lane, _Here(there.half[lane], there.slope[lane], there.valid[lane]))
        self._exact[lane] = False
        if self._gram is not None or other._gram is None or self.steady:
            return
        self.columns, self._narrow, self._subset = other.columns, self._narrow, {}
        self._narrow = self._chosen()
        self._gram = other._gram.repeat_interleave(count, 0)
        self._fresh = torch.ones_like(self._fresh)

    # one strength ------------------------------------------------------------------------------------------

    def _penalties(self, strength: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P) the weights of absolute values and of squares at strengths (B,)."""
        own = strength.unsqueeze(-1)
        return own * self.ratio * self.terms.absolute, own * (1 - self.ratio) * self.terms.square

    def _descend(self, strength: Tensor) -> Tensor:
        """Newton's steps to the minimum; (B,) the excess where they end."""
        l1, l2 = self._penalties(strength)
        stalled, firm = torch.zeros_like(self.failed), torch.zeros_like(self.failed)
        before = torch.full_like(self.unit, torch.inf)
        for _ in range(STEPS):
            most = self._excess(self.every, self.coef, self.here, l1, l2)
            kkt = most.amax(-1) / self.unit
            lane = ((kkt > self.tol) & ~stalled & ~self.failed).nonzero()[:, 0]
            if not lane.numel():
                break
            self._join((most[lane] > self.tol * self.unit[lane, None]).any(0))
            if not self.steady:
                self._fresh[lane] &= (kkt <= self._slow * before)[lane]
            firm[lane] |= ~self._curve(lane, (kkt < NEAR) & ~firm, l2)
            aim = self._aim(lane, l1, l2)
            exact = self._exact[lane]
            still = self._walk(lane, aim, l1, l2, kkt)
            stalled[lane] = still & firm[lane] & exact
            firm[lane] |= still & exact
            self._fresh[lane[still]] = self.steady  # once more, by a Gram of this point, then the expected information
            before = kkt
        return self._excess(self.every, self.coef, self.here, l1, l2).amax(-1) / self.unit

    @property
    def _slow(self) -> float:
        """The share of an excess that a step with an old Gram may leave, where a new one costs so many passes."""
        return min(10 ** (-DIGITS / (3 * (1 + self.columns.numel() / DEAR))), SLOWEST)

    def _excess(self, lane: Tensor, coef: Tensor, here: _Here, l1: Tensor, l2: Tensor) -> Tensor:
        pull = here.slope - l2[lane] * coef
        return self.lever * excess(coef, pull, l1[lane], self.terms.lower[lane], self.terms.upper[lane])

    def _aim(self, lane: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
        """(B, P) the minimum of the quadratic model."""
        assert self._gram is not None
        at, coef = self.columns, self.coef[lane]
        own, gram = coef[:, at], self._gram[lane]
        pull = self.here.slope[lane][:, at] + (gram @ own.unsqueeze(-1)).squeeze(-1)
        limits = (self.terms.lower[lane][:, at], self.terms.upper[lane][:, at])
        gram.diagonal(dim1=-2, dim2=-1).add_(l2[lane][:, at])  # a copy of these models
        rounding = 1e-15 * (pull.abs().amax(-1) + l1[lane].amax(-1))
        tol = torch.maximum(INNER * self.tol * self.unit[lane], rounding)
        coef[:, at] = minimise(gram, pull, own, l1[lane][:, at], *limits, tol)
        return coef

    def _walk(self, lane: Tensor, aim: Tensor, l1: Tensor, l2: Tensor, kkt: Tensor) -> Tensor:
        """Go to `aim`, or half as far for as long as the objective rises; (B,) whether nothing was gained."""
        start, still = self.coef[lane], torch.zeros_like(lane, dtype=torch.bool)
        value = self._value(lane, start, self.here.half[lane], l1, l2)
        left, share = torch.arange(lane.numel(), device=lane.device), 1.0
        for _ in range(HALVINGS):
            own, trial = lane[left], start[left] + share * (aim[left] - start[left])
            trial = aim[left] if share == 1.0 else trial
            there = self._pass(own, trial)
            new = self._value(own, trial, there.half, l1, l2)
            worst = self._excess(own, trial, there, l1, l2).amax(-1) / self.unit[own]
            slack = ROUNDING * (value[left].abs() + 1)
            nearer, lower = worst < kkt[own], new < value[left] - slack
            good = there.valid & (lower | (new <= value[left] + slack))
            if not self.steady:
                self._learn(own[good], trial[good] - start[left][good], there.slope[good])
            self.coef[own[good]] = trial[good]
            self.here.put(own[good], _Here(there.half[good], there.slope[good], there.valid[good]))
            self._exact[own[good]] = self.steady
            self._fresh[own[good]] &= share == 1.0
            still[left[good]] = ~(nearer | lower)[good]
            left, share = left[~good], share / 2
            if not left.numel():
                break
        still[left] = True
        return still

    def _learn(self, lane: Tensor, step: Tensor, slope: Tensor) -> None:
        """Bring Grams the curvature along a step, from the slopes (B, P) at its end: the rule of Broyden and others.

        Source: Nocedal & Wright (2006), equation 6.19.
        """
        assert self._gram is not None
        at = self.columns
        step, change = step[:, at], (self.here.slope[lane] - slope)[:, at]
        gram = self._gram[lane]
        image = (gram @ step.unsqueeze(-1)).squeeze(-1)
        bend, own = (step * change).sum(-1), (step * image).sum(-1)
        sound = (bend > LEARNT * own) & (own > 0) & (change.abs().amax(-1) > SEEN * self.unit[lane])
        change = torch.where(sound.unsqueeze(-1), change / torch.where(sound, bend, 1.0).sqrt().unsqueeze(-1), 0.0)
        image = torch.where(sound.unsqueeze(-1), image / torch.where(sound, own, 1.0).sqrt().unsqueeze(-1), 0.0)
        gram = gram + change.unsqueeze(-1) * change.unsqueeze(-2) - image.unsqueeze(-1) * image.unsqueeze(-2)
        self._gram[lane] = gram

    def _value(self, lane: Tensor, coef: Tensor, half: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
        return half + (l1[lane] * coef.abs() + l2[lane] * coef.square() / 2).sum(-1)

    # passes over the rows ----------------------------------------------------------------------------------

    def _pass(self, lane: Tensor, coef: Tensor) -> _Here:
        source = self._of("all", self.source, lane)
        sums = fold(source, Point(coef, curved=False), take_family(self.family, lane), self.link)
        total = self.total[lane]
        return _Here(sums.objective / total, sums.score / total.unsqueeze(-1), sums.valid)

    def _curve(self, lane: Tensor, observed: Tensor, l2: Tensor) -> Tensor:
        """Bring the Grams of models up to date; (B,) whether the kind of information asked for is sound."""
        w, models = self.columns.numel(), self.every.numel()
        sound = torch.ones_like(lane, dtype=torch.bool)
        if self._gram is None:
            self._gram = self.coef.new_zeros(models, w, w)
        stale = lane[~self._fresh[lane]]
        if not stale.numel():
            return sound
        self._gram[stale] = self._curvature(stale, observed[stale])
        if not self.family.is_canonical(self.link) and bool(observed[stale].any()):
            bent = observed[stale] & ~_convex(self._gram[stale], l2[stale][:, self.columns])
            again = stale[bent]
            if again.numel():
                self._gram[again] = self._curvature(again, torch.zeros_like(again, dtype=torch.bool))
                sound &= ~torch.isin(lane, again)
        self._fresh[stale] = self._exact[stale] = True
        return sound

    def _curvature(self, lane: Tensor, observed: Tensor) -> Tensor:
        point = Point(self.coef[lane][:, self.columns], observed)
        source = self._of("narrow", self._narrow, lane)
        sums = fold(source, point, take_family(self.family, lane), self.link)
        return sums.gram.written_out() / self.total[lane, None, None]

    def _of(self, which: str, source: Iterable[Rows], lane: Tensor) -> Iterable[Rows]:
        """A source of models `lane`, which stays at hand until others are asked for."""
        if lane.numel() == self.every.numel():
            return source
        known = self._subset.get(which)
        if known is None or not torch.equal(known[0], lane):
            known = self._subset[which] = (lane, members(source, lane))
        return known[1]

    # columns that may leave zero ---------------------------------------------------------------------------

    def _screen(self, strength: Tensor, before: Tensor) -> None:
        """Take in the columns whose slopes may reach their thresholds at the next strength: the strong rule.

        With the first of them come those that may follow it soon, as a Gram of new columns is made anew.
        Source: Tibshirani et al. (2012), J. R. Stat. Soc. B 74(2), 245-266.
        """
        wanted = self._near(self.ratio * (2 * strength - before)) | self.terms.free
        p, inside = wanted.numel(), torch.zeros_like(wanted)
        inside[self.columns] = True
        if bool((wanted & ~inside).any()):
            wanted = wanted | self._near(AHEAD * self.ratio * strength)
        if self.columns.numel() < p and self.columns.numel() > 2 * int(wanted.sum()) + ALL:
            self.columns = self.columns[:0]
        self._join(wanted)

    def _near(self, threshold: Tensor) -> Tensor:
        """(P,) the columns that are not zero, or whose slope reaches a share (B,) of their weight, in any model."""
        near = self.here.slope.abs() >= threshold.unsqueeze(-1) * self.terms.absolute
        return ((near | (self.coef != 0)) & ~self.terms.held).any(0)

    def _join(self, wanted: Tensor) -> None:
        """Take in columns (P,), and leave the Grams behind if there are new ones."""
        inside = torch.zeros_like(wanted)
        inside[self.columns] = True
        if not bool((wanted & ~inside).any()):
            return
        self.columns = (wanted | inside).nonzero()[:, 0]
        self._narrow = self._chosen()
        self._gram, self._fresh = None, torch.zeros_like(self._fresh)
        self._exact = torch.zeros_like(self._fresh)

    def _chosen(self) -> Iterable[Rows]:
        self._subset.pop("narrow", None)
        at = self.columns
        return self.source if at.numel() == self.coef.shape[-1] else seen(self.source, lambda rows: select(rows, at))


def null_coefficients(
    source: Iterable[Rows], family: Family, link: Link, free: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, P) the maxima with the `free` (P,) coefficients alone, the models (B,) without one, and what is aliased.

    The last (B, P) are free coefficients that others make up for: they stay 0.
    """
    models, at = next(iter(source)).y.shape[0], free.nonzero()[:, 0]
    coef = torch.zeros(models, free.numel(), dtype=torch.float64, device=free.device)
    aliased = torch.zeros_like(coef, dtype=torch.bool)
    if not at.numel():
        return coef, torch.zeros(models, dtype=torch.bool, device=coef.device), aliased
    found = irls(seen(source, lambda rows: select(rows, at)), family, link, tol=1e-10)
    coef[:, at], aliased[:, at] = torch.where(found.keep, found.coef, 0.0), ~found.keep
    return coef, found.status != int(Status.CONVERGED), aliased


def _convex(gram: Tensor, ridge: Tensor) -> Tensor:
    """(B,) whether a Gram with a ridge is nowhere negative, up to rounding."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1) + ridge
    least = FLATTEST * diagonal.abs().amax(-1, keepdim=True)
    return torch.linalg.cholesky_ex(gram + torch.diag_embed(ridge + least)).info == 0
