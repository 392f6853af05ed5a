"""Files: which CSV and Parquet files a path means, their columns, and all their rows as one table."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchglm.tables.columns import arrow_types, check_columns, each_once, plain_strings
from torchglm.tables.delimited import header, read_csv
from torchglm.tables.text_format import TextFormat

if TYPE_CHECKING:
    import pyarrow as pa

PathLike = str | os.PathLike[str]
COMPRESSED = {".zst": "unzstd", ".bz2": "bunzip2", ".xz": "unxz", ".lz4": "unlz4", ".zip": "unzip", ".7z": "7z x"}
PANDAS = {
    ".dta": "read_stata",
    ".sas7bdat": "read_sas",
    ".xpt": "read_sas",
    ".sav": "read_spss",
    ".json": "read_json",
    ".pkl": "read_pickle",
    ".h5": "read_hdf",
    ".orc": "read_orc",
}
LONGEST = 4096  # of a path that a system takes
KINDS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}


def files(path: PathLike | Sequence[PathLike]) -> list[Path]:
    """The data files that a path, a glob, a folder or a list of them stands for, in sorted order.

    A folder means the `.csv`, `.csv.gz`, `.parquet` and `.pq` files in it; hidden files and those that begin
    with an underscore are left out. Raises ValueError where nothing is there, a file is named twice (its rows would
    count twice) or empty, its ending is unknown, or CSV and Parquet are mixed.
    """
    given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    found = [file for one in given for file in _expand(one)]
    if not found:
        raise ValueError("No path was given. Name a file, a folder or a glob.")
    if len({file.resolve() for file in found}) < len(found):
        [(twice, _)] = Counter(file.resolve() for file in found).most_common(1)
        raise ValueError(
            f"{twice} is named more than once by {_listed(given)}. Name each file once, or its rows would count twice."
        )
    kinds = {kind_of(file) for file in found}
    if len(kinds) > 1:
        raise ValueError(f"{_said(path)} mixes CSV and Parquet. Read the two kinds apart.")
    for file in found:
        if file.stat().st_size == 0:
            raise ValueError(f"{file} is empty (0 bytes).")
    return found


def read_table(
    path: PathLike | Sequence[PathLike],
    columns: Sequence[str] | None = None,
    *,
    delimiter: str = ",",
    decimal: str = ".",
    encoding: str = "utf8",
    types: Mapping[str, str] | None = None,
    na: str | float | Sequence[str | float] | None = None,
) -> pa.Table:
    """All rows of the CSV or Parquet files at `path` (a file, a glob, a folder, a list) as one Arrow table.

    `columns` picks and orders. In CSV an empty field, `NA`, `NaN` and `null` are missing, in text too; `na` says
    otherwise. The others are as in `TextFormat`.
    Raises ValueError for a missing, empty or unreadable file, an unknown ending, an unknown column, or files
    whose columns do not fit together.
    """
    return read_files(path, columns, TextFormat.of(delimiter, decimal, encoding, types, na))


def read_files(
    path: PathLike | Sequence[PathLike],
    columns: Sequence[str] | None,
    reading: TextFormat | None = None,
    types: Mapping[str, str] | None = None,
) -> pa.Table:
    """As `read_table`; `types` are those that columns of CSV files are thought to have, as in `Scan`."""
    import pyarrow as pa

    found, reading = files(path), reading or TextFormat()
    pieces = [
        read_csv(file, columns, reading, types or {}) if kind_of(file) == "csv" else _read_parquet(file, columns)
        for file in found
    ]
    shared = SharedColumns({})
    for file, piece in zip(found, pieces, strict=True):
        shared.check(file, piece.schema)
    try:
        table = pieces[0] if len(pieces) == 1 else pa.concat_tables(pieces, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"The files of {_said(path)} do not fit together: {error}") from None
    if table.num_rows == 0:
        raise ValueError(f"{_said(path)} has a header but no rows.")
    return reading.applied(plain_strings(table))


def column_names(file: PathLike, reading: TextFormat | None = None) -> list[str]:
    """The names of the columns of one CSV or Parquet file, from its header alone.

    Raises ValueError where one stands twice, or the header cannot be read.
    """
    [path] = files(file)
    if kind_of(path) == "csv":
        return header(path, reading or TextFormat())
    with parquet_file(path) as source:
        return each_once(path, source.schema_arrow.names)


def _expand(path: PathLike) -> list[Path]:
    text = os.fspath(path)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text):
        raise ValueError(
            f"{text} is an address, and torchglm reads files of this machine. Download it first, or pass a table "
            "(pandas.read_parquet(address), say) or a pyarrow.dataset.dataset(address), which is read piece by piece."
        )
    if not text.strip():
        raise ValueError("the path of the data is empty. Name a file, a folder or a glob.")
    if len(text) > LONGEST or "\n" in text:
        raise ValueError(
            f"{text[:40]!r}… is no path of a file. Text that is read already: pandas.read_csv(StringIO(text))."
        )
    place = Path(text).expanduser()
    if place.is_dir():
        inside = sorted(file for file in place.iterdir() if file.is_file() and file.name[0] not in "._")
        inside = [file for file in inside if kind_of(file, strict=False)]
        if not inside:
            raise ValueError(f"The folder {text} holds no .csv or .parquet file{_below(place)}.")
        return inside
    if place.exists():
        kind_of(place)
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


def _below(place: Path) -> str:
    """What is said of data files in the subfolders of a folder; "" where there are none."""
    for ending in (".parquet", ".pq", ".csv", ".csv.gz"):
        if any(file.name[0] not in "._" for file in place.rglob(f"*{ending}")):
            return f" itself; for those in its folders write {place / '**' / f'*{ending}'}"
    return ""


def kind_of(file: Path, strict: bool = True) -> str:
    """`"csv"` or `"parquet"`; of another ending a ValueError, or "" where not `strict`."""
    kind = KINDS.get(Path(file.name.removesuffix(".gz")).suffix.lower(), "")
    if strict and not kind:
        raise ValueError(f"{file} has an unknown ending. Known: .csv, .csv.gz, .parquet, .pq.{_instead(file)}")
    return kind


def _instead(file: Path) -> str:
    """What to do with a file of a kind that is not read; "" where nothing is known of it."""
    ending = file.suffix.lower()
    if ending in COMPRESSED:
        return f" Unpack it first ({COMPRESSED[ending]} {file.name}), or pack it with gzip."
    if ending in (".xlsx", ".xls", ".xlsm", ".ods"):
        return " A spreadsheet: save its sheet as CSV, or pass the frame of pandas.read_excel(path)."
    if ending in (".tsv", ".tab", ".txt", ".dat"):
        return " Rename it to .csv, and pass delimiter='tab' where tabs part its fields."
    if ending in (".feather", ".arrow", ".ipc"):
        return " Pass its table: pyarrow.feather.read_table(path)."
    if ending in PANDAS:
        return f" Pass its frame: pandas.{PANDAS[ending]}(path)."
    return ""


def _said(path: Any) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else f"{len(path)} paths"


def _listed(given: Sequence[PathLike]) -> str:
    return ", ".join(str(Path(one)) for one in given[:4]) + (", …" if len(given) > 4 else "")


def parquet_file(file: Path) -> Any:
    """An open `ParquetFile`. Raises ValueError where its footer cannot be read (it may be cut off)."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file, memory_map=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a Parquet file that can be read: {error}") from None


