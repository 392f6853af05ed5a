"""Steps with the Gram of an earlier point, corrected by what the slopes did along the steps before (BFGS)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Secants:
    """The steps of one model with one Gram, and how the score changed along each.

    The inverse they correct is the limited-memory one of Nocedal & Wright (2006), Numerical Optimization, algorithm
    7.4, begun from that Gram: steps that it left a fifth of the distance leave an ever smaller share.
    """

    def __init__(self) -> None:
        self._at: tuple[Tensor, Tensor] | None = None  # the last coefficients, and the score there
        self._pairs: list[tuple[Tensor, Tensor]] = []  # (1, p) each: a step, and the fall of the score along it

    def add(self, coef: Tensor, score: Tensor) -> None:
        """Note the score (1, p) at coefficients (1, p); what does not bend as a maximum does is passed over."""
        if self._at is not None:
            step, fall = coef - self._at[0], self._at[1] - score
            if bool(torch.linalg.vecdot(step, fall) > 0):
                self._pairs.append((step, fall))
        self._at = (coef, score)

    def bend(self, score: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        """(1, p) the step of a score (1, p), `solve` being that of the Gram."""
        left, shares = score, []
        for step, fall in reversed(self._pairs):
            share = torch.linalg.vecdot(step, left) / torch.linalg.vecdot(step, fall)
            left = left - share * fall
            shares.append(share)
        delta = solve(left)
        for (step, fall), share in zip(self._pairs, reversed(shares), strict=True):
            delta = delta + (share - torch.linalg.vecdot(fall, delta) / torch.linalg.vecdot(step, fall)) * step
        return delta
