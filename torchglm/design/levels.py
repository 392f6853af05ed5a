"""Levels: the categories of a column, their order, and the groups that several columns make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from torchglm.design.expressions import Expression
from torchglm.design.frame import Frame
from torchglm.design.random import Grouped
from torchglm.design.values import Coded, coded, in_order
from torchglm.tables.columns import check_columns

if TYPE_CHECKING:
    import pyarrow as pa


def groups(table: pa.Table, by: Sequence[str]) -> tuple[torch.Tensor, list[tuple[Any, ...]]]:
    """The group of each row, `(n,)` int64, and the groups' labels: the combinations of `by` that occur.

    Labels come in order, the first column varying slowest; categories keep theirs.
    Raises ValueError for unknown columns or missing values.
    """
    check_columns(by, table.column_names)
    code, labels = np.zeros(0, dtype=np.int64), list[tuple[Any, ...]]([()])
    for name in by:
        column = Frame(table, [name]).coded(name)
        levels = occurring(dict(zip(column.values, column.counts.tolist(), strict=True)), column.ordered)
        place = {level: i for i, level in enumerate(levels)}
        own = np.array([place.get(value, 0) for value in column.values], np.int64)[column.codes]
        if len(labels) > 1:
            own += code * len(levels)  # below rows^2, so it never overflows
        used, code = _numbered(own, len(labels) * len(levels))
        labels = [(*labels[one // len(levels)], levels[one % len(levels)]) for one in used.tolist()]
    return torch.from_numpy(code), labels


def _numbered(codes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The codes that occur of so many, ascending, and the place of each of `codes` (n,) among them."""
    if count > 2 * len(codes) + 64:
        used, place = np.unique(codes, return_inverse=True)
        return used, place.reshape(-1).astype(np.int64)
    seen = np.bincount(codes, minlength=count) > 0  # no sorting, and none of its copies
    used = np.flatnonzero(seen)
    return used, codes if len(used) == count else (np.cumsum(seen) - 1)[codes]


def category(expression: Expression | Grouped, frame: Frame) -> Coded:
    """The values to code: the column itself, or what the expression inside `C()` gives.

    Raises ValueError where that is NaN.
    """
    import pyarrow as pa

    if isinstance(expression, Grouped):
        return expression.coded(frame)
    if expression.column is not None:
        return frame.coded(expression.column)
    found = coded(pa.chunked_array([pa.array(np.asarray(expression.evaluate(frame, {})))]), expression.text)
    if (found.codes < 0).any():
        first = frame.row(int((found.codes < 0).argmax()))
        raise ValueError(
            f"{expression.text!r} has no value in {int((found.codes < 0).sum())} rows; the first is row {first}. "
            "Change the expression, or leave these rows out."
        )
    return found


def is_categorical(expression: Expression, kind: pa.DataType) -> bool:
    """Whether a plain column of an Arrow type is coded by levels: text and dictionaries are, numbers are not.

    Raises ValueError for types that are neither.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return True
    if any(test(kind) for test in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)):
        return False
    if pa.types.is_decimal(kind):
        return False
    name = expression.text
    raise ValueError(f"Column {name!r} holds {kind}. Derive numbers from it, or code it with C({name}).")


def occurring(seen: dict[Any, int], ordered: bool) -> list[Any]:
    """The levels that occur, of all with their rows, in category order where there is one, else sorted."""
    levels = [level for level, rows in seen.items() if rows]
    return levels if ordered else in_order(levels)
