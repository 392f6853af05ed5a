"""Processes that share the rows of a fit: each reads its own, sums run over all, and so all take the same steps.

A source whose rows lie on several processes is a `Shard`. A pass over it goes through `own_rows(source)` within
`ranks_of(source).together()` and ends in one reduction; a source of one process passes through both unchanged.
The processes are those of `torch.distributed`, by its usual backends (gloo, NCCL).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from torchglm.rows.products import triangle
from torchglm.rows.ragged import Ragged
from torchglm.rows.rows import Rows


class RankError(RuntimeError):
    """Another process of the fit failed, died, or does not answer.

    `refused` is what that process said of its input, where it is that which ended it; else None.
    """

    def __init__(self, said: str, refused: str | None = None) -> None:
        super().__init__(said)
        self.refused = refused


class Ranks:
    """The processes that share rows, this one being `rank` of `size`: those of `torch.distributed`'s default group.

    The group itself is not held: a source outlives it, and while it is held gloo's threads are not joined at its end,
    so that one of them may still let go of a tensor while the interpreter stops, which aborts the process.
    Every method but `together` is collective: all processes call it, in the same order. Raises `RankError` where
    another process is gone, or silent for longer than the timeout of the group.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @staticmethod
    def here() -> Ranks:
        """All processes of `torch.distributed`, where it is initialised; else this one alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return Ranks()
        return Ranks(dist.get_rank(), dist.get_world_size())

    def sum(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The sums of tensors over all processes, bit for bit the same on each."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The largest of each element over all processes."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def stacked(self, factor: Tensor) -> Tensor:
        """The triangular factor `(B, p, p)` of the rows of all processes."""
        if self.size == 1:
            return factor
        own = factor.to(self._device(factor)).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with self._answered():
            dist.all_gather(parts, own)
        return triangle(torch.cat(parts, -2).to(factor.device))

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._answered():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within it each process works by itself; the failure of one is raised on all at the end.

        Nothing collective may stand inside. Raises `RankError`, with the rank and its reason, on the others.
        """
        if self.size == 1:
            yield
            return
        failed: Exception | None = None
        try:
            yield
        except Exception as error:  # whatever it is, the others must not wait for this process
            failed = error
        [count] = self.sum(torch.tensor([float(failed is not None)], dtype=torch.float64))
        if not bool(count):
            return
        refused = isinstance(failed, (ValueError, TypeError, OSError))
        reasons = self.gather(None if failed is None else (type(failed).__name__, str(failed), refused))
        if failed is not None:
            raise failed
        rank, (kind, said, refused) = next((i, reason) for i, reason in enumerate(reasons) if reason is not None)
        raise RankError(f"process {rank} of {self.size} failed. {kind}: {said}", said if refused else None)

    def _reduced(self, values: tuple[Tensor, ...], operation: Any) -> tuple[Tensor, ...]:
        if self.size == 1:
            return values
        flat = torch.cat([value.reshape(-1).to(torch.float64) for value in values]).to(self._device(values[0]))
        with self._answered():
            dist.all_reduce(flat, operation)
        parts = flat.to(values[0].device).split([value.numel() for value in values])
        return tuple(part.view_as(value).to(value.dtype) for part, value in zip(parts, values, strict=True))

    def _device(self, value: Tensor) -> torch.device:
        """Where the backend takes a tensor."""
        known = str(dist.get_backend_config())
        if value.device.type in known or ("cpu" not in known and "cuda" not in known):
            return value.device
        return torch.device("cuda", torch.cuda.current_device()) if "cpu" not in known else torch.device("cpu")

    @contextmanager
    def _answered(self) -> Iterator[None]:
        with answered(f"process {self.rank} of {self.size} stopped: another died or did not answer in time"):
            yield


@contextmanager
def answered(said: str) -> Iterator[None]:
    """Within it an error of `torch.distributed` is a `RankError` that says so, with its reason."""
    try:
        yield
    except RuntimeError as error:
        first = (str(error).splitlines() or [""])[0].split(". This is")[0]
        reason = re.sub(r"^\[[^]]*] *", "", first)  # the line of the source of gloo
        raise RankError(f"{said} ({reason}).") from error


ALONE = Ranks()


class Shard:
    """The rows of a source that lie on this process; the others hold the rest.

    Iterating over it is an error, so that what was not made for several processes never passes for a whole.
    """

    def __init__(self, own: Iterable[Rows], ranks: Ranks) -> None:
        self.own, self.ranks = own, ranks

    def __iter__(self) -> Iterator[Rows]:
        raise ValueError(
            f"this is not computed over the rows of {self.ranks.size} processes. Save the fit, load it in "
            "one process, and attach the rows there: torchglm.load(folder).with_rows(table)."
        )


def ranks_of(source: Iterable[Rows]) -> Ranks:
    """The processes on which the rows of a source lie."""
    return source.ranks if isinstance(source, Shard) else ALONE


def own_rows(source: Iterable[Rows]) -> Iterable[Rows]:
    """The rows of a source that lie on this process; at least one chunk, which may have no weight."""
    return source.own if isinstance(source, Shard) else source


def rows_in_memory(source: Iterable[Rows]) -> int:
    """The number of rows that are held as tensors, of all processes; 0 where they are read again at each pass."""
    own = own_rows(source)
    return sum(ranks_of(source).gather(sum(rows.y.shape[-1] for rows in own))) if isinstance(own, list) else 0


def weightless(rows: Rows) -> Rows:
    """The first row without its weight: it stands for no rows, in their shape."""
    first = rows.between(0, 1)
    return first._replace(weight=torch.zeros_like(first.weight))


def stands_for_none(rows: Rows) -> bool:
    """True for a single row of one model without weight."""
    return rows.y.shape == (1, 1) and not bool(rows.weight.any())


class View:
    """A source with a change made to each chunk, anew at every pass."""

    def __init__(self, source: Iterable[Rows], change: Callable[[Rows], Rows]) -> None:
        self.source, self.change = source, change

    def __iter__(self) -> Iterator[Rows]:
        return map(self.change, self.source)


def seen(source: Iterable[Rows], change: Callable[[Rows], Rows]) -> Iterable[Rows]:
    """A source with a change made to each chunk: at hand where the source is, else made anew at every pass."""
    own = own_rows(source)
    if isinstance(own, Ragged):
        return own.map(change)
    made = list(map(change, own)) if isinstance(own, list) else View(own, change)
    return Shard(made, source.ranks) if isinstance(source, Shard) else made


def members(source: Iterable[Rows], models: Tensor) -> Iterable[Rows]:
    """A source seen through models `(T,)`, one for each lane; a model may have several lanes."""
    return source.take(models) if isinstance(source, Ragged) else seen(source, lambda rows: rows.take(models))
