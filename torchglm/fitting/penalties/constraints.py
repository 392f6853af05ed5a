"""What coefficients must satisfy: limits, equations and inequalities, beside a penalty or alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from torchglm.fitting.kinks import Kinks
from torchglm.fitting.penalties.base import ONE, Penalty
from torchglm.fitting.penalties.rowwise import RowWise


class Constrained(RowWise):
    """`lower <= rows b <= upper` for rows (m, p) and limits (m,) or one for each model (B, m), on top of a penalty.

    `said` (m,) are the rows in words. Every side that is finite is a constraint of its own: `sides` says of which row.
    """

    def __init__(
        self, inner: Penalty | None, rows: Tensor, lower: Tensor, upper: Tensor, said: Sequence[str] = ()
    ) -> None:
        self.inner, self.rows, self.lower, self.upper, self.said = inner, rows, lower, upper, list(said)
        low, high = (torch.isfinite(end).reshape(-1, len(rows)).any(0) for end in (lower, upper))
        same = (lower == upper).reshape(-1, len(rows)).all(0)
        self._equal, self._low, self._high = (mask.nonzero()[:, 0] for mask in (same, low & ~same, high & ~same))
        self.diagonal = inner is None or inner.diagonal

    @property
    def each(self) -> bool:  # type: ignore[override]
        return self.lower.dim() > 1 or self.inner is not None and self.inner.each

    @property
    def selects(self) -> bool:  # type: ignore[override]
        return self.inner is not None and self.inner.selects

    @property
    def sides(self) -> Tensor:
        """(c,) the rows of the constraints in the order of their multipliers."""
        return torch.cat([self._equal, self._low, self._high])

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return torch.zeros_like(total) if self.inner is None else self.inner.value(coef, total)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return torch.zeros_like(coef) if self.inner is None else self.inner.ridge(coef, total)

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return torch.zeros_like(coef) if self.inner is None else self.inner.slope(coef, total)

    def bend(self, coef: Tensor, total: Tensor) -> Tensor | None:
        return None if self.inner is None else self.inner.bend(coef, total)

    def kinks(self, total: Tensor) -> Kinks:
        """The constraints first, in the order of `sides`, after them the terms of the penalty."""
        device, models = total.device, len(total)
        rows, lower, upper = (part.to(device) for part in (self.rows, self.lower, self.upper))
        equal, low, high = (at.to(device) for at in (self._equal, self._low, self._high))
        matrix = torch.cat([rows[equal], -rows[low], rows[high]])
        centre = torch.cat([lower[..., equal], -lower[..., low], upper[..., high]], -1).expand(models, -1)
        none = torch.isinf(centre)  # a limit that another model has
        top = torch.where(none, 0.0, torch.full_like(centre, torch.inf))
        bottom = torch.zeros_like(centre)
        bottom[:, : len(equal)] = -torch.inf
        own = Kinks(matrix, torch.where(none, 0.0, centre), bottom, top)
        return own if self.inner is None else _joined(own, self.inner, total)

    def allowed(self, coef: Tensor) -> Tensor:
        """(B,) whether coefficients (B, p) satisfy the constraints."""
        return self.kinks(torch.ones_like(coef[:, 0])).allowed(coef)

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Constrained:
        return self

    def take(self, models: Tensor) -> Constrained:
        if not self.each:
            return self
        other = copy.copy(self)
        other.inner = None if self.inner is None else self.inner.take(models)
        if self.lower.dim() > 1:
            at = models.to(self.lower.device)
            other.lower, other.upper = self.lower[at], self.upper[at]
        return other

    def __repr__(self) -> str:
        count = len(self.sides)
        own = f"{count} constraint{'s' * (count != 1)}"
        return own if self.inner is None else f"{self.inner} and {own}"


def _joined(own: Kinks, inner: Penalty, total: Tensor) -> Kinks:
    """The terms of constraints and of a penalty."""
    zero = total.new_zeros(len(total), own.matrix.shape[1])
    l1 = inner.nonsmooth(zero, total)
    if isinstance(inner, RowWise):
        other = inner.kinks(total)
    elif l1 is not None:
        used = (l1 > 0).any(0).nonzero()[:, 0]
        limit = l1[:, used]
        eye = torch.eye(zero.shape[1], dtype=zero.dtype, device=zero.device)
        other = Kinks(eye[used], torch.zeros_like(limit), -limit, limit)
    else:
        return own
    return Kinks(
        torch.cat([own.matrix, other.matrix]),
        *(torch.cat([getattr(own, name), getattr(other, name)], -1) for name in ("centre", "lower", "upper")),
    )
