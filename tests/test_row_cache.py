"""Rows decoded once: batches from a cache are those of the files, in an order of the seed's, and errors name groups."""

from __future__ import annotations

import gc
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import Tensor
from torch.utils.data import DataLoader

from torchglm.design import build
from torchglm.model.face import GLMHead
from torchglm.training import ArrowBatches, GLMDataModule, fit_sgd
from torchglm.training.batches import join

N = 103


def table() -> pa.Table:
    y = torch.arange(N, dtype=torch.float64).numpy()
    label = ["u" if i % 3 else "v" for i in range(N)]
    return pa.table({"a": y, "b": 10 * y, "y": y, "w": 1 + y, "e": 1 + y, "g": label})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """103 rows in two files, of row groups of 10."""
    files = tmp_path / "files"
    files.mkdir()
    parquet.write_table(table().slice(0, 50), files / "one.parquet", row_group_size=10)
    parquet.write_table(table().slice(50), files / "two.parquet", row_group_size=10)
    return files


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path, as workers of loaders have sockets there; `tmp_path` is made before, in the usual place."""
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield Path(place)


def made(folder: Path, **options: Any) -> ArrowBatches:
    given = {"weights": "w", "exposure": "e", "batch_size": 8} | options
    return ArrowBatches(folder, ["a", "b"], "y", **given)


def seen(loader: Any) -> Tensor:
    return torch.cat([b.y if b.weights is None else b.y[b.weights > 0] for b in loader])


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: ArrowBatches, group: Any) -> Any:
        raise AssertionError(f"{group} is decoded again")

    monkeypatch.setattr(ArrowBatches, "_decoded", refused)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_of_a_cache_are_the_rows_of_the_files(
    folder: Path, shuffle: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, cached = (made(folder, shuffle=shuffle, dtype=dtype, buffer=30, cache=cache) for cache in (False, True))
    assert len(plain) == len(cached)
    want = join(list(plain))
    for epoch in range(3):
        found = join(list(cached))
        order = found.y.argsort()
        for name in ("x", "y", "weights", "exposure"):
            value, own = getattr(found, name), getattr(want, name)
            assert value.dtype == dtype and torch.equal(value[order], own[want.y.argsort()]), name
        assert torch.equal(found.y, found.y.sort().values) != shuffle and found.offset is None
        if epoch == 0:
            no_decoding(monkeypatch)


def test_an_order_depends_on_seed_and_epoch_whether_rows_are_decoded_or_found(folder: Path, tmp_path: Path) -> None:
    first, again = (made(folder, shuffle=True, cache=tmp_path / "kept") for _ in "ab")
    orders = [seen(first) for _ in range(3)]
    assert not torch.equal(orders[0], orders[1])
    third = made(folder, shuffle=True, cache=tmp_path / "kept")  # which finds all rows there
    for epoch in (2, 0, 1):
        for loader in (again, third):
            loader.set_epoch(epoch)
            assert torch.equal(seen(loader), orders[epoch])


def test_a_folder_keeps_whole_epochs_for_the_same_columns_of_the_same_files(
    folder: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    half = made(folder, cache=kept)
    next(iter(half))
    del half
    gc.collect()
    assert not list(kept.iterdir())  # of an epoch that was not whole nothing stays
    whole = made(folder, cache=kept)
    rows = seen(whole)
    del whole
    gc.collect()
    assert sorted(file.suffix for file in kept.iterdir()) == [".bin", ".whole"]
    others = {"cache": kept, "weights": "e"}, {"cache": kept, "dtype": torch.float64}
    with monkeypatch.context() as patch:
        no_decoding(patch)
        assert torch.equal(seen(made(folder, cache=kept)), rows)
        for options in others:
            with pytest.raises(AssertionError, match="decoded again"):
                seen(made(folder, **options))
        os.utime(folder / "two.parquet", (1, 1))
        with pytest.raises(AssertionError, match="decoded again"):
            seen(made(folder, cache=kept))
    assert not list(temporary.iterdir())


def test_a_temporary_cache_goes_with_its_loader(folder: Path, temporary: Path) -> None:
    loader = made(folder, cache=True)
    seen(loader)
    assert len(list(temporary.iterdir())) == 1
    copy = pickle.loads(pickle.dumps(loader))
    assert torch.equal(seen(copy), seen(loader))
    del copy, loader
    gc.collect()
    assert not list(temporary.iterdir())


def test_workers_share_what_one_of_them_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = made(folder, cache=True, batch_size=50)
    several = DataLoader(loader, batch_size=None, num_workers=2)
    first = seen(several)
    no_decoding(monkeypatch)
    assert torch.equal(seen(several).sort().values, first.sort().values)
    assert torch.equal(seen(loader), torch.arange(float(N)))


def test_rows_that_a_spec_or_a_part_leaves_out(tmp_path: Path) -> None:
    own = pa.table({"a": [1.0, None, 3.0, 4.0, None, 6.0, 7.0], "y": ["u", "v", "u", "v", "u", "v", "v"]})
    files = tmp_path / "own"
    files.mkdir()
    parquet.write_table(own, files / "a.parquet", row_group_size=2)
    spec = build("y ~ a", own, missing="drop").spec
    for shuffle in (False, True):
        plain, cached = (ArrowBatches(files, spec, batch_size=3, shuffle=shuffle, cache=c) for c in (False, True))
        for _ in range(2):
            one, other = list(plain), list(cached)
            assert [len(b.y) for b in one] == [len(b.y) for b in other] == [3, 3, 1]
            assert seen(one).sort().values.tolist() == seen(other).sort().values.tolist() == [0, 0, 1, 1, 1]
    module = GLMDataModule(files, ["a"], "a", key="y", validation=0.5, cache=True)
    with pytest.raises(ValueError, match=r"a.parquet, row group [02]: column 'a'.*not finite"):
        module.setup("fit")
        list(module.train_dataloader()), list(module.val_dataloader())


def test_what_is_wrong_with_rows_is_said_from_a_cache_as_well(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one.parquet, row group 0: exposure must be finite and > 0; row 0"):
        list(ArrowBatches(folder, ["b"], "y", exposure="a", cache=True))
    loader = made(folder, cache=tmp_path / "kept")
    seen(loader)
    with pytest.raises(ValueError, match=r"one.parquet, row group 0: the bernoulli family needs 0 <= y <= 1; row 2"):
        fit_sgd(GLMHead(2, "bernoulli"), loader)
    with pytest.raises(ValueError, match=r"one.parquet, row group 0: the bernoulli family needs 0 <= y <= 1; row 2"):
        fit_sgd(GLMHead(2, "bernoulli"), made(folder, cache=tmp_path / "kept"))


def test_a_disk_without_room_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr("torchglm.training.row_cache.shutil.disk_usage", lambda path: Usage)
    with pytest.raises(ValueError, match="where 100 are free"):
        made(folder, cache=True)
