"""The run folder: everything a fit leaves behind, complete or not at all.

    config.yaml         the resolved config
    result.json         the fit, with tensors.pt: what `torchglm.load` reads, without pickle
    coefficients.csv    the coefficient table at full precision
    models.csv          of many models: keys, size, deviance, dispersion and status of each
    summary.json        every quantity of the summary      summary.txt   the summary as printed
    report.html         one self-contained page with plots
    path                where its strength was chosen from a path: the path, for `torchglm.load`
    log.txt             what happened when

While a fit goes on, `checkpoint.pt` stands there, from which it can be resumed (see `checkpoints`), beside `last.ckpt`
where it is a training by minibatch.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torchglm.writing.files import abandoned, clear, draft_of, drafts, stem
from torchglm.writing.warning import tell

if TYPE_CHECKING:
    from torchglm.model.face import Result

MARK = "result.json"
FILES = ("config.yaml", MARK, "tensors.pt", "coefficients.csv", "summary.json", "summary.txt", "report.html", "log.txt")
CHECKPOINT = "checkpoint.pt"
TRAINING = "last.ckpt"
FORMER = "former"  # folder for what was made with an earlier fit
MADE = ("predictions", "report_")  # how the names of what `torchglm predict` and `report` make begin, unless told
LIST = "made.txt"  # what they made under other names in the run folder
MODELS = "models.csv"  # of many models, such as those of groups: a line for each
PATH = "path"  # folder
NETWORK = "network.pt"  # what comes before the head of a network
OWN = {*FILES, MODELS, CHECKPOINT, TRAINING, LIST, PATH, NETWORK}
DRAFTS = tuple(stem(name) for name in (CHECKPOINT, TRAINING))  # of a process that was killed as it wrote
ROOM = 16 << 20  # bytes that a run folder may well take


def check_target(path: str | Path) -> Path:
    """The run folder to write, found fit to be written: absent, empty, or an earlier run, finished or not.

    Raises ValueError where something else is there, nothing may be written, or the disk is full.
    """
    target = Path(path).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise ValueError(f"output_dir {path} is a file. Name a folder.")
    _restore(target)
    inside = [file.name for file in target.iterdir()] if target.is_dir() else []
    foreign = sorted(name for name in inside if not _own(name))
    if foreign and not (target / MARK).is_file():
        raise ValueError(
            f"output_dir {path} holds {foreign[0]!r} and no run, so it is left alone. "
            "Name a new folder, or that of an earlier run."
        )
    parent = next(folder for folder in target.parents if folder.exists())
    for place in (parent, target) if target.is_dir() else (parent,):
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise ValueError(f"output_dir {path} cannot be written: no permission in {place}.")
    free = shutil.disk_usage(parent).free
    if free < ROOM:
        raise ValueError(
            f"output_dir {path} has no room: {free >> 20} MiB are free in {parent}, and a run may take "
            f"{ROOM >> 20} MiB. Free some, or name a folder on another disk."
        )
    try:
        with tempfile.TemporaryFile(dir=parent) as probe:  # a quota, or a disk that only looks writable
            probe.write(bytes(1 << 16))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise ValueError(f"output_dir {path} cannot be written: {error.strerror} in {parent}.") from None
    return target


def _own(name: str) -> bool:
    """Whether a file in a run folder is one that a run writes."""
    return name in OWN or name.startswith(DRAFTS)


def _restore(target: Path) -> None:
    """Put back what a process that was killed between two renames had moved aside, and remove what others left."""
    moved = drafts(target, "old")
    if moved and not target.exists():
        moved[-1].rename(target)
    for old in abandoned(target, "old"):
        _take_over(target, old)
    clear(target)
    for name in (*FILES, CHECKPOINT, TRAINING):
        clear(target / name)


@contextmanager
def draft(path: str | Path) -> Iterator[Path]:
    """A hidden folder beside `path` to write into, which takes its place at the end, or vanishes on failure.

    Of the files in an earlier run that are none of its own, those that were made with its fit (predictions, pages of
    new rows) move to its folder `former`, and a warning names them; others (notes) stay.
    """
    target = check_target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = draft_of(target)
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
    old = draft_of(target, "old")
    target.rename(old)
    try:
        made.rename(target)
    except OSError:
        old.rename(target)
        raise
    _take_over(target, old)


def _take_over(target: Path, old: Path) -> None:
    """Move what is not ours from an earlier run to `target`, what was made with its fit aside, and remove the rest."""
    listed = (old / LIST).read_text(encoding="utf-8").splitlines() if (old / LIST).is_file() else []
    stale = [
        file for file in old.iterdir() if not _own(file.name) and (file.name.startswith(MADE) or file.name in listed)
    ]
    for file in old.iterdir():
        if file not in stale and not _own(file.name) and not (target / file.name).exists():
            file.rename(target / file.name)
    _set_aside(stale, target / FORMER)
    shutil.rmtree(old, ignore_errors=True)


def remember(out: str | Path) -> None:
    """Note what was made with a fit, where it lies in the folder of a run, for the run that takes its place."""
    place = Path(out).expanduser().resolve()
    if (place.parent / MARK).is_file() and not _own(place.name):
        with (place.parent / LIST).open("a", encoding="utf-8") as listed:
            listed.write(f"{place.name}\n")


def _set_aside(files: list[Path], folder: Path) -> None:
    """Move what an earlier fit predicted where nobody takes it for the predictions of the new one."""
    if not files:
        return
    folder.mkdir(exist_ok=True)
    for file in files:
        other = folder / file.name
        if other.is_dir():
            shutil.rmtree(other)
        file.replace(other)
    tell(
        f"{', '.join(sorted(file.name for file in files))} in {folder.parent} came from the fit before this one, and "
        f"{'is' if len(files) == 1 else 'are'} in {folder} now. Predict again for the new fit."
    )


def write(result: Result, path: str | Path, config: str = "", log: str = "", data: str | list[str] = "") -> Path:
    """Write the run folder of a fit, with its config (YAML) and log; `data` names its rows. Returns the folder.

    Raises ValueError where `check_target` does.
    """
    from torchglm.report.page import write_page

    with draft(path) as folder:
        summary = result.summary()
        result.save(folder)
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        summary.to_frame().to_csv(folder / "coefficients.csv")
        if "path" in result.context:
            result.context["path"].save(folder / PATH)
        if "network" in result.context:
            result.context["network"].save(folder / NETWORK)
        if result.batch_shape:
            summary.models_frame().to_csv(folder / MODELS, index=False)
        facts = json.dumps(summary.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "summary.json").write_text(facts + "\n", encoding="utf-8")
        (folder / "summary.txt").write_text(summary.to_text() + "\n", encoding="utf-8")
        name = Path(path).expanduser().resolve().name
        write_page(result, folder / "report.html", config=config or None, run=name, data=data or None)
        (folder / "log.txt").write_text(log, encoding="utf-8")
    return Path(path)


def open_run(path: str | Path) -> Path:
    """The folder of a run. Raises ValueError where there is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"There is no run folder {path}. Make one with: torchglm fit CONFIG.yaml")
    if not (folder / MARK).is_file() and (folder / CHECKPOINT).is_file():
        raise ValueError(f"The fit in {path} is not finished. Go on with: torchglm fit CONFIG.yaml --resume {path}")
    if not (folder / MARK).is_file():
        raise ValueError(f"{path} is not a run folder: it holds no {MARK}. Give the output_dir of a fit.")
    return folder
