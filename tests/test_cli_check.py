"""`torchglm check`: what it says of a run, from the files of its config or others, and how mistakes are said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import torchglm
from torchglm.cli import main

N = 600


@pytest.fixture(params=["poisson", "spread"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, bool]:
    """A run of a Poisson fit, and whether its counts were in truth over-dispersed."""
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(4)
    age, years = g.normal(size=N), g.uniform(0.2, 2.0, N)
    region, site = g.choice(["east", "west"], N), g.integers(1, 3, N)
    mean = years * np.exp(0.8 + 0.4 * age - 0.5 * (region == "west"))
    spread = request.param == "spread"
    claims = g.poisson(mean * (g.gamma(1.0, 1.0, N) if spread else 1.0))
    parquet.write_table(
        pa.table({"claims": claims, "age": age, "region": region, "years": years, "site": site}),
        "claims.parquet",
        row_group_size=150,
    )
    Path("config.yaml").write_text(
        "data: {path: claims.parquet, formula: claims ~ age + region, exposure: years}\n"
        "family: poisson\noutput_dir: runs/claims\n"
    )
    assert main(["fit", "config.yaml"]) == 0
    return Path("runs/claims"), spread


def sentences(said: str) -> list[str]:
    """The findings of a printed check without their advice."""
    return [line.split(". ", 1)[1] for line in said.splitlines() if line[:1].isdigit()]


def test_check_says_what_was_found_and_what_to_try(run: tuple[Path, bool], capsys: pytest.CaptureFixture[str]) -> None:
    folder, spread = run
    capsys.readouterr()
    assert main(["check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert ("vary more" in said and "`family: negative_binomial`, `dispersion: pearson`" in said) == spread
    assert ("nothing found" in said) != spread
    table = parquet.read_table("claims.parquet")
    again = torchglm.fit("claims ~ age + region", table, family="poisson", exposure="years").check()
    assert [one.sentence for one in again.findings[0]] == sentences(said)
    assert not spread or "NegativeBinomial(), dispersion='pearson'" in str(again)


def test_check_as_json_reads_moved_files(run: tuple[Path, bool], capsys: pytest.CaptureFixture[str]) -> None:
    folder, spread = run
    Path("claims.parquet").rename("moved.parquet")
    capsys.readouterr()
    assert main(["check", str(folder)]) == 2
    assert "claims.parquet" in capsys.readouterr().err
    assert main(["check", str(folder), "--data", "moved.parquet", "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["tests"]) == {"link", "dispersion", "zeros"}
    assert [one["topic"] for one in facts["findings"]][:1] == (["dispersion"] if spread else [])


def test_check_refuses_rows_of_another_fit(run: tuple[Path, bool], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = run
    table = parquet.read_table("claims.parquet")
    parquet.write_table(table.slice(0, 300), "half.parquet")
    capsys.readouterr()
    assert main(["check", str(folder), "--data", "half.parquet"]) == 2
    assert "not the rows of the fit" in capsys.readouterr().err


def test_check_of_a_grouped_run_counts_models(run: tuple[Path, bool], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "config.yaml", "--data.by", "site", "--output_dir", "runs/sites"]) == 0
    capsys.readouterr()
    assert main(["check", "runs/sites"]) == 0
    said = capsys.readouterr().out
    assert "of 2 models without a finding" in said
    assert ("dispersion: 2 of 2" in said) == run[1]


def test_rows_are_those_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(3)
    for k, name in enumerate(("a", "b")):
        x = g.normal(size=200)
        y = g.poisson(np.exp(0.2 * x)).astype(float)
        x[:50] = np.nan
        if k:
            x[120], y[120] = 6.0, 90.0
        parquet.write_table(pa.table({"x": x, "y": y}), f"{name}.parquet", row_group_size=64)
    Path("config.yaml").write_text(
        "data: {path: [a.parquet, b.parquet], formula: y ~ x, missing: drop}\nfamily: poisson\noutput_dir: run\n"
    )
    assert main(["fit", "config.yaml"]) == 0
    capsys.readouterr()
    assert main(["check", "run"]) == 0
    said = capsys.readouterr().out
    assert "Row 120 of " in said and "b.parquet moves the coefficients by itself" in said
    page = Path("run/report.html").read_text(encoding="utf-8")
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", page.split("Rows that move the fit most")[1].split("</tr>")[1])
    assert cells[0] == "120" and cells[1].endswith("b.parquet")
    table = torchglm.tables.read_table("b.parquet")
    apart = torchglm.fit("y ~ x", table, family="poisson", missing="drop")
    assert "Row 120 moves" in str(apart.check())
    files = torchglm.fit("y ~ x", ["a.parquet", "b.parquet"], family="poisson", missing="drop")
    assert "Row 120 of b.parquet moves" in str(files.check())
