"""Rows of Parquet files decoded once: a file of plain numbers, mapped into memory, from which batches are gathered."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm.inputs import GLMBatch
from torchglm.rows.threads import keep_freed_memory
from torchglm.version import VERSION


class RowCache:
    """The rows of groups, `counts` of them at most, as a matrix (n, width) in a file that is mapped into memory.

    Each group has its place in the matrix, and `held` of its rows once it was written: -1 before that. `fields` are the
    columns behind those of `x`. Copies of this object in other processes see what one of them has written. `folder`
    None is that of temporary files, and the file goes with this object; in a folder of one's own it stays when every
    group was written, and is taken up by whoever asks for the same `key`.
    """

    def __init__(
        self,
        folder: Path | None,
        key: dict[str, Any],
        counts: Sequence[int],
        columns: int,
        fields: Sequence[str],
        dtype: torch.dtype,
    ) -> None:
        self.counts, self.columns, self.fields, self.dtype = list(counts), columns, list(fields), dtype
        self.starts = np.concatenate([[0], np.cumsum(self.counts)]).tolist()
        self._maps: tuple[np.memmap, np.memmap, Tensor] | None = None
        name = f"rows-{_digest(key | {'counts': self.counts, 'fields': self.fields})}"
        place = Path(tempfile.gettempdir()) if folder is None else folder
        place.mkdir(parents=True, exist_ok=True)
        self.mark = None if folder is None else place / f"{name}.whole"  # names the file in which every group stands
        self.path = place / f"{name}-{uuid.uuid4().hex}.bin"
        before = _marked(self.mark)
        if before is not None:
            self.path = before
        else:
            self._allocate()
            weakref.finalize(self, _remove, self.path, self.mark, os.getpid())

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return 8 * len(self.counts) + self.starts[-1] * self.width * self.dtype.itemsize

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.columns + len(self.fields)

    def held(self, group: int) -> int:
        """The rows of a group that was written; -1 for one that was not."""
        return int(self._mapped[0][group]) - 1

    def write(self, group: int, pieces: Iterable[GLMBatch]) -> None:
        """Put the rows of a group in their place."""
        flags, _, matrix = self._mapped
        at = self.starts[group]
        for piece in pieces:
            own = matrix[at : at + piece.x.shape[0]]
            own[:, : self.columns] = piece.x
            for place, name in enumerate(self.fields, self.columns):
                own[:, place] = getattr(piece, name)
            at += piece.x.shape[0]
        flags[group] = at - self.starts[group] + 1  # after the rows: whoever sees it may read them
        if self.mark is not None and bool((flags > 0).all()):
            self._keep(self.mark)

    def positions(self, group: int) -> Tensor:
        """(n,) where the rows of a group stand."""
        start = self.starts[group]
        return torch.arange(start, start + self.held(group))

    def rows(self, positions: Tensor, ordered: bool) -> GLMBatch:
        """The rows at positions: views where these are in order and stand side by side, else gathered."""
        keep_freed_memory()  # a batch of a megabyte in new pages each time takes four times as long
        matrix, first, n = self._mapped[2], int(positions[0]), len(positions)
        if ordered and int(positions[-1]) - first + 1 == n:
            found = matrix[first : first + n]
        else:
            found = matrix.index_select(0, positions)
        beside: dict[str, Any] = {name: found[:, j] for j, name in enumerate(self.fields, self.columns)}
        return GLMBatch(found[:, : self.columns], **beside)

    def _allocate(self) -> None:
        """A file of zeros of its size. Raises `ValueError` where the disk has no room for it."""
        room = shutil.disk_usage(self.path.parent).free
        if self.nbytes > room:
            raise ValueError(
                f"cache= takes {self.nbytes:,} bytes in {self.path.parent}, where {room:,} are free. Name a folder "
                "with room for it, or leave cache= out."
            )
        with open(self.path, "wb") as file:
            file.truncate(self.nbytes)

    def _keep(self, mark: Path) -> None:
        """Let the whole file be found again, once it is on the disk."""
        for mapped in self._mapped[:2]:
            mapped.flush()
        new = mark.with_name(f"{self.path.name}.whole")
        new.write_text(self.path.name, encoding="utf-8")
        os.replace(new, mark)

    @property
    def _mapped(self) -> tuple[np.memmap, np.memmap, Tensor]:
        """The flags of the groups, the matrix, and the matrix as a tensor."""
        if self._maps is None:
            kind = np.dtype({torch.float32: np.float32, torch.float64: np.float64}[self.dtype])
            flags = np.memmap(self.path, np.int64, "r+", 0, (len(self.counts),))
            matrix = np.memmap(self.path, kind, "r+", 8 * len(self.counts), (self.starts[-1], self.width))
            self._maps = flags, matrix, torch.from_numpy(matrix)
        return self._maps

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": None}  # another process maps the file itself


def _digest(key: dict[str, Any]) -> str:
    said = json.dumps({"torchglm": VERSION} | key, sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:24]


def _marked(mark: Path | None) -> Path | None:
    """The whole file that a mark names, if it is there."""
    if mark is None or not mark.exists():
        return None
    path = mark.with_name(mark.read_text(encoding="utf-8"))
    return path if path.exists() else None


def _remove(path: Path, mark: Path | None, owner: int) -> None:
    """Remove a file that is not found again, in the process that made it."""
    if os.getpid() == owner and _marked(mark) != path:
        path.unlink(missing_ok=True)
