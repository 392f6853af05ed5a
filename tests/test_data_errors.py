"""Files that are cut, corrupt, ragged or of another schema, and bad values in them: the message says where."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

import torchglm
from torchglm.tables import Scan, read_table

N = 400


def table(seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=N)
    return pa.table({"y": draw.poisson(np.exp(0.2 * x)).astype(float), "x": x, "g": draw.choice(["a", "b"], N)})


def changed(name: str, row: int, value: Any) -> pa.Table:
    """The table with one value of one column changed."""
    values = table()[name].to_pylist()
    values[row] = value
    place = table().column_names.index(name)
    return table().set_column(place, name, pa.array(values, table()[name].type))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of four row groups."""
    for name in ("a", "b"):
        parquet.write_table(table(), tmp_path / f"{name}.parquet", row_group_size=100)
    return tmp_path


def fit(path: Path, **options: Any) -> torchglm.Result:
    return torchglm.fit("y ~ x + g", path, family="poisson", **options)


def scan(path: Path) -> list[pa.Table]:
    return list(Scan(path))


READERS = pytest.mark.parametrize("read", [fit, scan, read_table], ids=["fit", "scan", "read_table"])


@READERS
@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_parquet_file_cut_short_is_named(folder: Path, read: Callable[[Path], object], kept: float) -> None:
    content = (folder / "b.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"b\.parquet is not a Parquet file that can be read"):
        read(folder)


@pytest.mark.parametrize("read", [fit, scan], ids=["fit", "scan"])
def test_a_corrupt_row_group_is_named(folder: Path, read: Callable[[Path], object]) -> None:
    path = folder / "b.parquet"
    parquet.write_table(table(), path, row_group_size=100, compression="zstd")
    content = bytearray(path.read_bytes())
    start = parquet.ParquetFile(path).metadata.row_group(2).column(1).data_page_offset
    content[start : start + 400] = b"\xff" * 400
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"b\.parquet, row group 2, cannot be read"):
        read(folder)


@READERS
def test_a_ragged_line_of_csv_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    csv.write_csv(table(), tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    lines[217] = lines[217].rpartition(",")[0]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"a\.csv cannot be read: .*line 218: Expected 3 columns, got 2"):
        read(tmp_path)


@READERS
def test_a_compressed_file_cut_short_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    csv.write_csv(table(), tmp_path / "a.csv")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes())[:3000])
    (tmp_path / "a.csv").unlink()
    with pytest.raises(ValueError, match=r"b\.csv\.gz .*Truncated"):
        read(tmp_path)


