"""Values: what the levels of a category are, whatever type, unit or scale a table holds them in.

Two rows have the same level where they hold the same value: a day in any unit, a decimal of any scale, -0.0 and 0.0,
an id in any integer type. Nothing goes by printed text, and every value can be written as JSON and read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

DAY, SECOND = 86_400 * 10**9, 10**9  # in nanoseconds
UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


@dataclass(frozen=True, order=True)
class Moment:
    """A day, or a time on it: nanoseconds since 1970, in UTC where it has a zone (`zoned`)."""

    zoned: bool
    nanoseconds: int

    def __str__(self) -> str:
        days, rest = divmod(self.nanoseconds, DAY)
        day = str(np.datetime64(days, "D"))
        return (f"{day} {_clock(rest)}" if rest or self.zoned else day) + ("Z" if self.zoned else "")


@dataclass(frozen=True, order=True)
class Clock:
    """A time of day: nanoseconds since midnight."""

    nanoseconds: int

    def __str__(self) -> str:
        return _clock(self.nanoseconds)


@dataclass(frozen=True, order=True)
class Span:
    """A duration in nanoseconds."""

    nanoseconds: int

    def __str__(self) -> str:
        days, rest = divmod(abs(self.nanoseconds), DAY)
        parts = ([f"{days} days"] if days or not rest else []) + ([_clock(rest)] if rest else [])
        return "-" * (self.nanoseconds < 0) + " ".join(parts)


@dataclass(frozen=True, order=True)
class Period:
    """A calendar period of pandas: the `ordinal`-th of its frequency, and how it is written, such as "2020-01"."""

    frequency: str
    ordinal: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, order=True)
class Interval:
    """A range between two values, `closed` at "left", "right", "both" or "neither" end."""

    left: Any
    right: Any
    closed: str

    def __str__(self) -> str:
        opens = "[" if self.closed in ("left", "both") else "("
        return f"{opens}{self.left}, {self.right}{']' if self.closed in ('right', 'both') else ')'}"


@dataclass(frozen=True)
class Coded:
    """A column by its values: each of them once, and the place of each row's among them, `(n,)` int64, -1 for none.

    `ordered` says that the values come in an order of their own, that of a dictionary, which may list unused ones.
    """

    codes: np.ndarray
    values: list[Any]
    ordered: bool = False

    @property
    def counts(self) -> np.ndarray:
        """The rows of each value."""
        known = self.codes if self.codes.min(initial=0) >= 0 else self.codes[self.codes >= 0]
        return np.bincount(known, minlength=len(self.values))

    @classmethod
    def constant(cls, value: Any, rows: int) -> Coded:
        """The same value in all rows."""
        return cls(np.zeros(rows, np.int64), [value])


def coded(column: pa.ChunkedArray, name: str) -> Coded:
    """A column by its values. Raises ValueError for a type that has none, such as lists."""
    import pyarrow as pa

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "pandas.interval":
        return _intervals(column, kind, name)
    if pa.types.is_null(kind) and not len(column):
        return Coded(np.zeros(0, np.int64), [])
    ordered = pa.types.is_dictionary(kind)
    value_of = reader(kind.value_type if ordered else kind, name)
    encoded = column if ordered else _storage(column).dictionary_encode()
    places: dict[Any, int] = {}
    found = np.full(len(column), -1, np.int64)
    start, dictionary = 0, None
    own = np.zeros(1, np.int64)
    for chunk in encoded.chunks:
        if dictionary is None or not chunk.dictionary.equals(dictionary):
            dictionary = chunk.dictionary
            own = np.append(_join(places, value_of(dictionary)), -1)  # the last is that of null
        found[start : start + len(chunk)] = own[_indices(chunk)]
        start += len(chunk)
    return Coded(found, list(places), ordered)


def _join(places: dict[Any, int], values: list[Any]) -> np.ndarray:
    """The place of each value, those not met before taking the next ones; -1 for None."""
    if not places:
        places.update(zip(values, range(len(values)), strict=True))
        if len(places) == len(values) and None not in places:
            return np.arange(len(values))
        places.clear()
    return np.array([-1 if v is None else places.setdefault(v, len(places)) for v in values], np.int64)


def _indices(chunk: pa.DictionaryArray) -> np.ndarray:
    """The index of each row in its dictionary, -1 for null."""
    indices = chunk.indices
    return (indices.fill_null(-1) if indices.null_count else indices).to_numpy(zero_copy_only=False)


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in a type that can be encoded: what extension types keep, and half floats as floats."""
    import pyarrow as pa

    if isinstance(column.type, pa.BaseExtensionType):
        return _storage(pa.chunked_array([c.storage for c in column.chunks], column.type.storage_type))
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _intervals(column: pa.ChunkedArray, kind: pa.BaseExtensionType, name: str) -> Coded:
    """Intervals by their ends."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = pa.chunked_array([c.storage for c in column.chunks], kind.storage_type)
    left, right = (coded(pc.struct_field(whole, side), name) for side in ("left", "right"))
    joint = np.where((left.codes < 0) | (right.codes < 0), -1, left.codes * len(right.values) + right.codes)
    used, places = np.unique(joint, return_inverse=True)
    first = int(used[:1].tolist() == [-1])
    pairs = [divmod(one, len(right.values)) for one in used[first:].tolist()]
    values = [Interval(left.values[a], right.values[b], kind.closed) for a, b in pairs]
    return Coded(places.reshape(-1).astype(np.int64) - first, values)


def reader(kind: pa.DataType, name: str) -> Callable[[pa.Array], list[Any]]:
    """How an array of an Arrow type is read as values, None for missing ones.

    Raises ValueError for a type that has no levels.
    """
    import pyarrow as pa

    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _extension(kind, name)
    if types.is_boolean(kind) or types.is_integer(kind) or _is_text(kind):
        return lambda array: array.to_pylist()
    if types.is_floating(kind):
        return lambda array: [None if v is None or v != v else v + 0.0 for v in array.to_pylist()]
    if types.is_decimal(kind):
        return lambda array: [None if v is None else _decimal(v) for v in array.to_pylist()]
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return lambda array: array.to_pylist()
    if types.is_date(kind) or types.is_timestamp(kind):
        zoned = types.is_timestamp(kind) and kind.tz is not None
        return _counted(kind, lambda count: Moment(zoned, count))
    if types.is_time(kind):
        return _counted(kind, Clock)
    if types.is_duration(kind):
        return _counted(kind, Span)
    raise ValueError(f"Column {name!r} holds {kind}, which has no levels. Derive text or numbers from it.")


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _counted(kind: pa.DataType, made: Callable[[int], Any]) -> Callable[[pa.Array], list[Any]]:
    """Times, as whole nanoseconds, which Python holds for every year."""
    import pyarrow as pa

    if pa.types.is_date32(kind):
        width, unit = pa.int32(), DAY
    elif pa.types.is_date64(kind):
        width, unit = pa.int64(), UNITS["ms"]
    else:
        width, unit = pa.int32() if pa.types.is_time32(kind) else pa.int64(), UNITS[kind.unit]
    return lambda array: [None if v is None else made(v * unit) for v in array.cast(width).to_pylist()]


def _extension(kind: pa.BaseExtensionType, name: str) -> Callable[[pa.Array], list[Any]]:
    """The values of an extension type: UUIDs, periods and intervals are known, of others what they keep."""
    if kind.extension_name == "pandas.interval":
        ends = [kind.storage_type.field(side) for side in ("left", "right")]
        left, right = (reader(end.type, name) for end in ends)

        def intervals(array: pa.Array) -> list[Any]:
            kept = getattr(array, "storage", array)
            pairs = zip(left(kept.field("left")), right(kept.field("right")), kept.is_valid().to_pylist(), strict=True)
            return [Interval(a, b, kind.closed) if valid else None for a, b, valid in pairs]

        return intervals
    inner = reader(kind.storage_type, name)
    made: Callable[[Any], Any] = lambda value: value  # noqa: E731
    if kind.extension_name == "arrow.uuid":
        made = lambda value: UUID(bytes=value)  # noqa: E731
    elif kind.extension_name == "pandas.period":
        from pandas import Period as Calendar

        made = lambda count: Period(kind.freq, count, str(Calendar(ordinal=count, freq=kind.freq)))  # noqa: E731
    return lambda array: [None if v is None else made(v) for v in inner(getattr(array, "storage", array))]


def _decimal(value: Decimal) -> Any:
    """A decimal as the number it is: whole, the float that is written like it, or (of many digits) a decimal."""
    if value == value.to_integral_value():
        return int(value)
    near = float(value)
    if Decimal(repr(near)) == value:
        return near
    return Decimal(format(value, "f").rstrip("0"))


def _clock(nanoseconds: int) -> str:
    """`HH:MM:SS`, with as many decimals as there are."""
    seconds, rest = divmod(nanoseconds, SECOND)
    part = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{part}"


KINDS: list[tuple[type | tuple[type, ...], str]] = [
    (bool, "truth values"),
    ((int, float, Decimal), "numbers"),
    (str, "text"),
    (Moment, "dates"),
    (Span, "durations"),
    (Clock, "times of day"),
]


def kind_of(values: Sequence[Any]) -> str:
    """What values are, in a word: "numbers", "text", "times", …, those of the first of them."""
    first = values[0] if len(values) else ""
    return next((name for kind, name in KINDS if isinstance(first, kind)), f"{type(first).__name__} values")


def in_order(values: Iterable[Any]) -> list[Any]:
    """Values from the least to the greatest. Raises ValueError where they cannot be compared."""
    values = list(values)
    try:
        return sorted(values)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in values})
        raise ValueError(f"A category mixes {' and '.join(kinds)}: {values[:6]}. Give it one type.") from None


def spelled(value: Any, levels: Sequence[Any]) -> Any:
    """The level that somebody means by a value, or by what it looks like in print; the value where there is none."""
    import pyarrow as pa

    if value in levels or isinstance(value, (int, float)):
        return value
    if isinstance(value, str):
        return next((level for level in levels if str(level) == value), value)
    try:
        given = pa.array(np.array([value]) if isinstance(value, np.generic) else [value])
        return (coded(pa.chunked_array([given]), "").values or [value])[0]
    except (pa.ArrowException, TypeError, ValueError):
        return _of_pandas(value, levels)


def _of_pandas(value: Any, levels: Sequence[Any]) -> Any:
    """The level that a period or an interval of pandas means."""
    if isinstance(getattr(value, "ordinal", None), int):
        return next((one for one in levels if getattr(one, "ordinal", None) == value.ordinal), value)
    if hasattr(value, "closed") and hasattr(value, "left"):
        pairs = ((one, (one.left, one.right, one.closed)) for one in levels if isinstance(one, Interval))
        return next((one for one, ends in pairs if ends == (value.left, value.right, value.closed)), value)
    return value


# JSON ------------------------------------------------------------------------------------------------------

TAGGED: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "@decimal": (Decimal, str, Decimal),
    "@bytes": (bytes, bytes.hex, bytes.fromhex),
    "@uuid": (UUID, str, UUID),
    "@moment": (Moment, lambda v: [v.zoned, v.nanoseconds], lambda v: Moment(bool(v[0]), int(v[1]))),
    "@clock": (Clock, lambda v: v.nanoseconds, lambda v: Clock(int(v))),
    "@span": (Span, lambda v: v.nanoseconds, lambda v: Span(int(v))),
    "@period": (Period, lambda v: [v.frequency, v.ordinal, v.text], lambda v: Period(str(v[0]), int(v[1]), str(v[2]))),
    "@interval": (
        Interval,
        lambda v: [plain(v.left), plain(v.right), v.closed],
        lambda v: Interval(rich(v[0]), rich(v[1]), str(v[2])),
    ),
}


def plain(value: Any) -> Any:
    """A value as JSON data: numbers, text and truth values as they are, others with a tag."""
    for tag, (kind, write, _) in TAGGED.items():
        if isinstance(value, kind):
            return {tag: write(value)}
    return value


def rich(value: Any) -> Any:
    """The inverse of `plain`. Raises ValueError for data that is no value."""
    if not isinstance(value, dict):
        if isinstance(value, list) or value is None:
            raise ValueError(f"Not a level: {value!r}.")
        return value
    [(tag, inside)] = value.items() if len(value) == 1 else [("", None)]
    try:
        return TAGGED[tag][2](inside)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError):
        raise ValueError(f"Not a level: {value!r}.") from None
