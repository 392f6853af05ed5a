"""Columns of `x` by their names: a frame's are found by name, as they were in the fit, an array's by their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
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

    A mapping from names to values, or a row of a frame, becomes an array (m, p), one value standing in every row.
    Further columns are left out. Raises `ValueError` for a column that is not there, and where names that stand twice
    leave open which is meant; `TypeError` for a mapping where the columns have no names.
    """
    if isinstance(x, Mapping) or _is_row(x):
        return _stacked(x, names)
    own = None if names is None else own_names(x)
    if names is None or own is None or own == list(names):
        return x
    _refuse_absent(names, own)
    twice = [name for name in names if own.count(name) > 1 or list(names).count(name) > 1]
    if twice:
        raise ValueError(
            f"x names the column {twice[0]!r} twice, in another order than before. Give each its own name."
        )
    places = [own.index(name) for name in names]
    if hasattr(x, "iloc"):
        return x.iloc[:, places]
    return x.select([list(x.columns)[j] for j in places] if not hasattr(x, "column_names") else places)


def _is_row(x: Any) -> bool:
    """Whether `x` is a row of a pandas frame: its values under the names of the columns."""
    return hasattr(x, "iloc") and hasattr(x, "index") and x.ndim == 1 and all(isinstance(name, str) for name in x.index)


def _stacked(x: Any, names: Sequence[str] | None) -> np.ndarray:
    """(m, p) the columns `names` of a mapping. Raises `ValueError` where one is absent or of another size."""
    if names is None:
        raise TypeError("the columns of the fit have no names. Pass an array (m, p), whose columns go by place.")
    _refuse_absent(names, [str(name) for name in x.keys()])
    columns = [np.atleast_1d(np.asarray(x[name])) for name in names]
    try:
        return np.stack(np.broadcast_arrays(*columns), -1)
    except ValueError:
        sizes = ", ".join(f"{name}: {len(column)}" for name, column in zip(names, columns, strict=True))
        raise ValueError(f"the columns of x have other sizes ({sizes}). Give one value of each for a row.") from None


def _refuse_absent(names: Sequence[str], own: Sequence[str]) -> None:
    """Raise `ValueError` for columns that are not among `own`."""
    absent = [name for name in names if name not in own]
    if absent:
        hints = [f"{name!r}{nearest(name, own)}" for name in absent[:4]]
        raise ValueError(
            f"x lacks the column{'s' * (len(absent) > 1)} {', '.join(hints)}, by which the model knows it; it has "
            f"{', '.join(own[:12])}{', …' if len(own) > 12 else ''}. Rename them, or pass an array, whose columns go "
            "by place."
        )
