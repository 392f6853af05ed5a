"""Few different values: what a smooth looks up instead of making its columns row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST = 1 << 14  # different rows of columns that are kept as a table
REPEATED = 16  # rows of the data for each of them, at least
FEWEST = 1 << 14  # rows of data from which on a table is less work than the columns


@dataclass(frozen=True)
class Axis:
    """The values (m,) of one variable, in order; with `edges` (m - 1,) they stand for all values between these."""

    values: np.ndarray
    edges: np.ndarray | None = None

    def codes(self, x: np.ndarray) -> np.ndarray | None:
        """(n,) the place of each number among the values; None where one is not among them."""
        if self.edges is not None:
            return np.searchsorted(self.edges, x, side="right")
        found = np.minimum(np.searchsorted(self.values, x), len(self.values) - 1)
        return found if (self.values[found] == x).all() else None


@dataclass(frozen=True)
class Distinct:
    """The different rows that the variables of a smooth have, all together.

    `axes` are the values of each variable, `joint` (m,) the combinations of them that occur, in order, by their number
    among all combinations; empty where these are too many for a table to pay.
    """

    axes: tuple[Axis, ...]
    joint: np.ndarray

    @classmethod
    def learn(cls, values: np.ndarray, counts: np.ndarray, bins: int | None) -> Distinct | None:
        """Those of different rows (d, m) with the number of rows (m,) of each; None where there is nothing to gain.

        A variable of more than `bins` values, where given, is rounded to so many.
        """
        total = counts.sum()
        if bins is None and values.shape[1] > min(MOST, total / REPEATED):
            return None
        axes = tuple(_axis(one, counts, bins) for one in values)
        numbers = cls(axes, np.empty(0, np.int64)).numbers(values)
        assert numbers is not None  # they are those of these axes
        joint = np.unique(numbers)
        if total < FEWEST or len(joint) > min(MOST, total / REPEATED):
            joint = joint[:0]
        found = cls(axes, joint)
        return found if len(joint) or found.rounds else None

    @property
    def rounds(self) -> bool:
        """Whether a variable is rounded."""
        return any(axis.edges is not None for axis in self.axes)

    @property
    def rows(self) -> np.ndarray:
        """(d, m) the different rows."""
        places = np.unravel_index(self.joint, [len(axis.values) for axis in self.axes])
        return np.stack([axis.values[at] for axis, at in zip(self.axes, places, strict=True)])

    def numbers(self, values: np.ndarray) -> np.ndarray | None:
        """(n,) the number of each row (d, n) among all combinations; None where a value is not among those known."""
        total = np.zeros(values.shape[1], np.int64)
        for axis, x in zip(self.axes, values, strict=True):
            codes = axis.codes(x)
            if codes is None:
                return None
            total = codes if len(self.axes) == 1 else total * len(axis.values) + codes
        return total

    def codes(self, values: np.ndarray) -> np.ndarray | None:
        """(n,) the place of each row (d, n) among the different ones; None where one is not among them."""
        found = self.numbers(values) if len(self.joint) else None
        if found is None or len(self.joint) == np.prod([len(axis.values) for axis in self.axes]):
            return found
        return Axis(self.joint).codes(found)

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """(d, n) the rows (d, n) as they are rounded."""
        found = []
        for axis, x in zip(self.axes, values, strict=True):
            codes = None if axis.edges is None else axis.codes(x)
            found.append(x if codes is None else axis.values[codes])
        return np.stack(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        axes = [
            {"values": axis.values.tolist(), "edges": None if axis.edges is None else axis.edges.tolist()}
            for axis in self.axes
        ]
        return {"axes": axes, "joint": self.joint.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Distinct:
        """The inverse of `to_dict`."""
        axes = [
            Axis(
                np.asarray(one["values"], np.float64),
                None if one["edges"] is None else np.asarray(one["edges"], np.float64),
            )
            for one in data["axes"]
        ]
        return cls(tuple(axes), np.asarray(data["joint"], np.int64))


def _axis(x: np.ndarray, counts: np.ndarray, bins: int | None) -> Axis:
    """The values of a variable, of numbers `x` (m,) in `counts` (m,) rows each.

    Bins are even in the mean of a number's place in the range and its rank among the different numbers, so that each
    has at most two parts in `bins` of either: an outlier spoils none, nor does a crowd. It stands for its mean.
    """
    values, where = np.unique(x, return_inverse=True)
    if bins is None or len(values) <= bins:
        return Axis(values)
    rows = np.bincount(where, counts)
    place = (np.linspace(0.0, 1.0, len(values)) + (values - values[0]) / (values[-1] - values[0])) / 2
    codes = np.unique(np.minimum((place * bins).astype(np.int64), bins - 1), return_inverse=True)[1]
    starts = np.flatnonzero(np.diff(codes)) + 1
    edges = values[starts]
    return Axis(np.bincount(codes, rows * values) / np.bincount(codes, rows), edges)
