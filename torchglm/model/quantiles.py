"""Quantiles of laws that are known by their tails alone, in a fixed number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.families.several import Classes, VectorFamily

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
    below, above = family.supports(torch.tensor([-1.0, 2.0])).tolist()
    return Ends(-math.inf if below else 0.0, math.inf if above else 1.0, False)


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
    high = torch.as_tensor(ends.high, dtype=like.dtype, device=like.device).expand_as(like)
    return _whole(reached, high, like) if ends.whole else _between(reached, ends, high, like)


def _whole(reached: Callable[[Tensor], Tensor], most: Tensor, p: Tensor) -> Tensor:
    """The first count that is reached: a bracket by doubling, then halves of it."""
    low, high = torch.full_like(p, -1.0), torch.zeros_like(p)
    for _ in range(DOUBLINGS):
        short = ~reached(high) & (high < most)
        if not bool(short.any()):
            break
        low, high = torch.where(short, high, low), torch.where(short, 2 * high + 1, high).minimum(most)
    for _ in range(DOUBLINGS):
        if not bool((high - low > 1).any()):
            break
        middle = torch.floor((low + high) / 2)
        hit = reached(middle)
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return high


def _between(reached: Callable[[Tensor], Tensor], ends: Ends, most: Tensor, p: Tensor) -> Tensor:
    """The number that is reached, by halves of its logarithm (its logit below 1, on the line its inverse sine)."""
    number: Callable[[Tensor], Tensor] = torch.exp
    if math.isinf(ends.low):
        number = torch.sinh
    elif not math.isinf(float(ends.high)):
        number = torch.sigmoid
    low, high = torch.full_like(p, -700.0), torch.full_like(p, 700.0)
    for _ in range(STEPS):
        middle = (low + high) / 2
        hit = reached(number(middle))
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    found = number(high)
    return found if math.isinf(ends.low) else torch.where(reached(torch.zeros_like(p)), 0.0, found)