def test_text_that_comes_late_in_a_csv_column_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchglm.tables.delimited.BLOCK", 1000)
    csv.write_csv(table(), tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    lines[300] = "1,none,a"
    (tmp_path / "a.csv").write_text("\n".join(lines))
    said = r"a\.csv cannot be read: in column 'x': line 301.*invalid value 'none'.*na=\['none'\]"
    with pytest.raises(ValueError, match=said):
        fit(tmp_path / "a.csv")


@READERS
def test_a_file_with_text_for_numbers_is_named(folder: Path, read: Callable[[Path], object]) -> None:
    text = table().set_column(1, "x", table()["x"].cast(pa.string()))
    parquet.write_table(text, folder / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet holds column 'x' as string, and .*a\.parquet double"):
        read(folder)


@READERS
def test_a_file_that_lacks_a_column_is_named(folder: Path, read: Callable[[Path], object]) -> None:
    parquet.write_table(table().drop_columns("g"), folder / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet.*'g'|No column 'g' in .*b\.parquet"):
        read(folder)


def test_whole_numbers_decimals_and_nulls_fit_together(folder: Path) -> None:
    counts = table().set_column(0, "y", table()["y"].cast(pa.int32()))
    parquet.write_table(counts, folder / "b.parquet")
    empty = table().slice(0, 3).set_column(1, "x", pa.nulls(3))
    parquet.write_table(empty, folder / "c.parquet")
    assert float(fit(folder, missing="drop").nobs) == 2 * N


@pytest.mark.parametrize("name", ["y", "x", "g"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_first_file_may_lack_every_value_of_a_column(tmp_path: Path, ending: str, name: str) -> None:
    empty = table().slice(0, 3).set_column(table().column_names.index(name), name, pa.nulls(3))
    for file, rows in {"a": empty, "b": table().slice(0, 150), "c": empty, "d": table().slice(150)}.items():
        if ending == "csv":
            csv.write_csv(rows, tmp_path / f"{file}.csv")
        else:
            parquet.write_table(rows, tmp_path / f"{file}.parquet")
    result, whole = fit(tmp_path, missing="drop"), fit(table())
    assert torch.allclose(result.coef, whole.coef, rtol=0, atol=1e-10)
    assert result.names == whole.names and float(result.nobs) == N
    with pytest.raises(ValueError, match=rf"a\.{ending}.*Column '{name}' has 3 missing values"):
        fit(tmp_path)


@pytest.mark.parametrize("read", [scan, read_table])
def test_a_type_is_known_from_the_first_file_that_has_one(folder: Path, read: Callable[[Path], object]) -> None:
    parquet.write_table(table().set_column(1, "x", pa.nulls(N)), folder / "a.parquet")
    parquet.write_table(table(), folder / "b.parquet")
    parquet.write_table(table().set_column(1, "x", table()["x"].cast(pa.string())), folder / "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet holds column 'x' as string, and .*b\.parquet double"):
        read(folder)


def test_files_without_a_complete_row_are_refused(folder: Path) -> None:
    for name in ("a", "b"):
        parquet.write_table(table().set_column(1, "x", pa.nulls(N)), folder / f"{name}.parquet")
    with pytest.raises(ValueError, match="Every row has a missing value"):
        fit(folder, missing="drop")


@pytest.mark.parametrize("hold", [1 << 30, 0], ids=["held", "read again"])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("x", float("nan"), "Column 'x' has 1 missing value \\(the first in row 230\\)"),
        ("y", None, "Column 'y' has 1 missing value \\(the first in row 230\\)"),
        ("g", None, "Column 'g' has 1 missing value \\(the first in row 230\\)"),
        ("x", float("inf"), "'x' is not finite in 1 rows; the first is row 230"),
        ("y", -1.0, "the poisson family needs y >= 0; row 230"),
    ],
)
def test_a_bad_value_is_named_with_file_row_group_and_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hold: int, name: str, value: float | None, said: str
) -> None:
    monkeypatch.setattr("torchglm.inputs.files.HOLD", hold)
    parquet.write_table(changed(name, 230, value), folder / "b.parquet", row_group_size=100)
    with pytest.raises(ValueError, match=rf"b\.parquet, row group 2: {said}"):
        fit(folder)


def test_a_bad_value_of_csv_is_named_with_file_and_row(tmp_path: Path) -> None:
    csv.write_csv(table(), tmp_path / "a.csv")
    csv.write_csv(changed("x", 230, None), tmp_path / "b.csv")
    with pytest.raises(ValueError, match=r"b\.csv: Column 'x' has 1 missing value \(the first in row 230\)"):
        fit(tmp_path)


def test_each_gives_the_place_of_what_its_work_raises(folder: Path) -> None:
    def work(piece: pa.Table, first: int) -> int:
        if first == 300:
            raise ValueError("enough")
        return first

    seen = []
    with pytest.raises(ValueError, match=r"a\.parquet, row group 3: enough"):
        for first in Scan(folder, rows=50).each(work):
            seen.append(first)
    assert seen == [0, 50, 100, 150, 200, 250]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")
def test_no_file_is_mapped_into_memory(folder: Path) -> None:
    for _ in Scan(folder):
        assert str(folder) not in Path("/proc/self/maps").read_text()


def test_types_that_have_no_name_are_read_as_they_are(tmp_path: Path) -> None:
    cents = pa.array([1, 2, 1, 2, 3, 3], pa.int64()).cast(pa.decimal128(21, 2))
    rows = pa.table({"y": [1.0, 2.0, 2.0, 1.0, 3.0, 4.0], "k": cents})
    parquet.write_table(rows, tmp_path / "a.parquet")
    fitted = torchglm.fit("y ~ C(k)", tmp_path / "a.parquet", family="poisson")
    assert fitted.names == ["(Intercept)", "C(k)[T.2]", "C(k)[T.3]"]
    csv.write_csv(rows, tmp_path / "a.csv")
    assert len(list(Scan(tmp_path / "a.csv", types=fitted.spec.types))) == 1
