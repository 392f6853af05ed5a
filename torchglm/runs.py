"""The run folder: everything a fit leaves behind, complete or not at all.

    config.yaml         the resolved config
    result.json         the fit, with tensors.pt: what `torchglm.load` reads, without pickle
    coefficients.csv    the coefficient table at full precision
    summary.json        every quantity of the summary      summary.txt   the summary as printed
    report.html         one self-contained page with plots
    log.txt             what happened when
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchglm.inference.result import Result

MARK = "result.json"
FILES = ("config.yaml", MARK, "tensors.pt", "coefficients.csv", "summary.json", "summary.txt", "report.html",
         "log.txt")


def check_target(path: str | Path) -> Path:
    """The run folder to write, found fit to be written: absent, empty, or an earlier run.

    Raises ValueError where something else is there or nothing may be written.
    """
    target = Path(path).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise ValueError(f"output_dir {path} is a file. Name a folder.")
    inside = [file.name for file in target.iterdir()] if target.is_dir() else []
    foreign = sorted(set(inside) - set(FILES))
    if foreign and not (target / MARK).is_file():
        raise ValueError(f"output_dir {path} holds {foreign[0]!r} and no run, so it is left alone. "
                         "Name a new folder, or that of an earlier run.")
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"output_dir {path} cannot be written: no permission in {parent}.")
    return target


@contextmanager
def draft(path: str | Path) -> Iterator[Path]:
    """A hidden folder beside `path` to write into, which takes its place at the end, or vanishes on failure.

    Files in an earlier run that are none of its own (predictions, notes) are kept.
    """
    target = check_target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f".{target.name}.draft-{os.getpid()}")
    made.mkdir()
    try:
        yield made
        _replace(target, made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _replace(target: Path, made: Path) -> None:
    """Put `made` where `target` is, by renames; what is not ours in `target` moves along."""
    if not target.exists():
        made.rename(target)
        return
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    target.rename(old)
    try:
        made.rename(target)
    except OSError:
        old.rename(target)
        raise
    for file in old.iterdir():
        if file.name not in FILES:
            file.rename(target / file.name)
    shutil.rmtree(old)


def write(result: Result, path: str | Path, config: str = "", log: str = "") -> Path:
    """Write the run folder of a fit, with its config (YAML) and log; returns the folder.

    Raises ValueError where `check_target` does.
    """
    from torchglm.report.page import write_page

    with draft(path) as folder:
        summary = result.summary()
        result.save(folder)
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        summary.to_frame().to_csv(folder / "coefficients.csv")
        facts = json.dumps(summary.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "summary.json").write_text(facts + "\n", encoding="utf-8")
        (folder / "summary.txt").write_text(summary.to_text() + "\n", encoding="utf-8")
        write_page(result, folder / "report.html", config=config or None)
        (folder / "log.txt").write_text(log, encoding="utf-8")
    return Path(path)


def open_run(path: str | Path) -> Path:
    """The folder of a run. Raises ValueError where there is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"There is no run folder {path}. Make one with: torchglm fit CONFIG.yaml")
    if not (folder / MARK).is_file():
        raise ValueError(f"{path} is not a run folder: it holds no {MARK}. Give the output_dir of a fit.")
    return folder
