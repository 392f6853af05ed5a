"""Reading ahead: the next piece is read by a thread while the one before is worked on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items, none of them None, in the same order; one is held beside the one that is given.

    What reading raises is raised where its item would come.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="torchglm-read") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
            del item  # else it would stay while its successor is waited for
