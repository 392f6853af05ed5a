"""The commands: what a fit leaves behind, what predict and summary make of it, and how errors are said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

import torchglm
from torchglm.cli import main
from torchglm.store import runs

ROOT = Path(__file__).resolve().parent.parent
N = 400


def rows(n: int = N, seed: int = 0) -> pa.Table:
    """Counts with a category, an exposure and a group."""
    random = np.random.default_rng(seed)
    age, years = random.normal(size=n), random.uniform(0.2, 2.0, n)
    region, site = random.choice(["east", "north", "west"], n), random.integers(1, 4, n)
    mean = years * np.exp(0.3 + 0.4 * age - 0.5 * (region == "west"))
    claims = random.poisson(mean)
    return pa.table({"claims": claims, "age": age, "region": region, "years": years, "site": site})


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config beside its data, in the current directory."""
    monkeypatch.chdir(tmp_path)
    parquet.write_table(rows(), tmp_path / "claims.parquet", row_group_size=150)
    path = tmp_path / "config.yaml"
    path.write_text(
        "data: {path: claims.parquet, formula: claims ~ age + C(region), exposure: years}\n"
        "family: poisson\noutput_dir: runs/claims\n"
    )
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("torchglm: error: "), said.err
    return lines[0].removeprefix("torchglm: error: ")


def test_fit_leaves_a_whole_run_folder(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "Poisson regression, log link" in printed and "Report: runs/claims/report.html" in printed
    run = config.parent / "runs" / "claims"
    assert sorted(file.name for file in run.iterdir()) == sorted(runs.FILES)
    assert [folder.name for folder in run.parent.iterdir()] == ["claims"]
    facts = json.loads((run / "summary.json").read_text())
    table = csv.read_csv(run / "coefficients.csv").to_pydict()
    direct = torchglm.fit("claims ~ age + C(region)", rows(), family="poisson", exposure="years")
    assert table["name"] == direct.names == [row["name"] for row in facts["coefficients"]]
    np.testing.assert_allclose(table["estimate"], direct.coef, rtol=1e-12)
    np.testing.assert_allclose(torchglm.load(run).coef, direct.coef, rtol=1e-12)
    assert (run / "summary.txt").read_text() in printed
    assert "converged after" in (run / "log.txt").read_text()
    assert "data:image/svg" in (run / "report.html").read_text()


def test_the_resolved_config_fits_again(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(config), "--family", "negative_binomial", "--solver.tol", "1e-10"]) == 0
    again = config.parent / "runs" / "claims" / "config.yaml"
    text = again.read_text()
    assert "tol: 1.0e-10" in text and "class_path" not in text
    assert main(["fit", str(again), "--output_dir", "runs/again"]) == 0
    first, second = (torchglm.load(config.parent / "runs" / name) for name in ("claims", "again"))
    assert torch.equal(first.coef, second.coef) and float(first.family.alpha) == float(second.family.alpha)


