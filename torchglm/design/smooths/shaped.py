"""P-splines of a shape: the coefficients of sums and hinges of B-splines, which make it where they are not negative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from torchglm.design.smooths.basis import Basis
from torchglm.design.smooths.pspline import PSpline


class ShapedSpline(Basis):
    """`s(x, bs="ps", shape=...)`: the columns of a P-spline times `turn` (k, q), the first of which is the constant.

    With coefficients `b = turn c`, `c` not negative at `signed` places, the differences of `b` have the signs of the
    shape; of B-splines on even knots so have the derivatives of the curve, everywhere, and beyond the knots it goes on
    straight. With `means` (q - 1,) the columns are those without the constant, less their means over the data.
    Source: Pya & Wood (2015), Statistics and Computing 25, 543-559; Ramsay (1988), Statistical Science 3(4).
    """

    kind = "shaped"

    def __init__(self, spline: PSpline, shape: str, means: np.ndarray | None) -> None:
        self.spline, self.shape, self.means = spline, shape, means
        turn, signed = turn_of(shape, spline.size)
        first = 0 if means is None else 1
        self.turn, self.signed = turn[:, first:], [j - first for j in signed]
        own = self.turn.T @ spline.penalty @ self.turn
        self.penalty, self.null = (own + own.T) / 2, spline.null - first

    @classmethod
    def of(cls, spline: PSpline, shape: str, means: np.ndarray | None) -> ShapedSpline:
        """From the means (k,) over the data of the P-spline's columns, or None for columns that are not centred."""
        return cls(spline, shape, None if means is None else (turn_of(shape, spline.size)[0].T @ means)[1:])

    def columns(self, values: np.ndarray) -> np.ndarray:
        found = self._turned(self.spline.columns(values))
        return found if self.means is None else found - self.means[:, None]

    def slopes(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        return self._turned(self.spline.slopes(values, axis))

    def _turned(self, columns: np.ndarray) -> np.ndarray:
        """(q, n) one by one: a BLAS product rounds by the number of rows."""
        found = np.zeros((self.turn.shape[1], columns.shape[1]))
        for weights, column in zip(self.turn, columns, strict=True):
            found += weights[:, None] * column
        return found

    def to_dict(self) -> dict[str, Any]:
        means = None if self.means is None else self.means.tolist()
        return {"spline": self.spline.to_dict(), "shape": self.shape, "means": means}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ShapedSpline:
        means = None if data["means"] is None else np.asarray(data["means"], np.float64)
        return cls(PSpline.from_dict(data["spline"]), str(data["shape"]), means)


def turn_of(shape: str, k: int) -> tuple[np.ndarray, list[int]]:
    """(k, k) the coefficients of B-splines that each column of a shape is made of, and the columns with a sign.

    The first is the constant. Sums: steps up. Curved: a line, and hinges that bend up, `max(i - j, 0)`; with a
    direction hinges that are flat at the end where the slope is least, and the line has the sign of the slope.
    """
    at = np.arange(k, dtype=np.float64)
    one = np.ones(k)
    words = shape.split()
    if words in (["increasing"], ["decreasing"]):
        steps = [(at >= j).astype(np.float64) for j in range(1, k)]
        sign = 1.0 if words == ["increasing"] else -1.0
        return np.stack([one, *(sign * step for step in steps)], 1), list(range(1, k))
    bend = 1.0 if words[-1] == "convex" else -1.0
    way = {"increasing": 1.0, "decreasing": -1.0}.get(words[0], 0.0)
    line = (way or 1.0) * at
    if way * bend >= 0:  # the slope is least, or of no sign, at the start
        hinges = [bend * np.maximum(at - j, 0) for j in range(1, k - 1)]
    else:
        hinges = [bend * np.maximum(j - at, 0) for j in range(1, k - 1)]
    return np.stack([one, line, *hinges], 1), list(range(1 if way else 2, k))
