"""A smooth term as a design keeps it: its basis, its constraint, its scale, and what it is multiplied by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from torchglm.design.blocks import Block, Indicator, Lookup, Written
from torchglm.design.factors import Categorical, Numeric
from torchglm.design.frame import Frame
from torchglm.design.smooths.basis import Basis
from torchglm.design.smooths.call import SmoothCall
from torchglm.design.smooths.constraint import Constraint
from torchglm.design.smooths.distinct import Distinct
from torchglm.design.smooths.made import basis_from
from torchglm.design.smooths.shaped import ShapedSpline
from torchglm.design.smooths.tensor import TensorProduct

TILE = 1 << 13  # rows whose columns are made together
NULL = np.finfo(np.float64).eps ** 0.66  # share of the largest eigenvalue below which one of a penalty is zero


class PenaltyBlock(NamedTuple):
    """`strength b' matrix b / 2` on some columns: their places, `matrix` (m, m), and the name of the strength."""

    places: list[int]
    matrix: np.ndarray
    name: str

    def behind(self, columns: int, prefix: str) -> PenaltyBlock:
        """The same behind so many columns, its name after a prefix."""
        return PenaltyBlock([columns + j for j in self.places], self.matrix, prefix + self.name)


@dataclass(frozen=True)
class SmoothPart:
    """One curve (or surface) of a term: its label, its places among the term's columns, and the level of `by`."""

    label: str
    places: slice
    level: Any = None


