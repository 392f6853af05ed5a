"""`torchglm predict` at scale: files in, files out, in pieces, with intervals and key columns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

import torchglm
from torchglm.cli import main
from torchglm.cli.predict import Prediction, Wanted, write

N = 240


def rows(n: int = N, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    age, years, region = draw.normal(size=n), draw.uniform(0.2, 2, n), draw.choice(["east", "north", "west"], n)
    claims = draw.poisson(years * np.exp(0.3 + 0.4 * age - 0.5 * (region == "west")))
    return pa.table(
        {
            "id": np.arange(n) + 1000 * seed,
            "claims": claims,
            "age": age,
            "region": region,
            "years": years,
            "note": pa.array([None if i % 5 == 0 else f"n{i}" for i in range(n)]),
        }
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torchglm.Result:
    """A saved fit, and three files to predict, in the current folder."""
    monkeypatch.chdir(tmp_path)
    result = torchglm.fit("claims ~ age + region", rows(), family="poisson", exposure="years")
    result.save("run")
    Path("data").mkdir()
    for i in range(3):
        parquet.write_table(rows(100, i + 1), f"data/part{i}.parquet", row_group_size=40)
    return result


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["predict", "run", *arguments]) == 2
    assert not list(Path().rglob(".*draft*"))
    return capsys.readouterr().err


def test_many_files_become_a_folder_of_as_many(run: torchglm.Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "run", "data/*.parquet", "--out", "scored/", "--interval", "0.9", "--keep", "id,note"]) == 0
    assert capsys.readouterr().out == "300 predictions in scored/\n"
    assert sorted(file.name for file in Path("scored").iterdir()) == [f"part{i}.parquet" for i in range(3)]
    for i in range(3):
        got, want = parquet.read_table(f"scored/part{i}.parquet"), rows(100, i + 1)
        assert got.column_names == ["id", "note", "mean", "mean_low", "mean_high"]
        assert got["id"].equals(want["id"]) and got["note"].to_pylist() == want["note"].to_pylist()
        np.testing.assert_allclose(got["mean"], run.predict(want), rtol=1e-12)
        ends = run.predict_interval(want, level=0.9)
        np.testing.assert_allclose(got["mean_low"], ends[:, 0], rtol=1e-12)
        np.testing.assert_allclose(got["mean_high"], ends[:, 1], rtol=1e-12)


@pytest.mark.parametrize("family", ["poisson", torchglm.Hurdle("poisson")], ids=["poisson", "hurdle"])
def test_an_offset_beside_an_exposure_is_read_from_files(
    family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = rows()
    table = table.append_column("head", pa.array(np.sin(np.arange(N))))
    parquet.write_table(table, "new.parquet")
    result = torchglm.fit("claims ~ age + region", table, family=family, exposure="years", offset="head")
    result.save("run")
    asked = ["--interval", "0.9", "--response", "0.9"]
    assert main(["predict", "run", "new.parquet", "--out", "out.parquet", *asked]) == 0
    got, ends = parquet.read_table("out.parquet"), result.predict_interval(table, level=0.9)
    np.testing.assert_allclose(got["mean"], result.predict(table), rtol=1e-12)
    np.testing.assert_allclose(got["mean_low"], ends[:, 0], rtol=1e-12)
    ends = result.predict_interval(table, level=0.9, kind="response")
    np.testing.assert_allclose(got["response_high"], ends[:, 1], rtol=1e-12)
    assert main(["evaluate", "run", "new.parquet", "--coverage", "0.9"]) == 0


def test_many_files_become_one_where_out_is_a_file(run: torchglm.Result) -> None:
    for out, read in (("all.parquet", parquet.read_table), ("all.csv", csv.read_csv)):
        assert main(["predict", "run", "data/part0.parquet", "data/part2.parquet", "--out", out, "--keep", "id"]) == 0
        got = read(out)
        assert got["id"].to_pylist() == [*range(1000, 1100), *range(3000, 3100)]
        want = torch.cat([run.predict(rows(100, seed)) for seed in (1, 3)])
        np.testing.assert_allclose(got["mean"], want, rtol=1e-12)


def test_a_response_interval_is_that_of_the_result(run: torchglm.Result) -> None:
    assert main(["predict", "run", "data/part0.parquet", "--out", "a.parquet", "--response", "0.8"]) == 0
    got = parquet.read_table("a.parquet")
    want = run.predict_interval(rows(100, 1), kind="response", level=0.8)
    assert got.column_names == ["mean", "response_low", "response_high"]
    np.testing.assert_allclose(got["response_low"], want[:, 0])
    np.testing.assert_allclose(got["response_high"], want[:, 1])


def test_a_response_interval_takes_the_trials_and_weights_of_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(4)
    n = draw.integers(1, 30, 200)
    x = draw.normal(size=200)
    table = pa.table({"y": draw.binomial(n, 1 / (1 + np.exp(-x))), "n": n, "x": x, "w": draw.uniform(0.5, 2, 200)})
    parquet.write_table(table, "rows.parquet")
    for name, fitted, roles in [
        ("binomial", torchglm.fit("y ~ x", table, family="binomial", trials="n"), {"trials": "n"}),
        ("gaussian", torchglm.fit("y ~ x", table, family="gaussian", weights="w"), {"weights": "w"}),
    ]:
        fitted.save(name)
        assert main(["predict", name, "rows.parquet", "--out", f"{name}.csv", "--response", "0.9"]) == 0
        given = {role: torch.tensor(table[column].to_numpy().astype(float)) for role, column in roles.items()}
        want = fitted.predict_interval(table, kind="response", level=0.9, **given)
        np.testing.assert_allclose(csv.read_csv(f"{name}.csv")["response_high"], want[:, 1], rtol=1e-6)


def test_missing_rows_are_left_out_and_counted_where_asked(
    run: torchglm.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rows(100, 1)
    ages = table["age"].to_pylist()
    ages[17] = ages[60] = None
    parquet.write_table(table.set_column(2, "age", pa.array(ages)), "data/part1.parquet", row_group_size=40)
    said = refused(capsys, "data", "--out", "scored")
    assert "part1.parquet, row group 0: Column 'age' has 1 missing value (the first in row 17)" in said
    assert "leave such rows out with --missing drop." in said
    assert main(["predict", "run", "data", "--out", "scored", "--missing", "drop", "--keep", "id,note"]) == 0
    assert "298 predictions in scored; left out: 2 rows with missing values (age 2)" in capsys.readouterr().out
    got = parquet.read_table("scored/part1.parquet")
    assert got["id"].to_pylist() == [1000 + i for i in range(100) if i not in (17, 60)]
    kept = table.filter(pa.array([i not in (17, 60) for i in range(100)]))
    np.testing.assert_allclose(got["mean"], run.predict(kept), rtol=1e-12)


def test_unseen_levels_are_counted(run: torchglm.Result, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(100, 1)
    places = table["region"].to_pylist()
    places[45] = "south"
    parquet.write_table(table.set_column(3, "region", pa.array(places)), "data/part1.parquet", row_group_size=40)
    said = refused(capsys, "data", "--out", "scored")
    assert "part1.parquet, row group 1: 'region' has 1 rows with unknown levels: 'south'; the first is row 45" in said
    assert main(["predict", "run", "data", "--out", "scored", "--unseen", "reference"]) == 0
    assert "taken in: 1 row with unseen levels as the reference level (region 1)" in capsys.readouterr().out
    assert "code them as the reference level with --unseen reference." in said
    assert "pooled no rare levels" in refused(capsys, "data", "--out", "scored", "--unseen", "other")


def test_the_policy_of_the_fit_is_the_default(run: torchglm.Result, capsys: pytest.CaptureFixture[str]) -> None:
    torchglm.fit("claims ~ age + region", rows(), family="poisson", exposure="years", unseen="reference").save("run")
    parquet.write_table(rows(5).set_column(3, "region", pa.array(["south"] * 5)), "new.parquet")
    assert main(["predict", "run", "new.parquet", "--out", "new.csv"]) == 0
    assert "5 rows with unseen levels as the reference level" in capsys.readouterr().out
    assert "unknown levels" in refused(capsys, "new.parquet", "--out", "new.csv", "--unseen", "error")


def test_rows_with_missing_values_fare_as_in_the_fit(run: torchglm.Result, capsys: pytest.CaptureFixture[str]) -> None:
    torchglm.fit("claims ~ age + region", rows(), family="poisson", exposure="years", missing="drop").save("run")
    table = rows(5)
    new = table.set_column(2, "age", pa.array([0.1, None, 0.3, float("nan"), 0.5]))
    parquet.write_table(new, "new.parquet")
    assert main(["predict", "run", "new.parquet", "--out", "new.csv", "--keep", "id"]) == 0
    assert "3 predictions in new.csv; left out: 2 rows with missing values (age 2)" in capsys.readouterr().out
    assert csv.read_csv("new.csv")["id"].to_pylist() == [0, 2, 4]
    assert main(["evaluate", "run", "new.parquet"]) == 0
    assert "2 rows with missing values (age 2)" in " ".join(capsys.readouterr().out.split())
    for command in (["predict", "--out", "new.csv"], ["evaluate"]):
        assert main([command[0], "run", "new.parquet", "--missing", "error", *command[1:]]) == 2
        assert "leave such rows out with --missing drop." in capsys.readouterr().err


def test_a_failure_leaves_whole_files_alone(
    run: torchglm.Result, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["predict", "run", "data", "--out", "scored"]) == 0
    before = {file.name: file.read_bytes() for file in Path("scored").iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", full)
    assert "scored/part0.parquet cannot be written: [Errno 28] No space left" in refused(
        capsys, "data", "--out", "scored"
    )
    assert {file.name: file.read_bytes() for file in Path("scored").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data", "--out", "a.xlsx"], "unknown ending"),
        (["data", "--out", "no/a.csv"], "no folder"),
        (["data", "--out", "data"], "would replace data/part0.parquet, which is read"),
        (["data/part0.parquet", "--out", "data/part0.parquet"], "would replace"),
        (["data", "copy/part0.parquet", "--out", "scored"], "Two of the files are called part0.parquet"),
        (["data", "--out", "run/result.json/x"], "cannot be made, for run/result.json is a file"),
        (["data", "gaps.parquet", "--out", "gaps.parquet/x"], "cannot be made, for gaps.parquet is a file"),
        (["gaps.parquet", "--out", "new/scored/"], "has 1 missing value"),
        (["data", "--keep", "idd"], "No column 'idd' (did you mean 'id'?)"),
        (["nowhere"], "does not exist"),
        (["data", "--interval", "95"], "--interval must lie between 0 and 1"),
        (["data", "--keep", "mean"], "have a column of that name"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    run: torchglm.Result, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Path("copy").mkdir()
    parquet.write_table(rows(10), "copy/part0.parquet")
    ages = pa.array([*range(79), None], pa.float64())  # the first piece can be predicted, the second not
    parquet.write_table(rows(80).set_column(2, "age", ages), "gaps.parquet", row_group_size=40)
    before = sorted(Path().rglob("*"))
    assert said in refused(capsys, *arguments)
    assert sorted(Path().rglob("*")) == before


def test_whole_files_before_a_refusal_are_kept(run: torchglm.Result, capsys: pytest.CaptureFixture[str]) -> None:
    parquet.write_table(rows(5).set_column(2, "age", pa.nulls(5, pa.float64())), "data/part1.parquet")
    assert "part1.parquet" in refused(capsys, "data", "--out", "new/scored")
    assert [file.name for file in Path("new/scored").iterdir()] == ["part0.parquet"]


@pytest.mark.parametrize(
    ("keep", "want"),
    [
        (["id, region"], ["id", "region"]),
        (["id", "--keep", "region,years"], ["id", "region", "years"]),
        (["last, first", "--keep", "id,region,id"], ["last, first", "id", "region"]),
        ([" id ,"], ["id"]),
    ],
)
def test_columns_to_keep_come_in_one_list_or_several(run: torchglm.Result, keep: list[str], want: list[str]) -> None:
    table = rows(5).append_column("last, first", pa.array(list("abcde")))
    parquet.write_table(table, "new.parquet")
    assert main(["predict", "run", "new.parquet", "--out", "out.parquet", "--keep", *keep]) == 0
    got = parquet.read_table("out.parquet")
    assert got.column_names == [*want, "mean"]
    assert got.select(want).to_pydict() == table.select(want).to_pydict()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_at_once(
    run: torchglm.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("closed").mkdir(mode=0o500)
    assert "no permission" in refused(capsys, "data", "--out", "closed")


def test_pieces_do_not_change_a_prediction(run: torchglm.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    made = Prediction.piece

    def piece(self: Prediction, table: pa.Table, first: int) -> pa.Table:
        sizes.append(len(table))
        return made(self, table, first)

    monkeypatch.setattr(Prediction, "piece", piece)
    monkeypatch.setattr("torchglm.cli.run_rows.NUMBERS", 64 * 4)  # 64 rows of four coefficients
    parquet.write_table(rows(1000, 9), "wide.parquet")
    prediction = Prediction.of(Path("run"), Wanted(se=True, interval=0.95), ["id"])
    assert write(prediction, ["wide.parquet"], "out.parquet") == 1000
    assert max(sizes) == 64
    got = parquet.read_table("out.parquet")
    value, error = run.predict(rows(1000, 9), se=True)
    assert got["id"].to_pylist() == rows(1000, 9)["id"].to_pylist()
    np.testing.assert_allclose(got["mean"], value, rtol=1e-12)
    np.testing.assert_allclose(got["mean_se"], error, rtol=1e-10)


def test_groups_keep_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = rows(300)
    result = torchglm.fit("claims ~ age", table, family="poisson", by="region")
    result.save("run")
    parquet.write_table(table, "rows.parquet", row_group_size=70)
    assert main(["predict", "run", "rows.parquet", "--out", "out.parquet", "--interval", "0.95", "--keep", "id"]) == 0
    got = parquet.read_table("out.parquet")
    assert got.column_names == ["id", "region", "mean", "mean_low", "mean_high"]
    for i, (label,) in enumerate(result.groups or []):
        mine = np.asarray(table["region"].to_pylist()) == label
        want = result[i].predict_interval(table.filter(pa.array(mine)))
        np.testing.assert_allclose(np.asarray(got["mean_low"])[mine], want[:, 0], rtol=1e-10)


def test_rows_of_groups_with_missing_values_fare_as_in_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torchglm.fit("claims ~ age", rows(300), family="poisson", by="region", missing="drop").save("run")
    ages = [None if i % 10 == 3 else 0.1 * i for i in range(40)]
    parquet.write_table(rows(40).set_column(2, "age", pa.array(ages)), "new.parquet", row_group_size=15)
    assert main(["predict", "run", "new.parquet", "--out", "out.parquet", "--keep", "id"]) == 0
    assert "36 predictions in out.parquet; left out: 4 rows with missing values (age 4)" in capsys.readouterr().out
    got = parquet.read_table("out.parquet")
    assert got["id"].to_pylist() == [i for i in range(40) if i % 10 != 3]
    assert got["region"].to_pylist() == [rows(40)["region"][i].as_py() for i in got["id"].to_pylist()]


def test_factors_of_many_levels_stay_codes_and_pieces_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(7)
    n, levels = 20_000, 2_000
    table = pa.table({"y": draw.poisson(2, n), "x": draw.normal(size=n), "g": draw.permutation(np.arange(n) % levels)})
    result = torchglm.fit("y ~ x + C(g)", table, family="poisson")
    result.save("run")
    parquet.write_table(table, "rows.parquet")
    monkeypatch.setattr("torchglm.cli.run_rows.NUMBERS", 2 * n)
    prediction = Prediction.of(Path("run"), Wanted(interval=0.9))
    assert prediction.result.spec.width == 2 and prediction.reader.scan("rows.parquet").rows == n
    assert write(prediction, ["rows.parquet"], "out.parquet") == n
    some = table.slice(0, 300)
    ends = result.predict_interval(some, level=0.9)
    got = parquet.read_table("out.parquet").slice(0, 300)
    np.testing.assert_allclose(got["mean"], result.predict(some), rtol=1e-9)
    np.testing.assert_allclose(got["mean_high"], ends[:, 1], rtol=1e-7)


def test_a_file_without_rows_becomes_none(run: torchglm.Result, capsys: pytest.CaptureFixture[str]) -> None:
    parquet.write_table(rows(0), "data/part1.parquet")
    assert main(["predict", "run", "data", "--out", "scored"]) == 0
    assert sorted(file.name for file in Path("scored").iterdir()) == ["part0.parquet", "part2.parquet"]
    assert "200 predictions" in capsys.readouterr().out
    assert "no rows" in refused(capsys, "data/part1.parquet", "--out", "scored")
