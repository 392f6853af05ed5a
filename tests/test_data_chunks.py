"""Chunks: a formula on tables that come one after the other is the formula on all of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from pyarrow import dataset, parquet

import torchglm
from torchglm.design import learn
from torchglm.fitting.sample import Thinning
from torchglm.rows.rows import Rows
from torchglm.tables import Chunks, Scan

N = 400
FORMULA = "y ~ bs(a, df=4) + g + C(k) + scale(b)"


def frame(seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    a, b, g = draw.normal(size=N), draw.normal(size=N), draw.choice(["p", "q", "r"], N)
    y = draw.poisson(np.exp(0.3 + 0.2 * a - 0.1 * b + 0.3 * (g == "q")))
    return pd.DataFrame({"y": y, "a": a, "b": b, "g": g, "k": draw.integers(0, 4, N), "w": draw.uniform(0.5, 2, N)})


def cut(data: Any, size: int = 130) -> list[Any]:
    return [data[i : i + size] for i in range(0, N, size)]


SOURCES: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "frames": lambda data, _: cut(data),
    "polars": lambda data, _: tuple(cut(pl.from_pandas(data))),
    "batches": lambda data, _: pa.Table.from_pandas(data).to_batches(90),
    "dicts": lambda data, _: [{name: part[name].to_numpy() for name in part} for part in cut(data)],
    "function": lambda data, _: lambda: iter(cut(data)),
    "generator function": lambda data, _: lambda: (part for part in cut(data, 33)),
    "dataset": lambda _, folder: dataset.dataset(folder, format="parquet"),
    "filtered dataset": lambda _, folder: dataset.dataset(folder, format="parquet").filter(dataset.field("a") < 9),
    "paths": lambda _, folder: sorted(folder.iterdir()),
}


@pytest.mark.parametrize("hold", [1 << 30, 0], ids=["held", "read again"])
@pytest.mark.parametrize("source", SOURCES)
def test_chunks_are_fitted_as_the_table(
    source: str, hold: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchglm.inputs.files.HOLD", hold)
    data = frame()
    for i, part in enumerate(cut(data)):
        part.to_parquet(tmp_path / f"{i}.parquet", row_group_size=50)
    got = torchglm.fit(FORMULA, SOURCES[source](data, tmp_path), family="poisson", weights="w")
    want = torchglm.fit(FORMULA, data, family="poisson", weights="w")
    assert got.names == want.names and (got.rows is None) == (hold == 0)
    for name in ("coef", "std_err", "deviance", "null_deviance", "loglik"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got.covariance("HC1"), want.covariance("HC1"), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(got.predict(data[:9]), want.predict(data[:9]), rtol=1e-10, atol=0.0)


def test_rows_that_will_not_fit_into_memory_are_not_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pd.concat([frame()] * 4, ignore_index=True)
    data.to_parquet(tmp_path / "all.parquet", row_group_size=50)
    whole = torchglm.fit(FORMULA, tmp_path / "all.parquet", family="poisson").rows
    assert whole is not None and Scan(tmp_path / "all.parquet").count == len(data)
    monkeypatch.setattr("torchglm.inputs.files.HOLD", whole.nbytes * 3 // 4)
    seen: list[weakref.ref[torch.Tensor]] = []
    add = Thinning.add

    def watched(self: Thinning, rows: Rows) -> None:
        assert all(ref() is None for ref in seen[:-1])
        seen.append(weakref.ref(rows.x))
        add(self, rows)

    monkeypatch.setattr(Thinning, "add", watched)
    assert torchglm.fit(FORMULA, tmp_path / "all.parquet", family="poisson").rows is None and len(seen) > 5


@pytest.mark.parametrize("size", [1, 7, 130, 1000])
def test_a_design_learned_from_chunks_is_that_of_the_whole(size: int) -> None:
    data = frame()
    whole = learn(FORMULA, [pa.Table.from_pandas(data)])
    spec = learn(FORMULA, Chunks(cut(data, size), rows=60))
    assert spec.to_dict() == whole.to_dict()
    parts = Chunks(lambda: iter(cut(data, size)), spec.columns, spec.types).each(
        lambda table, first: spec.design(table, first=first).x
    )
    assert torch.equal(torch.cat(list(parts)), whole.transform(data))


def test_pieces_are_bounded_counted_and_shared() -> None:
    pieces = list(Chunks(cut(frame()), ["a"], rows=50).pieces())
    assert max(piece.table.num_rows for piece in pieces) == 50
    assert [piece.first for piece in pieces] == [0, 50, 100, 130, 180, 230, 260, 310, 360, 390]
    assert pieces[3].place == "chunk 1" and pieces[3].table.column_names == ["a"]
    shares = [[piece.first for piece in Chunks(cut(frame()), rows=200, share=(rank, 3)).pieces()] for rank in range(3)]
    assert shares == [[0, 390], [130], [260]]


def test_a_chunk_of_nothing_but_missing_values_has_the_type_of_the_others() -> None:
    data = frame()
    parts = [data[:100], data[100:110].assign(a=None, g=None), data[110:]]
    fitted = torchglm.fit(FORMULA, parts, family="poisson", missing="drop")
    assert float(fitted.nobs) == N - 10
    assert fitted.context["tally"] == {"rows": 10, "missing": {"a": 10, "g": 10}, "unseen": {}}


def endless() -> Iterator[pd.DataFrame]:
    yield frame()


ONCE = iter([frame(), frame()])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (lambda: ONCE, "the same iterator each time: an iterator, which can be read once"),
        (lambda: None, "returns NoneType; it must return an iterator"),
        (frame, "returns DataFrame; it must return an iterator"),
        (endless(), "an iterator, which can be read once.*a function that returns"),
        ([], "no chunks"),
        ([frame()[:0]], "hold no rows|no rows"),
        ([frame(), frame().drop(columns="a")], "chunk 1: No column 'a'"),
        ([frame(), frame().astype({"a": str})], "chunk 1 holds column 'a' as .*string, and chunk 0 double"),
        ([frame(), frame().assign(b=lambda d: d.b.where(d.index != 7))], "chunk 1: Column 'b' has 1 missing .*row 407"),
        ([frame(), frame().assign(y=-1)], "chunk 1: the poisson family needs y >= 0; row 400 has"),
        (lambda: iter([frame(), "text"]), "chunk 1: data must be a pandas"),
        ([frame().drop(columns="y")], "No column 'y' in the first chunk"),
    ],
)
def test_what_is_wrong_in_a_chunk_is_said_with_its_number(source: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        torchglm.fit(FORMULA, source, family="poisson")


def test_groups_need_a_table() -> None:
    with pytest.raises(ValueError, match="by= sorts rows in memory"):
        torchglm.fit("y ~ a", cut(frame()), family="poisson", by="g")


def test_parquet_bytes_are_read_by_a_function_too(tmp_path: Path) -> None:
    parquet.write_table(pa.Table.from_pandas(frame()), tmp_path / "a.parquet", row_group_size=70)

    def batches() -> Iterator[pa.RecordBatch]:
        with parquet.ParquetFile(tmp_path / "a.parquet") as source:
            yield from source.iter_batches(40)

    got, want = (torchglm.fit("y ~ a", rows, family="poisson") for rows in (batches, frame()))
    torch.testing.assert_close(got.coef, want.coef, rtol=1e-10, atol=1e-12)


def test_learning_ends_with_the_first_rows_where_nothing_is_to_be_learned() -> None:
    read: list[int] = []

    def parts() -> Iterator[pd.DataFrame]:
        for i, part in enumerate(cut(frame())):
            read.append(i)
            yield part

    assert learn("y ~ a + log(w) + a:b", Chunks(parts)).names == ["(Intercept)", "a", "log(w)", "a:b"]
    assert read == [0]
    assert learn("y ~ a + center(b)", Chunks(parts)).names == ["(Intercept)", "a", "center(b)"]
    assert read == [0, 0, 1, 2, 3]
