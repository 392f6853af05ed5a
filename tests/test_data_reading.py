"""How files are written is said once, at every door; what cannot be read says which word is missing."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

import torchglm
from torchglm.cli import main
from torchglm.design.spec import DesignSpec
from torchglm.tables import Scan, TextFormat, read_table

N = 90
G = np.random.default_rng(5)
FRAME = pd.DataFrame(
    {
        "age": G.integers(20, 60, N) + 0.5,
        "g": G.choice(["ä", "b", "NA"], N),
        "id": np.array(["01", "1", "02"])[np.arange(N) % 3],
        "e": G.uniform(0.5, 2, N),
    }
)
FRAME["y"] = G.poisson(FRAME.e * np.exp(0.02 * FRAME.age))
FORMULA = "y ~ age + g + id"
TRUTH = torchglm.fit(FORMULA, FRAME, family="poisson", exposure="e")

WRITTEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "semicolon": ({"sep": ";", "decimal": ","}, {"delimiter": ";", "decimal": ","}),
    "tab": ({"sep": "\t"}, {"delimiter": "tab"}),
    "pipe latin": ({"sep": "|", "encoding": "latin-1"}, {"delimiter": "|", "encoding": "latin-1"}),
    "utf-16": ({"encoding": "utf-16"}, {"encoding": "utf-16"}),
    "utf-8-sig": ({"encoding": "utf-8-sig"}, {}),
}


@pytest.fixture(params=WRITTEN)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A file and the arguments it is read with; "?" and -999 mean missing in two rows more."""
    arguments, told = WRITTEN[request.param]
    more = FRAME.assign(age=FRAME.age.astype(object))
    more = pd.concat([more, more.iloc[:2].assign(age=["?", -999])], ignore_index=True)
    path = tmp_path / "a.csv"
    if arguments.get("decimal") == ",":
        more["age"] = more.age.map(lambda value: str(value).replace(".", ","))
    more.to_csv(path, index=False, **arguments)
    return path, {**told, "types": {"id": "text"}, "na": ["?", -999], "missing": "drop"}


