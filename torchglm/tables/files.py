"""Files: which CSV and Parquet files a path means, their columns, and all their rows as one table."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchglm.tables.columns import check_columns, plain_strings

if TYPE_CHECKING:
    import pyarrow as pa

PathLike = str | os.PathLike[str]
KINDS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
CSV_BLOCK = 16 << 20  # bytes; the types of a scanned CSV are guessed from its first block


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


def read_table(path: PathLike | Sequence[PathLike], columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of the CSV or Parquet files at `path` (a file, a glob, a folder, a list) as one Arrow table.

    `columns` picks and orders. In CSV an empty field, `NA`, `NaN` and `null` are missing, in text too.
    Raises ValueError for a missing, empty or unreadable file, an unknown ending, an unknown column, or files
    whose columns do not fit together.
    """
    import pyarrow as pa

    found = files(path)
    read = _read_csv if kind_of(found[0]) == "csv" else _read_parquet
    pieces = [read(file, columns) for file in found]
    shared = SharedColumns({})
    for file, piece in zip(found, pieces, strict=True):
        shared.check(file, piece.schema)
    try:
        table = pieces[0] if len(pieces) == 1 else pa.concat_tables(pieces, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"The files of {_said(path)} do not fit together: {error}") from None
    if table.num_rows == 0:
        raise ValueError(f"{_said(path)} has a header but no rows.")
    return plain_strings(table)


def column_names(file: PathLike) -> list[str]:
    """The names of the columns of one CSV or Parquet file, from its header alone.

    Raises ValueError where one stands twice, or the header cannot be read.
    """
    import pyarrow as pa
    from pyarrow import csv

    [path] = files(file)
    if kind_of(path) == "parquet":
        with parquet_file(path) as source:
            return _each_once(path, source.schema_arrow.names)
    options = csv_options(None, {})
    try:
        return _each_once(path, csv.open_csv(path, convert_options=options).schema.names)
    except (pa.ArrowException, OSError) as error:
        raise csv_error(path, error, options) from None


def _each_once(file: Path, names: Sequence[str]) -> list[str]:
    """The names of columns. Raises ValueError where one stands twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"{file} names the column {twice[0]!r} twice in its header. Give each a name of its own.")
    return list(names)


def _expand(path: PathLike) -> list[Path]:
    text = os.fspath(path)
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
        raise ValueError(f"{file} has an unknown ending. Known: .csv, .csv.gz, .parquet, .pq.")
    return kind


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


def arrow_types(types: dict[str, str]) -> dict[str, pa.DataType]:
    """Arrow types by column from their names; those that Arrow reads no name of (decimals) are left out."""
    import pyarrow as pa

    found = {}
    for name, kind in types.items():
        try:
            found[name] = pa.type_for_alias(kind)
        except ValueError:
            continue
    return found


def _numeric(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _numeric(kind.value_type)
    return any(
        test(kind) for test in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    )


def csv_error(file: Path, error: Exception, options: Any) -> ValueError:
    """The error of a CSV file that cannot be read, with the line, which is looked for by reading it again slowly."""
    import pyarrow as pa
    from pyarrow import csv

    said = str(error)
    try:
        for _ in csv.open_csv(
            file, read_options=csv.ReadOptions(block_size=CSV_BLOCK, use_threads=False), convert_options=options
        ):
            pass
    except (pa.ArrowException, OSError) as again:
        said = re.sub(r"Row #(\d+)", r"line \1", str(again))
    hint = (
        " Where a column changes its type on the way, give it one type in all rows and files, or write them as "
        "Parquet, which says its types."
        if "conversion" in said
        else ""
    )
    return ValueError(f"{file} cannot be read: {said}{'' if said.endswith('.') else '.'}{hint}")


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


def _read_csv(file: Path, columns: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    if columns is not None:
        check_columns(columns, column_names(file), str(file))
    options = csv_options(columns, {})
    try:
        table = csv.read_csv(file, convert_options=options)
    except (pa.ArrowException, OSError) as error:
        raise csv_error(file, error, options) from None
    _each_once(file, table.column_names)
    return table


def csv_options(columns: Sequence[str] | None, types: dict[str, str]) -> Any:
    """How fields are read: empty ones are missing in text too, and columns have the types they are told."""
    from pyarrow import csv

    return csv.ConvertOptions(
        include_columns=None if columns is None else list(dict.fromkeys(columns)),
        column_types=arrow_types(types),
        strings_can_be_null=True,
    )
