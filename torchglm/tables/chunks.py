"""Chunks: tables that come one after the other, from a list, an Arrow dataset or a function that makes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torchglm.rows.rereadable import read_again
from torchglm.tables.columns import as_table, names_of
from torchglm.tables.files import SharedColumns
from torchglm.tables.pieces import Piece, Pieces
from torchglm.tables.text_format import TextFormat

NAME, INSTEAD = "the data", "a list of tables"


class Chunks(Pieces):
    """The rows of a re-iterable of tables (whatever `as_table` takes), of a function that returns an iterator of such,
    or of an Arrow dataset, in pieces of at most `rows`.

    Rows are counted from the first chunk on. `columns`, `types`, `reading` and `share` are as in `Scan`; a share is
    each `size`-th chunk. Raises ValueError for what can be read once only (see `read_again`), and while iterating for
    a chunk that is no table, or has other columns than the first, or text where that has numbers.
    """

    def __init__(
        self,
        source: Any,
        columns: Sequence[str] | None = None,
        types: dict[str, str] | None = None,
        rows: int = 1 << 18,
        share: tuple[int, int] = (0, 1),
        reading: TextFormat | None = None,
    ) -> None:
        if not callable(source) and not _is_dataset(source):
            read_again(source, NAME, INSTEAD)
        self.source, self.types, self.rows = source, dict(types or {}), rows
        self.columns = None if columns is None else list(dict.fromkeys(columns))
        self.rank, self.size = share
        self.reading = reading or TextFormat()

    @property
    def names(self) -> list[str]:
        """The columns of the first chunk. Raises ValueError where there is none."""
        if _is_dataset(self.source):
            return list(self.source.schema.names)
        read_again(self.source, NAME, INSTEAD)
        for given in self._given():
            return _named(0, names_of, given)
        raise ValueError("There are no chunks, so no rows.")

    def pieces(self) -> Iterator[Piece]:
        """The pieces, with the numbers of their chunks."""
        first, shared = 0, SharedColumns(self.types)
        for number, given in enumerate(self._given()):
            table = _named(number, lambda given: self.reading.applied(as_table(given, self.columns)), given)
            shared.check(f"chunk {number}", table.schema)
            table = shared.typed(table)
            if number % self.size == self.rank:
                for start in range(0, table.num_rows, self.rows):
                    yield Piece(table.slice(start, self.rows), f"chunk {number}", first + start)
            first += table.num_rows
        if not first:
            raise ValueError("The chunks hold no rows.")

    def _given(self) -> Iterator[Any]:
        if _is_dataset(self.source):
            return iter(self.source.to_batches(columns=self.columns, batch_size=self.rows))
        return iter(self.source() if callable(self.source) else self.source)


def is_chunks(data: Any) -> bool:
    """Whether data are tables that come one after the other: no table itself, no array, no path and no paths."""
    first = data[0] if isinstance(data, (list, tuple)) and data else data
    if isinstance(first, (str, os.PathLike)) or isinstance(data, Mapping) or hasattr(data, "shape"):
        return False
    if _is_dataset(data):
        return True
    try:
        names_of(data)
    except ValueError:
        return False
    except TypeError:
        return callable(data) or hasattr(data, "__iter__")
    return False


def _is_dataset(data: Any) -> bool:
    """Whether this is a `pyarrow.dataset.Dataset`."""
    return hasattr(data, "to_batches") and hasattr(data, "scanner")


def _named(number: int, work: Any, *given: Any) -> Any:
    """What `work` makes of a chunk; what is wrong is said with its number."""
    try:
        return work(*given)
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"chunk {number}: {error}") from None
