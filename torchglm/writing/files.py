"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A hidden file beside `path` to be written, which takes its place in one step once it is on the disk.

    What stands at `path` stands until then, and after a process that was killed or a block that fails, which leaves
    nothing behind. The folder is made where it is missing. Raises `OSError` where the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{stem(path.name)}{os.getpid()}")
    try:
        yield draft
        _to_disk(draft)
        os.replace(draft, path)
        if os.name == "posix":  # the new name, too, must be on the disk
            _to_disk(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def stem(name: str) -> str:
    """How the names of the drafts of a file begin; the number of the process that writes follows."""
    return f".{name}.draft-"


def _to_disk(path: Path) -> None:
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
