"""Tables: whatever holds columns (pandas, polars, Arrow, a dict of arrays) as one Arrow table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from torchglm.writing.nearest import nearest

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST = 100  # signs of a name in a message


def as_table(data: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """The columns of `data` as a `pyarrow.Table`, without copying where the source allows it.

    Takes a pandas or polars DataFrame, an Arrow table, record batch or reader, anything with
    `__arrow_c_stream__`, or a mapping from names to one-dimensional arrays or tensors. `columns` picks and
    orders; the others are never converted (of none, the first is kept, to count the rows). NaN in floats
    and null both count as missing further on.

    Raises TypeError for anything else, ValueError for unknown columns, ragged arrays or mixed types.
    """
    import pyarrow as pa

    names = names_of(data)
    if columns is not None:
        check_columns(columns, names)
    wanted = list(names if columns is None else dict.fromkeys(columns)) or names[:1]
    if len(set(names)) != len(names):
        twice = sorted({str(name) for name in names if list(names).count(name) > 1})
        raise ValueError(f"Column names must be unique; got {', '.join(map(repr, twice))} more than once.")
    if isinstance(data, Mapping):
        return _from_mapping({name: data[name] for name in wanted})
    if isinstance(data, (pa.Table, pa.RecordBatch)):
        table = data if isinstance(data, pa.Table) else pa.Table.from_batches([data])
        return plain_strings(table.select(wanted))
    root = type(data).__module__.split(".")[0]
    if root == "pandas":
        return _from_pandas(data, wanted)
    if root == "polars":
        return _from_polars(data, wanted)
    return plain_strings(pa.table(data).select(wanted))


def check_columns(wanted: Iterable[str], names: Iterable[str], where: str = "the data") -> None:
    """Raise ValueError that names every wanted column `names` lacks, each with its nearest match."""
    known = [str(name) for name in names]
    absent = [name for name in dict.fromkeys(wanted) if name not in set(known)]
    if not absent:
        return
    listed = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    hints = [repr(name if len(name) <= LONGEST else f"{name[:LONGEST]}…") + nearest(name, known) for name in absent]
    raise ValueError(f"No column {', '.join(hints)} in {where}. It has: {listed}.")


def numbers(table: pa.Table, name: str) -> torch.Tensor:
    """One column as a float64 tensor `(n,)`; booleans become 0 and 1, null becomes NaN.

    Raises ValueError where the column is absent or holds no numbers.
    """
    check_columns([name], table.column_names)
    values = column_values(table.column(name))
    if values.dtype == object:
        first = next((f", such as {value!r}" for value in values if value is not None), "")
        raise ValueError(
            f"Column {name!r} must hold numbers, got {table.column(name).type}{first}. Where that means missing "
            "pass na=[…]; where numbers are written 1,5 read the file with decimal=','."
        )
    return torch.from_numpy(np.array(values, dtype=np.float64))


def column_values(column: pa.ChunkedArray) -> np.ndarray:
    """An Arrow column as a NumPy array `(n,)`: numbers as float64, booleans as bool, other types as objects.

    Null becomes NaN in numbers and False in booleans; look for it first where it matters.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(column.type):
        return pc.fill_null(column, False).to_numpy()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = column.to_numpy() if column.num_chunks else np.empty(0)
        return np.ascontiguousarray(values, dtype=np.float64)
    if pa.types.is_decimal(column.type):
        return column.cast(pa.float64()).to_numpy()
    return column.to_numpy().astype(object)


def type_name(kind: pa.DataType, exact: bool = True) -> str:
    """An Arrow type by a name to read a column with: a dictionary goes by the type of its values, and a
    number that need not be `exact` (it is no category) as a double, so that a later 3.5 is read, too."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return "double" if number and not exact else str(kind)


def arrow_type(text: str) -> pa.DataType | None:
    """The Arrow type of a name, decimals and time zones too; None where there is none."""
    import pyarrow as pa

    decimal = re.fullmatch(r"decimal(128|256)\((\d+), ?(-?\d+)\)", text)
    zoned = re.fullmatch(r"timestamp\[(s|ms|us|ns), tz=(.+)\]", text)
    try:
        if decimal:
            return (pa.decimal128 if decimal[1] == "128" else pa.decimal256)(int(decimal[2]), int(decimal[3]))
        return pa.timestamp(zoned[1], zoned[2]) if zoned else pa.type_for_alias(text)
    except (ValueError, TypeError):
        return None


def arrow_types(types: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Arrow types by column from their names; those that have no name (extension types) are left out."""
    found = {name: arrow_type(kind) for name, kind in types.items()}
    return {name: kind for name, kind in found.items() if kind is not None}


