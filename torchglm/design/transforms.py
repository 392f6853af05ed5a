"""The transforms that learn from data: formulaic's own, so that the columns are formulaic's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np


def learned(name: str, arguments: list[Any], named: dict[str, Any], state: dict[str, Any]) -> Any:
    """Call a stateful transform such as `bs`; it reads `state`, or fills it where it is empty.

    Raises ValueError, with what to do, where a value lies beyond the range a spline was learned on.
    """
    from formulaic.transforms import TRANSFORMS

    values = arguments[0] if arguments else None
    if not isinstance(values, np.ndarray) or values.dtype == object or values.ndim != 1:
        raise ValueError(f"the first argument of {name}() must be a column of numbers")
    values = np.ascontiguousarray(values, dtype=np.float64)
    fresh = not state
    if "lower_bound" in state and named.get("extrapolation", _EXTRAPOLATION.get(name)) == "raise":
        _within(values, state, name)
    constraints = state.get("constraints")
    if name in ("cr", "cs", "cc") and fresh:
        TRANSFORMS[name](values, *arguments[1:], **named, _state=state)
        constraints = state.get("constraints")
    free = {**state, "constraints": None} if constraints is not None else state
    result = TRANSFORMS[name](values, *arguments[1:], **named, _state=free)
    return result if constraints is None else _absorbed(result, np.asarray(constraints))


_EXTRAPOLATION = {"bs": "raise", "cr": "extend", "cs": "extend", "cc": "extend"}


def _within(values: np.ndarray, state: dict[str, Any], name: str) -> None:
    low, high = state["lower_bound"], state["upper_bound"]
    outside = (values < low) | (values > high)
    if outside.any():
        first = int(outside.argmax())
        raise ValueError(
            f"{int(outside.sum())} values lie outside [{low:g}, {high:g}], the range {name}() was learned on "
            f"(the first is {values[first]:g}). Say what to do there: {name}(..., extrapolation='clip'), "
            "'extend', 'zero', or wider lower_bound= and upper_bound=."
        )


def _absorbed(free: dict[int, np.ndarray], constraints: np.ndarray) -> dict[int, np.ndarray]:
    """The spline columns under linear constraints, `free @ q[:, m:]` with `q` from QR of `constraints.T`.

    Summed column by column: a BLAS product rounds differently for different numbers of rows.
    """
    columns = list(free.values())
    q = np.linalg.qr(constraints.T, mode="complete")[0][:, constraints.shape[0] :]
    absorbed = {}
    for j in range(q.shape[1]):
        total = columns[0] * q[0, j]
        for i in range(1, len(columns)):
            total = total + columns[i] * q[i, j]
        absorbed[j + 1] = total
    return absorbed


def fields(value: Any) -> tuple[list[str] | None, list[np.ndarray], bool]:
    """The columns in what an expression gave: field names (None for one plain column), arrays `(n,)` each,
    and whether the columns together span the intercept (their first is then the one to leave out)."""
    about = getattr(value, "__formulaic_metadata__", None)
    value = getattr(value, "__wrapped__", value)
    if isinstance(value, dict):
        spans = bool(about is not None and about.spans_intercept)
        columns = [np.asarray(column, np.float64) for column in value.values()]
        return [str(key) for key in value], columns, spans
    if isinstance(value, np.ndarray) and value.ndim == 2:
        names = (about.column_names if about is not None else None) or range(value.shape[1])
        return [str(name) for name in names], [value[:, j] for j in range(value.shape[1])], False
    return None, [np.asarray(value)], False


def plain(value: Any) -> Any:
    """A transform's state as JSON data: arrays and whole-number keys are marked."""
    if isinstance(value, np.ndarray):
        return {"@array": value.tolist()}
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            return {"@items": [[key, plain(item)] for key, item in value.items()]}
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def rich(value: Any) -> Any:
    """The inverse of `plain`."""
    if isinstance(value, list):
        return [rich(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"@array"}:
        return np.asarray(value["@array"], dtype=np.float64)
    if set(value) == {"@items"}:
        return {key: rich(item) for key, item in value["@items"]}
    return {key: rich(item) for key, item in value.items()}
