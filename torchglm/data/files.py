"""Files: CSV and Parquet, one or many, read whole or scanned in pieces of bounded size."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .formulas import parse
from .tables import check_columns, plain_strings

if TYPE_CHECKING:
    import pyarrow as pa

PathLike = str | os.PathLike[str]
KINDS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
CSV_BLOCK = 16 << 20  # bytes; the types of a scanned CSV are guessed from its first block


def files(path: PathLike | Sequence[PathLike]) -> list[Path]:
    """The data files that a path, a glob, a folder or a list of them stands for, in sorted order.

    A folder means the `.csv`, `.csv.gz`, `.parquet` and `.pq` files in it; hidden files and those that begin
    with an underscore are left out. Raises ValueError where nothing is there, a file is empty, its ending is
    unknown, or CSV and Parquet are mixed.
    """
    given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    found = [file for one in given for file in _expand(one)]
    if not found:
        raise ValueError("No path was given. Name a file, a folder or a glob.")
    kinds = {_kind(file) for file in found}
    if len(kinds) > 1:
        raise ValueError(f"{_said(path)} mixes CSV and Parquet. Read the two kinds apart.")
    for file in found:
        if file.stat().st_size == 0:
            raise ValueError(f"{file} is empty (0 bytes).")
    return found


def read_table(path: PathLike | Sequence[PathLike], columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of the CSV or Parquet files at `path` (a file, a glob, a folder, a list) as one Arrow table.

    `columns` picks and orders. In CSV an empty field, `NA`, `NaN` and `null` are missing, in text too.
    Raises ValueError for a missing, empty or unreadable file, an unknown ending, an unknown column, or files
    whose columns do not fit together.
    """
    import pyarrow as pa

    found = files(path)
    read = _read_csv if _kind(found[0]) == "csv" else _read_parquet
    pieces = [read(file, columns) for file in found]
    for file, piece in zip(found[1:], pieces[1:], strict=True):
        if set(piece.column_names) != set(pieces[0].column_names):
            other = set(piece.column_names) ^ set(pieces[0].column_names)
            raise ValueError(
                f"{file} and {found[0]} differ in the columns {sorted(other)}. "
                "Files read together need the same columns."
            )
    try:
        table = pieces[0] if len(pieces) == 1 else pa.concat_tables(pieces, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"The files of {_said(path)} do not fit together: {error}") from None
    if table.num_rows == 0:
        raise ValueError(f"{_said(path)} has a header but no rows.")
    return plain_strings(table)


class Scan:
    """The rows of CSV or Parquet files as Arrow tables of bounded size; iterate as often as you like.

    Parquet comes by row group (pieces of `rows` where groups are larger), CSV by blocks, so memory does not
    grow with the number of rows. `types` maps columns to Arrow type names: a CSV scan guesses from the first
    16 MB of each file, and needs it where a later block says otherwise (`DesignSpec.types` has them).

    Raises ValueError as `read_table` does; while iterating, one that names the file (and the row group).
    """

    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        columns: Sequence[str] | None = None,
        types: dict[str, str] | None = None,
        rows: int = 1 << 18,
    ) -> None:
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}.")
        self.files = files(path)
        self.columns = None if columns is None else list(dict.fromkeys(columns))
        self.types = dict(types or {})
        self.rows = rows
        for file in self.files:
            if self.columns is not None:
                check_columns(self.columns, column_names(file), str(file))

    def __iter__(self) -> Iterator[pa.Table]:
        empty = True
        for file in self.files:
            pieces = self._csv(file) if _kind(file) == "csv" else self._parquet(file)
            for piece in pieces:
                if piece.num_rows:
                    empty = False
                    yield plain_strings(piece)
        if empty:
            raise ValueError(f"{self.files[0]} has a header but no rows.")

    def _parquet(self, file: Path) -> Iterator[pa.Table]:
        import pyarrow as pa

        group = 0
        with _parquet_file(file) as source:
            try:
                for group in range(source.num_row_groups):
                    if source.metadata.row_group(group).num_rows <= 4 * self.rows:
                        table = source.read_row_group(group, columns=self.columns)
                        yield from (table.slice(i, self.rows) for i in range(0, len(table), self.rows))
                    else:
                        for batch in source.iter_batches(self.rows, [group], self.columns):
                            yield pa.Table.from_batches([batch])
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file}, row group {group}, cannot be read: {error}") from None

    def _csv(self, file: Path) -> Iterator[pa.Table]:
        import pyarrow as pa
        from pyarrow import csv

        try:
            reader = csv.open_csv(
                file,
                read_options=csv.ReadOptions(block_size=CSV_BLOCK),
                convert_options=_csv_options(self.columns, self.types),
            )
            for batch in reader:
                table = pa.Table.from_batches([batch])
                yield from (table.slice(i, self.rows) for i in range(0, len(table), self.rows))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{file} cannot be read: {error}. If a column changes its type on the way, name it: "
                "Scan(..., types={'column': 'float64'})."
            ) from None


