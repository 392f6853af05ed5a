"""Scan: the rows of files in pieces of bounded size, each with the place it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchglm.tables.columns import check_columns, plain_strings
from torchglm.tables.delimited import blocks
from torchglm.tables.files import PathLike, SharedColumns, column_names, files, kind_of, parquet_file
from torchglm.tables.pieces import Piece, Pieces
from torchglm.tables.readahead import read_ahead
from torchglm.tables.shares import row_groups
from torchglm.tables.text_format import TextFormat

if TYPE_CHECKING:
    import pyarrow as pa


class Scan(Pieces):
    """The rows of CSV or Parquet files as Arrow tables of bounded size; iterate as often as you like.

    Parquet comes by row group (pieces of `rows` where groups are larger), CSV by blocks, so memory does not
    grow with the number of rows. `types` maps columns to Arrow type names: a CSV scan guesses from the first
    16 MB of each file, and widens where a later block says otherwise. `reading` says how CSV files are written.
    `share=(rank, size)` gives one process of several its own pieces, which may be none: row groups by `row_groups`,
    of CSV (which every process has to parse) each `size`-th piece.

    Raises ValueError as `read_table` does; while iterating, one that names the file (and the row group, or the
    line), also where a file has other columns than the first, or text where that has numbers.
    """

    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        columns: Sequence[str] | None = None,
        types: dict[str, str] | None = None,
        rows: int = 1 << 18,
        share: tuple[int, int] = (0, 1),
        reading: TextFormat | None = None,
    ) -> None:
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}.")
        self.files = files(path)
        self.columns = None if columns is None else list(dict.fromkeys(columns))
        self.reading = reading or TextFormat()
        self.types = {**(types or {}), **self.reading.types}
        self.rows = rows
        for file in self.files:
            names = column_names(file, self.reading)
            check_columns(names if self.columns is None else self.columns, names, str(file))
        self.rank, self.size = share
        self.groups = None  # of each file; None means all
        if self.size > 1 and kind_of(self.files[0]) == "parquet":
            self.groups = row_groups(self.files, *share)
            self._check_types()

    @property
    def count(self) -> int | None:
        """How many rows the pieces hold, where the files say so: Parquet does."""
        if kind_of(self.files[0]) != "parquet":
            return None
        total = 0
        for file in self.files if self.groups is None else self.groups:
            with parquet_file(file) as source:
                groups = range(source.num_row_groups) if self.groups is None else self.groups[file]
                total += sum(source.metadata.row_group(group).num_rows for group in groups)
        return total

    def _check_types(self) -> None:
        """Find in the heads of all files what pieces of one's own share alone would not show."""
        import pyarrow as pa

        shared = SharedColumns(self.types)
        for file in self.files:
            with parquet_file(file) as source:
                own = [field for field in source.schema_arrow if self.columns is None or field.name in self.columns]
                if source.num_row_groups:
                    shared.check(file, pa.schema(own))

    def pieces(self) -> Iterator[Piece]:
        """The pieces, with their places; a thread reads one ahead."""
        return read_ahead(self._pieces())

    def _pieces(self) -> Iterator[Piece]:
        empty, number = self.size == 1, 0
        shared, checked = SharedColumns(self.types), None
        for file in self.files if self.groups is None else self.groups:
            for piece in self._csv(file) if kind_of(file) == "csv" else self._parquet(file):
                number += 1
                if checked != file:
                    shared.check(file, piece.table.schema)
                    checked = file
                if self.groups is None and number % self.size != self.rank % self.size:
                    continue
                if piece.table.num_rows:
                    empty = False
                    yield piece._replace(table=self.reading.applied(plain_strings(shared.typed(piece.table))))
        if empty:
            raise ValueError(f"{self.files[0]} has a header but no rows.")

    def _parquet(self, file: Path) -> Iterator[Piece]:
        import pyarrow as pa

        group = first = 0
        with parquet_file(file) as source:
            try:
                for group in range(source.num_row_groups):
                    if self.groups is not None and group not in self.groups[file]:
                        first += source.metadata.row_group(group).num_rows
                        continue
                    for table in self._group(source, group):
                        yield Piece(table, f"{file}, row group {group}", first, str(file))
                        first += table.num_rows
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file}, row group {group}, cannot be read: {error}") from None

    def _group(self, source: pa.parquet.ParquetFile, group: int) -> Iterator[pa.Table]:
        import pyarrow as pa

        if source.metadata.row_group(group).num_rows <= 4 * self.rows:
            table = source.read_row_group(group, columns=self.columns)
            yield from (table.slice(i, self.rows) for i in range(0, max(len(table), 1), self.rows))
        else:
            for batch in source.iter_batches(self.rows, [group], self.columns):
                yield pa.Table.from_batches([batch])

    def _csv(self, file: Path) -> Iterator[Piece]:
        first = 0
        for table in blocks(file, self.columns, self.types, self.reading):
            for i in range(0, len(table), self.rows):
                yield Piece(table.slice(i, self.rows), str(file), first + i, str(file))
            first += len(table)
