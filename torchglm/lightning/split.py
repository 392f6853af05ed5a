"""Parts of the rows of a table by a hash of what they hold: the same rows in whatever order and file they come."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from torchglm.data.tables import check_columns, column_values

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class HashPart:
    """The rows whose hash lies in `[low, high)`, of 1 for all hashes; rows alike in the columns `key` stay together.

    A number counts by its value, whatever its type, and text by its letters. `seed` makes another split, `name` is
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
    values = column_values(column)
    if values.dtype != object:
        number = values.astype(np.float64) + 0.0  # one zero
        bits = number.view(np.uint64).copy()
        bits[missing | np.isnan(number)] = MISSING
        return bits
    coded = pc.dictionary_encode(column.combine_chunks())
    words = [hashlib.blake2b(str(word).encode(), digest_size=8).digest() for word in coded.dictionary.to_pylist()]
    each = np.frombuffer(b"".join(words), dtype="<u8").astype(np.uint64)
    places = pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False)
    return np.where(missing, MISSING, each[places] if len(each) else MISSING)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Steele, Lea & Flood (2014), Fast splittable pseudorandom number generators: the finaliser of SplitMix64."""
    bits = bits + MISSING
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