def test_summary_prints_the_run(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", str(config)])
    fitted = capsys.readouterr().out
    assert main(["summary", "runs/claims"]) == 0
    assert capsys.readouterr().out.strip() in fitted
    assert main(["summary", "runs/claims", "--format", "json", "--level", "0.9"]) == 0
    assert json.loads(capsys.readouterr().out)["level"] == 0.9
    assert main(["summary", "runs/claims", "--format", "markdown"]) == 0
    assert "| age |" in capsys.readouterr().out.replace("  ", " ")


def test_predict_streams_to_a_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", str(config)])
    assert main(["predict", "runs/claims", "claims.parquet", "--link", "--se"]) == 0
    assert "400 predictions in runs/claims/predictions.parquet" in capsys.readouterr().out
    got = parquet.read_table("runs/claims/predictions.parquet").to_pydict()
    direct = torchglm.fit("claims ~ age + C(region)", rows(), family="poisson", exposure="years")
    for kind in ("mean", "link"):
        value, error = direct.predict(rows(), kind=kind, se=True)
        np.testing.assert_allclose(got[kind], value, rtol=1e-10)
        np.testing.assert_allclose(got[f"{kind}_se"], error, rtol=1e-10)
    assert main(["predict", "runs/claims", "claims.parquet", "--out", "out.csv"]) == 0
    only = csv.read_csv("out.csv").to_pydict()
    assert list(only) == ["mean"]
    np.testing.assert_allclose(only["mean"], got["mean"], rtol=1e-10)


def test_predict_reads_csv_and_needs_no_response(config: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    main(["fit", str(config)])
    csv.write_csv(rows(20, seed=1).drop_columns(["claims", "site"]), "new.csv")
    capsysbinary.readouterr()
    assert main(["predict", "runs/claims", "new.csv", "--out", "-"]) == 0
    lines = capsysbinary.readouterr().out.decode().split()
    want = torchglm.load("runs/claims").predict(rows(20, seed=1))
    np.testing.assert_allclose(list(map(float, lines[1:])), want, rtol=1e-10)


def test_groups_are_fitted_and_predicted_apart(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(config), "--data.formula", "claims ~ age", "--data.by", "site"]) == 0
    assert main(["predict", "runs/claims", "claims.parquet", "--out", "by.csv", "--se"]) == 0
    got, table = csv.read_csv("by.csv"), rows()
    assert got.column_names == ["site", "mean", "mean_se"]
    for site in (1, 2, 3):
        mine = np.asarray(table["site"]) == site
        alone = torchglm.fit("claims ~ age", table.filter(pa.array(mine)), family="poisson", exposure="years")
        np.testing.assert_allclose(np.asarray(got["mean"])[mine], alone.fitted, rtol=1e-8)
    parquet.write_table(table.set_column(4, "site", pa.array([9] * N)), "new.parquet")
    assert "site = 9" in refused(capsys, "predict", "runs/claims", "new.parquet")


def test_an_earlier_run_is_replaced_and_other_files_stay(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", str(config)])
    note = Path("runs/claims/notes.md")
    note.write_text("mine")
    assert main(["fit", str(config), "--family", "negative_binomial"]) == 0
    assert torchglm.load("runs/claims").family.name == "negative_binomial" and note.read_text() == "mine"
    Path("photos").mkdir()
    Path("photos/cat.jpg").write_text("meow")
    assert "holds 'cat.jpg' and no run" in refused(capsys, "fit", config, "--output_dir", "photos")
    assert [file.name for file in Path("photos").iterdir()] == ["cat.jpg"]


def test_a_failed_fit_leaves_an_earlier_run_alone(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["fit", str(config)])
    before = {file.name: file.read_bytes() for file in Path("runs/claims").iterdir()}

    def page(*_: object, **__: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("torchglm.report.page.page", page)
    said = refused(capsys, "fit", config)
    assert "disk full" in said and f"torchglm fit {config} --resume runs/claims" in said
    after = {file.name: file.read_bytes() for file in Path("runs/claims").iterdir()}
    assert after.pop(runs.CHECKPOINT) and after == before
    assert [folder.name for folder in Path("runs").iterdir()] == ["claims"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data.formula", "claims ~ agee"], "No column 'agee' (did you mean 'age'?) in claims.parquet"),
        (["--data.formula", "claims ~ (age"], "Cannot read the formula 'claims ~ (age'"),
        (["--data.formula", "~ age"], "has no response"),
        (["--data.exposure", "yeers"], "No column 'yeers' (did you mean 'years'?)"),
        (["--data.exposure", "age"], "exposure must be finite and > 0; row"),
        (["--data.path", "clams.parquet"], "clams.parquet does not exist. Did you mean claims.parquet?"),
        (["--data.path", "empty.csv"], "empty.csv is empty (0 bytes)"),
        (["--data.path", "header.csv"], "has a header but no rows"),
        (["--data.path", "gaps.csv"], "leave such rows out with data.missing: drop."),
        (["--family", "gamma", "--link", "log"], "the gamma family needs y > 0; row"),
        (["--family", "poison"], "unknown name 'poison' (did you mean 'poisson'?)"),
        (["--link", "lgo"], "unknown name 'lgo' (did you mean 'log'?)"),
        (["--link", "power"], "power"),
        (["--device", "gpu"], "device: got 'gpu'. Known: auto, cpu, cuda, cuda:0."),
        (["--device", "cuda:63"], "device: cuda:63 is not here"),
        (["--output_dir", "config.yaml"], "config.yaml is a file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Path("empty.csv").touch()
    Path("header.csv").write_text("claims,age,region,years\n")
    Path("gaps.csv").write_text("claims,age,region,years\n1,2.5,east,1\n2,,west,1\n")
    assert said in refused(capsys, "fit", config, *arguments)
    assert not Path("runs").exists()


def test_a_class_of_ones_own_needs_its_arguments(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "fit", config, "--link", "torchglm.links.Pwoer")
    assert "torchglm.links.Pwoer" in said and "cannot be imported" in said


def test_predict_refuses_rows_it_cannot_place(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", str(config)])
    new = rows(300, seed=2)
    regions = new["region"].to_pylist()
    regions[270] = "south"
    parquet.write_table(new.set_column(2, "region", pa.array(regions)), "unseen.parquet", row_group_size=100)
    said = refused(capsys, "predict", "runs/claims", "unseen.parquet")
    assert "'south'" in said and "270" in said
    assert not Path("runs/claims/predictions.parquet").exists()
    assert main(["predict", "runs/claims", "unseen.parquet", "--unseen", "reference"]) == 0
    parquet.write_table(new.drop_columns(["years"]), "without.parquet")
    assert "No column 'years'" in refused(capsys, "predict", "runs/claims", "without.parquet")
    years = new["years"].to_pylist()
    years[210] = 0.0
    parquet.write_table(new.set_column(3, "years", pa.array(years)), "zero.parquet", row_group_size=100)
    assert "row 210 has 0" in refused(capsys, "predict", "runs/claims", "zero.parquet", "--out", "zero.csv")
    assert not Path("zero.csv").exists() and not list(Path().glob(".*draft*"))
    assert "unknown ending" in refused(capsys, "predict", "runs/claims", "unseen.parquet", "--out", "a.xlsx")
    assert "no folder" in refused(capsys, "predict", "runs/claims", "unseen.parquet", "--out", "no/a.csv")


def test_what_is_no_run_is_said(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no run folder runs/nope" in refused(capsys, "summary", "runs/nope")
    assert "is not a run folder" in refused(capsys, "predict", ".", "claims.parquet")
    x = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    torchglm.fit(x, x[:, 0] ** 2, family="gaussian").save("arrays")
    assert "fitted on arrays" in refused(capsys, "predict", "arrays", "claims.parquet")


def test_warnings_come_in_one_line_each(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(config), "--data.formula", "claims ~ age + I(2 * age)"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("warning: aliased columns")
    assert "warning: aliased" in Path("runs/claims/log.txt").read_text()


def test_help_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "predict RUN DATA" in told and "evaluate RUN DATA" in told
    assert main(["--version"]) == 0
    assert torchglm.__version__ in capsys.readouterr().out
    assert main([]) == 2
    capsys.readouterr()
    assert "did you mean 'fit'" in refused(capsys, "ftt")
    for command in ("predict", "evaluate", "summary"):
        assert main([command, "--help"]) == 0
        assert "RUN" in capsys.readouterr().out
        assert main([command]) == 2
        capsys.readouterr()


def test_the_module_runs_as_a_program(config: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=environment
        )

    done = run("-m", "torchglm", "fit", str(config))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Report: runs/claims/report.html\n") and done.stderr == ""
    code = (
        "import sys; from torchglm.cli import main; main(['fit', '--help']); "
        "print([m for m in ('lightning', 'torchmetrics', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    assert run("-c", code).stdout.endswith("[]\n")


def test_a_loaded_fit_can_be_written_again(config: Path) -> None:
    main(["fit", str(config)])
    folder = runs.write(torchglm.load("runs/claims"), "runs/copy")
    assert torch.equal(torchglm.load(folder).coef, torchglm.load("runs/claims").coef)
    assert "no diagnostic plots" in (folder / "report.html").read_text()


def test_an_intercept_alone_and_several_groups(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(config), "--data.formula", "claims ~ 1", "--data.exposure", "null"]) == 0
    assert main(["predict", "runs/claims", "claims.parquet", "--out", "one.csv"]) == 0
    mean = np.mean(rows()["claims"].to_numpy())
    np.testing.assert_allclose(csv.read_csv("one.csv")["mean"], mean, rtol=1e-8)
    assert main(["fit", str(config), "--data.formula", "claims ~ 1", "--data.by", "[site, region]"]) == 0
    assert torchglm.load("runs/claims").coef.shape == (9, 1)


@pytest.mark.parametrize(
    ("error", "said"),
    [(MemoryError(), "out of memory. Fit fewer rows"), (RuntimeError("CUDA out of memory."), "the GPU ran")],
)
def test_running_out_of_memory_is_said_in_a_line(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torchglm.cli.schema.fit", fit)
    assert said in refused(capsys, "fit", config)
    assert not Path("runs").exists()


def test_an_interrupt_leaves_a_checkpoint_alone(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def page(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("torchglm.report.page.page", page)
    assert main(["fit", str(config)]) == 130
    assert [file.as_posix() for file in Path("runs").rglob("*")] == ["runs/claims", "runs/claims/checkpoint.pt"]


def test_what_an_earlier_fit_predicted_is_not_left_beside_the_new_one(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", str(config)])
    run = Path("runs/claims")
    for out in ([], ["--out", str(run / "scores.csv")], ["--out", str(run / "parts.csv")]):
        assert main(["predict", str(run), "claims.parquet", *out]) == 0
    parquet.write_table(rows(30, seed=4), "later.parquet")
    assert main(["report", str(run), "--data", "later.parquet"]) == 0
    (run / "notes.md").write_text("mine")
    made = {"predictions.parquet", "scores.csv", "parts.csv", "report_later.html"}
    assert made <= {file.name for file in run.iterdir()}
    capsys.readouterr()
    for _ in range(2):  # the second run finds the folder of the first
        assert main(["fit", str(config), "--data.formula", "claims ~ age"]) == 0
        assert {file.name for file in run.iterdir()} == {*runs.FILES, "notes.md", "former"}
        assert {file.name for file in (run / "former").iterdir()} == made
        assert (run / "notes.md").read_text() == "mine"
    said = capsys.readouterr().err
    assert all(name in said for name in made) and "Predict again" in said
    assert main(["predict", str(run), "claims.parquet"]) == 0
