"""A fit that was interrupted, or killed in the middle of a pass or a write, goes on to the same coefficients."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm
from torchglm.cli import main
from torchglm.fitting.progress import Progress
from torchglm.store import checkpoints, runs
from torchglm.tables import read_table
from torchglm.tables.scan import Piece, Scan

GROUPS, ROWS = 4, 100
PASS = GROUPS  # pieces of a pass
LEARNED = 2 * PASS  # pieces read before the first pass of the fit: levels are learned, every row is looked at

DRIVER = """
import os, signal, sys
from torchglm.cli import main
from torchglm.tables import read_table
from torchglm.tables.scan import Scan
from torchglm.inputs import files

where, at = os.environ["DIE"].split()
count = 0

def die(place):
    global count
    count += place == where
    if place == where and count == int(at):
        os.kill(os.getpid(), signal.SIGKILL)

pieces, replace = Scan.pieces, os.replace
def counted(self):
    for piece in pieces(self):
        die("piece")
        yield piece
def dying(source, target):
    die("replace")
    replace(source, target)
Scan.pieces, os.replace, files.HOLD = counted, dying, 0
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of an over-dispersed count, beside its rows in four row groups, which are read at every pass."""
    draw = np.random.default_rng(5)
    n = GROUPS * ROWS
    a, years = draw.normal(size=n), draw.uniform(0.3, 2.0, n)
    mean = years * np.exp(0.4 + 0.5 * a)
    frame = pd.DataFrame(
        {"y": draw.negative_binomial(2, 1 / (1 + mean / 2)), "a": a, "years": years, "g": draw.choice(["u", "v"], n)}
    )
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=ROWS)
    (tmp_path / "config.yaml").write_text(
        "data: {path: rows.parquet, formula: y ~ a + C(g), exposure: years}\nfamily: poisson\noutput_dir: run\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchglm.inputs.files.HOLD", 0)
    monkeypatch.setattr("torchglm.report.page.write_page", lambda _, path, **__: path.write_text("a page"))  # seconds
    return tmp_path / "config.yaml"


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int, error: type[BaseException] = KeyboardInterrupt) -> list[int]:
    """Raise at the piece of that number, once; the list says how many pieces were read."""
    seen, pieces = [0], Scan.pieces

    def counted(self: Scan) -> Iterator[Piece]:
        for piece in pieces(self):
            seen[0] += 1
            if seen[0] == number:
                raise error
            yield piece

    monkeypatch.setattr(Scan, "pieces", counted)
    return seen


def same(config: Path, family: str = "poisson") -> None:
    """The run holds the coefficients of a fit that nothing disturbed."""
    want = torchglm.fit("y ~ a + C(g)", read_table("rows.parquet"), family=family, exposure="years")
    got = torchglm.load(config.parent / "run")
    assert got.status == want.status
    for name in ("coef", "std_err", "deviance", "loglik"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-9, atol=1e-12)
    assert {file.name for file in (config.parent / "run").iterdir()} == set(runs.FILES)


@pytest.mark.parametrize(
    ("family", "pieces"),
    [
        ("poisson", 2 * PASS + 2),
        ("poisson", 4 * PASS + 3),
        ("poisson", 6 * PASS + 1),
        ("negative_binomial", 10 * PASS + 3),
    ],
)
def test_an_interrupted_fit_goes_on(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], family: str, pieces: int
) -> None:
    given = ["fit", str(config), "--family", family]
    with monkeypatch.context() as patch:
        stop_at(patch, LEARNED + pieces)
        assert main(given) == 130
    said = capsys.readouterr().err
    assert f"torchglm fit {config} --family {family} --resume run" in said
    assert [file.name for file in Path("run").iterdir()] == [runs.CHECKPOINT]
    before = checkpoints.read(Path("run")).state
    assert before is not None
    assert main([*given, "--resume", "run"]) == 0
    assert f"goes on after {int(before.n_iter.max())} iterations" in Path("run/log.txt").read_text()
    same(config, family)


def test_what_is_done_is_not_done_again(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stop_at(monkeypatch, -1)
    assert main(["fit", str(config), "--output_dir", "other"]) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, whole[0] - 3 * PASS)  # a step or two before the end
        assert main(["fit", str(config)]) == 130
    before, whole[0] = whole[0], 0
    assert main(["fit", str(config), "--resume", "run"]) == 0
    assert whole[0] < before - 2 * PASS
    assert torchglm.load("run").n_iter == torchglm.load("other").n_iter


def test_interrupted_before_the_first_step_leaves_nothing(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at(monkeypatch, LEARNED - 1)
    assert main(["fit", str(config)]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "death",
    [f"piece {LEARNED + 4 * PASS + 2}", "replace 3"],
    ids=["in the middle of a pass", "in the middle of a write"],
)
def test_a_killed_fit_goes_on(config: Path, death: str) -> None:
    driver = config.parent / "driver.py"
    driver.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(driver), "fit", str(config)],
        timeout=100,
        capture_output=True,
        text=True,
        env=os.environ | {"DIE": death},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert checkpoints.read(Path("run")).state is not None
    assert main(["fit", str(config), "--resume", "run"]) == 0
    same(config)


def test_a_finished_run_says_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(config)]) == 0
    written = Path("run/result.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["fit", str(config), "--resume", "run"]) == 0
    assert "The fit in run is finished" in capsys.readouterr().out
    assert Path("run/result.json").stat().st_mtime_ns == written
    for key, value, was in (
        ("data.formula", "y ~ a", "y ~ a + C(g)"),
        ("family", "gamma", "poisson"),
        ("data.path", "others.parquet", "rows.parquet"),
        ("seed", "3", "0"),
    ):
        said = refused(capsys, "fit", str(config), "--resume", "run", f"--{key}", value)
        assert f"run holds another job ({key}: {value}, was {was})" in said
    Path("run/config.yaml").unlink()
    assert "without a config" in refused(capsys, "fit", str(config), "--resume", "run")
    assert Path("run/result.json").stat().st_mtime_ns == written


def test_a_finished_run_is_known_by_its_rows_wherever_one_stands(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(config), "--data.path", str(config.parent / "rows.parquet")]) == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["fit", str(config), "--resume", "../run"]) == 0
    assert "The fit in ../run is finished" in capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def test_another_job_is_not_resumed(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, LEARNED + 3 * PASS)
        assert main(["fit", str(config)]) == 130
    fit = ("fit", str(config), "--resume", "run")
    assert "family.class_path: torchglm" not in (said := refused(capsys, *fit, "--family", "gamma")), said
    assert "holds another job (family: gamma, was poisson)" in said
    said = refused(capsys, *fit, "--family", "{name: negative_binomial, alpha: 2}")
    assert "holds another job (family: negative_binomial, was poisson)" in said
    assert "data.formula: y ~ a, was y ~ a + C(g)" in refused(capsys, *fit, "--data.formula", "y ~ a")
    assert "torchglm fit CONFIG.yaml --resume run" in refused(capsys, "summary", "run")
    for word in ("--resume", "--resume="):
        assert "needs the run folder" in refused(capsys, "fit", str(config), word)
    assert "no unfinished fit in" in refused(capsys, "fit", str(config), "--resume", "elsewhere")
    content = (Path("run") / runs.CHECKPOINT).read_bytes()
    (Path("run") / runs.CHECKPOINT).write_bytes(content[:200])
    assert "is damaged" in refused(capsys, *fit)


def test_rows_that_changed_are_not_resumed(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, LEARNED + 3 * PASS)
        assert main(["fit", str(config)]) == 130
    frame = pd.read_parquet("rows.parquet")
    frame.loc[0, "g"] = "w"
    frame.to_parquet("rows.parquet")
    assert "resume holds (models, coefficients) = (1, 3), these data give (1, 4)" in refused(
        capsys, "fit", str(config), "--resume", "run"
    )


def test_a_fit_that_begins_anew_says_what_it_leaves(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, LEARNED + 3 * PASS)
        assert main(["fit", str(config)]) == 130
    capsys.readouterr()
    assert main(["fit", str(config)]) == 0
    assert "run holds an unfinished fit" in capsys.readouterr().err
    same(config)


def test_a_full_disk_is_said_before_the_fit(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = stop_at(monkeypatch, -1)
    monkeypatch.setattr("torchglm.store.runs.shutil.disk_usage", lambda _: type("Usage", (), {"free": 5 << 20}))
    assert "has no room: 5 MiB are free" in refused(capsys, "fit", str(config))
    assert seen == [0]


def test_a_disk_that_fills_on_the_way_does_not_end_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = checkpoints.Checkpoint(tmp_path, "a: 1", [])
    state = Progress(torch.ones(1, 2, dtype=torch.float64), torch.tensor([3]), torch.ones(1, dtype=torch.float64))
    kept(state)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.warns(UserWarning, match="goes on without checkpoints: .*No space left"):
        kept(state)
    kept(state)  # said once
    found = checkpoints.read(tmp_path)
    assert found.config == "a: 1" and found.state is not None
    torch.testing.assert_close(found.state.coef, state.coef)


def test_a_run_moved_aside_by_a_killed_process_comes_back(config: Path) -> None:
    assert main(["fit", str(config)]) == 0
    Path("run").rename(".run.old-1")
    runs.check_target("run")
    assert torchglm.load("run").converged


def test_resume_from_python_goes_on_from_what_was_observed(config: Path) -> None:
    seen: list[Progress] = []
    call = {"family": "poisson", "exposure": "years", "max_iter": 50}
    whole = torchglm.fit("y ~ a + C(g)", "rows.parquet", observe=seen.append, **call)
    assert len(seen) > 2
    for state in seen:
        again = torchglm.fit("y ~ a + C(g)", "rows.parquet", resume=state, **call)
        torch.testing.assert_close(again.coef, whole.coef, rtol=1e-10, atol=0.0)
    with pytest.raises(ValueError, match="Pass one of them"):
        torchglm.fit("y ~ a + C(g)", "rows.parquet", resume=seen[0], start=[0.0, 0.0, 0.0], **call)
