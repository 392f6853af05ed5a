"""Natural cubic splines: cubic regression splines, cyclic ones, and what a thin plate spline of one variable is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchglm.design.smooths.basis import LearnedBasis, knots_given, one_variable

SHRINK = 0.1  # share of the least positive eigenvalue that the null space of a shrinkage basis gets


def quantiles(values: np.ndarray, count: int) -> np.ndarray:
    """`count` knots at evenly spaced quantiles of distinct sorted values, the ends at the extremes."""
    return np.quantile(values, np.linspace(0.0, 1.0, count))


class CubicPieces:
    """Cubic pieces between `knots` (K,), given by `heights` and `curvatures` (K, k) of each column there.

    Beyond the knots the columns go on as straight lines: `f(x) = a- h_j + a+ h_j+1 + c- g_j + c+ g_j+1`, with the
    weights of Wood (2017), Generalized Additive Models, table 5.1.
    """

    def __init__(self, knots: np.ndarray, heights: np.ndarray, curvatures: np.ndarray) -> None:
        self.knots, self.heights, self.curvatures = knots, heights, curvatures

    def columns(self, x: np.ndarray) -> np.ndarray:
        """(k, n) the columns at values (n,)."""
        inside = np.clip(x, self.knots[0], self.knots[-1])
        found, beyond = self.inside(inside, 0), x - inside
        if (beyond != 0).any():
            out = np.flatnonzero(beyond)
            found[:, out] += beyond[out] * self.inside(inside[out], 1)
        return found

    def slopes(self, x: np.ndarray) -> np.ndarray:
        """(k, n) their derivatives."""
        return self.inside(np.clip(x, self.knots[0], self.knots[-1]), 1)

    def inside(self, x: np.ndarray, order: int) -> np.ndarray:
        """The columns (k, n), or with `order` 1 their slopes, at values within the knots."""
        j = np.clip(np.searchsorted(self.knots, x, side="right") - 1, 0, len(self.knots) - 2)
        h = (self.knots[1:] - self.knots[:-1])[j]
        left, right = self.knots[j + 1] - x, x - self.knots[j]
        if order == 0:
            weights = (left / h, right / h, (left**3 / h - h * left) / 6, (right**3 / h - h * right) / 6)
        else:
            weights = (-1 / h, 1 / h, (h - 3 * left**2 / h) / 6, (3 * right**2 / h - h) / 6)
        tables = (self.heights, self.heights, self.curvatures, self.curvatures)
        found = np.zeros((self.heights.shape[1], len(x)))
        term = np.empty_like(found)
        for table, weight, at in zip(tables, weights, (j, j + 1, j, j + 1), strict=True):
            np.take(np.ascontiguousarray(table.T), at, axis=1, out=term, mode="clip")
            found += np.multiply(term, weight, out=term)
        return found


class CubicRegression(LearnedBasis):
    """`bs="cr"`: columns are the heights at knots, the penalty is the integrated square of the second derivative.

    With `shrink` (`bs="cs"`) its null space is penalised a little as well: the straight line by a share of the least
    other eigenvalue, the constant by a share of that. (mgcv leaves to rounding which two of the lines these are.)
    """

    kind = "cr"
    plain_in_tensors = True

    def __init__(self, knots: np.ndarray, shrink: bool = False) -> None:
        k = len(knots)
        h = np.diff(knots)
        across, inner = np.zeros((k - 2, k)), np.zeros((k - 2, k - 2))
        for i in range(k - 2):
            across[i, i : i + 3] = 1 / h[i], -1 / h[i] - 1 / h[i + 1], 1 / h[i + 1]
            inner[i, i] = (h[i] + h[i + 1]) / 3
            if i + 1 < k - 2:
                inner[i, i + 1] = inner[i + 1, i] = h[i + 1] / 6
        second = np.linalg.solve(inner, across)
        self.knots, self.pieces = knots, CubicPieces(knots, np.eye(k), np.vstack([np.zeros(k), second, np.zeros(k)]))
        self.penalty, self.null, self.shrink = across.T @ second, 2, shrink
        if shrink:
            line, one = knots - knots.mean(), np.ones(k)  # orthogonal: which of both is which no rounding decides
            free = np.stack([line / np.linalg.norm(line), one / np.linalg.norm(one)], 1)
            self.penalty, self.null = shrunk(self.penalty, free, [SHRINK, SHRINK**2]), 0

    def columns(self, values: np.ndarray) -> np.ndarray:
        return self.pieces.columns(values[0])

    def slopes(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        return self.pieces.slopes(values[0])

    @classmethod
    def learn(cls, values: np.ndarray, counts: np.ndarray, k: int, options: Mapping[str, Any]) -> CubicRegression:
        x = one_variable(values, cls.kind)
        knots = knots_given(options, x, (k,))
        return cls(quantiles(x, k) if knots is None else knots, options["bs"] == "cs")

    def to_dict(self) -> dict[str, Any]:
        return {"knots": self.knots.tolist(), "shrink": self.shrink}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CubicRegression:
        return cls(np.asarray(data["knots"], np.float64), bool(data["shrink"]))


class Cyclic(LearnedBasis):
    """`bs="cc"`: a cubic spline whose value, slope and curvature at the last knot are those at the first."""

    kind = "cc"
    plain_in_tensors = True
    least = 4

    def __init__(self, knots: np.ndarray) -> None:
        k, h = len(knots) - 1, np.diff(knots)
        across, inner = np.zeros((k, k)), np.zeros((k, k))
        for i in range(k):
            before, after = h[i - 1], h[i]
            inner[i, i] = (before + after) / 3
            across[i, i] = -1 / before - 1 / after
            for j, step in ((i - 1) % k, before), ((i + 1) % k, after):
                inner[i, j] += step / 6
                across[i, j] += 1 / step
        second, around = np.linalg.solve(inner, across), [*range(k), 0]
        self.knots, self.pieces = knots, CubicPieces(knots, np.eye(k)[around], second[around])
        self.penalty, self.null = across.T @ second, 1

    def columns(self, values: np.ndarray) -> np.ndarray:
        return self.pieces.inside(self._wrapped(values[0]), 0)

    def slopes(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        return self.pieces.inside(self._wrapped(values[0]), 1)

    def _wrapped(self, x: np.ndarray) -> np.ndarray:
        low, high = self.knots[0], self.knots[-1]
        return np.where((x < low) | (x > high), low + np.mod(x - low, high - low), x)

    @classmethod
    def learn(cls, values: np.ndarray, counts: np.ndarray, k: int, options: Mapping[str, Any]) -> Cyclic:
        x = one_variable(values, cls.kind)
        knots = knots_given(options, x, (2, k))
        if knots is None:
            return cls(quantiles(x, k))
        return cls(knots if len(knots) == k else quantiles(np.unique([*x, *knots]), k))

    def to_dict(self) -> dict[str, Any]:
        return {"knots": self.knots.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cyclic:
        return cls(np.asarray(data["knots"], np.float64))


def shrunk(penalty: np.ndarray, free: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """A penalty (k, k) with `shares` of its least positive eigenvalue on its null space, `free` (k, M)."""
    least = np.linalg.eigvalsh(penalty)[free.shape[1]]
    return penalty + (free * (least * np.asarray(shares))) @ free.T
