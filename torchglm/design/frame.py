"""Frame: the rows of a table that a design uses, missing ones found first, columns converted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from torchglm.design.values import Coded, coded
from torchglm.tables.columns import column_values

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = ("error", "drop")


class Frame:
    """The complete rows of a table over the columns a design reads.

    `kept` is a mask over the given rows, or None where all are complete; `dropped` counts the missing values
    per column. `first` is the number of the table's first row in the data as a whole, for messages, which
    count rows from 0.

    Raises ValueError, naming column, count and first row, where a value is missing and `missing="error"`.
    """

    def __init__(self, table: pa.Table, columns: Sequence[str], missing: str = "error", first: int = 0) -> None:
        if missing not in MISSING:
            raise ValueError(f"missing must be one of {', '.join(MISSING)}; got {missing!r}.")
        table = table.select(list(dict.fromkeys(columns)))
        checked = ((name, _missing(table.column(name))) for name in table.column_names)
        lacks = {name: found for name, found in checked if found is not None}
        self.dropped = {name: int(found.sum()) for name, found in lacks.items()}
        self.kept: np.ndarray | None = None
        if lacks and missing == "error":
            raise ValueError(_said(lacks, first))
        if lacks:
            import pyarrow as pa

            self.kept = ~np.logical_or.reduce(list(lacks.values()))
            table = table.filter(pa.array(self.kept))
        self.table = table
        self._first = first
        self._values: dict[str, np.ndarray] = {}
        self._coded: dict[str, Coded] = {}

    def __len__(self) -> int:
        return self.table.num_rows

    def values(self, name: str) -> np.ndarray:
        """One column as an array `(n,)`: float64, bool, or objects for text."""
        if name not in self._values:
            self._values[name] = column_values(self.table.column(name))
        return self._values[name]

    def coded(self, name: str) -> Coded:
        """One column by its values. Raises ValueError for a type that has no levels."""
        if name not in self._coded:
            self._coded[name] = coded(self.table.column(name), name)
        return self._coded[name]

    def moved(self, columns: Mapping[str, Any]) -> Frame:
        """The same rows with columns replaced, each by an array of numbers `(n,)` or by one value for all rows.

        Nothing else is read again or rebuilt.
        """
        import pyarrow as pa

        new = copy(self)
        new._values, new._coded = dict(self._values), dict(self._coded)
        for name, value in columns.items():
            if isinstance(value, np.ndarray):
                new._values[name] = value
                new._coded[name] = coded(pa.chunked_array([pa.array(value)]), name)
            else:
                number = isinstance(value, (bool, int, float))
                kind = object if not number else bool if isinstance(value, bool) else np.float64
                new._values[name] = np.full(len(self), value, dtype=kind)
                new._coded[name] = Coded.constant(value, len(self))
        return new

    def row(self, i: int) -> int:
        """The number, in the data as a whole, of the frame's row `i`."""
        return self._first + (i if self.kept is None else int(np.flatnonzero(self.kept)[i]))


def _missing(column: pa.ChunkedArray) -> np.ndarray | None:
    """Where a column is null or NaN, `(n,)`, or None where it nowhere is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        return _missing_codes(column)
    if not pa.types.is_floating(column.type):
        return pc.is_null(column).to_numpy() if column.null_count else None
    if not column.null_count:
        found = np.isnan(column.to_numpy())
    else:
        found = pc.is_null(column, nan_is_null=True).to_numpy()
    return found if found.any() else None


def _missing_codes(column: pa.ChunkedArray) -> np.ndarray | None:
    """Where a dictionary column is missing: its index is null, or what the dictionary holds there is null or NaN."""
    import pyarrow.compute as pc

    found = []
    for chunk in column.chunks:
        lost = np.flatnonzero(pc.is_null(chunk.dictionary, nan_is_null=True).to_numpy(zero_copy_only=False))
        here = pc.is_null(chunk.indices).to_numpy(zero_copy_only=False)
        if len(lost):
            here = here | np.isin(pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False), lost)
        found.append(here)
    missing = np.concatenate(found) if found else np.zeros(0, bool)
    return missing if missing.any() else None


def _said(lacks: dict[str, np.ndarray], first: int) -> str:
    each = [
        f"{name!r} has {int(found.sum())} missing value{'s' if found.sum() > 1 else ''} "
        f"(the first in row {first + int(found.argmax())})"
        for name, found in lacks.items()
    ]
    return f"Column {', column '.join(each)}. Fill them in, or leave such rows out with missing='drop'."
