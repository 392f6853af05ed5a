"""Penalties with kinks along rows, which are sums of coefficients: a step of theirs is found by multipliers."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from torchglm.fitting.kinks import Kinks, kinked_step, placed_step
from torchglm.fitting.penalties.base import Penalty


class RowWise(Penalty):
    """A penalty that states its `kinks`: terms of rows `k'b`, see `Kinks`."""

    @property
    def smooth(self) -> bool:
        return False

    @abstractmethod
    def kinks(self, total: Tensor) -> Kinks:
        """The terms, their limits times the total weight (B,)."""

    def kink(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.kinks(total).value(coef)

    def holds(self, coef: Tensor, total: Tensor) -> Tensor:
        kinks = self.kinks(total)
        acts = (kinks.lower != kinks.upper).any(0)
        return (kinks.matrix[acts] != 0).any(0).expand_as(coef)

    def step(self, curvature: Tensor, score: Tensor, coef: Tensor, total: Tensor, keep: Tensor) -> Tensor:
        return placed_step(curvature, score, coef, self.kinks(total), keep)

    def multipliers(self, curvature: Tensor, score: Tensor, coef: Tensor, total: Tensor, keep: Tensor) -> Tensor:
        """(B, m) the multipliers of the rows at `coef`: the slope of the objective that each of them holds."""
        return kinked_step(curvature, score, coef, self.kinks(total), keep).multiplier

    def excess(self, curvature: Tensor, score: Tensor, coef: Tensor, total: Tensor, keep: Tensor) -> Tensor:
        kinks = self.kinks(total)
        found = kinked_step(curvature, score, coef, kinks, keep).multiplier
        return torch.where(keep, score - found @ kinks.matrix, 0.0).abs()

    def projected(self, curvature: Tensor, coef: Tensor, keep: Tensor) -> Tensor:
        kinks = self.kinks(torch.ones_like(coef[:, 0])).constraints()
        found = kinked_step(curvature, torch.zeros_like(coef), coef, kinks, keep)
        near = torch.where(keep, kinks.put(coef + found.step, found.on), coef)
        return torch.where(kinks.allowed(coef).unsqueeze(-1), coef, near)

    def settled(self, coef: Tensor) -> Tensor:
        kinks = self.kinks(torch.ones_like(coef[:, 0]))
        return kinks.put(coef, (kinks.beyond(coef) == 0) & (kinks.lower != kinks.upper))
