"""CSV files: their columns, their rows in blocks, and what is said of those that cannot be read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchglm.tables.columns import arrow_types, check_columns, each_once
from torchglm.tables.text_format import TextFormat

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 16 << 20  # bytes; the types of a scanned CSV are guessed from its first block
CONVERSION = re.compile(
    r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error to (.+?): invalid value '(.*)'", re.S
)
ENCODING = "Say in which encoding it was written: encoding='latin-1', 'cp1252', …"


def header(file: Path, reading: TextFormat) -> list[str]:
    """The names of the columns. Raises ValueError where one stands twice, or the header cannot be read."""
    import pyarrow as pa
    from pyarrow import csv

    _check_bytes(file, reading)
    options = convert_options(None, {}, reading)
    try:
        names = csv.open_csv(
            file, parse_options=_parsed(reading), convert_options=options, **_decoded(reading)
        ).schema.names
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not in {reading.encoding}, by its header. {ENCODING}") from None
    except (pa.ArrowException, OSError, LookupError) as error:
        raise csv_error(file, error, options, reading) from None
    other = next((sign for sign in ";\t|," if len(names) == 1 and sign in names[0] and sign != reading.delimiter), None)
    if other is not None:
        said = "tab" if other == "\t" else other
        decimal = " (and decimal=',' where numbers are written 1,5)" if other != "," else ""
        raise ValueError(
            f"{file} has one column, {names[0][:60]!r}: its fields are parted by another sign than "
            f"{reading.delimiter!r}. Pass delimiter={said!r}{decimal}."
        )
    return each_once(file, names)


def read_csv(file: Path, columns: Sequence[str] | None, reading: TextFormat, types: Mapping[str, str]) -> pa.Table:
    """All rows of a file; guessed `types` are widened as in `blocks`. Raises ValueError where it cannot be read."""
    import pyarrow as pa
    from pyarrow import csv

    names = header(file, reading)
    check_columns(names if columns is None else columns, names, str(file))
    if types:
        return pa.concat_tables(list(blocks(file, columns, types, reading)), promote_options="permissive")
    options = convert_options(columns, {}, reading)
    try:
        table = csv.read_csv(file, parse_options=_parsed(reading), convert_options=options, **_decoded(reading))
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise csv_error(file, error, options, reading) from None
    return check_text(file, table, reading)


def blocks(
    file: Path, columns: Sequence[str] | None, types: Mapping[str, str], reading: TextFormat
) -> Iterator[pa.Table]:
    """The rows of a file, in blocks of 16 MB.

    Types are guessed from the first block, where neither `types` nor `reading` tells them; where a later block says
    otherwise (whole numbers become decimal, an empty column begins), the file is read again from there in the wider
    type. Raises ValueError where it cannot be read.
    """
    import pyarrow as pa

    types, rows = dict(types), 0
    while True:
        options, start = convert_options(columns, types, reading), 0
        try:
            for table in _open(file, options, reading):
                start += len(table)
                if start > rows:
                    yield check_text(file, table.slice(max(0, len(table) - (start - rows))), reading)
                    rows = start
            return
        except (pa.ArrowException, OSError, UnicodeError) as error:
            wider = _wider(file, error, reading)
            if wider is None or types.get(wider[0]) == wider[1]:
                raise csv_error(file, error, options, reading) from None
            types[wider[0]] = wider[1]


def _open(file: Path, options: Any, reading: TextFormat) -> Iterator[pa.Table]:
    import pyarrow as pa
    from pyarrow import csv

    opened = csv.open_csv(
        file, parse_options=_parsed(reading), convert_options=options, **_decoded(reading, block_size=BLOCK)
    )
    return (pa.Table.from_batches([batch]) for batch in opened)


def _wider(file: Path, error: Exception, reading: TextFormat) -> tuple[str, str] | None:
    """The column that has to be read in a wider type than was guessed, and that type; None where none helps."""
    found = CONVERSION.search(str(error))
    if found is None:
        return None
    name, kind, value = header(file, reading)[int(found[1])], found[2], found[3]
    if name in reading.types or not (kind == "null" or kind.startswith(("int", "uint", "date32"))):
        return None
    try:
        float(value.replace(reading.decimal, "."))
        return (name, "double") if kind != "date32[day]" else None
    except ValueError:
        return (name, "string") if kind == "null" else (name, "timestamp[us]") if "date" in kind else None


def convert_options(columns: Sequence[str] | None, types: Mapping[str, str], reading: TextFormat) -> Any:
    """How fields are read: empty ones are missing in text too, and columns have the types they are told."""
    from pyarrow import csv

    told = {name: kind for name, kind in reading.types.items() if columns is None or name in columns}
    missing = {} if reading.na is None else {"null_values": ["", *reading.na]}
    return csv.ConvertOptions(
        include_columns=None if columns is None else list(dict.fromkeys(columns)),
        column_types=arrow_types({**types, **told}),
        strings_can_be_null=True,
        decimal_point=reading.decimal,
        **missing,
    )


def _parsed(reading: TextFormat) -> Any:
    from pyarrow import csv

    return csv.ParseOptions(delimiter=reading.delimiter)


def _decoded(reading: TextFormat, **more: Any) -> dict[str, Any]:
    from pyarrow import csv

    return {"read_options": csv.ReadOptions(encoding=reading.encoding, **more)}


def _check_bytes(file: Path, reading: TextFormat) -> None:
    """Raise ValueError for a file that begins as UTF-16 does and is read as something else."""
    import pyarrow as pa

    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            first = stream.read(4)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if first[:2] in (b"\xff\xfe", b"\xfe\xff") and not reading.encoding.lower().replace("_", "-").startswith("utf-16"):
        raise ValueError(f"{file} is in UTF-16, and is read as {reading.encoding}. Pass encoding='utf-16'.")
    if first[:1] == b"\x00" or first[1:2] == b"\x00":
        if not reading.encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
            raise ValueError(f"{file} is no text in {reading.encoding}. If it is in UTF-16, pass encoding='utf-16'.")


def check_text(file: Path, table: pa.Table, reading: TextFormat) -> pa.Table:
    """The table. Raises ValueError for a column of bytes, which text in another encoding comes as."""
    import pyarrow as pa

    for column in table.schema:
        if pa.types.is_binary(column.type) and column.name not in reading.types:
            raise ValueError(f"{file}: column {column.name!r} holds text that is not in {reading.encoding}. {ENCODING}")
    return table


def csv_error(file: Path, error: Exception, options: Any, reading: TextFormat) -> ValueError:
    """The error of a CSV file that cannot be read, with the line, which is looked for by reading it again slowly."""
    import pyarrow as pa
    from pyarrow import csv

    said = str(error)
    try:
        more = _decoded(reading, block_size=BLOCK, use_threads=False)
        for _ in csv.open_csv(file, parse_options=_parsed(reading), convert_options=options, **more):
            pass
    except (pa.ArrowException, OSError, UnicodeError) as again:
        said = re.sub(r"Row #(\d+)", r"line \1", str(again))
    return ValueError(f"{file} cannot be read: {_named(file, said, reading)}")


def _named(file: Path, said: str, reading: TextFormat) -> str:
    """Arrow's words with the column's name, and what to do."""
    import pyarrow as pa
    from pyarrow import csv

    found = re.search(r"In CSV column #(\d+)", said)
    name = None
    if found is not None:
        try:
            name = csv.open_csv(file, parse_options=_parsed(reading), **_decoded(reading)).schema.names[int(found[1])]
            said = said.replace(found[0], f"in column {name!r}")
        except (pa.ArrowException, OSError, UnicodeError, IndexError):
            name = None
    said = said if said.endswith(".") else f"{said}."
    value = re.search(r"invalid value '(.*)'", said, re.S)
    if "UTF" in said or "codec" in said:
        return f"{said} {ENCODING}"
    if value is not None and name is not None:
        comma = " decimal=',' where numbers are written 1,5;" if "," in value[1] else ""
        return (
            f"{said} Tell what it holds: types={{{name!r}: 'number'}} or 'text';{comma} na=[{value[1]!r}] where that "
            "means missing. Parquet says its types by itself."
        )
    if "Expected" in said and "columns" in said:
        return f"{said} Where its fields are parted by another sign, pass delimiter=';' or 'tab'."
    return said