def column_names(file: PathLike) -> list[str]:
    """The names of the columns of one CSV or Parquet file, from its header alone."""
    import pyarrow as pa
    from pyarrow import csv

    [path] = files(file)
    if _kind(path) == "parquet":
        with _parquet_file(path) as source:
            return list(source.schema_arrow.names)
    try:
        return list(csv.open_csv(path).schema.names)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a CSV file that can be read: {error}") from None


def columns_read(formula: str, path: PathLike | Sequence[PathLike], also: Sequence[str],
                 said: str = "the formula") -> list[str]:
    """The columns that a formula, and the columns `also`, take from files.

    Raises ValueError for a formula without a response (`said` names it) and for columns that the first file lacks.
    """
    file = files(path)[0]
    names = column_names(file)
    parsed = parse(formula, [name for name in names if name not in also])
    if parsed.response is None:
        raise ValueError(f"{said} {formula!r} has no response. Write it as 'y ~ ...'.")
    wanted = list(dict.fromkeys([*parsed.response.columns, *parsed.columns, *also]))
    check_columns(wanted, names, str(file))
    return wanted


def _expand(path: PathLike) -> list[Path]:
    text = os.fspath(path)
    place = Path(text).expanduser()
    if place.is_dir():
        inside = sorted(file for file in place.iterdir() if file.is_file() and file.name[0] not in "._")
        inside = [file for file in inside if _kind(file, strict=False)]
        if not inside:
            raise ValueError(f"The folder {text} holds no .csv or .parquet file.")
        return inside
    if place.exists():
        _kind(place)
        return [place]
    if any(sign in text for sign in "*?["):
        found = [Path(name) for name in sorted(glob.glob(str(place), recursive=True)) if Path(name).is_file()]
        if not found:
            raise ValueError(f"No file matches {text}.")
        return found
    beside = [file.name for file in place.parent.iterdir()] if place.parent.is_dir() else []
    near = get_close_matches(place.name, beside, n=1)
    hint = f" Did you mean {place.parent / near[0]}?" if near else ""
    raise ValueError(f"{text} does not exist.{hint}")


def _kind(file: Path, strict: bool = True) -> str:
    kind = KINDS.get(Path(file.name.removesuffix(".gz")).suffix.lower(), "")
    if strict and not kind:
        raise ValueError(f"{file} has an unknown ending. Known: .csv, .csv.gz, .parquet, .pq.")
    return kind


def _said(path: Any) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else f"{len(path)} paths"


def _parquet_file(file: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file, memory_map=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a Parquet file that can be read: {error}") from None


def _read_parquet(file: Path, columns: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa

    with _parquet_file(file) as source:
        if columns is not None:
            check_columns(columns, source.schema_arrow.names, str(file))
        try:
            table = source.read(columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from None
    return table if columns is None else table.select(list(dict.fromkeys(columns)))


def _read_csv(file: Path, columns: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    if columns is not None:
        check_columns(columns, column_names(file), str(file))
    try:
        table = csv.read_csv(file, convert_options=_csv_options(columns, {}))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a CSV file that can be read: {error}") from None
    if len(set(table.column_names)) != len(table.column_names):
        raise ValueError(f"{file} names a column twice in its header.")
    return table


def _csv_options(columns: Sequence[str] | None, types: dict[str, str]) -> Any:
    from pyarrow import csv, type_for_alias

    return csv.ConvertOptions(
        include_columns=None if columns is None else list(dict.fromkeys(columns)),
        column_types={name: type_for_alias(kind) for name, kind in types.items()},
        strings_can_be_null=True,
    )
