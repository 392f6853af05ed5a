"""Frame: the rows of a table that a design uses, missing ones found first, columns converted once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

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

    def __len__(self) -> int:
        return self.table.num_rows

    def values(self, name: str) -> np.ndarray:
        """One column as an array `(n,)`: float64, bool, or objects for text."""
        if name not in self._values:
            self._values[name] = column_values(self.table.column(name))
        return self._values[name]

    def row(self, i: int) -> int:
        """The number, in the data as a whole, of the frame's row `i`."""
        return self._first + (i if self.kept is None else int(np.flatnonzero(self.kept)[i]))


def _missing(column: pa.ChunkedArray) -> np.ndarray | None:
    """Where a column is null or NaN, `(n,)`, or None where it nowhere is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(column.type):
        return pc.is_null(column).to_numpy() if column.null_count else None
    if not column.null_count:
        found = np.isnan(column.to_numpy())
    else:
        found = pc.is_null(column, nan_is_null=True).to_numpy()
    return found if found.any() else None


def _said(lacks: dict[str, np.ndarray], first: int) -> str:
    each = [
        f"{name!r} has {int(found.sum())} missing value{'s' if found.sum() > 1 else ''} "
        f"(the first in row {first + int(found.argmax())})"
        for name, found in lacks.items()
    ]
    return f"Column {', column '.join(each)}. Fill them in, or leave such rows out with missing='drop'."
