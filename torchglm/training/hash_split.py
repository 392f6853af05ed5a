"""Parts of the rows of a table by a hash of what they hold: the same rows in whatever order and file they come."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import numpy as np

from torchglm.tables.columns import check_columns, column_values

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = np.uint64(0x9E3779B97F4A7C15)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class HashPart:
    """The rows whose hash lies in `[low, high)`, of 1 for all hashes; rows alike in the columns `key` stay together.

    A value counts by what it says, not by the type of its column, since CSV has no types: text that spells a number
    ("0012"), a date or a truth value counts as that, a date as its midnight, and a number that is not whole to single
    precision. What still differs between files: missing values that one of them spells out ("NA", "nan"), and whole
    numbers above 16,777,216 in single precision, which CSV rounds. `seed` makes another split, `name` is
    for messages. Raises `ValueError` for an empty interval, or one that leaves [0, 1], and for no key.
    """

    key: list[str]
    low: float
    high: float
    seed: int = 0
    name: str = "part"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"a part needs 0 <= low < high <= 1, got {self.low} and {self.high}.")
        if not self.key:
            raise ValueError("key is empty. Name at least one column to split the rows by.")

    def mask(self, table: pa.Table) -> np.ndarray:
        """(n,) True for the rows of a table that are in this part."""
        share = (_hashes(table, self.key, self.seed) >> np.uint64(11)) * 2.0**-53
        return (share >= self.low) & (share < self.high)

    def of(self, table: pa.Table) -> pa.Table:
        """The rows of a table that are in this part."""
        return table.filter(self.mask(table))

    def __str__(self) -> str:
        return f"{self.name} ({self.high - self.low:.3g} of the rows by the hash of {', '.join(self.key)})"


def _hashes(table: pa.Table, key: list[str], seed: int) -> np.ndarray:
    """(n,) 64 bits for each row, from the values of the columns of the key in the order of their names."""
    check_columns(key, table.column_names)
    total = np.full(table.num_rows, np.uint64(seed % (1 << 64)))
    with np.errstate(over="ignore"):
        for name in sorted(key):
            total = _mixed(total + _mixed(_bits(table.column(name))))
    return total


def _bits(column: pa.ChunkedArray) -> np.ndarray:
    """(n,) 64 bits for each value of a column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = column.is_null().to_numpy()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        moment = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
        return np.where(missing, MISSING, _of_moments(pc.fill_null(moment, 0).to_numpy()))
    values = column_values(column)
    if values.dtype != object:
        number = values.astype(np.float64)
        return np.where(missing | np.isnan(number), MISSING, _of_numbers(number))
    coded = pc.dictionary_encode(column.combine_chunks())
    each = np.array([_of_word(str(word)) for word in coded.dictionary.to_pylist()], dtype=np.uint64)
    places = pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False)
    return np.where(missing, MISSING, each[places] if len(each) else MISSING)


def _of_numbers(values: np.ndarray) -> np.ndarray:
    """The bits of numbers: of whole ones as they are, of others to single precision, in which some files keep them."""
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.where(values == np.floor(values), values, values.astype(np.float32).astype(np.float64))
    return (near + 0.0).view(np.uint64)  # one zero


def _of_moments(microseconds: np.ndarray) -> np.ndarray:
    """The bits of moments, in microseconds since 1970 (UTC, or on a clock without a zone)."""
    return _mixed(microseconds.astype(np.int64).view(np.uint64))


def _of_word(word: str) -> np.uint64:
    """The bits of a text: those of the number, moment or truth value it spells, as CSV files hold them, or its own."""
    if not word:
        return MISSING
    if word.lower() in ("true", "false"):
        return np.uint64(_of_numbers(np.array([float(word.lower() == "true")]))[0])
    if NUMBER.fullmatch(word):
        return np.uint64(_of_numbers(np.array([float(word)]))[0])
    if DATE.match(word):
        try:
            moment = datetime.fromisoformat(word.replace("Z", "+00:00"))
        except ValueError:
            moment = None
        if moment is not None:
            since = moment - datetime(1970, 1, 1, tzinfo=None if moment.tzinfo is None else timezone.utc)
            return np.uint64(_of_moments(np.array([since // timedelta(microseconds=1)]))[0])
    return np.uint64(int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little"))


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Steele, Lea & Flood (2014), Fast splittable pseudorandom number generators: the finaliser of SplitMix64."""
    bits = bits + MISSING
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
