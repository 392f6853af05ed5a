"""A part of the rows, on which a large fit begins: its maximum is a good start, and costs little."""

from collections.abc import Iterable

import torch

from torchglm.fitting.ranks import Shard, own_rows, ranks_of, weightless
from torchglm.fitting.rows import Rows

STRIDE = 20  # one row out of so many, where the columns are few
LEAST = 5  # one out of so many at most, where they are many
LARGE = 1 << 20  # numbers in a design from which on a part pays
FEWEST = 100  # rows of the part for each column: the first step of the whole is then a short one (search.NEAR)
LENDING = 400  # rows of the part for each column from which on its Gram serves for all rows: a step leaves a tenth
MOST = 1 << 25  # bytes that the part of a stream holds


def part_of(rows: Rows, stride: int) -> Rows:
    """A row out of every `stride`, at random places that are always the same."""
    n = rows.y.shape[-1]
    places = torch.arange(0, max(0, n - stride + 1), stride, device=rows.y.device)
    index = places + torch.randint(stride, places.shape, generator=torch.Generator().manual_seed(0)).to(places)
    return rows.at(index)


def sample(source: Iterable[Rows], columns: int) -> "Iterable[Rows] | None":
    """A part of one model's rows large enough to start from, or None.

    Rows in memory (a list) are thinned here; a stream brings its own as `part`, gathered while it was first read.
    """
    own, ranks = own_rows(source), ranks_of(source)

    def count(pieces: Iterable[Rows]) -> int:
        return int(ranks.sum(torch.tensor([sum(rows.y.shape[-1] for rows in pieces)]))[0])

    if not isinstance(own, list):
        parts = getattr(own, "part", None)
    else:
        total = count(own)
        stride = min(STRIDE, total // (FEWEST * max(1, columns)))
        parts = [part_of(rows, stride) for rows in own] if total * columns >= LARGE and stride >= LEAST else None
    if parts is None or count(parts) < FEWEST * columns:
        return None
    parts = [rows for rows in parts if rows.y.shape[-1]] or [weightless(next(iter(own)))]
    return parts if ranks.size == 1 else Shard(parts, ranks)


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
