"""The format of text: how it becomes columns, in CSV files and in tables that hold it."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torchglm.tables.columns import arrow_type, check_columns

if TYPE_CHECKING:
    import pyarrow as pa

DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
WORDS = {
    "number": "double",
    "float": "double",
    "integer": "int64",
    "int": "int64",
    "text": "string",
    "str": "string",
    "date": "date32",
    "datetime": "timestamp[us]",
    "boolean": "bool",
}


@dataclass(frozen=True)
class TextFormat:
    """How columns are read. Raises ValueError for what cannot be meant.

    Args:
        delimiter: one character that parts the fields of CSV files, or "tab"
        decimal: "." or ",", the sign before decimals in CSV files
        encoding: of CSV files, such as "latin-1" or "utf-16"
        types: column -> "number", "integer", "text", "date", or an Arrow type such as "decimal128(9, 2)"
        na: texts (or numbers) that mean missing beside empty fields, instead of NA, NaN, null and their like
    """

    delimiter: str = ","
    decimal: str = "."
    encoding: str = "utf8"
    types: Mapping[str, str] = field(default_factory=dict)
    na: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        delimiter: str = ",",
        decimal: str = ".",
        encoding: str = "utf8",
        types: Mapping[str, str] | None = None,
        na: str | float | Sequence[str | float] | None = None,
    ) -> TextFormat:
        """The arguments as users give them."""
        listed = None if na is None else [na] if isinstance(na, (str, int, float)) else list(na)
        told = {name: WORDS.get(kind, kind) for name, kind in (types or {}).items()}
        sign = DELIMITERS.get(delimiter, delimiter)
        return cls(sign, decimal, encoding, told, None if listed is None else tuple(map(_written, listed)))

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '"\r\n':
            raise ValueError(f'delimiter must be one character such as ";" or "tab", got {self.delimiter!r}.')
        if self.decimal not in (".", ",") or self.decimal == self.delimiter:
            raise ValueError(
                f"decimal must be '.' or ',', and another character than delimiter; got {self.decimal!r} "
                f"beside {self.delimiter!r}."
            )
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(f"unknown encoding {self.encoding!r}. Known: utf8, latin-1, cp1252, utf-16, …") from None
        for name, kind in self.types.items():
            if arrow_type(kind) is None:
                raise ValueError(
                    f"types: {name!r} cannot be {kind!r}. Known: {', '.join(WORDS)}, and Arrow's own, such as "
                    "int32, timestamp[ns], decimal128(9, 2)."
                )

    def applied(self, table: pa.Table) -> pa.Table:
        """The table with what means missing as null, and columns in the types they are told.

        Raises ValueError for a column that cannot be read as its type.
        """
        import pyarrow as pa

        for name in table.column_names if self.na is not None else ():
            table = table.set_column(table.column_names.index(name), name, self._nulled(table.column(name)))
        for name, told in self.types.items():
            kind = arrow_type(told)
            if name not in table.column_names or table.schema.field(name).type == kind:
                continue
            try:
                column = table.column(name).cast(kind)
            except pa.ArrowException as error:
                raise ValueError(
                    f"Column {name!r} cannot be read as {told}: {error}. What means missing can be named with na=."
                ) from None
            table = table.set_column(table.column_names.index(name), name, column)
        return table

    def _nulled(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """A column without the values that mean missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        kind = column.type
        if pa.types.is_dictionary(kind):
            if not (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)):
                return column
            found = pc.is_in(column.cast(kind.value_type), value_set=pa.array(self.na, kind.value_type))
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            found = pc.is_in(column, value_set=pa.array(self.na, kind))
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            values = [value for text in self.na or () if (value := _number(text)) is not None]
            if not values:
                return column
            found = pc.is_in(column.cast(pa.float64(), safe=False), value_set=pa.array(values, pa.float64()))
        else:
            return column
        return pc.if_else(found, pa.scalar(None, kind), column) if pc.any(found).as_py() else column

    def check(self, names: Sequence[str], where: str) -> None:
        """Raise ValueError where `types` names a column that is not there."""
        check_columns(self.types, names, where)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: what differs from the defaults."""
        given = {**vars(self), "types": dict(self.types), "na": None if self.na is None else list(self.na)}
        plain = {**vars(TextFormat()), "types": {}}
        return {name: value for name, value in given.items() if value != plain[name]}


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
