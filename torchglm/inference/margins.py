"""Tables with a variable moved, as designs: how an effect goes through every term of a formula."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchglm import inputs, tables
from torchglm.design.frame import Frame
from torchglm.design.values import spelled
from torchglm.families.several import VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.inference.for_each import for_each, shift_of
from torchglm.inference.origin import refuse_beside
from torchglm.inputs import Roles
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


def repeats(rows: Rows) -> Tensor:
    """(B, n) how often each row counts in an average over the observations: its `freq`, or 1, or 0 without weight."""
    used = (rows.weight > 0).to(torch.float64)
    return used if rows.repeats is None else used * rows.repeats


def chosen_roles(result: Fitted, roles: Mapping[str, Any], data: Any) -> Roles:
    """The roles of the rows to average over. Raises `ValueError` where these are the rows of the fit."""
    refuse_beside(result)
    beside = Roles.of(roles, "an average over rows", ("freq", "offset", "exposure"))
    inputs.check_row_labels({"data": data, **beside.given})
    if (result.spec is None or data is None) and beside.given:
        raise ValueError(
            f"{', '.join(beside.given)} came for the rows of the fit, which have theirs. Average over others by "
            "attaching them: result.with_rows(x, y, ...)."
        )
    return beside


def settings_of(at: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of the values, or lists, arrays and series of them, that variables are set to.

    Raises `TypeError` for what is no mapping, `ValueError` for a variable without a value.
    """
    if not isinstance(at, Mapping):
        raise TypeError(f"at is a dict, variable -> its values, {{'age': [30, 50]}}; got {at!r}.")
    choices = {name: _choices(name, value) for name, value in at.items()}
    return [dict(zip(choices, one, strict=True)) for one in itertools.product(*choices.values())]


def _choices(name: str, value: Any) -> list[Any]:
    """The values that a variable is set to, one after the other."""
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__") or np.ndim(value) == 0:
        return [value]
    plain = hasattr(value, "tolist") and getattr(np.asarray(value).dtype, "kind", "O") in "fiubU"
    found = value.tolist() if plain else list(value)
    if not found:
        raise ValueError(f"{name!r} has no value to be set to. Give one, or a list of them.")
    if np.ndim(value) > 1:
        raise ValueError(f"the values of {name!r} have shape {np.shape(value)}. Give one, or a list of them.")
    return found


def labelled(setting: Mapping[str, Any]) -> str:
    """The name of a setting, `"age = 30, region = a"`."""
    return ", ".join(f"{name} = {value}" for name, value in setting.items())


def changes(result: Fitted, variables: Sequence[str] | None, data: Any, roles: Roles) -> tuple[Slice, list[Change]]:
    """The designs of a table with each variable moved, and which pairs of them are effects.

    A numeric variable is moved a little to either side, a category to each of its levels. Raises `ValueError` for
    unknown variables or without a table.
    """
    frame = _frame(result, data, roles)
    names = result.spec.columns if variables is None else [variables] if isinstance(variables, str) else list(variables)
    if not names or not len(frame):
        raise ValueError(
            "variables names none. Leave it out for all." if not names else "data has no rows to average over."
        )
    designs: list[Tensor] = []
    found: list[Change] = []
    for name in names:
        levels = levels_of(result, name)
        start = len(designs)
        if levels is not None:
            designs += [_moved(result, frame, {name: level}) for level in levels]
            found += [
                Change(f"{name}: {level} - {levels[0]}", start + j, start, 1.0) for j, level in enumerate(levels) if j
            ]
            continue
        values = _numbers(frame, name)
        step = STEP * (float(values.std()) or max(1.0, float(np.abs(values).max(initial=1.0))))
        designs += [_moved(result, frame, {name: values + side * step}) for side in (1, -1)]
        found.append(Change(name, start, start + 1, 2 * step))
    return _slice(result, designs, frame, roles, data), found