def test_files_are_read_as_they_are_told_to_be(written: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, told = written
    result = torchglm.fit(FORMULA, path, family="poisson", exposure="e", **told)
    torch.testing.assert_close(result.coef, TRUTH.coef)
    assert result.names == TRUTH.names
    result.save(tmp_path / "fit")
    loaded = torchglm.load(tmp_path / "fit")
    torch.testing.assert_close(loaded.with_rows(path).deviance, TRUTH.deviance)
    torch.testing.assert_close(loaded.predict(FRAME), TRUTH.fitted)
    assert loaded.spec.reading == result.spec.reading
    own = {name: value for name, value in told.items() if name != "missing"}
    table = read_table(path, **own)
    assert table["age"].null_count == 2 and table.num_rows == N + 2
    by = torchglm.fit("y ~ age", table, family="poisson", by="id", missing="drop")
    assert by.groups == [("01",), ("02",), ("1",)]
    parts = list(Scan(path, reading=TextFormat.of(**own)))
    assert sum(part["age"].null_count for part in parts) == 2


def test_keys_in_yaml(written: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = written
    monkeypatch.chdir(tmp_path)
    lines = ["family: poisson", "output_dir: run", "data:", f"  path: {path}", f"  formula: {FORMULA}", "  exposure: e"]
    for name, value in told.items():
        lines.append(f"  {name}: {json.dumps(value)}")
    Path("c.yaml").write_text("\n".join(lines))
    assert main(["fit", "c.yaml"]) == 0
    torch.testing.assert_close(torchglm.load("run").coef, TRUTH.coef)
    assert main(["predict", "run", str(path), "--missing", "drop", "--out", "p.parquet", "--keep", "id,age"]) == 0
    made = parquet.read_table("p.parquet")
    np.testing.assert_allclose(made["mean"].to_numpy(), TRUTH.fitted.numpy())
    assert made["id"].to_pylist() == FRAME.id.tolist()


def test_tables_are_told_too() -> None:
    text = FRAME.assign(age=FRAME.age.astype(str))
    text.loc[3, "age"] = "?"
    frame = pd.concat([text, text.iloc[:1].assign(age="?")], ignore_index=True)
    told: dict[str, Any] = {"types": {"age": "number"}, "na": "?", "missing": "drop"}
    truth = torchglm.fit(FORMULA, FRAME.drop(index=3), family="poisson")
    for rows in (frame, pa.table(frame), [frame.iloc[:50], frame.iloc[50:]]):
        result = torchglm.fit(FORMULA, rows, family="poisson", **told)
        torch.testing.assert_close(result.coef, truth.coef)
        torch.testing.assert_close(result.predict(text.drop(index=3)), truth.fitted)
        effect = result.marginal_effects(["age"], data=text.drop(index=3))
        torch.testing.assert_close(effect.value, truth.marginal_effects(["age"], data=FRAME.drop(index=3)).value)
    with pytest.raises(ValueError, match="'age' cannot be read as double.*na="):
        torchglm.fit(FORMULA, text, family="poisson", types={"age": "number"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sep": ";"}, "delimiter=';'"),
        ({"sep": "\t"}, "delimiter='tab'"),
        ({"sep": "|"}, "delimiter='|'"),
        ({"encoding": "latin-1"}, "encoding='latin-1'"),
        ({"encoding": "utf-16"}, "encoding='utf-16'"),
        ({"encoding": "utf-16-le"}, "encoding='utf-16'"),
        ({"sep": ",", "decimal": ","}, "decimal=','"),
    ],
)
def test_errors_name_the_key(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    FRAME.replace({"g": {"NA": "c"}}).to_csv(tmp_path / "a.csv", index=False, **arguments)
    for formula in ("y ~ age + g", "y ~ e + g"):
        with pytest.raises(ValueError, match=f".*{said.replace('|', '[|]')}"):
            torchglm.fit(formula, tmp_path / "a.csv", family="poisson", exposure="e")


def test_a_header_in_another_encoding(tmp_path: Path) -> None:
    FRAME.rename(columns={"e": "größe"}).to_csv(tmp_path / "a.csv", index=False, encoding="latin-1")
    with pytest.raises(ValueError, match="encoding='latin-1'"):
        torchglm.fit("y ~ age", tmp_path / "a.csv", family="poisson")
    result = torchglm.fit("y ~ age", tmp_path / "a.csv", family="poisson", exposure="größe", encoding="latin-1")
    assert len(result.names) == 2


@pytest.mark.parametrize("late", ["decimal", "empty", "date"])
@pytest.mark.parametrize("formula", ["y ~ x", "y ~ x + g", "y ~ C(x) + g"])
def test_types_that_widen_late(late: str, formula: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands beside the column, and wherever the blocks end."""
    x: list[Any] = [j % 3 for j in range(300)]
    if late == "decimal":
        x[280:] = [0.5, 1.5] * 10
    elif late == "empty":
        x[:150] = [None] * 150
    else:
        formula = formula.replace("x", "C(x)") if "C(" not in formula else formula
        x = [f"2020-01-0{1 + j % 3}" for j in range(300)]
        x[280:] = ["2020-01-01 12:00:00", "2020-01-02 06:30:00"] * 10
    frame = pd.DataFrame({"y": np.arange(300) % 5, "x": x, "g": G.choice(list("abc"), 300)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    truth = torchglm.fit(formula, read_table(tmp_path / "a.csv"), family="poisson", missing="drop")
    for block in (200, 1000, 1 << 20):
        monkeypatch.setattr("torchglm.tables.delimited.BLOCK", block)
        found = torchglm.fit(formula, tmp_path / "a.csv", family="poisson", missing="drop")
        torch.testing.assert_close(found.coef, truth.coef)
        assert found.names == truth.names or "C(x)" in formula
        torch.testing.assert_close(found.with_rows(tmp_path / "a.csv").deviance, truth.deviance)


def test_a_told_type_is_not_widened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchglm.tables.delimited.BLOCK", 100)
    (tmp_path / "a.csv").write_text("\n".join(["y,my x", *(f"{j},1" for j in range(98)), "3,2.5"]))
    with pytest.raises(ValueError, match=r"in column 'my x': line 100: .*'2\.5'.*types=\{'my x': 'number'\}"):
        torchglm.fit("y ~ `my x`", tmp_path / "a.csv", family="poisson", types={"my x": "int64"})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.csv.zst", "unzstd"),
        ("a.csv.bz2", "bunzip2"),
        ("a.zip", "unzip"),
        ("a.xlsx", "pandas.read_excel"),
        ("a.tsv", "delimiter='tab'"),
        ("a.dta", "pandas.read_stata"),
        ("a.feather", "read_table"),
        ("https://example.org/a.csv", "Download"),
        ("s3://bucket/a.parquet", "pyarrow.dataset"),
    ],
)
def test_other_files_say_what_to_do(name: str, said: str, tmp_path: Path) -> None:
    path = name if "://" in name else tmp_path / name
    if "://" not in name:
        (tmp_path / name).write_bytes(b"x")
    for read in (read_table, Scan, lambda path: torchglm.fit("y ~ x", path, family="poisson")):
        with pytest.raises(ValueError, match=said):
            read(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"delimiter": ";;"}, "delimiter must be one character"),
        ({"delimiter": ",", "decimal": ","}, "another character than delimiter"),
        ({"decimal": "x"}, "decimal must be"),
        ({"encoding": "utf-99"}, "unknown encoding"),
        ({"types": {"age": "nummer"}}, "types: 'age' cannot be 'nummer'"),
        ({"types": {"agee": "number"}}, "did you mean 'age'"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    for rows in (FRAME, tmp_path / "a.csv"):
        with pytest.raises(ValueError, match=said):
            torchglm.fit("y ~ age", rows, family="poisson", **arguments)
    with pytest.raises(ValueError, match="x is no formula|must|cannot|unknown"):
        torchglm.fit(FRAME[["age"]], FRAME.y, family="poisson", **arguments)


def test_a_spec_keeps_how_it_reads() -> None:
    reading = TextFormat.of(
        ";", ",", "latin-1", {"a": "decimal128(9, 2)", "t": "timestamp[us, tz=UTC]"}, [-9, "?", 1.5]
    )
    assert reading.na == ("-9", "?", "1.5")
    spec = torchglm.fit("y ~ age", FRAME, family="poisson").spec

    from dataclasses import replace

    again = DesignSpec.from_dict(json.loads(json.dumps(replace(spec, reading=reading).to_dict())))
    assert again.reading == reading


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_groups_of_a_parquet_fit_are_found_in_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that look like numbers, and days: the types of the fit tell how the file is read."""
    monkeypatch.chdir(tmp_path)
    rows = FRAME.assign(day=pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(N) % 2, "D"))
    rows.to_parquet("a.parquet", index=False)
    rows.assign(day=rows.day.dt.strftime("%Y-%m-%d")).to_csv("a.csv", index=False)
    Path("c.yaml").write_text(
        "family: poisson\noutput_dir: run\ndata:\n  path: a.parquet\n  formula: y ~ age\n  by: [day, id]\n"
    )
    assert main(["fit", "c.yaml"]) == 0
    for path in ("a.parquet", "a.csv"):
        assert main(["predict", "run", path, "--out", f"{path}.parquet", "--keep", "id"]) == 0
        assert main(["check", "run", "--data", path]) == 0
    one, other = (parquet.read_table(f"{path}.parquet") for path in ("a.parquet", "a.csv"))
    np.testing.assert_allclose(one["mean"].to_numpy(), other["mean"].to_numpy())
    assert other["id"].to_pylist() == FRAME.id.tolist()


def test_a_data_module_reads_csv_as_the_design_was(tmp_path: Path) -> None:
    from torchglm.training import GLMDataModule

    FRAME.to_csv(tmp_path / "a.csv", index=False, sep=";", encoding="latin-1")
    told: dict[str, Any] = {"delimiter": ";", "encoding": "latin-1", "types": {"id": "text"}, "na": []}
    spec = torchglm.fit("y ~ age + id", tmp_path / "a.csv", family="poisson", **told).spec
    data = GLMDataModule(tmp_path / "a.csv", spec, validation=0.0, key=["age"], dtype=torch.float64)
    data.setup("predict")
    x = torch.cat([batch.x for batch in data.predict_dataloader()])
    torch.testing.assert_close(x, spec.transform(FRAME)[:, 1:])


def test_a_delimiter_that_parts_nothing_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    for written in (";", "\t", "|", ","):
        file.write_text(f"x{written}y\n1{written}2\n3{written}4\n")
        for told in {";", ","} - {written}:
            with pytest.raises(ValueError, match=r"one column, .* parted by another sign") as error:
                torchglm.fit("y ~ x", file, family="gaussian", delimiter=told)
            named = "tab" if written == "\t" else written
            assert f"delimiter={named!r}" in str(error.value)
