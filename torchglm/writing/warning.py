"""Warnings that point at the line of the reader's own code."""

from __future__ import annotations

import sys
import warnings

OURS = ("torchglm", "torch", "contextlib")  # the package, and the wrappers of its functions


def tell(text: str, kind: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of this package that led here, however many calls lie between."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, kind, stacklevel=level)
