"""Columns about their means in units of their spread, and coefficients back in those of the columns as they came."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.rows.plan import Plan, PlanBlock
from torchglm.rows.rows import Rows, to_float64, whole

FARTHEST = 1e4  # distance of a column from 0, in units of its spread, up to which the slope of its own is seen to
CONSTANT = 1e-12  # spread of a column, as a share of its size, that is rounding


@dataclass(frozen=True)
class Standard:
    """Rows whose columns are centred (where an intercept takes it up) and scaled alike for all models.

    `centre` and `scale` are (p,) or (B, p) for every column of the design; `of` says which column each of the P
    coefficients belongs to, `contrast` (P, K) how it enters the predictors, `ones` which coefficients are intercepts.
    """

    rows: Rows
    centre: Tensor
    scale: Tensor
    of: Tensor
    contrast: Tensor
    ones: Tensor

    @staticmethod
    def of_rows(rows: Rows, constant: bool) -> Standard:
        """That of rows in memory; `constant` says that their first column is an intercept."""
        rows = to_float64(rows)
        x = whole(rows)  # (n, p) or (B, n, p)
        weight = rows.weight.sum(0) if x.dim() == 2 else rows.weight  # (n,) or (B, n)
        share = (weight / weight.sum(-1, keepdim=True)).unsqueeze(-1)
        used = share > 0
        x = torch.where(used, x, 0.0)
        mean = (share * x).sum(-2)
        size = torch.where(used, x.abs(), 0.0).amax(-2)
        middle = mean if constant else torch.zeros_like(mean)
        spread = (share * (x - middle.unsqueeze(-2)).square()).sum(-2).sqrt()
        flat = spread <= CONSTANT * size
        scale = torch.where(flat, 1.0, spread)
        if constant:
            middle[..., 0] = 0.0
            scale[..., 0] = 1.0
        x = torch.where(used, (x - middle.unsqueeze(-2)) / scale.unsqueeze(-2), 0.0)
        if constant:
            x[..., 0] = 1.0
            flat[..., 0] = False
        x = torch.where(flat.unsqueeze(-2), 0.0, x)
        plan = rows.plan or Plan(1, (PlanBlock(tuple(range(x.shape[-1])), torch.ones(1, 1, dtype=torch.float64)),))
        of = [j for block in plan.blocks for _ in range(block.width) for j in block.columns]
        contrast = [block.contrast[:, t] for block in plan.blocks for t in range(block.width) for _ in block.columns]
        ones = torch.zeros(len(of), dtype=torch.bool, device=x.device)
        if constant:
            ones[list(plan.free)] = True
        own = rows._replace(x=x[..., 1:] if constant else x, intercept=constant, indexed=None)
        places = torch.tensor(of, device=x.device)
        return Standard(own, middle, scale, places, torch.stack(contrast).to(x.device), ones)

    def spread(self, weight: Tensor) -> Tensor:
        """(B, P) the spread with 1 / n of the scaled columns under weights (B, n): 0 of constant ones, 1 of ones."""
        share = weight / weight.sum(-1, keepdim=True)
        x = self.rows.x
        mean, square = _mean(share, x), _mean(share, x.square())
        # about the mean of all rows a variance is a difference of small numbers
        spread = (square - mean.square()).clamp(min=0).sqrt()
        spread = torch.where(spread <= 1e-7 * square.sqrt(), 0.0 if self.rows.intercept else square.sqrt(), spread)
        first = torch.ones_like(spread[:, :1])
        return (torch.cat([first, spread], -1) if self.rows.intercept else spread)[:, self.of]

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


def _mean(share: Tensor, x: Tensor) -> Tensor:
    return share @ x if x.dim() == 2 else (share.unsqueeze(-2) @ x).squeeze(-2)
