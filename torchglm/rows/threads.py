"""Python threads over blocks of rows: each has a core of its own, and torch's own threads stay out of the way.

Blocks fit a cache, and operators on them are too small to be split further: torch would spend more on handing
out the pieces than on the work, many times more where other programs share the cores.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Value = TypeVar("Value")

KEPT = 31 << 20  # bytes; glibc looks at blocks of up to 32 MiB


SPLIT = 256  # columns of a matrix from which on its factor is worth more than one core


class _Pool:
    """As many threads as torch may use, each with one of torch's threads; made anew after a fork."""

    def __init__(self) -> None:
        self.executor: ThreadPoolExecutor | None = None
        self.made_by, self.size = -1, 0
        self.lock = threading.Lock()

    def threads(self, size: int) -> ThreadPoolExecutor:
        """The executor, all of its threads at work or ready."""
        with self.lock:
            here = torch.get_num_threads()
            if self.executor is None or self.made_by != os.getpid() or self.size != size:
                self.executor = ThreadPoolExecutor(size, thread_name_prefix="torchglm")
                self.made_by, self.size = os.getpid(), size
                ready = threading.Barrier(size)
                for done in [self.executor.submit(_alone, ready) for _ in range(size)]:
                    done.result()
                torch.set_num_threads(here)  # for this thread, and those that others start later
            return self.executor


def _alone(ready: threading.Barrier) -> None:
    torch.set_num_threads(1)
    ready.wait()


_pool = _Pool()


_local = threading.local()


def scratch(name: str, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A tensor on the CPU to be overwritten at once: each thread has one of each name and dtype, used again."""
    held: dict[tuple[str, torch.dtype], torch.Tensor] = _local.__dict__.setdefault("held", {})
    size, key = math.prod(shape), (name, dtype)
    if key not in held or held[key].numel() < size:
        held[key] = torch.empty(size, dtype=dtype)
    return held[key][:size].view(shape)


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what passes free for the next one, instead of handing it back to the system.

    Freeing a large block that was never touched raises the size above which glibc maps and trims memory (mallopt(3),
    `M_MMAP_THRESHOLD`). Else every operator on half a megabyte touches new pages: 430 microseconds instead of 20.
    """
    torch.empty(KEPT, dtype=torch.uint8)


@contextmanager
def small_operators() -> Iterator[None]:
    """Within it torch's operators in this thread stay on one core, and `spread` has the threads they leave.

    The algebra of a step is on small matrices, where waking another thread costs more than the work.
    """
    keep_freed_memory()
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    _local.threads = before
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        del _local.threads


def all_cores(matrix: torch.Tensor) -> AbstractContextManager[None]:
    """Within it operators on this matrix have the threads that `small_operators` took away, if it is large."""
    threads = getattr(_local, "threads", 1)
    return _AS_IT_IS if matrix.shape[-1] < SPLIT or threads == 1 else _on(threads)


_AS_IT_IS = nullcontext()


@contextmanager
def _on(threads: int) -> Iterator[None]:
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(1)


def spread(work: Callable[[Sequence[Item]], Value], items: Sequence[Item]) -> list[Value]:
    """`work` on contiguous parts of `items`, a part for each thread; the results in the order of the parts."""
    threads = getattr(_local, "threads", torch.get_num_threads())
    size = min(threads, len(items))
    if size <= 1:
        return [_quietly(work, items)]
    bounds = [len(items) * i // size for i in range(size + 1)]
    executor = _pool.threads(threads)
    with _blas().limit(limits=1, user_api="blas"):  # numpy's; its own threads would wait for one another
        parts = [executor.submit(_quietly, work, items[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
        return [part.result() for part in parts]


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _quietly(work: Callable[[Sequence[Item]], Value], items: Sequence[Item]) -> Value:
    """Without gradients, and without numpy's warnings: what is not finite shows in the sums."""
    with torch.no_grad(), np.errstate(all="ignore"):
        return work(items)
