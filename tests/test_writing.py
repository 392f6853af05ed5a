"""Files appear whole or not at all; numbers are written in one way wherever they are printed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import torchglm
from torchglm.inference.table import Outcome, Table
from torchglm.store import runs
from torchglm.writing.files import MACHINE, clear, replaced
from torchglm.writing.numbers import cell, jsonable, p_value, stated

PS = [0.0, 1e-300, 9.9e-17, 1e-16, 3e-9, 9.4e-4, 9.6e-4, 0.001, 0.0412, 0.5, 0.99994, 0.99996, 1.0]


def test_a_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with replaced(path) as draft:
        draft.write_text("old")
        assert not path.exists()
    with pytest.raises(RuntimeError), replaced(path) as draft:
        draft.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file.txt"]
    with replaced(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "new" and os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("name", ["checkpoint.pt", "last.ckpt"])
def test_the_draft_of_a_killed_process_is_the_runs_own(tmp_path: Path, name: str) -> None:
    with replaced(tmp_path / name) as draft:
        (tmp_path / draft.name).touch()
        assert runs.check_target(tmp_path) == tmp_path.resolve()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds 'notes.txt' and no run"):
        runs.check_target(tmp_path)


def test_a_failed_save_leaves_the_earlier_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = torchglm.fit(x, x[:, 0] + 1.0, family="gaussian")
    result.save(tmp_path)
    before = sorted(os.listdir(tmp_path))

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        torchglm.fit(x, x[:, 1] + 1.0, family="gaussian").save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
    torch.testing.assert_close(torchglm.load(tmp_path).coef, result.coef, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("p", PS)
def test_a_p_value_reads_the_same_everywhere_and_never_as_zero(p: float) -> None:
    text = p_value(p)
    assert float(text.strip("<>")) > 0
    shown = str(Table("T", ["a"], {"p": torch.tensor([p], dtype=torch.float64)}))
    assert shown.splitlines()[-1].split() == ["a", text]
    assert stated(p).replace(" ", "").lstrip("=") == text


def test_an_outcome_states_the_p_value_of_the_tables() -> None:
    one = torch.ones((), dtype=torch.float64)
    outcome = Outcome("Test", 400 * one, one)
    assert str(outcome) == f"Test: chi2(1) = 400, p {stated(float(outcome.p_value))}"
    assert stated(float(outcome.p_value)) == "< 1e-16"


def test_cells_of_what_is_no_number() -> None:
    assert [cell(v) for v in (math.nan, math.inf, -math.inf, 3.0, 0.123456789, 123456.78)] == [
        "",
        "inf",
        "-inf",
        "3",
        "0.12346",
        "123456.8",
    ]


def test_json_knows_no_nan() -> None:
    given = {"a": [1, math.nan, (2.5, -math.inf)], 3: {"b": math.inf}, "c": "NaN", "d": None, "e": True}
    made = jsonable(given)
    assert made == {"a": [1, None, [2.5, None]], "3": {"b": None}, "c": "NaN", "d": None, "e": True}
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def _dead() -> int:
    """The number of a process that is gone."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("name", ["run", "[run]", "run.csv", "r*n"])
def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_live_one_writes_is_not(
    tmp_path: Path, name: str
) -> None:
    dead, path = _dead(), tmp_path / name
    gone = [tmp_path / f".{name}.draft-{owner}{dead}" for owner in ("", MACHINE)]
    kept = [tmp_path / f".{name}.draft-{MACHINE}{os.getpid()}x", tmp_path / f".{name}.draft-elsewhere-{dead}"]
    kept.append(tmp_path / f".{name}2.draft-{dead}")
    gone[0].mkdir()
    (gone[0] / "half").write_text("half")
    for file in (gone[1], *kept):
        file.touch()
    with replaced(path) as draft:
        draft.write_text("whole")
    assert path.read_text() == "whole"
    assert not any(file.exists() for file in gone) and all(file.exists() for file in kept)
    os.utime(kept[1], (0, 0))  # of another machine, long ago
    clear(path)
    assert not kept[1].exists()


def test_a_run_folder_is_cleared_of_what_killed_runs_left(tmp_path: Path) -> None:
    dead, run = _dead(), tmp_path / "run"
    run.mkdir()
    (run / "result.json").write_text("{}")
    for left in (f".run.draft-{dead}", f".run.old-{dead}"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "log.txt").touch()
    (tmp_path / f".run.old-{dead}" / "notes.txt").write_text("mine")
    (run / f".checkpoint.pt.draft-{dead}").touch()
    runs.check_target(run)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["notes.txt", "result.json", "run"]


def test_a_warning_points_at_the_line_of_the_reader(recwarn: pytest.WarningsRecorder) -> None:
    x, y = np.arange(8.0)[:, None], (np.arange(8) > 3).astype(float)
    separated = torchglm.fit(x, y, family="bernoulli")
    separated.conf_int(method="profile")
    torchglm.fit(np.hstack([x, 2 * x]), y + x[:, 0], family="gaussian")
    torchglm.fit("y ~ x", {"x": ["1", "2", "3.5", "4"] * 3, "y": [1, 2, 3, 4] * 3}, family="poisson", missing="drop")
    weights = torch.ones(8, dtype=torch.float64)
    torchglm.solve(torch.tensor(x), torch.tensor(y), family="bernoulli", weights=weights)
    torchglm.GLMHead(1, "bernoulli").fit(x, y)
    said = [one for one in recwarn if issubclass(one.category, torchglm.FitWarning)]
    assert len(said) > 3 and {one.filename for one in said} == {__file__}
