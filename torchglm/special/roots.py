"""Roots of functions of one number, a batch of them at once, each within its own bracket."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchglm.special.tracing import repeated

CLOSE = 1e-11  # of a step, on the scale of `1 + |z|`: Newton's converge quadratically, so that what is left is rounding


@torch.no_grad()
def root(
    step: Callable[[Tensor], Tensor],
    start: Tensor,
    longest: tuple[float, float] = (math.inf, math.inf),
    limits: tuple[float, float] = (-math.inf, math.inf),
    close: float = CLOSE,
    most: int = 100,
) -> Tensor:
    """Where the `step(z)` that a model of the function proposes, Newton's or a secant's, is zero; shape of `start`.

    The sign of a step says on which side the root lies, so that the points tried bracket it: a step that leaves the
    bracket, or is not half as long as the last, goes to its middle instead. A step is no longer than `longest`, down
    and up, and stays within the `limits`; NaN is no step. Ends when no step is longer than `close (1 + |z|)`.
    """
    z = start.clamp(*limits)
    left, right, before = (torch.full_like(z, end) for end in (-math.inf, math.inf, math.inf))

    def once(z: Tensor, left: Tensor, right: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        move = step(z).nan_to_num(0.0)
        left, right = torch.where(move > 0, z, left), torch.where(move < 0, z, right)
        move = move.clamp(-longest[0], longest[1])
        middle = 0.5 * (left + right)
        slow = (move.abs() > 0.5 * before) & (move.abs() > close * (1 + z.abs()))
        bisect = ((z + move < left) | (z + move > right) | slow) & torch.isfinite(middle)
        move = torch.where(bisect, middle - z, move)
        move = torch.maximum(torch.minimum(move, limits[1] - z), limits[0] - z)
        return z + move, left, right, move.abs()

    def far(z: Tensor, left: Tensor, right: Tensor, before: Tensor) -> Tensor:
        return before > close * (1 + z.abs())

    return repeated(once, (z, left, right, before), far, most)[0]
