"""Where rows stand in the data that a fit was given: their files and numbers, the left out ones counted."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Place(NamedTuple):
    """A row by its number in its file, or in the table, counted from 0; `file` is None where there was none."""

    row: int
    file: str | None = None

    def __str__(self) -> str:
        return f"row {self.row}" if self.file is None else f"row {self.row} of {self.file}"


class Places:
    """Places of the rows that were kept, in their order, from pieces that are added one after the other.

    For the groups of a table `order` (n,) are its kept rows one group after another, `first` (B,) where each begins.
    """

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.pieces: list[tuple[str | None, int, int, bytes | None]] = []
        self.count = 0
        self.order: Tensor | None = None
        self.first: Tensor | None = None

    def add(self, file: str | None, first: int, rows: int, kept: Tensor | None) -> None:
        """A piece of `rows` rows from number `first` of a file; `kept` (rows,) is False for those left out."""
        held = rows if kept is None else int(kept.sum())
        if held:
            self.starts.append(self.count)
            bits = None if kept is None else np.packbits(kept.cpu().numpy()).tobytes()
            self.pieces.append((file, first, rows, bits))
            self.count += held

    def grouped(self, order: Tensor, sizes: Tensor) -> Places:
        """The same places by groups of so many rows (B,), of which `order` (n,) holds one after another."""
        short = torch.int32 if len(order) <= torch.iinfo(torch.int32).max else torch.int64
        self.order, self.first = order.to("cpu", short), (sizes.cumsum(0) - sizes).cpu()
        return self

    def member(self, models: Tensor) -> Places:
        """The places of some of the groups; all share those of one table."""
        if self.first is None:
            return self
        other = Places()
        other.__dict__.update(self.__dict__)
        other.first = self.first[models.reshape(-1).to(self.first.device)]
        return other

    def of(self, row: int, model: int = 0) -> Place:
        """The place of the kept row number `row`, of a group that of its own row of that number."""
        if self.order is not None and self.first is not None:
            row = int(self.order[int(self.first[model]) + row])
        i = bisect_right(self.starts, row) - 1
        file, first, rows, bits = self.pieces[i]
        within = row - self.starts[i]
        if bits is not None:
            kept = np.unpackbits(np.frombuffer(bits, np.uint8), count=rows)
            within = int(np.flatnonzero(kept)[within])
        return Place(first + within, file)
