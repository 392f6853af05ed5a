"""The marginal likelihood of one model along a standard deviation of effects or residuals, all else following.

The effect is put first in its set, so that its standard deviation is `sqrt(phi)` times one parameter of the root.
Source: Bates, Maechler, Bolker & Walker (2015), J. Stat. Software 67(1), section 5.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from torchglm.fitting.mixed.criterion import MixedCriterion
from torchglm.fitting.mixed.effects import Groupings
from torchglm.fitting.mixed.mark import Mark
from torchglm.fitting.mixed.search import MixedSearch

LONGEST = 2.0  # step of the logarithm of a standard deviation
CLOSE = 1e-6  # of the root of the criterion's rise, at a limit
TRIES = 40
STEP = 1e-4  # of the difference by the logarithm of the dispersion
LEAST = 1e-6  # a smaller share of the estimate is 0


class AlongSd(MixedCriterion):
    """The criterion where parameter `entry` of the roots, in `unit`, stands for the standard deviation `sd`.

    Without a dispersion that parameter is held; with one it is free, and the dispersion follows from it.
    """

    sd, entry, unit, follows = 1.0, 0, 1.0, False

    def at(self, lane: Tensor, psi: Tensor, u: Tensor) -> Mark:
        if self.follows:
            self.phi = (self.sd / (self.unit * psi[:, self.entry])).square()
        return super().at(lane, psi, u)

    def gradient(self, lane: Tensor, mark: Mark) -> Tensor:
        found = super().gradient(lane, mark)
        if self.follows:
            values = []
            for sign in (1.0, -1.0):
                self.phi = mark.phi * math.exp(sign * STEP)
                values.append(super().at(lane, mark.psi, mark.u).value)
            found[:, self.entry] -= (values[0] - values[1]) / STEP / mark.psi[:, self.entry]
        return found


def first_in_its_set(effects: Groupings, grouping: int, effect: int) -> Groupings:
    """The same groupings, an effect first among those it is correlated with."""
    sets = tuple(
        tuple(sorted(inside, key=lambda one: one != effect)) if effect in inside else inside
        for inside in effects.correlated[grouping]
    )
    correlated = tuple(sets if k == grouping else own for k, own in enumerate(effects.correlated))
    return replace(effects, correlated=correlated)


class Profile:
    """The rise of the criterion over its least, `best`, as a function of the logarithm of a standard deviation."""

    def __init__(self, criterion: MixedCriterion, psi: Tensor, u: Tensor, best: float, held: int | None) -> None:
        self.criterion, self.psi, self.u, self.best = criterion, psi, u, best
        self.held = torch.zeros_like(psi, dtype=torch.bool)
        if held is not None:
            self.held[:, held] = True

    def __call__(self, log_sd: float) -> float:
        """The criterion at a standard deviation over the least; where the search ends begins the next."""
        sd, own = math.exp(log_sd), self.criterion
        psi = self.psi.clone()
        if isinstance(own, AlongSd):
            old, own.sd = own.sd, sd
            if not own.follows:
                psi[:, own.entry] = sd / own.unit
            else:
                psi[:, own.entry] *= sd / old
        else:
            own.phi = sd**2
        search = MixedSearch(own, psi, self.u, 50, self.held)
        search.run(0)
        self.psi, self.u = search.mark.psi, search.mark.u
        return float(search.mark.value[0]) - self.best


def limit(rise: Callable[[float], float], start: float, step: float, root: float) -> float:
    """Where `sqrt(2 rise)` is `root`, from `start`, where it is 0, on in the direction of `step`.

    The logarithm of 0, minus infinity, where it is not reached on the way there.
    """
    low, high = (start, -root), None
    at = start + step
    for _ in range(TRIES):
        value = math.sqrt(max(0.0, 2 * rise(at))) - root
        if abs(value) < CLOSE:
            return at
        if value < 0:
            low = (at, value)
        else:
            high = (at, value)
        if high is None:
            slope = (value + root) / (at - start)
            ahead = -value / slope if slope * step > 0 else LONGEST * math.copysign(1.0, step)
            at += math.copysign(min(abs(1.1 * ahead), LONGEST), step)
            if at < start + math.log(LEAST):
                return -math.inf
        else:
            share = low[1] / (low[1] - high[1])
            at = low[0] + min(max(share, 0.02), 0.98) * (high[0] - low[0])
    return at
