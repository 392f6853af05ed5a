"""What a person sees while work goes on: a line that appears after a second, and vanishes at the end."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE = 1.0  # seconds


class RunLog:
    """Lines with the time of day, and the warnings of the work, which are also printed in one line each."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, text: str) -> None:
        """Add one line."""
        self.lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}")

    @property
    def text(self) -> str:
        """All lines."""
        return "".join(f"{line}\n" for line in self.lines)

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Within it, warnings go to the log and to stderr, without file names and source lines."""

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            text = " ".join(str(message).split())
            self.add(f"warning: {text}")
            print(f"warning: {text}", file=sys.stderr)

        with warnings.catch_warnings():
            warnings.simplefilter("default")
            for quiet in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", quiet)
            warnings.showwarning = show
            yield


@contextmanager
def waiting(what: str, total: int | None = None) -> Iterator[Progress]:
    """A progress bar on stderr (of `total` steps, or pulsing), shown on a terminal after a second of work.

    Steps are counted with `progress.advance(progress.task_ids[0])`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    counted = [] if total is None else [MofNCompleteColumn()]
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counted,
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    progress.add_task(what, total=total)
    timer = Timer(PATIENCE, progress.start)
    timer.daemon = True
    if progress.console.is_terminal:
        timer.start()
    try:
        yield progress
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()
        if progress.live.is_started:
            progress.stop()
