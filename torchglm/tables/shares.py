"""Shares: which pieces of files one process of several reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torchglm.tables.files import parquet_file


def row_groups(files: Iterable[Path], rank: int, size: int) -> dict[Path, set[int]]:
    """The row groups of Parquet files that belong to process `rank` of `size`: neighbours, in about equal rows.

    A row group belongs where its middle row falls when all rows are cut into `size` equal parts, so that the shares
    stand in the order of the processes, and one may be empty. Raises ValueError for a file that cannot be read.
    """
    sizes: list[tuple[Path, int, int]] = []
    for file in files:
        with parquet_file(file) as source:
            numbered = range(source.num_row_groups)
            sizes += [(file, group, source.metadata.row_group(group).num_rows) for group in numbered]
    total, before = sum(rows for _, _, rows in sizes), 0
    own: dict[Path, set[int]] = {}
    for file, group, rows in sizes:
        if rows and (2 * before + rows) * size // (2 * total) == rank:
            own.setdefault(file, set()).add(group)
        before += rows
    return own
