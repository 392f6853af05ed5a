"""Sources: files by their paths, or chunks; and the columns that a formula takes from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torchglm.design.brackets import shortened
from torchglm.design.learn import read
from torchglm.tables.chunks import Chunks, is_chunks
from torchglm.tables.columns import check_columns
from torchglm.tables.files import column_names, files
from torchglm.tables.scan import Scan
from torchglm.tables.text_format import TextFormat


def is_source(data: Any) -> bool:
    """Whether rows are to be read piece by piece: from a path, a list of paths, or chunks."""
    first = data[0] if isinstance(data, (list, tuple)) and data else data
    return isinstance(first, (str, os.PathLike)) or is_chunks(data)


def scan(
    source: Any,
    columns: Sequence[str] | None = None,
    types: dict[str, str] | None = None,
    share: tuple[int, int] = (0, 1),
    reading: TextFormat | None = None,
) -> Scan | Chunks:
    """The rows of a source in pieces, see `Scan` and `Chunks`."""
    made: type[Scan] | type[Chunks] = Chunks if is_chunks(source) else Scan
    return made(source, columns, types, share=share, reading=reading)


def columns_read(
    formula: str,
    source: Any,
    also: Sequence[str],
    said: str = "the formula",
    reading: TextFormat | None = None,
    predictors: Mapping[str, str] | None = None,
) -> list[str]:
    """The columns that a formula, and the columns `also`, take from a source.

    Raises ValueError for a formula without a response (`said` names it) and for columns that the first file or chunk
    lacks.
    """
    names, where = _columns(source, reading)
    if reading is not None:
        reading.check(names, where)
    parsed = read(formula, names, also, predictors)
    if parsed.response is None:
        raise ValueError(f"{said} {shortened(formula)} has no response. Write it as 'y ~ ...'.")
    wanted = list(dict.fromkeys([*parsed.response.columns, *parsed.columns, *also]))
    check_columns(wanted, names, where)
    return wanted


def check_source(source: Any, columns: Sequence[str], reading: TextFormat | None = None) -> None:
    """Raise ValueError for columns that the first file or chunk of a source lacks, and where nothing is there."""
    check_columns(columns, *_columns(source, reading))


def _columns(source: Any, reading: TextFormat | None) -> tuple[list[str], str]:
    """The columns of the first file or chunk, and what to call it."""
    if is_chunks(source):
        return Chunks(source).names, "the first chunk"
    file = files(source)[0]
    return column_names(file, reading), str(file)
