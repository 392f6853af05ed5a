"""P-splines: B-splines on evenly spaced knots, with differences of neighbouring coefficients as the penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from torchglm.design.smooths.basis import LearnedBasis, knots_given, one_variable

BEYOND = 0.001  # share of the range by which the knots reach beyond the data


class PSpline(LearnedBasis):
    """`bs="ps"`: B-splines of `degree` on `knots` (k + degree + 1,), penalised by differences of `order`.

    Beyond the inner knots the columns go on as straight lines. With `cyclic` (`bs="cp"`) the last are the first again.
    Source: Eilers & Marx (1996), Statistical Science 11(2), 89-121.
    """

    kind = "ps"

    def __init__(self, knots: np.ndarray, degree: int, order: int, cyclic: bool = False) -> None:
        self.knots, self.degree, self.order, self.cyclic = knots, degree, order, cyclic
        self.whole = len(knots) - degree - 1  # columns before the last are joined to the first
        k = self.whole - degree * cyclic
        if cyclic:
            steps = np.eye(k)
            for _ in range(order):
                steps = np.roll(steps, -1, axis=0) - steps
        else:
            steps = np.diff(np.eye(k), n=order, axis=0)
        self.penalty, self.null = steps.T @ steps, min(1 if cyclic else order, k)

    @property
    def limits(self) -> tuple[float, float]:
        """The range within which the columns are B-splines."""
        return float(self.knots[self.degree]), float(self.knots[-self.degree - 1])

    def columns(self, values: np.ndarray) -> np.ndarray:
        x, (low, high) = values[0], self.limits
        if self.cyclic:
            return self._splines(self._wrapped(x), 0)
        inside = np.clip(x, low, high)
        found, beyond = self._splines(inside, 0), x - inside
        if (beyond != 0).any():
            out = np.flatnonzero(beyond)
            found[:, out] += beyond[out] * self._splines(inside[out], 1)
        return found

    def slopes(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        return self._splines(self._wrapped(values[0]) if self.cyclic else np.clip(values[0], *self.limits), 1)

    def _wrapped(self, x: np.ndarray) -> np.ndarray:
        low, high = self.limits
        return np.where((x < low) | (x > high), low + np.mod(x - low, high - low), x)

    def _splines(self, x: np.ndarray, order: int) -> np.ndarray:
        """The columns (k, n), or with `order` 1 their slopes, at values within the limits."""
        t, q = self.knots, self.degree
        j = np.clip(np.searchsorted(t, x, side="right") - 1, q, len(t) - q - 2)
        local = _local(t, j, x, q - order)
        if order:
            found = [np.zeros_like(x) for _ in range(q + 1)]
            for i, value in enumerate(local):
                rate = q * value / (t[j + i + 1] - t[j + i + 1 - q])
                found[i] = found[i] - rate
                found[i + 1] = found[i + 1] + rate
            local = found
        columns, rows = np.zeros((self.whole, len(x))), np.arange(len(x))
        for i, value in enumerate(local):
            columns[j - q + i, rows] = value
        if self.cyclic:
            columns[:q] += columns[self.whole - q :]
        return columns[: self.size]

    @classmethod
    def learn(cls, values: np.ndarray, counts: np.ndarray, k: int, options: Mapping[str, Any]) -> PSpline:
        x, cyclic = one_variable(values, cls.kind), options["bs"] == "cp"
        spline, order = _orders(options.get("m"), k)
        ends = knots_given(options, x, (2,))
        low, high = (x[0], x[-1]) if ends is None else ends
        if low > x[0] or high < x[-1]:
            raise ValueError(f"knots= must enclose the values {x[0]:g} to {x[-1]:g}, got {options['knots']!r}.")
        if cyclic:
            inner, degree = np.linspace(low, high, k + 1), spline + 1
            step = inner[1] - inner[0]
            before = inner[0] - step * np.arange(degree, 0, -1)
            after = inner[-1] + step * np.arange(1, degree + 1)
            return cls(np.concatenate([before, inner, after]), degree, order, True)
        pieces = k - spline - 1
        low, high = low - BEYOND * (high - low), high + BEYOND * (high - low)
        step, out = (high - low) / pieces, spline + 1
        knots = np.linspace(low - step * out, high + step * out, pieces + 1 + 2 * out)
        return cls(knots, spline + 1, order)

    def to_dict(self) -> dict[str, Any]:
        return {"knots": self.knots.tolist(), "degree": self.degree, "order": self.order, "cyclic": self.cyclic}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PSpline:
        knots = np.asarray(data["knots"], np.float64)
        return cls(knots, int(data["degree"]), int(data["order"]), bool(data["cyclic"]))


def _local(t: np.ndarray, j: np.ndarray, x: np.ndarray, degree: int) -> list[np.ndarray]:
    """The `degree + 1` B-splines that are not zero in the interval `j` (n,) of each value, (n,) each (Cox, de Boor)."""
    found = [np.ones_like(x)]
    for d in range(1, degree + 1):
        new = [np.zeros_like(x) for _ in range(d + 1)]
        for i in range(d):
            right, left = t[j + i + 1], t[j + i + 1 - d]
            share = found[i] / (right - left)
            new[i] = new[i] + (right - x) * share
            new[i + 1] = new[i + 1] + (x - left) * share
        found = new
    return found


def _orders(m: Any, k: int) -> tuple[int, int]:
    """The order of the splines, `degree - 1`, and of the differences. Raises `ValueError` for others than 0 to k."""
    spline, order = (2, 2) if m is None else (m, m) if isinstance(m, int) else tuple(m) if len(m) == 2 else (-1, -1)
    if not (isinstance(spline, int) and isinstance(order, int) and 0 <= spline <= 20 and 0 <= order):
        raise ValueError(f"m= of a P-spline is a whole number or two, (degree - 1, differences); got {m!r}.")
    if k < max(spline + 3, order + 1):
        raise ValueError(f"k={k} is too few for m={m or 2}: give k={max(spline + 3, order + 1)} or more.")
    return spline, order
