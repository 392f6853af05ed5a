"""Blocks: the columns of one factor, and the product of several written into a design."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np


@dataclass(frozen=True)
class Indicator:
    """Columns of zeros and ones, at most one 1 per row: `codes` `(n,)` says in which column, -1 in none."""

    codes: np.ndarray
    width: int


@dataclass(frozen=True)
class Dense:
    """Columns of numbers, `(n,)` each."""

    columns: list[np.ndarray]

    @property
    def width(self) -> int:
        return len(self.columns)


Block = Indicator | Dense


def write(x: np.ndarray, start: int, blocks: list[Block], scale: float = 1.0) -> None:
    """Write the row-wise product of the blocks into `x` `(n, p)` (zeros before) from column `start` on.

    The first block's columns vary fastest, as in R. Products are taken in formulaic's order: factors of
    several columns first, then all single columns together.
    """
    strides = [width(blocks[:i]) for i in range(len(blocks))]
    rows, place = _places(blocks, strides, x.shape[0])
    dense = [(b, stride) for b, stride in zip(blocks, strides, strict=True) if isinstance(b, Dense)]
    single = [block.columns[0] for block, _ in dense if block.width == 1]
    several = [[(j * step, c) for j, c in enumerate(b.columns)] for b, step in dense if b.width != 1]
    last = [reduce(np.multiply, single)] if single else []
    for chosen in product(*several):
        offset = start + sum(step for step, _ in chosen)
        factors = [*(column for _, column in chosen), *last]
        value = scale * reduce(np.multiply, factors) if factors else np.full(x.shape[0], scale)
        if place is None:
            x[:, offset] = value
        else:
            x[rows, offset + place[rows]] = value[rows]


def width(blocks: list[Block]) -> int:
    """The number of columns in the product of the blocks."""
    return int(np.prod([block.width for block in blocks], dtype=np.int64))


def _places(blocks: list[Block], strides: list[int], n: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows where every indicator has a 1, and the column (before dense offsets) it falls in, if any."""
    place: np.ndarray | None = None
    live: np.ndarray | None = None
    for block, stride in zip(blocks, strides, strict=True):
        if isinstance(block, Indicator):
            inside = block.codes >= 0
            live = inside if live is None else live & inside
            place = block.codes * stride if place is None else place + block.codes * stride
    return (np.arange(n) if live is None else np.flatnonzero(live)), place
