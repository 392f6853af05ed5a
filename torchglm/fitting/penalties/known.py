"""Penalties that other parts of the library make: around what is known, and along a change of coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchglm.fitting.penalties.base import ONE, Penalty


class Around(Penalty):
    """`(b - centre)' curvature (b - centre) / 2`, whatever the weight of the rows: what is known of `b` beforehand.

    `centre` (B, p) or (p,), `curvature` (B, p, p) or (p, p), positive definite.
    """

    diagonal = False

    def __init__(self, centre: Tensor, curvature: Tensor) -> None:
        self.centre, self.curvature = centre, curvature

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return ((coef - self.centre) * self.slope(coef, total)).sum(-1) / 2

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.curvature.expand(*coef.shape, coef.shape[-1])

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return (self.curvature @ (coef - self.centre).unsqueeze(-1)).squeeze(-1)

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Around:
        return self


class Along(Penalty):
    """Another penalty on the coefficients `b matrix` (B, p) of parameters `b` (B, q), `matrix` being (q, p)."""

    diagonal = False

    def __init__(self, penalty: Penalty, matrix: Tensor) -> None:
        self.penalty, self.matrix = penalty, matrix

    @property
    def smooth(self) -> bool:
        return self.penalty.smooth

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.penalty.value(coef @ self.matrix, total)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        own = self.penalty.ridge(coef @ self.matrix, total)
        return self.matrix @ (own.unsqueeze(-1) * self.matrix.mT if self.penalty.diagonal else own @ self.matrix.mT)

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.penalty.slope(coef @ self.matrix, total) @ self.matrix.mT

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        return self.penalty.nonsmooth(coef @ self.matrix, total)

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Along:
        return self
