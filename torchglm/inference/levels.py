"""The level of an interval or a test."""

from __future__ import annotations


def check_level(level: float, such: float = 0.95) -> None:
    """Raise `ValueError` for a level outside (0, 1); `such` is a usual one."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}. {such} is {100 * such:g} %.")
