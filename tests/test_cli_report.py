"""`torchglm report` and `torchglm compare`: pages and tables of runs, from their files, others, or none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import torchglm
from torchglm.cli import main

N = 500


def rows(n: int = N, seed: int = 2) -> pa.Table:
    """Counts with an exposure, a category and a group."""
    g = np.random.default_rng(seed)
    age, years = g.normal(size=n), g.uniform(0.2, 2.0, n)
    region, site = g.choice(["east", "west"], n), g.integers(1, 3, n)
    claims = g.poisson(years * np.exp(0.8 + 0.4 * age - 0.5 * (region == "west")))
    return pa.table({"claims": claims, "age": age, "region": region, "years": years, "site": site})


RUNS = {
    "both": [],
    "age": ["--data.formula", "claims ~ age"],
    "negative": ["--family", "negative_binomial"],
    "sites": ["--data.by", "site"],
    "sites_age": ["--data.by", "site", "--data.formula", "claims ~ age"],
}


def fitted(name: str, *flags: str) -> None:
    assert main(["fit", "config.yaml", "--output_dir", f"runs/{name}", *flags]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, and runs on them."""
    path = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        parquet.write_table(rows(), "claims.parquet", row_group_size=150)
        Path("config.yaml").write_text(
            "data: {path: claims.parquet, formula: claims ~ age + region, exposure: years}\nfamily: poisson\n"
        )
        for name, flags in RUNS.items():
            fitted(name, *flags)
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, to work in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1, said.err
    return said.err


def test_report_of_a_loaded_run_is_that_of_the_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path("runs/both/report.html")
    before = page.read_text()
    page.unlink()
    capsys.readouterr()
    assert main(["report", "runs/both"]) == 0
    assert capsys.readouterr().out == "Report: runs/both/report.html\n"
    assert page.read_text() == before and "Rows that move the fit most" in before


def test_report_on_new_rows_leaves_that_of_the_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("runs/both/report.html").read_text()
    parquet.write_table(rows(200, 7), "next year.parquet")
    capsys.readouterr()
    assert main(["report", "runs/both", "--data", "next year.parquet", "--title", "Next year"]) == 0
    assert capsys.readouterr().out == "Report on new rows: runs/both/report_next_year.html\n"
    text = Path("runs/both/report_next_year.html").read_text()
    assert "<title>Next year</title>" in text and "diagnostics on 200 rows that were handed in" in text
    assert "Calibration by decile" in text and "Tests of the model" not in text
    assert Path("runs/both/report.html").read_text() == before


def test_report_finds_moved_rows_to_be_those_of_the_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("claims.parquet").rename("moved.parquet")
    assert "claims.parquet" in refused(capsys, "report", "runs/both")
    assert main(["report", "runs/both", "--data", "moved.parquet", "--out", "page.html"]) == 0
    assert "Tests of the model" in Path("page.html").read_text()


def test_report_of_groups_shows_how_they_differ(folder: Path) -> None:
    assert main(["report", "runs/sites", "--level", "0.9"]) == 0
    assert "Distribution of each coefficient" in Path("runs/sites/report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--level", "2"], "--level must lie between 0 and 1, got 2"),
        (["--out", "page.pdf"], "name a file that ends in .html"),
        (["--data", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["--data", "poor.parquet"], "age"),
        (["--data", "north.parquet"], "north"),
    ],
)
def test_what_a_report_cannot_do_is_said_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    table = rows(50)
    parquet.write_table(table.drop_columns("age"), "poor.parquet")
    parquet.write_table(table.set_column(2, "region", pa.array(["north"] * 50)), "north.parquet")
    files = sorted(folder.rglob("*.html"))
    assert said in refused(capsys, "report", "runs/both", *flags)
    assert sorted(folder.rglob("*.html")) == files


def test_report_says_that_the_rows_have_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet.write_table(rows(N, 9), "claims.parquet")
    assert "no longer those of the fit" in refused(capsys, "report", "runs/both")


def test_compare_is_the_table_of_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    names = ["runs/age", "runs/both", "runs/negative"]
    assert main(["compare", *names, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    table = rows()
    fits = [
        torchglm.fit(formula, table, family=family, exposure="years")
        for formula, family in (
            ("claims ~ age", "poisson"),
            ("claims ~ age + region", "poisson"),
            ("claims ~ age + region", "negative_binomial"),
        )
    ]
    want = torchglm.compare(*fits, names=names).columns
    assert found["rows_read"] and set(found["table"]) == set(want)
    for name, column in want.items():
        got = [np.nan if value is None else value for value in found["table"][name]]
        np.testing.assert_allclose(got, column.numpy(), rtol=1e-8, err_msg=name)
    assert main(["compare", *names]) == 0
    said = capsys.readouterr().out
    assert "runs/both: Poisson regression, log link, claims ~ age + region" in said
    assert "p-value" in said and "no longer" not in said


def test_compare_without_the_rows_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("claims.parquet").unlink()
    capsys.readouterr()
    assert main(["compare", "runs/age", "runs/both"]) == 0
    said = capsys.readouterr().out
    assert "compared by the saved numbers alone" in said and "<1e-16" in said


def test_compare_of_groups_sums_over_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["compare", "runs/sites_age", "runs/sites", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    loaded = torchglm.load("runs/sites")
    assert found["models"] == 2 and found["table"]["aic"][1] == pytest.approx(float(loaded.aic.sum()))
    assert sum(found["table"]["best"]) == 2
    assert main(["compare", "runs/sites_age", "runs/sites"]) == 0
    assert "Sums over 2 models" in capsys.readouterr().out
    assert "other groups" in refused(capsys, "compare", "runs/sites", "runs/both")


def test_what_cannot_be_compared_is_said_in_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "at least two runs" in refused(capsys, "compare", "runs/both")
    assert "no run folder runs/none" in refused(capsys, "compare", "runs/both", "runs/none")
    parquet.write_table(rows(300), "some.parquet")
    fitted("some", "--data.path", "some.parquet")
    assert "same rows" in refused(capsys, "compare", "runs/both", "runs/some")
