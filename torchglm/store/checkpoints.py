"""Checkpoints: where an unfinished fit stands, kept in its run folder, whole at any moment.

The file is written beside the last one, forced to the disk, and takes its place in one step, so that a process
killed at any time leaves one or the other. It holds tensors and text; reading it runs no code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from torchglm.fitting.progress import Progress
from torchglm.store.runs import CHECKPOINT, MARK
from torchglm.writing.files import replaced
from torchglm.writing.warning import tell

FORMAT = 1


@dataclass
class Checkpoint:
    """Where a fit keeps its progress: `folder`, the run folder, with the `config` and the `rows` (paths) it is of.

    `state` is where an earlier process left the fit, or None. As an observer of a fit it writes every step it is told
    of (unless another process does); a disk that fails on the way is a warning, and the fit goes on.
    """

    folder: Path
    config: str
    rows: list[str]
    state: Progress | None = None
    resumed: bool = False
    writes: bool = True
    failed: bool = False

    def __call__(self, progress: Progress) -> None:
        if self.writes:
            self._write(progress)

    def begin(self, name: str) -> Path:
        """A file of this name in the folder for the state of another solver; an old one is kept for a resumed fit."""
        file = self.folder / name
        if self.writes:
            self._write(None)
            if not self.resumed:
                file.unlink(missing_ok=True)
        return file

    def _write(self, progress: Progress | None) -> None:
        tensors: dict[str, Any] = {f.name: getattr(progress, f.name, None) for f in fields(Progress)}
        content = {name: value.cpu() for name, value in tensors.items() if value is not None}
        try:
            with replaced(self.folder / CHECKPOINT) as draft, open(draft, "wb") as file:
                torch.save({"format": FORMAT, "config": self.config, "rows": self.rows, **content}, file)
        except OSError as error:
            if not self.failed:
                tell(f"the fit goes on without checkpoints: {error}.")
            self.failed = True


def finished(folder: Path) -> bool:
    """Whether the run folder holds a finished fit and none that was begun after it."""
    return (folder / MARK).is_file() and not (folder / CHECKPOINT).is_file()


def read(folder: Path) -> Checkpoint:
    """The checkpoint of the unfinished fit in a run folder.

    Raises ValueError where there is no unfinished fit, or the file is damaged.
    """
    file = folder / CHECKPOINT
    if not file.is_file():
        raise ValueError(f"There is no unfinished fit in {folder}: it holds no {CHECKPOINT}. Begin without --resume.")
    try:
        found = torch.load(file, weights_only=True, map_location="cpu")
        if found["format"] != FORMAT:
            raise ValueError(
                f"{file} has format {found['format']}, this version reads {FORMAT}. Begin anew, without --resume."
            )
        known = {f.name for f in fields(Progress)}
        state = {name: value for name, value in found.items() if name in known}
        _check(found, state)
        return Checkpoint(folder, found["config"], found["rows"], Progress(**state) if state else None, resumed=True)
    except (OSError, EOFError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"{file} is damaged ({type(error).__name__}). Begin without --resume.") from error


def _check(found: dict[str, Any], state: dict[str, Any]) -> None:
    """Raise `TypeError` for what no fit has written."""
    text = isinstance(found["config"], str) and isinstance(found["rows"], list)
    if not text or not all(isinstance(row, str) for row in found["rows"]):
        raise TypeError("the config or the rows are no text")
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise TypeError("the state holds what is no tensor")
    shape = state["coef"].shape if state else ()
    for name, value in state.items():
        kind = torch.int64 if name == "n_iter" else torch.float64
        if value.layout != torch.strided or value.dtype != kind or value.shape != shape[: 2 if name == "coef" else 1]:
            raise TypeError(f"{name} is {value.dtype} {tuple(value.shape)}")
