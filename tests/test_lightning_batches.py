"""Loaders: every row once per epoch, in an order of the seed's, in equal batches on every rank and worker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from pyarrow import parquet
from torch import Tensor
from torch.utils.data import DataLoader

from torchglm.design import build
from torchglm.model.face import GLMHead
from torchglm.training import ArrowBatches, GLMBatch, LitGLM, TensorBatches, arrow_batches, as_batch, batches


def data(n: int = 103) -> GLMBatch:
    y = torch.arange(n, dtype=torch.float32)
    return GLMBatch(torch.stack([y, y * 10], 1), y, weights=1 + y, offset=y / n)


def seen(loader: object) -> Tensor:
    """The y of all rows that count, in order."""
    parts = [b.y if b.weights is None else b.y[b.weights > 0] for b in loader]  # type: ignore[attr-defined]
    return torch.cat(parts)


def test_tensors_in_order_are_views() -> None:
    whole = data()
    found = list(TensorBatches(whole, 20))
    assert [len(b.y) for b in found] == [20] * 5 + [3]
    assert torch.equal(torch.cat([b.x for b in found]), whole.x)
    assert torch.equal(found[1].offset, whole.offset[20:40])
    assert found[0].x.data_ptr() == whole.x.data_ptr() and found[0].trials is None


def test_tensors_shuffle_by_epoch_and_seed() -> None:
    first, again = (TensorBatches(data(), 20, shuffle=True, seed=4) for _ in range(2))
    orders = [seen(first) for _ in range(3)]
    assert not torch.equal(orders[0], orders[1]) and torch.equal(orders[0].sort().values, data().y)
    again.set_epoch(2)
    assert torch.equal(seen(again), orders[2])
    assert not torch.equal(seen(TensorBatches(data(), 20, shuffle=True, seed=5)), orders[0])
    for batch in first:
        assert torch.equal(batch.x[:, 1], 10 * batch.y) and torch.equal(batch.weights, 1 + batch.y)


def test_tensors_drop_last() -> None:
    loader = TensorBatches(data(), 20, drop_last=True)
    assert len(loader) == 5 and len(list(loader)) == 5


@pytest.mark.parametrize("n", [103, 104, 2, 1])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_get_equal_batches_and_every_row_once(monkeypatch: pytest.MonkeyPatch, n: int, drop_last: bool) -> None:
    rows, sizes = [], []
    for rank in range(3):
        monkeypatch.setattr(batches, "rank_and_world", lambda rank=rank: (rank, 3))
        plain = data(n)._replace(weights=None)
        loader = TensorBatches(plain, 5, shuffle=True, drop_last=drop_last)
        found = list(loader)
        assert len(found) == len(loader)
        sizes.append([len(b.y) for b in found])
        rows.append(seen(found) if found else plain.y[:0])
    assert sizes[0] == sizes[1] == sizes[2]
    together = torch.cat(rows).sort().values
    assert torch.equal(together, together.unique())
    assert drop_last or torch.equal(together, data(n).y)


def test_batches_by_name_and_what_is_wrong_with_them() -> None:
    x, y = torch.zeros(4, 2), torch.ones(4)
    named = as_batch({"x": x, "y": y, "exposure": 2 * y})
    assert torch.equal(named.offset, torch.full((4,), 2.0).log())
    assert torch.equal(as_batch({"x": x, "offset": y, "exposure": 2 * y}).offset, 1 + named.offset)
    assert as_batch((x, y)).y is y
    for wrong, message in (
        ({"y": y}, "always x"),
        ({"x": x, "target": y}, "'target'"),
        (x, "Tensor"),
        ({"x": x, "y": y, "exposure": -y}, "exposure must be finite and > 0; row 0 has -1"),
    ):
        with pytest.raises(ValueError, match=message):
            as_batch(wrong)
    with pytest.raises(ValueError, match="one length"):
        TensorBatches({"x": x, "y": y[:3]})
    with pytest.raises(ValueError, match="batch_size"):
        TensorBatches({"x": x, "y": y}, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """103 rows in two files, of row groups of 10."""
    y = torch.arange(103, dtype=torch.float64)
    table = pa.table(
        {
            "a": y.numpy(),
            "b": (y * 10).int().numpy(),
            "y": y.numpy(),
            "w": (1 + y).numpy(),
            "e": (1 + y).numpy(),
            "g": ["u" if i % 3 else "v" for i in range(103)],
        }
    )
    parquet.write_table(table.slice(0, 50), tmp_path / "one.parquet", row_group_size=10)
    parquet.write_table(table.slice(50), tmp_path / "two.parquet", row_group_size=10)
    return tmp_path


def test_parquet_in_order(folder: Path) -> None:
    loader = ArrowBatches(folder, ["a", "b"], "y", weights="w", exposure="e", batch_size=20)
    assert len(loader) == 6 and loader.in_features == 2
    for _ in range(2):
        found = list(loader)
        assert [len(b.y) for b in found] == [20] * 5 + [3]
        joined = batches.join(found)
        assert torch.equal(joined.y, data().y) and torch.equal(joined.x, data().x)
        assert torch.equal(joined.weights, data().weights)
        assert torch.equal(joined.exposure, 1 + data().y) and joined.offset is None
    assert found[0].x.dtype == torch.float32


def test_parquet_shuffles_rows_across_row_groups(folder: Path) -> None:
    loader, again = (ArrowBatches(folder, ["a"], "y", batch_size=8, shuffle=True, buffer=30) for _ in "ab")
    orders = [seen(loader) for _ in range(2)]
    assert not torch.equal(orders[0], orders[1])
    assert all(torch.equal(order.sort().values, data().y) for order in orders)
    assert len((orders[0][:8] // 10).unique()) > 2
    again.set_epoch(1)
    assert torch.equal(seen(again), orders[1])


def test_parquet_with_a_spec(folder: Path) -> None:
    table = parquet.read_table(folder)
    spec = build("y ~ g + log(a + 1)", table).spec
    loader = ArrowBatches(folder, spec, weights="w", batch_size=40, dtype=torch.float64)
    assert loader.names == ["g[T.v]", "log(a + 1)"]
    joined = batches.join(list(loader))
    assert torch.equal(joined.x, spec.transform(table)[:, 1:]) and torch.equal(joined.y, data().y.double())


def test_rows_dropped_by_the_spec_become_rows_of_weight_zero(tmp_path: Path) -> None:
    table = pa.table({"a": [1.0, None, 3.0, 4.0, None, 6.0, 7.0], "y": [0.0, 1, 2, 3, 4, 5, 6]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    spec = build("y ~ a", table, missing="drop").spec
    loader = ArrowBatches(tmp_path, spec, batch_size=3)
    found = list(loader)
    assert [len(b.y) for b in found] == [3, 3, 1] and len(loader) == 3
    assert seen(found).tolist() == [0, 2, 3, 5, 6]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_parquet_ranks(folder: Path, monkeypatch: pytest.MonkeyPatch, world: int, drop_last: bool) -> None:
    rows, sizes = [], []
    for rank in range(world):
        monkeypatch.setattr(arrow_batches, "rank_and_world", lambda rank=rank: (rank, world))
        loader = ArrowBatches(folder, ["a"], "y", batch_size=7, shuffle=True, drop_last=drop_last)
        found = list(loader)
        assert len(loader) == len(found)
        sizes.append([len(b.y) for b in found])
        rows.append(seen(found))
    assert all(size == sizes[0] for size in sizes)
    together = torch.cat(rows).sort().values
    assert torch.equal(together, together.unique())
    assert drop_last or torch.equal(together, data().y)


def test_parquet_workers(folder: Path) -> None:
    loader = DataLoader(ArrowBatches(folder, ["a"], "y", batch_size=50), batch_size=None, num_workers=2)
    assert torch.equal(seen(loader).sort().values, data().y)


@pytest.mark.parametrize(("world", "workers"), [(2, 2), (3, 2), (2, 5)])
def test_each_worker_of_all_ranks_gives_as_many_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch, world: int, workers: int
) -> None:
    rows = []
    for worker in range(workers):
        sizes = []
        for rank in range(world):
            monkeypatch.setattr(arrow_batches, "rank_and_world", lambda rank=rank: (rank, world))
            monkeypatch.setattr(
                arrow_batches,
                "get_worker_info",
                lambda worker=worker: SimpleNamespace(id=worker, num_workers=workers, seed=worker),
            )
            found = list(ArrowBatches(folder, ["a"], "y", batch_size=7, shuffle=True))
            sizes.append([len(b.y) for b in found])
            rows.append(seen(found))
        assert all(size == sizes[0] for size in sizes)
    assert torch.equal(torch.cat(rows).sort().values, data().y)


@pytest.mark.parametrize("n", [103, 100, 12, 1])
def test_blocks_hold_every_row_once_in_runs(n: int) -> None:
    loader, again = (TensorBatches(data(n), 10, shuffle="blocks", seed=3) for _ in "ab")
    epochs = [list(loader) for _ in range(4)]
    for found in epochs:
        assert len(found) == len(loader) == -(-n // 10)
        assert [len(b.y) for b in found] == [10] * (n // 10) + [n % 10] * (n % 10 > 0)
        for batch in found:
            assert torch.equal((batch.y - batch.y[0]) % n, torch.arange(float(len(batch.y))))  # one may go round
            assert torch.equal(batch.weights, 1 + batch.y)
        assert torch.equal(seen(found).sort().values, data(n).y)
    if n > 1:
        assert not all(torch.equal(seen(found), seen(epochs[0])) for found in epochs)
    again.set_epoch(2)
    assert torch.equal(seen(again), seen(epochs[2]))
    with pytest.raises(ValueError, match="shuffle must be"):
        TensorBatches(data(), shuffle="rows")


def test_parquet_errors(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="No column 'c'"):
        ArrowBatches(folder, ["c"], "y")
    with pytest.raises(ValueError, match=r"one.parquet, row group 0: exposure must be finite and > 0; row 0"):
        list(ArrowBatches(folder, ["b"], "y", exposure="a"))
    holes = tmp_path / "holes"
    holes.mkdir()
    parquet.write_table(pa.table({"a": [1.0, 2.0, None], "y": [1.0, 1.0, 1.0]}), holes / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet, row group 0: column 'a'.*not finite in row 2"):
        list(ArrowBatches(holes, ["a"], "y"))
    (holes / "x.csv").write_text("a,y\n1,2\n")
    with pytest.raises(ValueError, match="not Parquet"):
        ArrowBatches(holes / "x.csv", ["a"], "y")
    monkeypatch.setattr(arrow_batches, "rank_and_world", lambda: (19, 20))
    with pytest.raises(ValueError, match="11 row groups do not suffice for 20 ranks"):
        list(ArrowBatches(folder, ["a"], "y"))


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("kind", ["tensors", "blocks", "files"])
@pytest.mark.parametrize("ahead", [True, False])
def test_a_training_that_ended_within_an_epoch_goes_on_with_the_next_batch(
    kind: str, ahead: bool, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("kept")

    def train(name: str, before: Path | None = None) -> Tensor:
        loader = ArrowBatches(folder, ["a", "b"], "y", batch_size=8, shuffle=True)
        if kind != "files":
            loader = TensorBatches(data(), 8, shuffle="blocks" if kind == "blocks" else True)
        lit = LitGLM(GLMHead(2, "poisson"), lambda p: torch.optim.SGD(p, lr=1e-6), metrics={})
        keep = ModelCheckpoint(place / name, every_n_train_steps=7, save_top_k=-1)
        run = Trainer(
            max_steps=40,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
            callbacks=[keep],
            gradient_clip_val=None if ahead else 1e9,
        )
        run.fit(lit, loader, ckpt_path=before)
        return lit.head.weight.detach().clone()

    whole = train("whole")
    for step in (7, 21):  # of 16 batches an epoch
        [kept] = (place / "whole").glob(f"*step={step}.ckpt")
        assert torch.equal(train(f"from {step}", kept), whole)
