"""The centring constraint: a term whose columns sum to zero over the data, absorbed into one column fewer."""

from __future__ import annotations

import numpy as np


class Constraint:
    """Coefficients `b` with `means' b = 0`, as `b = Z c`: `Z` (k, k - 1) are the last columns of a reflection.

    The reflection takes `means` (k,) to the first axis, as the QR decomposition of LINPACK and LAPACK does.
    """

    def __init__(self, means: np.ndarray) -> None:
        self.means = means
        self._normal = means.copy()
        self._normal[0] += np.copysign(np.linalg.norm(means), means[0])
        self._scale = 2 / (self._normal @ self._normal)

    @classmethod
    def learn(cls, columns: np.ndarray, counts: np.ndarray) -> Constraint:
        """That of columns (k, m) at distinct values with the number of rows (m,) of each."""
        return cls((columns * counts).sum(1) / counts.sum())

    def columns(self, columns: np.ndarray) -> np.ndarray:
        """(k - 1, n) the columns (k, n) under the constraint."""
        along = self._normal[0] * columns[0]
        for weight, column in zip(self._normal[1:], columns[1:], strict=True):
            along += weight * column
        along *= self._scale
        return columns[1:] - self._normal[1:, None] * along

    def penalty(self, penalty: np.ndarray) -> np.ndarray:
        """(k - 1, k - 1) a penalty (k, k) under the constraint."""
        half = self.columns(penalty)
        found = self.columns(half.T)
        return (found + found.T) / 2

    def to_list(self) -> list[float]:
        """Plain data for JSON."""
        return self.means.tolist()
