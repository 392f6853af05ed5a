"""Cholesky factors of the Grams of one model: by numpy where the columns are few, by torch on all cores where many."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from torchglm.families.in_numpy import Array
from torchglm.rows.products import WIDE
from torchglm.rows.threads import all_cores


class Factor(Protocol):
    """The factor of a Gram (p, p); `pivot` is its least squared pivot on columns of one length, 0 where it has none."""

    pivot: float

    def solve(self, score: Array) -> Array:
        """The step (p,) for a score (p,)."""

    def inverse_root(self) -> Tensor:
        """(1, p, p) a root of the inverse."""


def factor_of(matrix: Array) -> Factor:
    """The factor of a Gram (p, p)."""
    return _OfFew(matrix) if len(matrix) < WIDE else _OfMany(matrix)


class _OfFew:
    """Of the Gram of columns of one length, without a turn through torch: a third of the time of the other road."""

    def __init__(self, matrix: Array) -> None:
        self.unit = 1 / np.sqrt(matrix.diagonal())
        self.scaled = matrix * self.unit * self.unit[:, None]
        try:
            self.lower = np.linalg.cholesky(self.scaled)
            self.pivot = float(self.lower.diagonal().min()) ** 2
        except np.linalg.LinAlgError:
            self.pivot = 0.0

    def solve(self, score: Array) -> Array:
        return np.linalg.solve(self.scaled, score * self.unit) * self.unit

    def inverse_root(self) -> Tensor:
        return torch.from_numpy((np.linalg.inv(self.lower) * self.unit).T[None])


class _OfMany:
    def __init__(self, matrix: Array) -> None:
        known = torch.from_numpy(matrix)
        with all_cores(known):
            self.lower, info = torch.linalg.cholesky_ex(known)
        self.pivot = 0.0 if int(info) else float((self.lower.numpy().diagonal() ** 2 / matrix.diagonal()).min())

    def solve(self, score: Array) -> Array:
        return torch.cholesky_solve(torch.from_numpy(score).unsqueeze(-1), self.lower).squeeze(-1).numpy()

    def inverse_root(self) -> Tensor:
        with all_cores(self.lower):
            eye = torch.eye(len(self.lower), dtype=torch.float64)
            return torch.linalg.solve_triangular(self.lower, eye, upper=False).mT.unsqueeze(0)
