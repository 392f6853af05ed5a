"""Parameters of long tests: a few of them always, the others with the slow tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(values: Iterable[Any], step: int, first: int = 0) -> list[Any]:
    """Each `step`th of the values from `first` on as it is, the others marked slow; tuples are several arguments."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=[] if keep else pytest.mark.slow)
        for value, keep in ((value, k % step == first) for k, value in enumerate(values))
    ]
