"""Levels: the categories of a column, their order, and the code of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from torchglm.design.expressions import Expression
from torchglm.design.frame import Frame
from torchglm.tables.columns import check_columns

if TYPE_CHECKING:
    import pyarrow as pa


def groups(table: pa.Table, by: Sequence[str]) -> tuple[torch.Tensor, list[tuple[Any, ...]]]:
    """The group of each row, `(n,)` int64, and the groups' labels: the combinations of `by` that occur.

    Labels come in order, the first column varying slowest; categories keep theirs.
    Raises ValueError for unknown columns or missing values.
    """
    check_columns(by, table.column_names)
    frame = Frame(table, by)
    code = np.zeros(len(frame), dtype=np.int64)
    every: list[list[Any]] = []
    for name in by:
        column = category_column(Expression(name, lookup=True), frame)
        seen: dict[Any, int] = {}
        found_levels(column, seen)
        every.append(occurring(seen, is_ordered(column.type)))
        code = code * len(every[-1]) + codes(column, every[-1])
    used, places = np.unique(code, return_inverse=True)
    labels = []
    for one in used.tolist():
        label: list[Any] = []
        for found in reversed(every):
            one, i = divmod(one, len(found))
            label.insert(0, found[i])
        labels.append(tuple(label))
    return torch.from_numpy(places.astype(np.int64)), labels


def category_column(expression: Expression, frame: Frame) -> pa.ChunkedArray:
    """The values to code: the Arrow column itself, or what the expression inside `C()` gives."""
    import pyarrow as pa

    if expression.column is None:
        return pa.chunked_array([pa.array(np.asarray(expression.evaluate(frame, {})))])
    column = frame.table.column(expression.column)
    kind = column.type
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_nested(kind) or pa.types.is_null(kind):
        raise ValueError(f"Column {expression.column!r} holds {kind}, which has no levels.")
    return column


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


def found_levels(column: pa.ChunkedArray, seen: dict[Any, int]) -> None:
    """Add the rows of each level of a column to `seen`; categories of a dictionary come in its order.

    An unused category holds its place with 0 rows and is left out later.
    """
    encoded = (column if is_ordered(column.type) else column.dictionary_encode()).unify_dictionaries()
    if not encoded.num_chunks:
        return
    values = encoded.chunk(0).dictionary.to_pylist()
    rows = np.zeros(len(values), dtype=np.int64)
    for chunk in encoded.chunks:
        rows += np.bincount(chunk.indices.to_numpy(zero_copy_only=False), minlength=len(values))
    for value, count in zip(values, rows.tolist(), strict=True):
        seen[value] = seen.get(value, 0) + count


def codes(column: pa.ChunkedArray, levels: list[Any]) -> np.ndarray:
    """The index of each row's value among the levels, `(n,)` int64; -1 where it is none of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = column if is_ordered(column.type) else column.dictionary_encode()
    found = np.empty(len(column), dtype=np.int64)
    start = 0
    for chunk in encoded.chunks:
        values = chunk.dictionary
        try:
            places = pc.index_in(values, value_set=pa.array(levels).cast(values.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            index = {level: i for i, level in enumerate(levels)}
            places = pa.array([index.get(value) for value in values.to_pylist()], pa.int32())
        place = pc.fill_null(places, -1).to_numpy(zero_copy_only=False)
        found[start : start + len(chunk)] = place[chunk.indices.to_numpy(zero_copy_only=False)]
        start += len(chunk)
    return found


def occurring(seen: dict[Any, int], ordered: bool) -> list[Any]:
    """The levels that `found_levels` saw occur, in category order where there is one, else sorted."""
    levels = [level for level, rows in seen.items() if rows]
    try:
        return levels if ordered else sorted(levels)
    except TypeError:
        kinds = sorted({type(level).__name__ for level in levels})
        raise ValueError(f"A category mixes {' and '.join(kinds)}: {levels[:6]}. Give it one type.") from None


def is_ordered(kind: pa.DataType) -> bool:
    """Whether an Arrow type lists its categories, and so orders them."""
    import pyarrow as pa

    return pa.types.is_dictionary(kind)