class SharedColumns:
    """The columns that files (or chunks) read together must have in common, each with the first type found for it.

    `types` are Arrow type names that columns must agree with from the start. A column of nothing but nulls
    has no type of its own, and takes what it is told or has elsewhere.
    """

    def __init__(self, types: dict[str, str]) -> None:
        self.first: tuple[Path | str, list[str]] | None = None
        self.kinds = {name: (kind, "where the fit read") for name, kind in arrow_types(types).items()}

    def check(self, place: Path | str, schema: pa.Schema) -> None:
        """Raise ValueError where a file has other columns than the first, text for numbers or the reverse."""
        import pyarrow as pa

        self.first = self.first or (place, schema.names)
        if set(schema.names) != set(self.first[1]):
            other = sorted(set(schema.names) ^ set(self.first[1]))
            raise ValueError(
                f"{place} and {self.first[0]} differ in the columns {other}. Files read together need the same columns."
            )
        for field in schema:
            if pa.types.is_null(field.type):
                continue
            kind, where = self.kinds.setdefault(field.name, (field.type, f"and {place}"))
            if _numeric(field.type) != _numeric(kind):
                raise ValueError(
                    f"{place} holds column {field.name!r} as {field.type}, {where} {kind}. "
                    "Give it one type in all files."
                )

    def typed(self, table: pa.Table) -> pa.Table:
        """A table whose columns of nothing but nulls have the types known so far."""
        import pyarrow as pa

        for i, field in enumerate(table.schema):
            if pa.types.is_null(field.type) and field.name in self.kinds:
                table = table.set_column(i, field.name, pa.nulls(len(table), self.kinds[field.name][0]))
        return table


def _numeric(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _numeric(kind.value_type)
    return any(
        test(kind) for test in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    )


def _read_parquet(file: Path, columns: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa

    with parquet_file(file) as source:
        if columns is not None:
            check_columns(columns, source.schema_arrow.names, str(file))
        try:
            table = source.read(columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from None
    return table if columns is None else table.select(list(dict.fromkeys(columns)))
