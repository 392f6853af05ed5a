"""A part of the rows, on which a large fit begins: its maximum is a good start, and costs little."""

from collections.abc import Iterable

import torch

from torchglm.fitting.rows import Rows

STRIDE = 20  # one row out of so many
LARGE = 1 << 20  # numbers in a design from which on a part pays
FEWEST = 40  # rows of the part for each column
MOST = 1 << 25  # bytes that the part of a stream holds


def part_of(rows: Rows, stride: int) -> Rows:
    """A row out of every `stride`, at random places that are always the same."""
    n = rows.y.shape[-1]
    places = torch.arange(0, max(0, n - stride + 1), stride, device=rows.y.device)
    index = places + torch.randint(stride, places.shape, generator=torch.Generator().manual_seed(0)).to(places)
    return rows.at(index)


def sample(source: Iterable[Rows], columns: int) -> "list[Rows] | None":
    """A part of one model's rows large enough to start from, or None.

    Rows in memory (a list) are thinned here; a stream brings its own as `part`, gathered while it was first read.
    """
    if not isinstance(source, list):
        parts = getattr(source, "part", None)
    else:
        n = sum(rows.y.shape[-1] for rows in source)
        parts = [part_of(rows, STRIDE) for rows in source] if n * columns >= LARGE else None
    enough = parts is not None and sum(rows.y.shape[-1] for rows in parts) >= FEWEST * columns
    return parts if enough else None


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