def settle(result: Fitted, settings: Sequence[Mapping[str, Any]], data: Any, roles: Roles) -> Slice:
    """The designs of a table with variables set to chosen values, one for each setting."""
    frame = _frame(result, data, roles)
    known = {name: levels_of(result, name) for name in settings[0]}
    designs = []
    for one in settings:
        given = {name: spelled(v, levels) if (levels := known[name]) is not None else v for name, v in one.items()}
        designs.append(_moved(result, frame, given))
    return _slice(result, designs, frame, roles, data)


def table_values(result: Fitted, name: str) -> list[Any] | np.ndarray:
    """The levels of a variable of the formula that is a category, else its values (n,) in the table of the fit.

    Raises `ValueError` for unknown variables or without a table.
    """
    levels = levels_of(result, name)
    return levels if levels is not None else _numbers(_frame(result, None, Roles()), name)


def _frame(result: Fitted, data: Any, roles: Roles) -> Frame:
    """The rows of a table over the columns that the design, the offset and the repeats are made of."""
    if data is None and result.rows is not None:
        data = result.context.get("table")
    if data is None:
        raise ValueError(
            "this fit holds no table: it was loaded, its rows are in files, or it has a model for each group. Pass "
            "data=, the rows to average over (those of the fit, say)."
        )
    fitted = Roles(**(result.context.get("columns") or {})).without("weights", "trials", "event", "until")
    also = [*fitted.columns.values(), *roles.columns.values()]
    names = tables.columns.names_of(data)
    wanted = [
        *result.spec.columns,
        *(column for column in also if column in names),
    ]
    return Frame(result.spec.reading.applied(tables.as_table(data, wanted)), wanted)


def _numbers(frame: Frame, name: str) -> np.ndarray:
    """A column of numbers, `(n,)` float64. Raises `ValueError` for one of text."""
    values = frame.values(name)
    if values.dtype == object:
        raise ValueError(f"column {name!r} of data holds no numbers, as it did in the fit. Give it that type.")
    return values.astype(np.float64)


def levels_of(result: Fitted, name: str) -> list[Any] | None:
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


def _moved(result: Fitted, frame: Frame, values: Mapping[str, Any]) -> Tensor:
    """The design of the rows with these columns replaced, by a value for all rows or one for each."""
    return result.spec.apply(frame.moved(values)).x.to(result.flat.coef)


def _slice(result: Fitted, designs: list[Tensor], frame: Frame, roles: Roles, data: Any) -> Slice:
    if data is None:  # the rows of the fit have their offsets and repeats with them
        assert result.rows is not None
        held = result.rows._replace(x=designs[0], intercept=False, indexed=None)
        return Slice(held, repeats(held), designs)
    coef = result.flat.coef
    one = torch.ones(coef.shape[0], len(frame), dtype=coef.dtype, device=coef.device)
    like = result.shaped(one)
    given = shift_of(result, roles.without("freq"), like, frame.table)
    shift = (torch.zeros_like(like) + given).reshape(one.shape)
    if isinstance(result.family, VectorFamily):
        times = result.family.shifts() if isinstance(given, Tensor) else torch.zeros(len(result.family.predictors))
        shift = shift.unsqueeze(-1) * times.to(shift)
    rows = Rows(designs[0], torch.zeros_like(one), one, shift, plan=result.plan)
    return Slice(rows, one * _repeats(result, frame, roles.freq, one), designs)


def _repeats(result: Fitted, frame: Frame, freq: Any, like: Tensor) -> Tensor | float:
    """(n,) how often each row counts: `freq`, or its column in a fit that had one. Raises `ValueError` without."""
    freq = (result.context.get("columns") or {}).get("freq") if freq is None else freq
    if freq is None:
        if result.context.get("freq"):
            raise ValueError(
                "the model was fitted with freq=, and none is given for these rows. Pass freq= (1 for one)."
            )
        return 1.0
    if isinstance(freq, str) and freq not in frame.table.column_names:
        raise ValueError(f"the model was fitted with freq={freq!r}, a column that data lacks. Pass freq=.")
    given = for_each("freq", freq, like[0], frame.table).expand(len(frame))
    inputs.check_weights(given, "freq")
    return given
