"""Steps with the Gram of an earlier point, corrected by what the slopes did along the steps before (BFGS)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Vector = TypeVar("Vector", Tensor, NDArray[np.floating[Any]])  # (p,), or (1, p)


class Secants(Generic[Vector]):
    """The steps of one model with one Gram, and how the score changed along each.

    The inverse they correct is the limited-memory one of Nocedal & Wright (2006), Numerical Optimization, algorithm
    7.4, begun from that Gram: steps that it left a fifth of the distance leave an ever smaller share.
    """

    def __init__(self) -> None:
        self._at: tuple[Vector, Vector] | None = None  # the last coefficients, and the score there
        self._pairs: list[tuple[Vector, Vector, float]] = []  # a step, the fall of the score along it, their product

    def add(self, coef: Vector, score: Vector) -> None:
        """Note the score at coefficients; what does not bend as a maximum does is passed over."""
        if self._at is not None:
            step, fall = coef - self._at[0], self._at[1] - score
            bend = float((step * fall).sum())
            if bend > 0:
                self._pairs.append((step, fall, bend))
        self._at = (coef, score)

    def bend(self, score: Vector, solve: Callable[[Vector], Vector]) -> Vector:
        """The step for a score, where `solve` is that of the Gram."""
        left, shares = score, []
        for step, fall, bend in reversed(self._pairs):
            share = float((step * left).sum()) / bend
            left = left - share * fall
            shares.append(share)
        delta = solve(left)
        for (step, fall, bend), share in zip(self._pairs, reversed(shares), strict=True):
            delta = delta + (share - float((fall * delta).sum()) / bend) * step
        return delta
