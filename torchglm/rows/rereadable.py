"""Sources of rows that a fit can read as often as it needs to."""

from __future__ import annotations

from typing import Any


def read_again(source: Any, name: str, instead: str) -> None:
    """Raise `ValueError` for what gives its rows once: an iterator, or a function that returns the same one each time.

    Also for a function that returns no iterator of pieces at all. `instead` says what to pass.
    """
    once = (
        "an iterator, which can be read once, and a fit reads its rows several times. "
        f"Pass {instead}, or a function that returns a new iterator."
    )
    if not callable(source):
        if iter(source) is source:
            raise ValueError(f"{name} is {once}")
        return
    first = source()
    if not hasattr(first, "__iter__") or hasattr(first, "columns") or isinstance(first, (str, dict)):
        raise ValueError(
            f"{name} is a function that returns {type(first).__name__}; it must return an iterator over "
            "pieces of the rows, a new one each time."
        )
    if first is source() and iter(first) is first:
        raise ValueError(f"{name} is a function that returns the same iterator each time: {once}")
