"""Where a fit stands after a pass: what an observer is told, and what a fit can go on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """What `B` models have reached: coefficients (B, p), accepted steps (B,) and the deviance (B,) there.

    `shape` and `dispersion` (B,) are the values at which the coefficients are sought where the family's shape
    parameter is estimated with them; None before the first of these.
    """

    coef: Tensor
    n_iter: Tensor
    deviance: Tensor
    shape: Tensor | None = None
    dispersion: Tensor | None = None


Observer = Callable[[Progress], None]