class Smooth:
    """A factor of a formula with a basis: `s()`, `te()`, `ti()`.

    Columns are those of `basis` under `constraint` (None where there is none), times `by`: numbers, or each level of a
    category apart. Penalties are divided by `scales`, so that strengths do not hang on units; `ranges` are the least
    and the largest value of each variable in the data. Where the rows of the columns are but a `few` different ones,
    they are a table in which each row has its place.
    """

    kind = "smooth"
    spans = False

    def __init__(
        self,
        call: SmoothCall,
        basis: Basis,
        constraint: Constraint | None,
        scales: list[float],
        by: Numeric | Categorical | None,
        ranges: list[list[float]],
        first: int = 0,
        few: Distinct | None = None,
    ) -> None:
        self.expression, self.basis, self.constraint, self.scales = call, basis, constraint, scales
        self.ranges, self.few = ranges, few
        self.by, self.first = by, first  # the first level that has a curve of its own
        self.full = self.reduced = [
            f"{part.label}.{j + 1}" for part in self.parts for j in range(part.places.stop - part.places.start)
        ]

    @property
    def call(self) -> SmoothCall:
        """The term as it was written."""
        return self.expression

    @cached_property
    def width(self) -> int:
        """The number of columns of one curve."""
        return self.basis.size - (self.constraint is not None)

    @cached_property
    def parts(self) -> list[SmoothPart]:
        """The curves of the term."""
        label, q = self.call.label, self.width
        if not isinstance(self.by, Categorical):
            name = label if self.by is None else f"{label}:{self.by.expression.text}"
            return [SmoothPart(name, slice(0, q))]
        name = self.by.expression.column or self.by.expression.text
        return [
            SmoothPart(f"{label}:{name}{level}", slice(i * q, (i + 1) * q), level)
            for i, level in enumerate(self.by.levels[self.first :])
        ]

    @cached_property
    def matrices(self) -> list[np.ndarray]:
        """The penalties of one curve, (q, q) each."""
        own = [(one + one.T) / (2 * scale) for one, scale in zip(self.basis.penalties, self.scales, strict=True)]
        own = own if self.constraint is None else [self.constraint.penalty(one) for one in own]
        if self.call.select:
            values, vectors = np.linalg.eigh(sum(own[1:], own[0]))
            null = vectors[:, values < NULL * values[-1]]
            own += [null @ null.T] if null.shape[1] else []
        return own

    @cached_property
    def free(self) -> int:
        """How many directions of one curve none of its penalties touches."""
        values = np.linalg.eigvalsh(sum(one / np.linalg.norm(one) for one in self.matrices))
        return int((values < NULL * values[-1]).sum())

    @property
    def penalties(self) -> list[PenaltyBlock]:
        """The penalties of all curves, by their places among the term's columns."""
        several = len(self.matrices) > 1
        return [
            PenaltyBlock(
                list(range(part.places.start, part.places.stop)), matrix, f"{part.label}{j + 1 if several else ''}"
            )
            for part in self.parts
            for j, matrix in enumerate(self.matrices)
        ]

    @property
    def nonnegative(self) -> list[int]:
        """The places among the term's columns whose coefficients are held at 0 or above: those of a shape."""
        if not isinstance(self.basis, ShapedSpline):
            return []
        return [part.places.start + j for part in self.parts for j in self.basis.signed]

    def values(self, frame: Frame) -> np.ndarray:
        """(d, n) the variables over a frame's rows. Raises ValueError where one is not finite."""
        return np.stack([Numeric(one, [one.text]).columns(frame)[0] for one in self.call.variables])

    def columns(self, values: np.ndarray) -> np.ndarray:
        """(q, n) the columns of one curve, with `by` 1, at values (d, n), tile by tile: these stay in a cache."""
        n = values.shape[1]
        if n <= TILE:
            return self._constrained(self.basis.columns(values))
        found = np.empty((self.width, n))
        for first in range(0, n, TILE):
            part = slice(first, first + TILE)
            found[:, part] = self._constrained(self.basis.columns(values[:, part]))
        return found

    def slopes(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        """(q, n) their derivatives by one variable."""
        return self._constrained(self.basis.slopes(values, axis))

    def _constrained(self, columns: np.ndarray) -> np.ndarray:
        return columns if self.constraint is None else self.constraint.columns(columns)

    def blocks(self, frame: Frame, reduced: bool, unseen: str, counts: dict[str, int]) -> list[Block]:
        """The columns over the frame's rows; a level never seen has no curve where it is no error."""
        values = self.values(frame)
        places = None if self.few is None else self.few.codes(values)
        found: list[Block] = [
            Written(list(self.columns(values if self.few is None else self.few.rounded(values))))
            if places is None
            else Lookup(places, self.table)
        ]
        if isinstance(self.by, Categorical):
            codes = self.by.codes(frame, unseen, counts, none=True) - self.first
            found.append(Indicator(np.maximum(codes, -1), len(self.parts)))
        elif self.by is not None:
            found.append(Written([self.by.columns(frame)[0]]))
        return found

    @cached_property
    def table(self) -> np.ndarray:
        """(m, q) the different rows of the columns of one curve."""
        assert self.few is not None
        return np.ascontiguousarray(self.columns(self.few.rows).T)

    @property
    def rounds(self) -> bool:
        """Whether a fit takes values of its variables as they are rounded."""
        return self.few is not None and self.few.rounds

    @cached_property
    def exact(self) -> Smooth:
        """The term as it is beside the rows of a fit: no value is rounded."""
        if not self.rounds:
            return self
        return Smooth(self.call, self.basis, self.constraint, self.scales, self.by, self.ranges, self.first)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        by = self.by
        return {
            "kind": self.kind,
            "basis": {"kind": self.basis.kind} | self.basis.to_dict(),
            "constraint": None if self.constraint is None else self.constraint.to_list(),
            "scales": self.scales,
            "by": by.to_dict() if isinstance(by, Categorical) else None,
            "ranges": self.ranges,
            "first": self.first,
            "few": None if self.few is None else self.few.to_dict(),
        }

    @classmethod
    def from_dict(cls, call: SmoothCall, data: Mapping[str, Any]) -> Smooth:
        """The inverse of `to_dict`."""
        own = data["basis"]
        whole = {one.kind: one for one in (TensorProduct, ShapedSpline)}.get(own["kind"])
        basis = basis_from(own) if whole is None else whole.from_dict(own)
        constraint = None if data["constraint"] is None else Constraint(np.asarray(data["constraint"], np.float64))
        by: Numeric | Categorical | None = None
        if call.by is not None:
            by = Numeric(call.by, [call.by.text])
            by = Categorical.from_dict(call.by, dict(data["by"])) if data["by"] is not None else by
        ranges = [[float(low), float(high)] for low, high in data["ranges"]]
        few = None if data["few"] is None else Distinct.from_dict(data["few"])
        scales = [float(one) for one in data["scales"]]
        return cls(call, basis, constraint, scales, by, ranges, int(data["first"]), few)
