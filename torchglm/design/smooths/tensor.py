"""TensorProduct products: smooths of several variables on scales of their own, from a basis of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from torchglm.design.smooths.basis import Basis, LearnedBasis
from torchglm.design.smooths.constraint import Constraint
from torchglm.design.smooths.made import basis_from, basis_of

FLAT = np.finfo(np.float64).eps ** 0.66  # condition below which heights say nothing of columns


class Margin:
    """One basis of a tensor product: `turn` makes heights of its columns, `constraint` centres them (`ti`)."""

    def __init__(self, basis: LearnedBasis, constraint: Constraint | None, turn: np.ndarray | None) -> None:
        self.basis, self.constraint, self.turn = basis, constraint, turn
        own = basis.penalty if constraint is None else constraint.penalty(basis.penalty)
        self.penalty = own if turn is None else turn.T @ own @ turn
        self.penalty = (self.penalty + self.penalty.T) / 2
        self.penalty = self.penalty / np.linalg.eigvalsh(self.penalty)[-1]

    def finished(self, columns: np.ndarray) -> np.ndarray:
        """(q, n) the margin's columns from those of its basis (k, n)."""
        own = columns if self.constraint is None else self.constraint.columns(columns)
        return own if self.turn is None else combined(self.turn, own)

    @classmethod
    def learn(cls, values: np.ndarray, counts: np.ndarray, k: int, options: Mapping[str, Any], centred: bool) -> Margin:
        basis = basis_of(values, counts, k, options)
        constraint = Constraint.learn(basis.columns(values), counts) if centred else None
        margin = cls(basis, constraint, None)
        if len(values) > 1 or basis.plain_in_tensors:
            return margin
        at = np.linspace(values[0, 0], values[0, -1], len(margin.penalty))
        left, size, right = np.linalg.svd(margin.finished(basis.columns(at[None])).T)
        turn = None if size[-1] < FLAT * size[0] else right.T @ (left.T / size[:, None])
        return cls(basis, constraint, turn)

    def to_dict(self) -> dict[str, Any]:
        return {
            "basis": {"kind": self.basis.kind} | self.basis.to_dict(),
            "constraint": None if self.constraint is None else self.constraint.to_list(),
            "turn": None if self.turn is None else self.turn.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Margin:
        constraint = None if data["constraint"] is None else Constraint(np.asarray(data["constraint"], np.float64))
        turn = None if data["turn"] is None else np.asarray(data["turn"], np.float64)
        return cls(basis_from(data["basis"]), constraint, turn)


class TensorProduct(Basis):
    """`te()`, `ti()`: products of the columns of margins, that of the last varying fastest, a penalty for each margin.

    Source: Wood (2006), Biometrics 62(4), 1025-1036.
    """

    kind = "tensor"

    def __init__(self, margins: Sequence[Margin], dims: Sequence[int]) -> None:
        self.margins, self.dims = list(margins), list(dims)
        sizes = [len(one.penalty) for one in margins]
        self._penalties = [
            reduce(np.kron, [one.penalty if i == j else np.eye(sizes[i]) for i, one in enumerate(margins)])
            for j in range(len(margins))
        ]
        self.penalty = sum(self._penalties[1:], self._penalties[0])
        values = np.linalg.eigvalsh(self.penalty)
        self.null = int((values < FLAT * values[-1]).sum())

    @property
    def penalties(self) -> list[np.ndarray]:
        return self._penalties

    def columns(self, values: np.ndarray) -> np.ndarray:
        return self._product(values, None)

    def slopes(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        return self._product(values, axis)

    def _product(self, values: np.ndarray, axis: int | None) -> np.ndarray:
        found, start = np.ones((1, values.shape[1])), 0
        for margin, d in zip(self.margins, self.dims, strict=True):
            own, inside = values[start : start + d], axis is not None and start <= axis < start + d
            raw = margin.basis.slopes(own, axis - start) if inside and axis is not None else margin.basis.columns(own)
            columns = margin.finished(raw)
            found = (found[:, None] * columns).reshape(-1, values.shape[1])
            start += d
        return found

    def to_dict(self) -> dict[str, Any]:
        return {"margins": [one.to_dict() for one in self.margins], "dims": self.dims}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TensorProduct:
        return cls([Margin.from_dict(one) for one in data["margins"]], [int(d) for d in data["dims"]])


def combined(turn: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(q, n) the columns (k, n) times `turn` (k, q), summed one by one: a BLAS product rounds by the number of rows."""
    found = turn[0][:, None] * columns[0]
    for weights, column in zip(turn[1:], columns[1:], strict=True):
        found += weights[:, None] * column
    return found