def each_once(file: object, names: Sequence[str]) -> list[str]:
    """The names of columns. Raises ValueError where one stands twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"{file} names the column {twice[0]!r} twice in its header. Give each a name of its own.")
    return list(names)


def names_of(data: Any) -> list[str]:
    """The column names of any table we read, or TypeError that lists what we read."""
    if isinstance(data, Mapping):
        return list(data)
    if hasattr(data, "column_names"):  # an Arrow table
        return list(data.column_names)
    if hasattr(data, "collect_schema"):  # polars, lazy or not
        return list(data.collect_schema().names())
    if hasattr(data, "columns") and not callable(data.columns):  # pandas
        names = list(data.columns)
        wrong = [name for name in names if not isinstance(name, str)]
        if wrong:
            raise ValueError(f"Column names must be strings, got {wrong[0]!r}. Rename the columns first.")
        return names
    if hasattr(data, "schema") and hasattr(data.schema, "names"):  # batches and readers
        return list(data.schema.names)
    raise TypeError(
        "data must be a pandas or polars DataFrame, an Arrow table, or a dict of arrays; "
        f"got {type(data).__name__}. Read a file with torchglm.tables.read_table(path)."
    )


def _from_mapping(data: Mapping[str, Any]) -> pa.Table:
    import pyarrow as pa

    arrays = {}
    for name, values in _spread(data).items():
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
            values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        if np.ndim(values) != 1:
            raise ValueError(
                f"Column {name!r} must be one-dimensional, got shape {np.shape(values)}. "
                "Give each column of a matrix a name of its own."
            )
        try:
            if not isinstance(values, pa.ChunkedArray):
                objects = isinstance(values, (list, tuple)) or getattr(values, "dtype", None) == np.dtype(object)
                values = pa.array(values, from_pandas=True) if objects else pa.array(values)  # NaN stands among text
            arrays[name] = values
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"Column {name!r} mixes types: {error}") from None
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Columns must have the same length, got {lengths}.")
    return plain_strings(pa.table(arrays))


def _spread(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Single values as columns as long as the others, or of one row where there are no others."""
    single = {name for name, value in data.items() if _is_single(value)}
    if not single:
        return data
    long = next((len(value) for name, value in data.items() if name not in single), 1)
    return {name: [_plain(value)] * long if name in single else value for name, value in data.items()}


def _is_single(value: Any) -> bool:
    """Whether a value is one, not a column; a list is not looked through."""
    return isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or getattr(value, "ndim", None) == 0


def _plain(value: Any) -> Any:
    """A value out of a tensor or array without dimensions; others as they are."""
    return value.item() if isinstance(value, (torch.Tensor, np.ndarray)) else value


def _from_pandas(frame: Any, columns: list[str]) -> pa.Table:
    """Objects that all have one type (periods, intervals) are taken for what they are.

    Arrow picks the columns, where `frame[columns]` would copy them into another order.
    """
    import pyarrow as pa

    try:
        try:
            table = pa.Table.from_pandas(frame, columns=columns, preserve_index=False)
        except pa.ArrowInvalid:
            table = pa.Table.from_pandas(frame[columns].infer_objects(), preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(
            f"A column mixes types, or has one that tables do not know: {error}. Convert it first."
        ) from None
    return plain_strings(table.replace_schema_metadata())


def _from_polars(frame: Any, columns: list[str]) -> pa.Table:
    """A polars Categorical has no order of its own, so it becomes text, whose levels sort."""
    import polars as pl
    import pyarrow as pa

    frame = frame.lazy().select(columns)
    loose = [name for name, kind in frame.collect_schema().items() if isinstance(kind, pl.Categorical)]
    return plain_strings(pa.table(frame.with_columns(pl.col(loose).cast(pl.String)).collect()))


def plain_strings(table: pa.Table) -> pa.Table:
    """String and binary views as plain strings and bytes, which every Arrow kernel takes."""
    import pyarrow as pa

    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    for i, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_dictionary(kind) and kind.value_type in plain:
            kind = pa.dictionary(kind.index_type, plain[kind.value_type], kind.ordered)
        kind = plain.get(kind, kind)
        if kind != field.type:
            table = table.set_column(i, field.name, table.column(i).cast(kind))
    return table
