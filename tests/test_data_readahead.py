"""Pieces read ahead: the same ones in the same order, errors in their place, one in hand and no more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from torchglm.tables.readahead import read_ahead


def test_items_come_in_order_and_errors_in_their_place() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("row group 3 is broken")

    got = []
    with pytest.raises(ValueError, match="row group 3 is broken"):
        for item in read_ahead(items()):
            got.append(item)
    assert got == [0, 1, 2]
    assert list(read_ahead(iter([]))) == []


def test_one_item_is_read_while_another_is_in_hand_and_no_more() -> None:
    begun: list[int] = []
    reading = threading.Event()

    def items() -> Iterator[int]:
        for i in range(5):
            begun.append(i)
            if i == 1:
                reading.set()
            yield i

    ahead = read_ahead(items())
    assert next(ahead) == 0
    assert reading.wait(10), "the second item is not read while the first is in hand"
    ahead.close()
    assert begun == [0, 1]


def test_an_iteration_given_up_leaves_no_thread() -> None:
    ahead = read_ahead(iter(range(9)))
    next(ahead)
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("torchglm-read")]
