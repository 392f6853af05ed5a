"""A part of the rows, on which a large fit begins: its maximum is a good start, and costs little."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import torch

from torchglm.rows.ranks import Ranks, Shard, own_rows, ranks_of, stands_for_none, weightless
from torchglm.rows.rows import Rows

STRIDE = 20  # one row out of so many, where the columns are few
LEAST = 5  # one out of so many at most, where they are many
LARGE = 1 << 20  # numbers in a design from which on a part pays
FEWEST = 100  # rows of the part for each column: the first step of the whole is then a short one (search.NEAR)
LENDING = 400  # rows of the part for each column from which on its Gram serves for all rows: a step leaves a tenth
LENDING_OF_SEVERAL = 80  # the same for each coefficient of several predictors, whose steps are bent by those before
MOST = 1 << 26  # bytes that the part of a stream holds


def part_of(rows: Rows, stride: int, first: int = 0, total: int | None = None) -> Rows:
    """A row out of every `stride`, at random places that are always the same.

    These are the rows from number `first` on of `total`, of which the places are those of the whole.
    """
    n = rows.y.shape[-1]
    blocks = (n if total is None else total) // stride
    places = torch.arange(0, blocks * stride, stride)
    places = places + torch.randint(stride, places.shape, generator=torch.Generator().manual_seed(0))
    return rows.at((places[(places >= first) & (places < first + n)] - first).to(rows.y.device))


def sample(source: Iterable[Rows], columns: int, large: int | None = None) -> Iterable[Rows] | None:
    """A part of one model's rows large enough to start from, or None where a design in memory has fewer numbers.

    Rows in memory (a list) are thinned here, on several processes to the same part as on one; a stream brings its own
    as `part`, gathered while it was first read.
    """
    own, ranks = own_rows(source), ranks_of(source)
    parts = (
        _thinned(own, ranks, columns, LARGE if large is None else large)
        if isinstance(own, list)
        else getattr(own, "part", None)
    )
    if parts is None or sum(ranks.gather(sum(rows.y.shape[-1] for rows in parts))) < FEWEST * columns:
        return None
    parts = [rows for rows in parts if rows.y.shape[-1]] or [weightless(next(iter(own)))]
    return parts if ranks.size == 1 else Shard(parts, ranks)


def _thinned(own: list[Rows], ranks: Ranks, columns: int, large: int) -> list[Rows] | None:
    """The part of rows in memory; None where they are few."""
    sizes = [0 if stands_for_none(rows) else rows.y.shape[-1] for rows in own]
    counts = ranks.gather(sum(sizes))
    total, first = sum(counts), sum(counts[: ranks.rank])
    stride = min(STRIDE, total // (FEWEST * max(1, columns)))
    if total * columns < large or stride < LEAST:
        return None
    starts = [first + before for before in accumulate(sizes, initial=0)]
    return [part_of(rows, stride, start, total) for rows, size, start in zip(own, sizes, starts, strict=False) if size]


class Thinning:
    """The part of a stream: pieces go in as they pass, and the stride grows so that it stays small."""

    def __init__(self) -> None:
        self.parts: list[Rows] = []
        self.stride, self.size = STRIDE, 0

    def add(self, rows: Rows) -> None:
        """Take some of these rows."""
        part = part_of(rows, self.stride)
        self.parts.append(part)
        self.size += part.nbytes
        if self.size > MOST:
            self.parts = [part_of(held, 2) for held in self.parts]
            self.stride *= 2
            self.size = sum(held.nbytes for held in self.parts)
