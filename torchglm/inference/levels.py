"""The level of an interval or a test."""

from __future__ import annotations

from numbers import Real
from typing import Any


def check_level(level: Any, such: float = 0.95, *, said: str = "level") -> None:
    """Raise `ValueError` for a level outside (0, 1), `TypeError` for no number.

    `such` is a usual one, `said` the name of the argument.

    Where a usual one is a share that is covered, a level of 0.1 and less is refused too: it is what other libraries
    take, the share that is not.
    """
    if not isinstance(level, Real):
        raise TypeError(f"{said} must be one number between 0 and 1, got {level!r}. {such} is {100 * such:g} %.")
    share = float(level)
    if not 0 < share < 1:
        raise ValueError(f"{said} must lie between 0 and 1, got {level}. {such} is {100 * such:g} %.")
    if share <= 0.1 and such > 0.5:
        raise ValueError(
            f"{said} is the share that an interval covers, got {share:g}; with alpha = {share:g} it is {1 - share:g}."
        )
