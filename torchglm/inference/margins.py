"""Tables with a variable moved, as designs: how an effect goes through every term of a formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.rows.rows import Rows

STEP = 1e-4  # of the central differences through a formula, in standard deviations of the variable


class Slice(NamedTuple):
    """Rows to average over, how often each counts (B, n), and the designs they are moved to."""

    rows: Rows
    times: Tensor
    designs: list[Tensor]


class Change(NamedTuple):
    """An effect as a difference of two of the designs, over a divisor."""

    name: str
    plus: int
    minus: int
    divisor: float


def changes(result: Fitted, variables: Sequence[str] | None, data: Any, offset: Any) -> tuple[Slice, list[Change]]:
    """The designs of a table with each variable moved, and which pairs of them are effects.

    A numeric variable is moved a little to either side, a category to each of its levels. Raises `ValueError` for
    unknown variables or without a table.
    """
    spec, columns = result.spec, _columns(result, data)
    names = spec.columns if variables is None else list(variables)
    designs: list[Tensor] = []
    found: list[Change] = []
    for name in names:
        levels = _levels(result, name)
        start = len(designs)
        if levels is not None:
            designs += [_moved(result, columns, {name: level}) for level in levels]
            found += [
                Change(f"{name}: {level} - {levels[0]}", start + j, start, 1.0) for j, level in enumerate(levels) if j
            ]
            continue
        values = columns[name].astype(np.float64)
        step = STEP * (float(values.std()) or max(1.0, float(np.abs(values).max(initial=1.0))))
        designs += [_moved(result, columns, {name: values + side * step}) for side in (1, -1)]
        found.append(Change(name, start, start + 1, 2 * step))
    return _slice(result, designs, columns, data, offset), found


def settle(result: Fitted, settings: Sequence[Mapping[str, Any]], data: Any, offset: Any) -> Slice:
    """The designs of a table with variables set to chosen values, one for each setting."""
    columns = _columns(result, data)
    for name in settings[0]:
        _levels(result, name)
    return _slice(result, [_moved(result, columns, one) for one in settings], columns, data, offset)


def _columns(result: Fitted, data: Any) -> dict[str, Any]:
    """The columns of the table that the design reads."""
    from torchglm import tables
    from torchglm.tables.columns import column_values

    if data is None:
        raise ValueError("a formula fit keeps no table. Pass data=, the rows to average over (those of the fit, say).")
    table = tables.as_table(data)
    absent = [name for name in result.spec.columns if name not in table.column_names]
    if absent:
        raise ValueError(f"no column {', '.join(map(repr, absent))} in data. It has: {', '.join(table.column_names)}.")
    return {name: column_values(table.column(name)) for name in result.spec.columns}


def _levels(result: Fitted, name: str) -> list[Any] | None:
    """The levels of a variable that is a category, else None; `ValueError` where no term reads it."""
    spec = result.spec
    if name not in spec.columns:
        raise ValueError(f"no term of the formula reads {name!r}. Known: {', '.join(spec.columns)}.")
    for factor in spec.factors.values():
        if factor.expression.columns == [name] or tuple(factor.expression.columns) == (name,):
            levels = getattr(factor, "levels", None)
            if levels is not None:
                return list(levels)
    return None


def _moved(result: Fitted, columns: Mapping[str, Any], values: Mapping[str, Any]) -> Tensor:
    """The design of the table with these columns replaced, by a value for all rows or one for each."""
    count = len(next(iter(columns.values())))
    new = {
        name: value if isinstance(value, np.ndarray) else np.full(count, value, dtype=_dtype(value))
        for name, value in values.items()
    }
    return result.spec.transform({**columns, **new}).to(result.flat.coef)


def _dtype(value: Any) -> Any:
    """Numbers stay numbers; whatever else a level is, it is kept as it is."""
    return None if isinstance(value, (bool, int, float)) else object


def _slice(result: Fitted, designs: list[Tensor], columns: Mapping[str, Any], data: Any, offset: Any) -> Slice:
    from torchglm.inference.predict import _offset

    coef = result.flat.coef
    count = len(next(iter(columns.values())))
    one = torch.ones(coef.shape[0], count, dtype=coef.dtype, device=coef.device)
    like = result.shaped(one)
    shift = (torch.zeros_like(like) + _offset(result, offset, like, data)).reshape(one.shape)
    return Slice(Rows(designs[0], torch.zeros_like(one), one, shift), one, designs)
