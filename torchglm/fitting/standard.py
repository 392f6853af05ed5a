"""Columns about their means in units of their spread, and coefficients back in those of the columns as they came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.rows.plan import Plan, PlanBlock
from torchglm.rows.ranks import seen
from torchglm.rows.rows import Rows, to_float64, whole

FARTHEST = 1e4  # distance of a column from 0, in units of its spread, up to which the slope of its own is seen to
CONSTANT = 1e-12  # spread of a column, as a share of its size, that is rounding


@dataclass(frozen=True)
class Standard:
    """A source whose columns are centred (where an intercept takes it up) and scaled alike for all models.

    `centre` and `scale` are (p,) or (B, p) for every column of the design; `of` says which column each of the P
    coefficients belongs to, `contrast` (P, K) how it enters the predictors, `ones` which coefficients are intercepts.
    """

    source: Iterable[Rows]
    centre: Tensor
    scale: Tensor
    of: Tensor
    contrast: Tensor
    ones: Tensor

    @staticmethod
    def of_source(source: Iterable[Rows], constant: bool) -> Standard:
        """That of rows in memory or read at each pass; `constant` says that their first column is an intercept."""
        total, size, mean, head = _first(source)
        middle = mean if constant else torch.zeros_like(mean)
        spread = _spread(source, total, middle)
        flat = spread <= CONSTANT * size
        scale = torch.where(flat, 1.0, spread)
        if constant:
            middle[..., 0], scale[..., 0], flat[..., 0] = 0.0, 1.0, False

        def scaled(rows: Rows) -> Rows:
            x, used = _written(rows)
            x = torch.where(used, (x - middle.unsqueeze(-2)) / scale.unsqueeze(-2), 0.0)
            x = torch.where(flat.unsqueeze(-2), 0.0, x)
            own = to_float64(rows)
            return own._replace(x=x[..., 1:] if constant else x, intercept=constant, indexed=None)

        plan = head.plan or Plan(1, (PlanBlock(tuple(range(size.shape[-1])), torch.ones(1, 1, dtype=torch.float64)),))
        of = [j for block in plan.blocks for _ in range(block.width) for j in block.columns]
        contrast = [block.contrast[:, t] for block in plan.blocks for t in range(block.width) for _ in block.columns]
        ones = torch.zeros(len(of), dtype=torch.bool, device=size.device)
        if constant:
            ones[list(plan.free)] = True
        places = torch.tensor(of, device=size.device)
        return Standard(seen(source, scaled), middle, scale, places, torch.stack(contrast).to(size.device), ones)

    def spread(self, source: Iterable[Rows]) -> Tensor:
        """(B, P) the spread with 1 / n of the scaled columns under the weights of a source: 0 of constant ones."""
        total = mean = square = torch.zeros((), dtype=torch.float64)
        constant = False
        for rows in source:
            constant = rows.intercept
            total = total + rows.weight.sum(-1, keepdim=True)
            mean, square = mean + _summed(rows.weight, rows.x), square + _summed(rows.weight, rows.x.square())
        mean, square = mean / total, square / total
        # about the mean of all rows a variance is a difference of small numbers
        spread = (square - mean.square()).clamp(min=0).sqrt()
        spread = torch.where(spread <= 1e-7 * square.sqrt(), 0.0 if constant else square.sqrt(), spread)
        first = torch.ones_like(spread[:, :1])
        return (torch.cat([first, spread], -1) if constant else spread)[:, self.of]

    def lever(self) -> Tensor:
        """(P,) how much the slope of a coefficient may add to those of columns that are not centred."""
        far = (self.centre / self.scale).abs().amax() if self.centre.numel() else self.centre.new_zeros(())
        return torch.where(self.ones, far.clamp(1.0, FARTHEST), 1.0)

    def scales(self) -> Tensor:
        """(P,) or (B, P) the scale of the column of each coefficient."""
        return self.scale[..., self.of]

    def original(self, coef: Tensor) -> Tensor:
        """(B, L, P) coefficients of the columns as they came, for those of the scaled ones."""
        own = coef / self._wide(self.scales())
        if not bool(self.ones.any()):
            return own
        shift = -(own * self._wide(self.centre[..., self.of])) @ self.contrast  # (B, L, K)
        back = torch.linalg.pinv(self.contrast[self.ones])  # (K, q)
        own[..., self.ones] += shift @ back
        return own

    @staticmethod
    def _wide(value: Tensor) -> Tensor:
        return value.unsqueeze(-2) if value.dim() == 2 else value


def _summed(weight: Tensor, x: Tensor) -> Tensor:
    """(B, p) the sums of columns with weights (B, n)."""
    return weight @ x if x.dim() == 2 else (weight.unsqueeze(-2) @ x).squeeze(-2)


def _written(rows: Rows) -> tuple[Tensor, Tensor]:
    """The design (n, p) or (B, n, p) in float64, and which of its rows any model has."""
    x = whole(to_float64(rows))
    used = rows.weight > 0
    return x, (used.any(0) if x.dim() == 2 else used).unsqueeze(-1)


def _weight(rows: Rows, x: Tensor) -> Tensor:
    """(1, n) or (B, n) the weights of a design that models may share."""
    return rows.weight.to(torch.float64).sum(0, keepdim=True) if x.dim() == 2 else rows.weight.to(torch.float64)


def _first(source: Iterable[Rows]) -> tuple[Tensor, Tensor, Tensor, Rows]:
    """The total weight (1,) or (B,), the largest size and the mean of every column (p,) or (B, p), and a chunk."""
    total = summed = torch.zeros((), dtype=torch.float64)
    size, head = None, None
    for rows in source:
        x, used = _written(rows)
        x, weight, head = torch.where(used, x, 0.0), _weight(rows, x), rows
        most = x.abs().amax(-2)
        size = most if size is None else torch.maximum(size, most)
        total, summed = total + weight.sum(-1), summed + _summed(weight, x)
    assert size is not None and head is not None
    return total, size, (summed / total.unsqueeze(-1)).reshape(size.shape), head


def _spread(source: Iterable[Rows], total: Tensor, middle: Tensor) -> Tensor:
    """The root of the mean square of every column about `middle`, in its shape."""
    square = torch.zeros((), dtype=torch.float64)
    for rows in source:
        x, used = _written(rows)
        x = torch.where(used, x - middle.unsqueeze(-2), 0.0)
        square = square + _summed(_weight(rows, x), x.square())
    return (square / total.unsqueeze(-1)).sqrt().reshape(middle.shape)
