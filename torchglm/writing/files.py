"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MACHINE = re.sub(r"[^A-Za-z0-9.]", "_", platform.node())[:64] + "-"
OLD = 24 * 3600  # seconds


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A hidden file beside `path` to be written, which takes its place in one step once it is on the disk.

    What stands at `path` stands until then, and after a process that was killed or a block that fails; what a killed
    one left is removed by the next. The folder is made where it is missing. Raises `OSError` where the file cannot be
    written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear(path)
    draft = draft_of(path)
    try:
        yield draft
        _to_disk(draft)
        os.replace(draft, path)
        if os.name == "posix":  # the new name, too, must be on the disk
            _to_disk(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def stem(name: str, kind: str = "draft") -> str:
    """How the names of the drafts of a file begin; the machine and the number of the process that writes follow."""
    return f".{name}.{kind}-"


def draft_of(path: Path, kind: str = "draft") -> Path:
    """Where this process writes what is to stand at `path`."""
    return path.with_name(f"{stem(path.name, kind)}{MACHINE}{os.getpid()}")


def clear(path: Path) -> None:
    """Remove what processes that are gone left of writing `path`, files or folders."""
    for left in abandoned(path):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


def drafts(path: Path, kind: str = "draft") -> list[Path]:
    """All drafts beside `path`, whoever writes them."""
    found = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(left for left in found if left.name.startswith(stem(path.name, kind)))


def abandoned(path: Path, kind: str = "draft") -> list[Path]:
    """The drafts beside `path` whose process is gone, or was on another machine a day ago."""
    begins = len(stem(path.name, kind))
    return [left for left in drafts(path, kind) if _gone(left, left.name[begins:])]


def _gone(left: Path, owner: str) -> bool:
    number = owner.removeprefix(MACHINE)
    if number.isdecimal() and os.name == "posix":
        try:
            os.kill(int(number), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass
    with suppress(OSError):
        return time.time() - left.lstat().st_mtime > OLD
    return False


def _to_disk(path: Path) -> None:
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
