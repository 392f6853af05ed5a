"""Tables and files: every source gives the same columns, and bad input says what, where and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

from torchglm.design import groups
from torchglm.tables import Scan, as_table, numbers, read_table
from torchglm.tables.files import column_names

COLUMNS = {"x": [1.5, 2.5, -1.0], "k": [3, 1, 2], "g": ["b", "a", "b"], "f": [True, False, True]}


@pytest.fixture
def table() -> pa.Table:
    return pa.table(COLUMNS)


@pytest.fixture
def folder(tmp_path: Path, table: pa.Table) -> Path:
    parquet.write_table(table, tmp_path / "a.parquet")
    parquet.write_table(table.slice(1), tmp_path / "b.parquet")
    return tmp_path


@pytest.mark.parametrize(
    "source",
    [
        pd.DataFrame(COLUMNS),
        pl.DataFrame(COLUMNS),
        pl.DataFrame(COLUMNS).lazy(),
        pa.table(COLUMNS),
        pa.RecordBatch.from_pydict(COLUMNS),
        pa.table(COLUMNS).to_reader(),
        {name: np.array(values) for name, values in COLUMNS.items()},
        {**COLUMNS, "x": torch.tensor(COLUMNS["x"], requires_grad=True), "k": torch.tensor(COLUMNS["k"])},
        {name: pd.Series(values) for name, values in COLUMNS.items()},
    ],
    ids="pandas polars lazy arrow batch reader arrays tensors series".split(),
)
def test_every_source_gives_the_same_columns(source: object) -> None:
    assert as_table(source, ["g", "x", "k", "f"]).to_pydict() == {name: COLUMNS[name] for name in "gxkf"}


def test_categories_keep_their_order_where_they_have_one() -> None:
    levels = ["lo", "mid", "hi"]
    values = ["hi", "lo", "mid", "hi"]
    ordered = [
        pd.DataFrame({"g": pd.Categorical(values, categories=levels)}),
        pl.DataFrame({"g": pl.Series(values, dtype=pl.Enum(levels))}),
    ]
    for source in ordered:
        assert groups(as_table(source), ["g"])[1] == [("lo",), ("mid",), ("hi",)]
    loose = pl.DataFrame({"g": pl.Series(values, dtype=pl.Categorical)})
    assert groups(as_table(loose), ["g"])[1] == [("hi",), ("lo",), ("mid",)]


def test_groups_are_the_combinations_that_occur(table: pa.Table) -> None:
    code, labels = groups(table, ["g", "k"])
    assert labels == [("a", 1), ("b", 2), ("b", 3)]
    assert code.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (np.zeros((3, 2)), TypeError, "pandas or polars DataFrame, an Arrow table"),
        ({"x": np.zeros((3, 2))}, ValueError, r"'x' must be one-dimensional, got shape \(3, 2\)"),
        ({"x": [1.0], "y": [1.0, 2.0]}, ValueError, "same length"),
        ({"x": [1, "a"]}, ValueError, "'x' mixes types"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "unique; got 'a'"),
        (pd.DataFrame([[1, 2]]), ValueError, "must be strings, got 0"),
    ],
)
def test_what_is_no_table_is_refused(source: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        as_table(source)


def test_an_unknown_column_names_the_nearest(table: pa.Table) -> None:
    wide = table.append_column("log_coinsurance", table["x"])
    with pytest.raises(ValueError, match=r"\(did you mean 'log_coinsurance'\?\) in the data. It has: x, k"):
        as_table(wide, ["log_coinsurence"])


def test_columns_that_are_not_asked_for_are_never_converted() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0], "mixed": [1, "a"]})
    assert as_table(frame, ["x"]).column_names == ["x"]


def test_numbers_are_float64(table: pa.Table) -> None:
    assert numbers(table, "k").tolist() == [3.0, 1.0, 2.0]
    assert numbers(table, "f").tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="'g' must hold numbers"):
        numbers(table, "g")


def test_csv_and_parquet_read_the_same(tmp_path: Path, table: pa.Table) -> None:
    csv.write_csv(table, tmp_path / "t.csv")
    parquet.write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.csv").to_pydict() == read_table(tmp_path / "t.parquet").to_pydict()
    assert read_table(str(tmp_path / "t.csv"), columns=["g", "x"]).column_names == ["g", "x"]


def test_missing_values_of_a_csv_are_missing_in_text_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("g,x\na,1\nNA,\n,3\n")
    assert read_table(tmp_path / "t.csv").to_pydict() == {"g": ["a", None, None], "x": [1, None, 3]}


def test_a_folder_a_glob_and_a_list_are_many_files(folder: Path) -> None:
    expected = [1.5, 2.5, -1.0, 2.5, -1.0]
    for path in (folder, folder / "*.parquet", [folder / "a.parquet", folder / "b.parquet"]):
        assert read_table(path)["x"].to_pylist() == expected
        assert np.concatenate([piece["x"].to_numpy() for piece in Scan(path)]).tolist() == expected


def test_bad_paths_say_what_is_wrong(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "nothing.csv").touch()
    (folder / "header.csv").write_text("a,b\n")
    (folder / "broken.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-20])
    (folder / "t.txt").write_text("a")
    cases = {
        "c.parquet": r"does not exist\. Did you mean .*\.parquet\?",
        "*.json": "No file matches",
        "empty": "holds no .csv or .parquet file",
        "nothing.csv": r"is empty \(0 bytes\)",
        "header.csv": "has a header but no rows",
        "broken.parquet": "broken.parquet is not a Parquet file that can be read",
        "t.txt": r"unknown ending. Known: .csv",
        "?.*": "unknown ending",
    }
    for name, said in cases.items():
        with pytest.raises(ValueError, match=said):
            read_table(folder / name)
    with pytest.raises(ValueError, match="mixes CSV and Parquet"):
        read_table([folder / "a.parquet", folder / "header.csv"])
    with pytest.raises(ValueError, match="No column 'z' in .*a.parquet"):
        read_table(folder / "a.parquet", columns=["z"])


def test_files_of_subfolders_are_found_by_the_glob_that_the_error_names(tmp_path: Path, table: pa.Table) -> None:
    for i, place in enumerate(("region=north", "region=south")):
        (tmp_path / place).mkdir()
        parquet.write_table(table.slice(i, 1), tmp_path / place / "part.parquet")
    with pytest.raises(ValueError, match="file itself; for those in its folders write ") as said:
        read_table(tmp_path)
    glob = str(said.value).split("write ")[1].rstrip(".")
    assert glob == str(tmp_path / "**" / "*.parquet")
    assert read_table(glob)["x"].to_pylist() == table["x"].to_pylist()[:2]


@pytest.mark.parametrize("other", ["a.parquet", "*.parquet", "../{name}/a.parquet"])
@pytest.mark.parametrize("read", [read_table, Scan])
def test_a_file_named_twice_is_refused(folder: Path, other: str, read: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"a\.parquet is named more than once by .*a\.parquet, .*count twice"):
        read([folder / "a.parquet", folder / other.format(name=folder.name)])


@pytest.mark.parametrize(
    "read",
    [
        read_table,
        lambda path: read_table(path, ["x"]),
        lambda path: Scan(path, ["x"]),
        column_names,
        lambda path: list(Scan(path)),
    ],
)
def test_a_column_named_twice_in_a_header_is_refused(tmp_path: Path, read: Callable[..., object]) -> None:
    (tmp_path / "t.csv").write_text("g,x,x\na,1,2\n")
    with pytest.raises(ValueError, match="t.csv names the column 'x' twice in its header"):
        read(tmp_path / "t.csv")


def test_files_read_together_need_the_same_columns(folder: Path, table: pa.Table) -> None:
    parquet.write_table(table.drop_columns("k"), folder / "c.parquet")
    with pytest.raises(ValueError, match=r"c.parquet and .*a.parquet differ in the columns \['k'\]"):
        read_table(folder)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_scan_is_bounded_and_can_be_repeated(tmp_path: Path, ending: str) -> None:
    table = pa.table({"x": np.arange(1000.0), "g": ["a", "b"] * 500})
    if ending == "csv":
        csv.write_csv(table, tmp_path / "t.csv")
    else:
        parquet.write_table(table, tmp_path / "t.parquet", row_group_size=700)
    scan = Scan(tmp_path / f"t.{ending}", columns=["x"], rows=64)
    for _ in range(2):
        pieces = list(scan)
        assert max(map(len, pieces)) <= 64
        assert pa.concat_tables(pieces)["x"].to_pylist() == table["x"].to_pylist()
        assert pieces[0].column_names == ["x"]


def test_a_scan_names_the_row_group_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    values = np.random.default_rng(0).normal(size=4000)
    parquet.write_table(pa.table({"x": values}), path, row_group_size=1000, compression="zstd")
    content = bytearray(path.read_bytes())
    start = parquet.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content[start : start + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    with pytest.raises(ValueError, match="t.parquet, row group 2, cannot be read"):
        list(Scan(path))


def test_a_scan_of_csv_takes_the_types_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,g\n1,01\n2,02\n")
    [piece] = Scan(tmp_path / "t.csv", types={"x": "double", "g": "string"})
    assert piece.to_pydict() == {"x": [1.0, 2.0], "g": ["01", "02"]}
