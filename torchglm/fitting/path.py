"""Elastic nets of falling strength: from the null model down, each from the last, for many models at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.faces import excess
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold
from torchglm.fitting.lanes import Lanes, LeftOut, Nets, Terms
from torchglm.fitting.moments import Point
from torchglm.fitting.slopes import Slopes, together
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.ranks import seen
from torchglm.rows.rows import Rows, select

ALL = 256  # with so many columns none is left out of the quadratic models
CONSTANT = 2048  # nor with so many where their Gram is the same everywhere
AHEAD = 0.7  # of a strength: columns that may enter above it come with the first that does
FEWEST = 1e-3  # the ratio of absolute values that the largest strength is found for where it is less
SLOTS = 12  # strengths of a model that are on their way at once
POINTS = 64  # and of all models
TOGETHER = 3  # strengths that set out with a pass


class Found(NamedTuple):
    """Coefficients (B, L, P), the mean half deviance (B, L) there, and the largest excess of a slope (B, L).

    The excess is by how much the objective could still fall along a coefficient, as a share of the largest slope of
    the null model.
    """

    coef: Tensor
    half: Tensor
    kkt: Tensor


class WayDown:
    """The way down of `B` models of a source, with columns of like spread, from their null models.

    The objective is the mean half deviance plus strength times the `terms`. `sound` (B,) are models whose null
    model has a regular maximum. `lever` (P,) is what the slope of a coefficient counts in the certificate: that of an
    intercept as much as it adds to the slopes of the columns as they came. `largest` (B,) is the least strength at
    which all penalised coefficients are 0 for the `ratio` of absolute values.

    Those that lack some rows of others may say by `left_out` what the Grams of these rows are. Where a pass takes
    several points of a model, several strengths are on their way at once, the weaker setting out from where the
    stronger have come to.
    """

    def __init__(
        self,
        source: Iterable[Rows],
        family: Family,
        link: Link,
        terms: Terms,
        ratio: float,
        tol: float,
        lever: Tensor,
        left_out: LeftOut | None = None,
    ) -> None:
        self.left_out = left_out
        coef, failed, fixed = null_coefficients(source, family, link, terms.free & ~terms.held.all(0))
        held = terms.held | fixed
        zero = torch.zeros_like(terms.lower)
        self.terms = terms = replace(
            terms, lower=torch.where(held, zero, terms.lower), upper=torch.where(held, zero, terms.upper)
        )
        coef = coef.clamp(terms.lower, terms.upper)
        sums = fold(source, Point(coef, curved=False, census=True), family, link)
        self.total = total = sums.weight
        here = Slopes(sums.objective / total, sums.score / total.unsqueeze(-1), sums.valid)
        self.sound = here.valid & ~failed
        pull = excess(coef, here.slope, zero, terms.lower, terms.upper)
        weight = max(ratio, FEWEST) * terms.absolute
        self.largest = torch.where(weight > 0, pull / torch.where(weight > 0, weight, 1.0), 0.0).amax(-1)
        unit = pull.amax(-1).clamp(min=torch.finfo(torch.float64).tiny)
        nets = Nets(source, family, link, terms, ratio, tol, lever, total, unit)
        p = coef.shape[-1]
        every = p <= (CONSTANT if nets.steady else ALL)
        columns = torch.arange(p, device=coef.device) if every else terms.free.nonzero()[:, 0]
        slots = max(1, min(SLOTS, POINTS // len(coef))) if every and together(source) else 1
        self.lanes = Lanes(nets, coef, here, slots, columns)
        self._newest, self._held = 0, [-1] * slots  # the slot that set out last, and the strength of every slot
        self._found: list[tuple[Tensor, ...]] = []
        self._strength = self.largest.unsqueeze(-1)

    def follow(self, strength: Tensor, beside: Sequence[WayDown] = ()) -> tuple[Found, ...]:
        """The minima at strengths (B, L), none of which rises, of these models and of those `beside` them.

        The latter are as many for each of these in turn, each without some of the rows, and go behind these.
        """
        ways = (self, *beside)
        for way in ways:
            way._strength = strength.repeat_interleave(way.lanes.count // self.lanes.count, 0)
        sent = 0
        for at in range(strength.shape[-1]):
            self._set_out(at)
            sent = self._sent(beside, sent)
        self._arrive()
        self._sent(beside, sent)
        for way in beside:
            way._arrive()
        return tuple(Found(*(torch.stack(part, 1) for part in zip(*way._found, strict=True))) for way in ways)

    def _sent(self, beside: Sequence[WayDown], sent: int) -> int:
        """Send those beside to the strengths that these have come to; how many there are."""
        while beside and sent < len(self._found) and self._found[sent]:
            for way in beside:
                assert way.left_out is not None
                way.lanes.begin_with(self.lanes, self._newest, way.left_out)
                way._set_out(sent)
            sent += 1
        return sent

    # strengths on their way --------------------------------------------------------------------------------

    def _set_out(self, at: int) -> None:
        """Go on until there is room for one more strength, which then sets out from where the last has come to."""
        lanes = self.lanes
        while -1 not in self._held or self._untried() >= TOGETHER:
            lanes.step()
            self._collect()
        slot, strength = self._held.index(-1), self._strength
        before = self.largest if at == 0 else strength[:, at - 1]
        self._screen(strength[:, at], torch.maximum(before, strength[:, at]))
        lanes.enter(slot, self._newest, strength[:, at])
        self._newest, self._held[slot] = slot, at
        self._collect()

    def _untried(self) -> int:
        return sum(at >= 0 and not self.lanes.begun(slot) for slot, at in enumerate(self._held))

    def _arrive(self) -> None:
        """Bring all that set out to their ends."""
        while any(at >= 0 for at in self._held):
            self.lanes.step()
            self._collect()

    def _collect(self) -> None:
        """Note where strengths have ended, and free their slots."""
        lanes = self.lanes
        for slot, at in enumerate(self._held):
            if at >= 0 and lanes.settled(slot):
                own = lanes.of(slot)
                self._found += [()] * (at + 1 - len(self._found))
                self._found[at] = tuple(v[own].clone() for v in (lanes.coef, lanes.here.half, lanes.kkt))
                self._held[slot] = -1

    # columns that may leave zero ---------------------------------------------------------------------------

    def _screen(self, strength: Tensor, before: Tensor) -> None:
        """Take in the columns whose slopes may reach their thresholds at the next strength: the strong rule.

        With the first of them come those that may follow it soon, as a Gram of new columns is made anew.
        Source: Tibshirani et al. (2012), J. R. Stat. Soc. B 74(2), 245-266.
        """
        lanes, p = self.lanes, len(self.lanes.nets.lever)
        if lanes.columns.numel() == p:
            return
        ratio = lanes.nets.ratio
        wanted = self._near(ratio * (2 * strength - before)) | self.terms.free
        inside = torch.zeros_like(wanted)
        inside[lanes.columns] = True
        if bool((wanted & ~inside).any()):
            wanted = wanted | self._near(AHEAD * ratio * strength)
        if lanes.columns.numel() > 2 * int(wanted.sum()) + ALL:
            lanes.choose(lanes.columns[:0])
        lanes.join(wanted)

    def _near(self, threshold: Tensor) -> Tensor:
        """(P,) the columns that are not zero, or whose slope reaches a share (B,) of their weight, in any model."""
        own = self.lanes.of(self._newest)
        near = self.lanes.here.slope[own].abs() >= threshold.unsqueeze(-1) * self.terms.absolute
        return ((near | (self.lanes.coef[own] != 0)) & ~self.terms.held).any(0)


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
