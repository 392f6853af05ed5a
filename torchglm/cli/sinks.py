"""Where tables go: a file, a file for each file read, or the terminal; each appears complete or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchglm.writing.files import replaced

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".csv", ".parquet", ".pq")
TERMINAL = "-"


def plan(files: Sequence[Path], out: str) -> list[tuple[list[Path], str]]:
    """Which files go where: all into the file `out` (or the terminal), or each into one of its name in a folder.

    `out` is a folder where it is one, ends in a slash, or has no ending; `sink` makes it where it is missing. Raises
    ValueError for an unknown ending, a folder that is missing or cannot be written, two files of one name, and
    for an output that is one of the inputs.
    """
    if out == TERMINAL:
        return [(list(files), out)]
    target = Path(out).expanduser()
    folder = target.is_dir() or out.endswith(("/", os.sep)) or not target.suffix
    if not folder and target.suffix.lower() not in ENDINGS:
        raise ValueError(
            f"--out {out} has an unknown ending. Known: {', '.join(ENDINGS)}; without one it is a folder, "
            f"and {TERMINAL} is the terminal."
        )
    if not folder and not target.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {target.parent}. Make it first.")
    place = next(one for one in (target, *target.parents) if one.exists())
    if folder and not place.is_dir():
        raise ValueError(f"--out {out}: the folder cannot be made, for {place} is a file.")
    place = place if folder else target.parent
    if not os.access(place, os.W_OK):
        raise ValueError(f"--out {out} cannot be written: no permission in {place}.")
    made = [([file], target / file.name.removesuffix(".gz")) for file in files] if folder else [(list(files), target)]
    _check_apart(files, [path for _, path in made])
    return [(inside, str(path)) for inside, path in made]


def _check_apart(files: Sequence[Path], targets: Sequence[Path]) -> None:
    if len(set(targets)) < len(targets):
        twice = next(path for path in targets if list(targets).count(path) > 1)
        raise ValueError(
            f"Two of the files are called {twice.name}, and would be one in {twice.parent}. "
            "Predict them apart, or name one file with --out."
        )
    read = {file.resolve() for file in files}
    own = next((path for path in targets if path.resolve() in read), None)
    if own is not None:
        raise ValueError(f"--out would replace {own}, which is read. Name another file or folder.")


@contextmanager
def sink(out: str) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends a table to the file `out`, made at the first one and moved into place at the end.

    A folder that is missing is made, too. Raises ValueError where the file cannot be written (a full disk), and leaves
    nothing behind where anything fails.
    """
    target = Path(out)
    new = [folder for folder in target.parents if not folder.exists()]
    writer: Any = None
    schema: Any = None

    def append(table: pa.Table) -> None:
        nonlocal writer, schema
        if writer is None:
            schema = table.schema
            writer = _writer(target.suffix.lower())(place, schema)
        writer.write_table(table if table.schema.equals(schema) else table.cast(schema))

    try:
        with nullcontext(sys.stdout.buffer) if out == TERMINAL else replaced(target) as place:
            yield append
            if writer is not None:
                writer.close()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error}.") from error
    finally:
        for folder in new:
            with suppress(OSError):  # it was never made, or holds the file
                folder.rmdir()


def _writer(ending: str) -> Any:
    """The class that writes files of an ending; CSV for the terminal."""
    from pyarrow import csv, parquet

    return parquet.ParquetWriter if ending in (".parquet", ".pq") else csv.CSVWriter
