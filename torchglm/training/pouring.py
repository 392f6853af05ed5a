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
    """What is asked of pieces of rows; `mixed` puts so many of them in random order."""

    length: Callable[[Piece], int]
    joined: Callable[[list[Piece]], Piece]
    take: Callable[[Piece, Tensor | slice], Piece]
    mixed: Callable[[int, torch.Generator], Tensor]


def rows_mixed(count: int, generator: torch.Generator) -> Tensor:
    """(count,) every row by itself."""
    return torch.randperm(count, generator=generator)


def runs_mixed(run: int) -> Callable[[int, torch.Generator], Tensor]:
    """Runs of so many rows, each in its order: memory is read along them, three times as fast as row by row."""

    def mixed(count: int, generator: torch.Generator) -> Tensor:
        runs = torch.randperm(-(-count // run), generator=generator)
        order = (runs.unsqueeze(-1) * run + torch.arange(run)).reshape(-1)
        return order if len(order) == count else order[order < count]

    return mixed


BATCHES = Ways[GLMBatch](lambda batch: batch.x.shape[0], join, take, rows_mixed)


def places_in_runs(run: int) -> Ways[Tensor]:
    """Places of rows, mixed in runs."""
    return Ways[Tensor](len, torch.cat, _at, runs_mixed(run))


def _at(places: Tensor, rows: Tensor | slice) -> Tensor:
    return places[rows] if isinstance(rows, slice) else places.index_select(0, rows)


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
        order = None if generator is None else ways.mixed(held, generator)
        for start in range(0, full, size):
            yield ways.take(joined, slice(start, start + size) if order is None else order[start : start + size])
        rest = slice(full, held) if order is None else _without(held, order[:full])  # in place: mixed when they go
        pool, held = [ways.take(joined, rest)], held - full
    if held:
        joined = ways.joined(pool) if len(pool) > 1 else pool[0]
        if generator is not None:
            joined = ways.take(joined, ways.mixed(held, generator))
        yield from (ways.take(joined, slice(start, start + size)) for start in range(0, held, size))


def _without(count: int, gone: Tensor) -> Tensor:
    """The other numbers below `count`, in order; a fifth of the time of sorting them."""
    left = torch.ones(count, dtype=torch.bool)
    left[gone] = False
    return left.nonzero()[:, 0]
