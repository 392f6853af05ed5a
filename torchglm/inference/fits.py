"""Fits that are handed over to be set beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchglm.inference.fitted import Fitted


def check_fits(door: str, fits: Sequence[Any]) -> None:
    """Raise `TypeError` where one is no fit, such as a list of them or a formula."""
    other = next((type(one).__name__ for one in fits if not isinstance(one, Fitted)), None)
    if other is not None:
        raise TypeError(f"{door} takes fits one by one, got {other}: {door}(fit1, fit2).")
