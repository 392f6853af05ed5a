"""Columns of `x` by their names: a frame's are found by name, as they were in the fit, an array's by their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchglm.writing.nearest import nearest


def column_names(x: Any) -> list[str] | None:
    """The column names of a data frame or table, or None."""
    names = getattr(x, "columns", None)
    if hasattr(x, "column_names"):
        names = x.column_names
    if names is None or isinstance(x, Tensor) or callable(names):
        return None
    return [str(name) for name in names]


def own_names(x: Any) -> list[str] | None:
    """The names that somebody gave the columns of a frame; None for an array, and for columns numbered from 0 on."""
    names = column_names(x)
    if names is None or list(getattr(x, "columns", ())) == list(range(len(names))):
        return None
    return names


def in_order(x: Any, names: Sequence[str] | None) -> Any:
    """`x` with the columns `names`, in their order, where it has names of its own; else as it is, by place.

    Further columns are left out. Raises `ValueError` for a column that is not there, and where names that stand twice
    leave open which is meant.
    """
    own = None if names is None else own_names(x)
    if names is None or own is None or own == list(names):
        return x
    absent = [name for name in names if name not in own]
    if absent:
        hints = [f"{name!r}{nearest(name, own)}" for name in absent[:4]]
        raise ValueError(
            f"x lacks the column{'s' * (len(absent) > 1)} {', '.join(hints)}, by which the model knows it; it has "
            f"{', '.join(own[:12])}{', …' if len(own) > 12 else ''}. Rename them, or pass an array, whose columns go "
            "by place."
        )
    twice = [name for name in names if own.count(name) > 1 or list(names).count(name) > 1]
    if twice:
        raise ValueError(
            f"x names the column {twice[0]!r} twice, in another order than before. Give each its own name."
        )
    places = [own.index(name) for name in names]
    if hasattr(x, "iloc"):
        return x.iloc[:, places]
    return x.select([list(x.columns)[j] for j in places] if not hasattr(x, "column_names") else places)
