"""Elastic nets of falling strength: from the null model down, each from the last, for many models at once."""

from __future__ import annotations

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
from torchglm.rows.rows import Rows, select

STEPS = 100  # of Newton at one strength
HALVINGS = 40
INNER = 1e-3  # of the tolerance, for the quadratic models
ROUNDING = 1e-12  # of the objective
NEAR = 1e-2  # of the largest slope: from here on the observed information
ALL = 64  # with so many columns none is left out of the quadratic models
CONSTANT = 2048  # nor with so many where their Gram is the same everywhere
FEWEST = 1e-3  # the ratio of absolute values that the largest strength is found for where it is less
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
    """The way down of `B` models whose rows are in memory, with columns of like spread, from their null models.

    The objective is the mean half deviance plus strength times the `terms`. `failed` (B,) are models whose null
    model has no regular maximum. `lever` (P,) is what the slope of a coefficient counts in the certificate: that of an
    intercept as much as it adds to the slopes of the columns as they came. `largest` (B,) is the least strength at
    which all penalised coefficients are 0 for the `ratio` of absolute values.
    """

    def __init__(
        self, rows: Rows, family: Family, link: Link, terms: Terms, ratio: float, tol: float, lever: Tensor
    ) -> None:
        self.rows, self.family, self.link, self.tol, self.ratio = rows, family, link, tol, ratio
        self.total, self.lever = rows.weight.sum(-1), lever
        self.coef, self.failed, fixed = null_coefficients(rows, family, link, terms.free & ~terms.held.all(0))
        held = terms.held | fixed
        zero = torch.zeros_like(terms.lower)
        self.terms = terms = replace(
            terms, lower=torch.where(held, zero, terms.lower), upper=torch.where(held, zero, terms.upper)
        )
        self.coef = self.coef.clamp(terms.lower, terms.upper)
        self.every = torch.arange(rows.y.shape[0], device=rows.y.device)
        self.steady = type(link) is Identity and family.least_squares
        self.here = self._pass(self.every, self.coef)
        pull = excess(self.coef, self.here.slope, zero, terms.lower, terms.upper)
        weight = max(ratio, FEWEST) * terms.absolute
        self.largest = torch.where(weight > 0, pull / torch.where(weight > 0, weight, 1.0), 0.0).amax(-1)
        self.unit = pull.amax(-1).clamp(min=torch.finfo(torch.float64).tiny)
        p = terms.lower.shape[-1]
        whole = p <= (CONSTANT if self.steady else ALL)
        self.columns = torch.arange(p, device=rows.y.device) if whole else terms.free.nonzero()[:, 0]
        self._narrow = self._chosen()
        self._gram: Tensor | None = None
        self._fresh = torch.zeros_like(self.failed)

    def follow(self, strength: Tensor) -> Found:
        """The minima at strengths (B, L), none of which rises."""
        before = torch.maximum(self.largest, strength[:, 0])
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for now in strength.unbind(-1):
            self._screen(self.ratio * (2 * now - before))
            kkt = self._descend(now)
            found.append((self.coef.clone(), self.here.half.clone(), kkt))
            before = now
        coef, half, kkt = (torch.stack(parts, 1) for parts in zip(*found, strict=True))
        return Found(coef, half, kkt)

    # one strength ------------------------------------------------------------------------------------------

    def _descend(self, strength: Tensor) -> Tensor:
        """Newton's steps to the minimum; (B,) the excess where they end."""
        l1 = strength.unsqueeze(-1) * self.ratio * self.terms.absolute
        l2 = strength.unsqueeze(-1) * (1 - self.ratio) * self.terms.square
        stalled, firm = torch.zeros_like(self.failed), torch.zeros_like(self.failed)
        for _ in range(STEPS):
            most = self._excess(self.every, self.coef, self.here, l1, l2)
            kkt = most.amax(-1) / self.unit
            lane = ((kkt > self.tol) & ~stalled & ~self.failed).nonzero()[:, 0]
            if not lane.numel():
                break
            self._join((most[lane] > self.tol * self.unit[lane, None]).any(0))
            firm[lane] |= ~self._curve(lane, (kkt < NEAR) & ~firm, l2)
            aim = self._aim(lane, l1, l2)
            still = self._walk(lane, aim, l1, l2, kkt)
            stalled[lane] = still & firm[lane]
            firm[lane] |= still
            self._fresh[lane[still]] = self.steady  # once more, by the expected information
        return self._excess(self.every, self.coef, self.here, l1, l2).amax(-1) / self.unit

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
            self.coef[own[good]] = trial[good]
            self.here.put(own[good], _Here(there.half[good], there.slope[good], there.valid[good]))
            self._fresh[own[good]] = self.steady
            still[left[good]] = ~(nearer | lower)[good]
            left, share = left[~good], share / 2
            if not left.numel():
                break
        still[left] = True
        return still

    def _value(self, lane: Tensor, coef: Tensor, half: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
        return half + (l1[lane] * coef.abs() + l2[lane] * coef.square() / 2).sum(-1)

    # passes over the rows ----------------------------------------------------------------------------------

    def _pass(self, lane: Tensor, coef: Tensor) -> _Here:
        rows = self._of(self.rows, lane)
        sums = fold([rows], Point(coef, curved=False), take_family(self.family, lane), self.link)
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
        self._fresh[stale] = True
        return sound

    def _curvature(self, lane: Tensor, observed: Tensor) -> Tensor:
        point = Point(self.coef[lane][:, self.columns], observed)
        sums = fold([self._of(self._narrow, lane)], point, take_family(self.family, lane), self.link)
        return sums.gram.written_out() / self.total[lane, None, None]

    def _of(self, rows: Rows, lane: Tensor) -> Rows:
        return rows if lane.numel() == rows.y.shape[0] else rows.take(lane)

    # columns that may leave zero ---------------------------------------------------------------------------

    def _screen(self, threshold: Tensor) -> None:
        """Take in the columns whose slopes may reach their thresholds at the next strength: the strong rule.

        Source: Tibshirani et al. (2012), J. R. Stat. Soc. B 74(2), 245-266.
        """
        near = self.here.slope.abs() >= threshold.unsqueeze(-1) * self.terms.absolute
        wanted = ((near | (self.coef != 0)) & ~self.terms.held).any(0) | self.terms.free
        p = wanted.numel()
        if self.columns.numel() < p and self.columns.numel() > 2 * int(wanted.sum()) + ALL:
            self.columns = self.columns[:0]
        self._join(wanted)

    def _join(self, wanted: Tensor) -> None:
        """Take in columns (P,), and leave the Grams behind if there are new ones."""
        inside = torch.zeros_like(wanted)
        inside[self.columns] = True
        if not bool((wanted & ~inside).any()):
            return
        self.columns = (wanted | inside).nonzero()[:, 0]
        self._narrow = self._chosen()
        self._gram, self._fresh = None, torch.zeros_like(self._fresh)

    def _chosen(self) -> Rows:
        return self.rows if self.columns.numel() == self.rows.columns else select(self.rows, self.columns)


def null_coefficients(rows: Rows, family: Family, link: Link, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, P) the maxima with the `free` (P,) coefficients alone, the models (B,) without one, and what is aliased.

    The last (B, P) are free coefficients that others make up for: they stay 0.
    """
    models, at = rows.y.shape[0], free.nonzero()[:, 0]
    coef = torch.zeros(models, free.numel(), dtype=torch.float64, device=rows.y.device)
    aliased = torch.zeros_like(coef, dtype=torch.bool)
    if not at.numel():
        return coef, torch.zeros(models, dtype=torch.bool, device=coef.device), aliased
    found = irls([select(rows, at)], family, link, tol=1e-10)
    coef[:, at], aliased[:, at] = torch.where(found.keep, found.coef, 0.0), ~found.keep
    return coef, found.status != int(Status.CONVERGED), aliased


def _convex(gram: Tensor, ridge: Tensor) -> Tensor:
    """(B,) whether a Gram with a ridge is nowhere negative, up to rounding."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1) + ridge
    least = FLATTEST * diagonal.abs().amax(-1, keepdim=True)
    return torch.linalg.cholesky_ex(gram + torch.diag_embed(ridge + least)).info == 0
