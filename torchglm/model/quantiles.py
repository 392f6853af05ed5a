"""Quantiles of laws that are known by their tails alone, in a fixed number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from torchglm.families import Family
from torchglm.families.several import Classes, VectorFamily
from torchglm.special.tracing import repeated

STEPS = 64  # halvings of a logarithm between the smallest and the largest number: to its last digits
DOUBLINGS = 40  # of a count
SLACK = 1e-14  # so that the quantile of a computed probability is the number it was computed at

Tails = Callable[[Tensor], tuple[Tensor, Tensor]]


class Ends(NamedTuple):
    """Between which numbers responses lie, and whether they are whole."""

    low: float
    high: Tensor | float
    whole: bool


def ends_of(family: VectorFamily, trials: Tensor | None) -> Ends:
    """The ends of the responses of a family; `trials` are those of binomial ones."""
    if isinstance(family, Classes):
        return Ends(0.0, float(len(family.known) - 1), True)
    if trials is not None:
        return Ends(0.0, trials.double(), True)
    if family.counts:
        return Ends(0.0, math.inf, True)
    support = _innermost(family).support
    high = 1.0 if isinstance(support, type(constraints.unit_interval)) else math.inf
    return Ends(-math.inf if support is constraints.real else 0.0, high, False)


def _innermost(family: Family) -> Family:
    """The family of what is not 0, or of which more parameters have a predictor."""
    inner = getattr(family, "family", None)
    return _innermost(inner) if isinstance(inner, Family) else family


def quantile_of(ends: Ends, tails: Tails, p: Tensor) -> Tensor:
    """The smallest response with `F >= p`, by `tails`, F and 1 - F at a value; NaN outside [0, 1]."""

    def reached(value: Tensor) -> Tensor:
        lower, upper = tails(value)
        return torch.where(p < 0.5, lower >= p * (1 - SLACK), upper <= 1 - p + SLACK * (1 - p))

    high = torch.as_tensor(ends.high, dtype=p.dtype, device=p.device).expand_as(p)
    found = first_reached(ends, reached, p)
    found = torch.where(p == 1, high, torch.where(p == 0, ends.low, found))
    return torch.where((p >= 0) & (p <= 1), found, math.nan)


def first_reached(ends: Ends, reached: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The first response, in the shape of `like`, from which on `reached` holds; the upper end where it never does."""
    if not ends.whole:
        return _between(reached, ends, like)
    high = torch.as_tensor(ends.high, dtype=like.dtype, device=like.device).expand_as(like)
    return _whole(reached, high, like)


def _whole(reached: Callable[[Tensor], Tensor], most: Tensor, p: Tensor) -> Tensor:
    """The first count that is reached: a bracket by doubling, then halves of it."""
    below, zero = torch.full_like(p, -1.0), torch.zeros_like(p)

    def falls_short(high: Tensor) -> Tensor:
        return ~reached(high) & (high < most)

    def outward(low: Tensor, high: Tensor, short: Tensor) -> tuple[Tensor, ...]:
        low, high = torch.where(short, high, low), torch.where(short, 2 * high + 1, high).minimum(most)
        return low, high, falls_short(high)

    def halved(low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
        middle = torch.floor((low + high) / 2)
        hit = reached(middle)
        return torch.where(hit, low, middle), torch.where(hit, middle, high)

    bracket = repeated(outward, (below, zero, falls_short(zero)), lambda low, high, short: short, DOUBLINGS)
    return repeated(halved, bracket[:2], lambda low, high: high - low > 1, DOUBLINGS)[1]


def _between(reached: Callable[[Tensor], Tensor], ends: Ends, p: Tensor) -> Tensor:
    """The number that is reached, by halves of its logarithm (its logit below 1, on the line its inverse sine)."""
    number: Callable[[Tensor], Tensor] = torch.exp
    if math.isinf(ends.low):
        number = torch.sinh
    elif not math.isinf(float(ends.high)):
        number = torch.sigmoid
    ends_of_number = torch.full_like(p, -700.0), torch.full_like(p, 700.0)

    def halved(low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
        middle = (low + high) / 2
        hit = reached(number(middle))
        return torch.where(hit, low, middle), torch.where(hit, middle, high)

    _, high = repeated(halved, ends_of_number, lambda low, high: torch.ones_like(low, dtype=torch.bool), STEPS)
    found = number(high)
    return found if math.isinf(ends.low) else torch.where(reached(torch.zeros_like(p)), 0.0, found)
