"""Full batches from pieces of rows of any size, mixed in a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from torchglm.inputs import GLMBatch
from torchglm.training.batches import join, take

Piece = TypeVar("Piece")


class Ways(NamedTuple, Generic[Piece]):
    """What is asked of pieces of rows."""

    length: Callable[[Piece], int]
    joined: Callable[[list[Piece]], Piece]
    take: Callable[[Piece, Tensor | slice], Piece]


BATCHES = Ways[GLMBatch](lambda batch: batch.x.shape[0], join, take)
PLACES = Ways[Tensor](len, torch.cat, lambda places, rows: places[rows])


def poured(
    pieces: Iterator[Piece], size: int, buffer: int, generator: torch.Generator | None, ways: Ways[Piece]
) -> Iterator[Piece]:
    """Full batches from pieces of any size, the last as it comes; a generator mixes a pool of `buffer`."""
    pool: list[Piece] = []
    held = 0
    for piece in pieces:
        pool.append(piece)
        held += ways.length(piece)
        if held < (size if generator is None else max(size, buffer)):
            continue
        joined = ways.joined(pool) if len(pool) > 1 else pool[0]
        kept = 0 if generator is None else min(held - size, buffer // 2)
        full = (held - kept) // size * size
        order = None if generator is None else torch.randperm(held, generator=generator)
        for start in range(0, full, size):
            yield ways.take(joined, slice(start, start + size) if order is None else order[start : start + size])
        rest = slice(full, held) if order is None else order[full:].sort().values  # in place: mixed when they go
        pool, held = [ways.take(joined, rest)], held - full
    if held:
        joined = ways.joined(pool) if len(pool) > 1 else pool[0]
        if generator is not None:
            joined = ways.take(joined, torch.randperm(held, generator=generator))
        yield from (ways.take(joined, slice(start, start + size)) for start in range(0, held, size))
