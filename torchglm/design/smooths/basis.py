"""Basis: functions of one or several variables as columns, with the penalty of what is rough in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Self


class Basis(ABC):
    """Columns of a smooth term before any constraint, and its penalty `b' penalty b`, (k, k), with `null` zeros.

    Values of `d` variables are `(d, n)`, columns `(k, n)`: every row is found from its own values alone, so that
    pieces of a table give what the whole gives.
    """

    kind: str
    penalty: np.ndarray
    null: int

    @property
    def size(self) -> int:
        """The number of columns."""
        return len(self.penalty)

    @property
    def penalties(self) -> list[np.ndarray]:
        """Its penalties, (k, k) each, with a strength of their own."""
        return [self.penalty]

    @abstractmethod
    def columns(self, values: np.ndarray) -> np.ndarray:
        """(k, n) the columns at values (d, n)."""

    @abstractmethod
    def slopes(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        """(k, n) their derivatives by one of the variables."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""


class LearnedBasis(Basis):
    """A basis that is learned from values: that of a term `s()`, or a margin of a tensor product."""

    plain_in_tensors = False  # whether its columns are heights already, and so stay as they are in a tensor product
    least = 3  # columns

    @classmethod
    @abstractmethod
    def learn(cls, values: np.ndarray, counts: np.ndarray, k: int, options: Mapping[str, Any]) -> LearnedBasis:
        """The basis of `k` columns on distinct values (d, m), sorted, each with the number of its rows (m,)."""


def one_variable(values: np.ndarray, kind: str) -> np.ndarray:
    """The values (m,) of a basis of one variable. Raises `ValueError` for several."""
    if len(values) != 1:
        raise ValueError(f"bs={kind!r} takes one variable, got {len(values)}. Use te(), or bs='tp'.")
    return values[0]


def knots_given(options: Mapping[str, Any], x: np.ndarray, counts: tuple[int, ...]) -> np.ndarray | None:
    """The knots that a term names, increasing; None where it names none. Raises `ValueError` for others."""
    if options.get("knots") is None:
        return None
    try:
        knots = np.asarray(options["knots"], np.float64)
    except (TypeError, ValueError):
        knots = np.zeros(0)
    if knots.ndim != 1 or len(knots) not in counts or not np.isfinite(knots).all() or (np.diff(knots) <= 0).any():
        said = " or ".join(map(str, sorted(set(counts))))
        raise ValueError(f"knots= must be {said} increasing numbers, got {options['knots']!r}.")
    return knots
