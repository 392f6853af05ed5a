"""Thin plate regression splines: the smoothest functions of distances to the data, in the few directions that matter.

Source: Wood (2003), J. R. Stat. Soc. B 65(1), 95-114.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from torchglm.design.smooths.basis import LearnedBasis
from torchglm.design.smooths.natural import SHRINK, CubicPieces, shrunk

MOST = 2000  # distinct values that a basis is made of
TILE = 1 << 20  # distances that are held at a time


class ThinPlate(LearnedBasis):
    """`bs="tp"`: `sum_i radial_i eta(|x - x_i|) + sum_j polynomial_j phi_j(x)` for each column, on `knots` (d, m).

    `radial` (m, k) and `polynomial` (M, k) make the columns, of which the last `M`, the polynomials of a degree below
    `order`, are not penalised (but a little, with `shrink`, `bs="ts"`).
    """

    kind = "tp"

    def __init__(
        self,
        knots: np.ndarray,
        centre: np.ndarray,
        order: int,
        radial: np.ndarray,
        polynomial: np.ndarray,
        penalty: np.ndarray,
        shrink: bool = False,
    ) -> None:
        self.knots, self.centre, self.order = knots, centre, order
        self.radial, self.polynomial, self.shrink = radial, polynomial, shrink
        self.penalty, self.null = penalty, 0 if shrink else len(polynomial)
        self.curve = self._natural() if len(knots) == 1 and order == 2 else None

    def columns(self, values: np.ndarray) -> np.ndarray:
        if self.curve is not None:
            return self.curve.columns(values[0])
        x = values - self.centre[:, None]
        found = self.polynomial.T @ _monomials(x, self.order)
        step = max(1, TILE // self.knots.shape[1])
        for first in range(0, x.shape[1], step):
            part = slice(first, first + step)
            found[:, part] += self.radial.T @ _radial(_distances(self.knots, x[:, part]), len(x), self.order)
        return found

    def slopes(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        if self.curve is not None:
            return self.curve.slopes(values[0])
        size = np.maximum(np.ptp(self.knots[axis]), 1e-300) * 1e-6
        step = np.zeros((len(values), 1))
        step[axis] = size
        return (self.columns(values + step) - self.columns(values - step)) / (2 * size)

    def _natural(self) -> CubicPieces:
        """In one variable with cubic distances the columns are natural splines: pieces cost less than distances."""
        [x] = self.knots
        gaps = np.abs(x[:, None] - x)
        heights = _radial(gaps, 1, 2).T @ self.radial + _monomials(self.knots, 2).T @ self.polynomial
        curvatures = (gaps / 2).T @ self.radial
        curvatures[[0, -1]] = 0.0  # which the constraint on `radial` makes them
        return CubicPieces(x + self.centre[0], heights, curvatures)

    @classmethod
    def learn(cls, values: np.ndarray, counts: np.ndarray, k: int, options: Mapping[str, Any]) -> ThinPlate:
        d, total = len(values), counts.sum()
        order = _order(options.get("m"), d)
        free = math.comb(order + d - 1, d)
        if k < free + 1:
            raise ValueError(f"k={k} leaves nothing to smooth in {d} variables of order {order}: give k > {free}.")
        centre = (values * counts).sum(1) / total
        x = values - centre[:, None]
        knots = x if x.shape[1] <= MOST else x[:, _spread(x.shape[1], d)]
        distances = _radial(_distances(knots, knots), d, order)
        eigen, vectors = np.linalg.eigh(distances)
        chosen = np.sort(np.argsort(-np.abs(eigen), kind="stable")[:k])[::-1]  # the largest, in falling order
        eigen, vectors = eigen[chosen], vectors[:, chosen]
        powers = _monomials(knots, order)  # (M, m)
        null = _null_space(powers @ vectors)
        radial, penalty = vectors @ null, null.T @ (eigen[:, None] * null)
        zero = np.zeros((free, free))
        basis = cls(
            knots,
            centre,
            order,
            np.hstack([radial, np.zeros((knots.shape[1], free))]),
            np.hstack([np.zeros((free, k - free)), np.eye(free)]),
            np.block([[penalty, np.zeros((k - free, free))], [np.zeros((free, k - free)), zero]]),
        )
        size = np.sqrt((basis.columns(values) ** 2 * counts).sum(1) / total)  # columns of mean square 1
        penalty = basis.penalty / size / size[:, None]
        shrink = options["bs"] == "ts"
        if shrink:
            penalty = shrunk(penalty, np.eye(k)[:, k - free :], [SHRINK] * free)
        return cls(knots, centre, order, basis.radial / size, basis.polynomial / size, penalty, shrink)

    def to_dict(self) -> dict[str, Any]:
        names = ("knots", "centre", "radial", "polynomial", "penalty")
        return {name: getattr(self, name).tolist() for name in names} | {"order": self.order, "shrink": self.shrink}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ThinPlate:
        names = ("knots", "centre", "radial", "polynomial", "penalty")
        own = {name: np.asarray(data[name], np.float64) for name in names}
        return cls(**own, order=int(data["order"]), shrink=bool(data["shrink"]))


def _null_space(rows: np.ndarray) -> np.ndarray:
    """(k, k - M) an orthonormal basis of what is orthogonal to rows (M, k), by reflections from the last column on.

    Any basis spans the same curves; this is mgcv's, so that columns, scaled each by itself, and strengths are its own.
    """
    left, basis = rows.copy(), np.eye(rows.shape[1])
    for i in range(len(rows)):
        end = rows.shape[1] - i
        mirror = np.zeros(rows.shape[1])
        mirror[:end] = left[i, :end]
        mirror[end - 1] += np.copysign(np.linalg.norm(mirror), mirror[end - 1])
        for one in (left, basis):
            one -= np.outer(one @ mirror, mirror) * (2 / (mirror @ mirror))
    return basis[:, : -len(rows)]


def _order(m: Any, d: int) -> int:
    """The order of the derivatives in the penalty: the least with `2 m > d + 1`, or the one given with `2 m > d`."""
    if m is None:
        return (d + 3) // 2 if d % 2 == 0 else (d + 1) // 2 + 1
    if not isinstance(m, int) or 2 * m <= d or m > 10:
        raise ValueError(f"m= of a thin plate spline of {d} variables is a whole number > {d / 2:g}, got {m!r}.")
    return m


def _spread(count: int, d: int) -> np.ndarray:
    """The places of `MOST` of `count` distinct values: evenly in their order, or of several variables drawn once."""
    if d == 1:
        return np.unique(np.linspace(0, count - 1, MOST).round().astype(np.int64))
    return np.sort(np.random.default_rng(0).permutation(count)[:MOST])


def _distances(knots: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(m, n) the distances of points (d, m) and (d, n)."""
    square = np.zeros((knots.shape[1], x.shape[1]))
    for own, other in zip(knots, x, strict=True):
        square += (own[:, None] - other) ** 2
    return np.sqrt(square)


def _radial(r: np.ndarray, d: int, order: int) -> np.ndarray:
    """The function `eta(r)` whose sums a thin plate spline is made of."""
    power = 2 * order - d
    if d % 2 == 0:
        size = (-1) ** (order + 1 + d // 2) / (
            2 ** (2 * order - 1) * math.pi ** (d / 2) * math.factorial(order - 1) * math.factorial(order - d // 2)
        )
        return size * r**power * np.log(np.where(r > 0, r, 1.0))
    size = math.gamma(d / 2 - order) / (2 ** (2 * order) * math.pi ** (d / 2) * math.factorial(order - 1))
    return size * r**power


def _monomials(x: np.ndarray, order: int) -> np.ndarray:
    """(M, n) the products of powers of the variables whose degree is below `order`, the constant first."""
    every = (p for p in product(range(order), repeat=len(x)) if sum(p) < order)
    powers = sorted(every, key=lambda p: (sum(p), p[::-1]))
    return np.stack([np.prod([own**p for own, p in zip(x, each, strict=True)], axis=0) for each in powers])
