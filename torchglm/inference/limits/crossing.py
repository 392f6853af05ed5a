"""Where a signed root of a likelihood ratio reaches a value, for many profiles at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NEAR = 1e-5  # of the target: from there one more interpolation is exact to rounding
FURTHEST = 4096.0  # of the reach: a profile still below the target there runs to infinity
FLAT = 1e-3  # of the target: a profile that has not risen by this at four times the reach never will
EVALUATIONS = 80
ROUGH = 1e-6  # the same, and the narrowest bracket, of a curve that is known to no more digits
EDGE = 1e-7  # a bracket as narrow as this share of its end, with an invalid end, is the edge of what is allowed
ON_EDGE = 1e-6  # of the first step: where not even that is allowed, the search begins on the edge


def crossing(
    root: Callable[[Tensor, Tensor], Tensor],
    first: Tensor,
    slope: Tensor,
    target: float,
    reach: Tensor | None = None,
    rough: bool = False,
) -> Tensor:
    """(T,) the distances `u > 0` where `root(lanes, u)` reaches `target`; infinite where it never does.

    `root` takes the indices of the lanes still searched and a distance for each, and gives the signed root
    there, 0 at `u = 0` and rising; NaN or infinity says that the distance is not allowed. `first` (T,) is the
    first distance, `slope` (T,) the ratio `u / root` near 0, NaN where it is unknown, and `reach` (T,) a distance
    of the size of what is measured, where the first one may be far smaller. The ratio is nearly linear
    in the root, so it is interpolated through the last two points; a guess outside the bracket is replaced by the
    middle of it, or by four times the distance while nothing lies beyond the target. A `rough` root may jump where
    refits creep along an edge: brackets then end at six digits, and one before a wall on a flat curve at one.
    """
    reach = first if reach is None else reach
    low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
    walled = torch.zeros_like(first, dtype=torch.bool)  # the far end of the bracket is not allowed
    before_root, before_ratio = torch.zeros_like(first), slope.clone()
    out, u = torch.full_like(first, torch.nan), first.clone()
    lanes = (torch.isfinite(first) & (first > 0)).nonzero()[:, 0]
    for turn in range(EVALUATIONS):
        if not lanes.numel():
            break
        at = u[lanes]
        value = root(lanes, at)
        allowed = torch.isfinite(value)
        below = allowed & (value < target)
        low[lanes] = torch.where(below, at, low[lanes])
        high[lanes] = torch.where(below, high[lanes], at)
        walled[lanes] = torch.where(below, walled[lanes], ~allowed)
        ratio = at / value
        guess = _interpolate(before_root[lanes], before_ratio[lanes], value, ratio, target)
        before_root[lanes] = torch.where(allowed, value, before_root[lanes])
        before_ratio[lanes] = torch.where(allowed, ratio, before_ratio[lanes])
        near = allowed & ((value - target).abs() <= NEAR * target)
        out[lanes[near]] = torch.where(torch.isfinite(guess), guess, at)[near]
        left, right = low[lanes], high[lanes]
        endless = ~near & _endless(value, at, below, target, reach[lanes])
        endless |= walled[lanes] & _at_a_wall(left, right, first[lanes], reach[lanes], ROUGH if rough else EDGE)
        endless |= rough & walled[lanes] & below & (value <= FLAT * target) & (left >= 0.8 * right)
        out[lanes[endless & ~near]] = torch.inf
        u[lanes] = _safeguard(guess, left, right, walled[lanes], turn)
        narrow = torch.isfinite(right) & (right - left <= (ROUGH if rough else 1e-12) * right) & ~walled[lanes]
        out[lanes[narrow & ~near & ~endless]] = u[lanes[narrow & ~near & ~endless]]
        lanes = lanes[~(near | endless | narrow)]
    return out


def _endless(value: Tensor, at: Tensor, below: Tensor, target: float, reach: Tensor) -> Tensor:
    """True where a profile is still below the target so far out, or so flat, that it will never get there."""
    return below & ((value <= FLAT * target) & (at >= 4 * reach) | (at >= FURTHEST * reach))


def _at_a_wall(low: Tensor, high: Tensor, first: Tensor, reach: Tensor, edge: float) -> Tensor:
    """True where nothing is left between the last allowed distance and the first that is not."""
    return (high - low <= edge * high) | (low >= 100 * reach) | (high < ON_EDGE * first)


def _interpolate(root_0: Tensor, ratio_0: Tensor, root_1: Tensor, ratio_1: Tensor, target: float) -> Tensor:
    """`target` times the ratio there, on the line through two points; through the last alone where it is the first."""
    bend = (ratio_1 - ratio_0) / (root_1 - root_0)
    return target * (ratio_1 + torch.where(torch.isfinite(bend), bend, 0.0) * (target - root_1))


def _safeguard(guess: Tensor, low: Tensor, high: Tensor, walled: Tensor, turn: int) -> Tensor:
    """The guess where it lies inside the bracket; every fourth turn the middle, so that the bracket shrinks.

    Before a wall, where the curve may end below the target, it is the middle every other turn.
    """
    open_end = torch.isinf(high)
    middle = torch.where(open_end, 4 * low, (low + high) / 2)
    inside = (guess > low) & (guess < torch.where(open_end, 4 * low, high))
    if turn % 4 == 3:
        inside = inside & open_end
    elif turn % 2:
        inside = inside & ~walled
    return torch.where(inside, guess, middle)
