"""`torchglm fit`: from a config to a run folder, by one process or several, anew or from a checkpoint."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from torchglm.cli.errors import with_covariance
from torchglm.cli.printing import print_summary
from torchglm.cli.processes import joined
from torchglm.cli.progress import RunLog, waiting
from torchglm.cli.run_rows import configured, rows_behind
from torchglm.inference.dialect import YAML
from torchglm.rows.ranks import RankError, Ranks
from torchglm.store import checkpoints, runs
from torchglm.store.checkpoints import Checkpoint
from torchglm.writing.warning import tell

if TYPE_CHECKING:
    from torchglm.cli.schema import Job
    from torchglm.model.face import Result


def fit(arguments: Sequence[str]) -> None:
    """`torchglm fit`: read the config, fit, write the run folder, print the summary; the first of several writes."""
    from torchglm.cli import config

    given, run = config.resumed(arguments)
    job, text = config.read(given)
    begun = Checkpoint(Path(job.output_dir).expanduser().resolve(), text, _resolved(job.data.path))
    with _ended(begun, _again(given, job)), joined(job) as ranks, _said_by(ranks, RunLog()) as log:
        log.add(f"torchglm fit {' '.join(arguments)}")
        with ranks.together():
            found = _begun(job, begun, run) if ranks.rank == 0 else None
        found = ranks.gather(found)[0]
        if found is None:
            if ranks.rank == 0:
                print(f"The fit in {run} is finished: {Path(job.output_dir) / 'report.html'}")
            return
        found.writes = ranks.rank == 0
        try:
            result = _fitted(job, found, ranks, log)
            if ranks.rank == 0:
                _write(result, job, text, log, given)
        except KeyboardInterrupt:
            if ranks.rank:
                raise SystemExit(130) from None
            raise


@contextmanager
def _ended(begun: Checkpoint, again: str) -> Iterator[None]:
    """Within it an end by an interrupt or by another process is said with what is kept, and how to go on from there.

    Input that another process refused is refused here in its words, as a ValueError.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; the steps made are kept. Go on with: {again}"
            if _kept(begun)
            else "interrupted before the first step; nothing was written."
        ) from None
    except RankError as error:
        if error.refused is not None:
            raise ValueError(error.refused) from error
        kept = f" What was fitted so far is kept: go on with: {again}" if _kept(begun) else ""
        raise RankError(f"{error}{kept}") from error


def _kept(begun: Checkpoint) -> bool:
    """Whether steps of this very job are in its folder."""
    try:
        found = checkpoints.read(begun.folder)
        return not _differences(begun, found.config, found.rows)
    except ValueError:
        return False


@contextmanager
def _said_by(ranks: Ranks, log: RunLog) -> Iterator[RunLog]:
    """Within it warnings go to the log and are printed by the first process; the others would say the same."""
    with log.warnings():
        if ranks.rank:
            warnings.simplefilter("ignore")
        yield log


def _begun(job: Job, begun: Checkpoint, run: str | None) -> Checkpoint | None:
    """The checkpoint to begin with, of how far the fit came; None where the run to resume is finished.

    Raises ValueError where the folder cannot be written, or holds another job.
    """
    place = runs.check_target(job.output_dir)
    if run is None:
        if (place / runs.CHECKPOINT).is_file():
            tell(
                f"{job.output_dir} holds an unfinished fit, and this one begins anew. "
                f"--resume {job.output_dir} would go on with it."
            )
        return begun
    if checkpoints.finished(place):
        _check_same(begun, run, *_written(place))
        return None
    before = checkpoints.read(place)
    _check_same(begun, run, before.config, before.rows)
    return replace(begun, state=before.state, resumed=True)


def _check_same(begun: Checkpoint, run: str, text: str, rows: list[str]) -> None:
    """Raise ValueError where a run of the config `text` on `rows` is not that of the job to resume."""
    others = _differences(begun, text, rows)
    if others:
        raise ValueError(
            f"{run} holds another job ({'; '.join(others)}). Resume it with its own config, or begin anew "
            "with another output_dir."
        )


def _differences(begun: Checkpoint, text: str, rows: list[str]) -> list[str]:
    """What sets the job apart from a run of the config `text` on `rows`; the same rows may be named otherwise."""
    from torchglm.cli import config

    return [
        said
        for said in config.differences(begun.config, text)
        if not (said.startswith("data.path:") and begun.rows == rows)
    ]


def _written(place: Path) -> tuple[str, list[str]]:
    """The config of a finished run and its rows, as paths. Raises ValueError for a fit that was saved from Python."""
    if not (place / "config.yaml").is_file():
        raise ValueError(f"{place} holds a fit without a config, saved from Python. Name another output_dir.")
    return (place / "config.yaml").read_text(encoding="utf-8"), _resolved(configured(place))


def _resolved(path: str | list[str]) -> list[str]:
    return [str(Path(one).expanduser().resolve()) for one in (path if isinstance(path, list) else [path])]


def _fitted(job: Job, begun: Checkpoint, ranks: Ranks, log: RunLog) -> Result:
    """The fit of a job, with all rows behind it. The processes part here: what follows is for the first."""
    torch.manual_seed(job.seed)
    several = f", {ranks.size} processes" if ranks.size > 1 else ""
    log.add(f"torch {torch.__version__} on {job.where}, {job.dtype}, seed {job.seed}{several}")
    if begun.state is not None:
        log.add(f"goes on after {int(begun.state.n_iter.max())} iterations")
    began = time.perf_counter()
    with waiting(f"Fitting {job.data.formula}") if ranks.rank == 0 else nullcontext():
        result = job.solver.solve(job, begun)
    result = replace(result, context=result.context | {YAML: True})
    log.add(f"fitted in {time.perf_counter() - began:.2f} s: {_outcome(result)}")
    result = result if ranks.size == 1 else result.on(rows_behind(result, job.data.path))
    return with_covariance(result, job.covariance, job.data.path, job.data.reading) if ranks.rank == 0 else result


def _write(result: Result, job: Job, text: str, log: RunLog, given: Sequence[str]) -> None:
    """Write the run folder, and print the summary. Raises ValueError where the disk fails."""
    try:
        with waiting("Writing the report"):
            folder = runs.write(result, job.output_dir, text, log.text, job.data.path)
    except OSError as error:
        raise ValueError(
            f"the run cannot be written: {error}. The fit is kept; write it with: {_again(given, job)}"
        ) from error
    print_summary(result)
    print(f"\nReport: {folder / 'report.html'}")


def _again(given: Sequence[str], job: Job) -> str:
    """The command that goes on with a fit; `given` names its folder as `--output_dir` where it was resumed before."""
    words = [*given[:-2]] if list(given[-2:]) == ["--output_dir", job.output_dir] else [*given]
    return shlex.join(["torchglm", "fit", *words, "--resume", job.output_dir])


def _outcome(result: Result) -> str:
    """The end of a fit in a line of the log."""
    status = result.status
    if isinstance(status, list):
        return f"{int(result.converged.sum())} of {result.converged.numel()} models converged"
    return f"{status.name.lower()} after {int(result.n_iter)} iterations"
