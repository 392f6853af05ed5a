"""Blocks: the columns of one factor, and the product of several written into a design."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, product
from math import prod

import numpy as np
import torch

from torchglm.rows.index import Index
from torchglm.rows.indexed import Indexed

MANY = 24  # columns of zeros and ones from which on look-ups are faster than products
TILE = 1 << 17  # numbers that are laid out at a time
FEWEST = 64  # rows of a tile


@dataclass(frozen=True)
class Indicator:
    """Columns of zeros and ones, at most one 1 per row: `codes` `(n,)` says in which column, -1 in none."""

    codes: np.ndarray
    width: int


@dataclass(frozen=True)
class Written:
    """Columns of numbers, `(n,)` each."""

    columns: list[np.ndarray]

    @property
    def width(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class Lookup:
    """Columns of numbers whose rows are a few different ones: `codes` `(n,)` names that of each in `table` (m, q)."""

    codes: np.ndarray
    table: np.ndarray

    @property
    def width(self) -> int:
        return self.table.shape[1]

    def written(self) -> Written:
        """The columns one by one."""
        return Written(list(np.take(np.ascontiguousarray(self.table.T), self.codes, axis=1)))


Block = Indicator | Written | Lookup


def index_columns(blocks: list[Block], start: int, scale: float = 1.0) -> list[Index] | None:
    """The row-wise product of the blocks, from column `start` of a design on, as index columns.

    There is one `Index` for each product of the columns of numbers. None where the product has no indicator or no
    column, or columns of numbers between indicators, whose places in the design then are not evenly spaced. A table
    goes before at most one indicator and single columns of numbers.
    """
    if isinstance(blocks[0] if blocks else None, Lookup):
        return _table_columns(blocks, start, scale)
    inner = [i for i, block in enumerate(blocks) if isinstance(block, Indicator)]
    if not inner or not width(blocks) or any(blocks[i].width > 1 for i in range(inner[0], inner[-1]) if i not in inner):
        return None
    strides = [width(blocks[:i]) for i in range(len(blocks))]
    step, count = strides[inner[0]], width([blocks[i] for i in inner])
    codes = _joint(
        [
            (block, stride // step)
            for block, stride in zip(blocks, strides, strict=True)
            if isinstance(block, Indicator)
        ],
        count,
    )
    found = []
    for offset, numbers in _numbers(blocks, strides, scale):
        first, value = start + offset, numbers
        if numbers is None and scale != 1.0:
            value = np.full(codes.shape[0], scale)
        found.append(
            Index(
                codes,
                slice(first, first + step * (count - 1) + 1, step),
                count,
                None if value is None else torch.from_numpy(np.require(value, requirements="W")),
            )
        )
    return found


def _table_columns(blocks: list[Block], start: int, scale: float) -> list[Index] | None:
    """The product of a table with an indicator, numbers or nothing; None for others."""
    first, indicators = blocks[0], [block for block in blocks if isinstance(block, Indicator)]
    numbers = [block for block in blocks if isinstance(block, Written) and block.width == 1]
    if not isinstance(first, Lookup) or len(indicators) > 1 or 1 + len(indicators) + len(numbers) < len(blocks):
        return None
    m, codes, count = len(first.table), first.codes, len(first.table)
    for one in indicators:
        codes, count = np.where(one.codes < 0, m * one.width, m * one.codes + codes), m * one.width
    value = reduce(np.multiply, [block.columns[0] for block in numbers]) if numbers else None
    places = slice(start, start + width(blocks))
    index = Index(
        torch.from_numpy(codes.astype(np.int32)),
        places,
        count,
        None if value is None else torch.from_numpy(np.require(value, requirements="W")),
        torch.from_numpy(scale * first.table),
    )
    return [index]


def _joint(indicators: list[tuple[Indicator, int]], count: int) -> torch.Tensor:
    """The codes `(n,)` of several indicators at once, with their strides; `count` where one has none."""
    total = sum((np.where(block.codes < 0, 0, block.codes) * stride for block, stride in indicators), np.int64(0))
    none = np.logical_or.reduce([block.codes < 0 for block, _ in indicators])
    return torch.from_numpy(np.where(none, count, total).astype(np.int32))


def _numbers(blocks: list[Block], strides: list[int], scale: float) -> Iterator[tuple[int, np.ndarray | None]]:
    """The products of the columns of numbers, each with its offset among the columns; None where there are none."""
    dense = [(b, stride) for b, stride in zip(blocks, strides, strict=True) if isinstance(b, Written)]
    single = [block.columns[0] for block, _ in dense if block.width == 1]
    several = [[(j * step, c) for j, c in enumerate(b.columns)] for b, step in dense if b.width != 1]
    last = [reduce(np.multiply, single)] if single else []
    for chosen in product(*several):
        factors = [*(column for _, column in chosen), *last]
        found = reduce(np.multiply, factors) if factors else None
        yield sum(step for step, _ in chosen), found if found is None or scale == 1.0 else scale * found


def written(n: int, products: list[tuple[list[Block], float]], dtype: np.dtype) -> np.ndarray:
    """The row-wise products of blocks, each times a number, side by side: `(n, p)`.

    The first block's columns vary fastest, as in R. Products are taken in formulaic's order: factors of several
    columns first, then all single columns together. Rows come in tiles: columns are laid one after the other in a
    buffer that stays in a core's cache, and go to their places from there, each place once.
    """
    whole: list[tuple[int, np.ndarray | float]] = []
    coded: list[tuple[int, np.ndarray, np.ndarray | float]] = []  # with each row's column, from the first on, or -1
    start = 0
    for given, scale in products:
        blocks: list[Block] = [block.written() if isinstance(block, Lookup) else block for block in given]
        strides = [width(blocks[:i]) for i in range(len(blocks))]
        place = _places(blocks, strides)
        for offset, numbers in _numbers(blocks, strides, scale):
            value = scale if numbers is None else numbers
            if place is None:
                whole.append((start + offset, value))
            else:
                coded.append((start + offset, place, value))
        start += width(blocks)
    x = np.empty((n, start), dtype)
    rows = max(FEWEST, TILE // max(1, start))
    buffer = np.empty((start, min(n, rows)), dtype)
    for first in range(0, n, rows):
        tile, inside = x[first : first + rows], slice(first, first + rows)
        part = buffer[:, : len(tile)]
        if coded:
            part[...] = 0.0
        for column, value in whole:
            part[column] = value if isinstance(value, float) else value[inside]
        for column, place, value in coded:
            [own] = np.nonzero(place[inside] >= 0)
            part[column + place[inside][own], own] = value if isinstance(value, float) else value[inside][own]
        tile[...] = part.T
    return x


def width(blocks: list[Block]) -> int:
    """The number of columns in the product of the blocks."""
    return prod(block.width for block in blocks)


def _places(blocks: list[Block], strides: list[int]) -> np.ndarray | None:
    """The column (before dense offsets) in which all indicators have a 1, -1 for none; None without indicators."""
    inside = [
        (block.codes, stride) for block, stride in zip(blocks, strides, strict=True) if isinstance(block, Indicator)
    ]
    if not inside:
        return None
    total = reduce(np.add, (codes * stride for codes, stride in inside))
    return np.where(np.logical_and.reduce([codes >= 0 for codes, _ in inside]), total, -1)


def columns_of(
    pieces: list[tuple[list[Block], float]], n: int, dtype: torch.dtype
) -> tuple[torch.Tensor, Indexed | None]:
    """The columns of products of blocks, each times a number, one after the other: numbers, and index columns."""
    starts = [0, *accumulate(width(blocks) for blocks, _ in pieces)]
    found = [index_columns(blocks, start, scale) for (blocks, scale), start in zip(pieces, starts, strict=False)]
    made = [index for inside in found if inside for index in inside]
    if sum(index.count for index in made if index.table is None) < MANY and all(one.table is None for one in made):
        found = [None] * len(pieces)
    held = [k for k, inside in enumerate(found) if inside is None]
    places = [j for k in held for j in range(starts[k], starts[k + 1])]
    kind = np.dtype("float32" if dtype == torch.float32 else "float64")
    numbers = torch.from_numpy(written(n, [pieces[k] for k in held], kind)).to(dtype)
    indices = tuple(index for inside in found if inside for index in inside)
    return numbers, Indexed(torch.tensor(places, dtype=torch.int64), indices, starts[-1]) if indices else None
