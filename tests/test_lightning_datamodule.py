"""GLMDataModule: the split depends on what the rows hold alone, the parts make up the whole, and a Trainer takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Trainer
from pyarrow import csv, parquet
from torch import Tensor

import torchglm
from torchglm.model.face import GLMHead
from torchglm.training import ArrowBatches, GLMDataModule, LitGLM, LitIRLS, TensorBatches
from torchglm.training.hash_split import HashPart

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def table(n: int = 1000) -> pa.Table:
    """Counts `y`, columns `a` and `b`, exposures `e`, and `who`, of 60 people."""
    rng = np.random.default_rng(0)
    a, b, e = rng.normal(size=n), rng.integers(0, 5, n), rng.uniform(0.5, 2, n)
    who = [f"p{i}" for i in rng.integers(0, 60, n)]
    return pa.table(
        {"a": a, "b": b, "e": e, "who": who, "y": rng.poisson(e * np.exp(0.3 * a - 0.1 * b)), "row": np.arange(n)}
    )


def rows_of(batches: Any) -> Tensor:
    """The values of all rows of weight, as a sorted matrix."""
    parts = []
    for batch in batches:
        rows = torch.cat([batch.x, batch.y.unsqueeze(-1)], 1)
        parts.append(rows if batch.weights is None else rows[batch.weights > 0])
    whole = torch.cat(parts)
    return whole[np.lexsort(whole.T.numpy())]


def module(path: Any, **options: Any) -> GLMDataModule:
    given: dict[str, Any] = {"key": "row", "dtype": torch.float64, "batch_size": 64}
    data = GLMDataModule(path, ["a", "b"], "y", exposure="e", **{**given, **options})
    data.setup("fit")
    return data


def test_the_split_is_the_same_in_any_order_file_and_format(tmp_path: Path) -> None:
    rows = table()
    parquet.write_table(rows, tmp_path / "one.parquet", row_group_size=170)
    mixed = rows.take(np.random.default_rng(1).permutation(1000))
    (tmp_path / "many").mkdir()
    for i in range(3):
        piece = mixed.slice(340 * i, 340).cast(mixed.schema.set(1, pa.field("b", pa.int8())))
        parquet.write_table(piece, tmp_path / "many" / f"{i}.parquet", row_group_size=50)
    csv.write_csv(mixed, tmp_path / "one.csv")
    for key in ("row", "who", None, ["b", "who"]):
        first = module(tmp_path / "one.parquet", key=key)
        for other in (module(tmp_path / "many", key=key), module(tmp_path / "one.csv", key=key)):
            for name in ("train_dataloader", "val_dataloader"):
                torch.testing.assert_close(
                    rows_of(getattr(other, name)()), rows_of(getattr(first, name)()), rtol=1e-14, atol=0.0
                )


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_parts_are_disjoint_and_make_up_the_whole(ending: str, tmp_path: Path) -> None:
    rows, path = table(), tmp_path / f"x.{ending}"
    if ending == "csv":
        csv.write_csv(rows, path)
    else:
        parquet.write_table(rows, path, row_group_size=130)
    data = module(path, validation=0.25, test=0.15)
    data.setup("test")
    data.setup("predict")
    parts = [rows_of(part) for part in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    shares = [len(part) / 1000 for part in parts]
    assert shares == pytest.approx([0.6, 0.25, 0.15], abs=0.05)
    whole = torch.cat(parts)
    torch.testing.assert_close(whole[np.lexsort(whole.T.numpy())], rows_of(data.predict_dataloader()))
    first = next(iter(data.predict_dataloader()))
    torch.testing.assert_close(first.x[:, 0], torch.from_numpy(rows["a"].to_numpy()[:64].copy()))
    kind = TensorBatches if ending == "csv" else ArrowBatches
    assert isinstance(data.train_dataloader(), kind) and data.in_features == 2
    count = [0 if b.weights is None else int((b.weights == 0).sum()) for b in data.train_dataloader()]
    assert sum(count) == 0 and len(data.train_dataloader()) == -(-len(parts[0]) // 64)


def test_rows_of_one_key_stay_together_and_a_seed_makes_another_split(tmp_path: Path) -> None:
    rows, sides = table(), []
    for seed in (0, 1):
        held = HashPart(["who"], 0.0, 0.3, seed).of(rows)
        rest = HashPart(["who"], 0.3, 1.0, seed).of(rows)
        assert not set(held["who"].to_pylist()) & set(rest["who"].to_pylist())
        assert len(held) + len(rest) == len(rows) and 0.1 < len(held) / len(rows) < 0.5
        sides.append(set(held["who"].to_pylist()))
    assert sides[0] != sides[1]


def test_a_hash_sees_values_not_types_and_tells_them_apart() -> None:
    numbers = [3.0, -0.0, 1e300, 7.0, None]
    part = HashPart(["k"], 0.0, 0.5)
    same = [
        pa.array([3, 0, 7], pa.int8()),
        pa.array([3.0, -0.0, 7.0]),
        pa.array([3, 0, 7], pa.uint64()),
        pa.array([3, 0, 7], pa.float32()),
    ]
    masks = [part.mask(pa.table({"k": column})).tolist() for column in same]
    assert all(mask == masks[0] for mask in masks)
    words = pa.array(["x", "y", None, "x"])
    assert part.mask(pa.table({"k": words})).tolist() == part.mask(pa.table({"k": words.dictionary_encode()})).tolist()
    assert len(part.mask(pa.table({"k": pa.array(numbers)}))) == 5 and len(part.mask(pa.table({"k": words[:0]}))) == 0
    many = pa.table({"k": np.arange(40_000), "j": [f"w{i}" for i in range(40_000)]})
    for key in (["k"], ["j"], ["k", "j"]):
        mask = HashPart(key, 0.2, 0.5).mask(many)
        assert abs(mask.mean() - 0.3) < 4 * (0.21 / 40_000) ** 0.5
        assert abs(np.corrcoef(mask[1:], mask[:-1])[0, 1]) < 4 / 200


def test_a_trainer_fits_and_scores_the_parts(tmp_path: Path) -> None:
    rows = table()
    parquet.write_table(rows, tmp_path / "x.parquet", row_group_size=130)
    data = GLMDataModule(
        tmp_path / "x.parquet", ["a", "b"], "y", exposure="e", key="who", dtype=torch.float64, batch_size=100, test=0.2
    )
    plain: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "default_root_dir": tmp_path,
    }
    lit = LitIRLS(GLMHead(data.in_features, "poisson", dtype=torch.float64))
    run = Trainer(max_epochs=30, **plain)
    run.fit(lit, data)
    train = data.parts["train"].of(rows)
    full = torchglm.fit("y ~ a + b", train, family="poisson", exposure="e")
    torch.testing.assert_close(lit.coef, full.coef, rtol=1e-8, atol=1e-9)
    assert "val_deviance" in run.callback_metrics
    scored = LitGLM(lit.head)
    other = Trainer(max_epochs=1, **plain)
    assert "test_deviance" in other.test(scored, datamodule=data, verbose=False)[0]
    assert sum(len(mean) for mean in other.predict(scored, datamodule=data)) == 1000
    whole = GLMDataModule(tmp_path / "x.parquet", ["a", "b"], "y", exposure="e", validation=0.0)
    Trainer(max_epochs=1, **plain).fit(LitGLM(GLMHead(2, "poisson")), datamodule=whole)
    assert sum(len(batch.y) for batch in whole.train_dataloader()) == 1000


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    parquet.write_table(table(20), tmp_path / "x.parquet")
    csv.write_csv(table(20), tmp_path / "x.csv")
    for shares in ({"validation": -0.1}, {"validation": 0.6, "test": 0.4}):
        with pytest.raises(ValueError, match="leave rows to train on"):
            module(tmp_path / "x.parquet", **shares)
    with pytest.raises(ValueError, match="No test part|no test part"):
        module(tmp_path / "x.parquet").test_dataloader()
    with pytest.raises(ValueError, match="did you mean 'who'"):
        module(tmp_path / "x.parquet", key="whom")
    for ending in ("parquet", "csv"):
        with pytest.raises(ValueError, match="No row is in the validation part"):
            module(tmp_path / f"x.{ending}", validation=1e-9)
    with pytest.raises(ValueError, match="key is empty"):
        module(tmp_path / "x.parquet", key=[])
    with pytest.raises(ValueError, match="does not exist"):
        module(tmp_path / "y.parquet")


def kinds(n: int = 400) -> pa.Table:
    """Keys of every type that a file may hold."""
    rng = np.random.default_rng(3)
    ids, day = rng.integers(0, 90, n), np.datetime64("2020-01-01") + rng.integers(0, 300, n).astype("timedelta64[D]")
    clock = np.datetime64("2020-01-01T00:00:00") + rng.integers(0, 10**9, n).astype("timedelta64[s]")
    return pa.table(
        {
            "a": rng.normal(size=n),
            "y": rng.poisson(1.0, n),
            "whole": ids,
            "zeros": [f"{i:04d}" for i in ids],
            "single": pa.array(rng.normal(size=n), pa.float32()),
            "double": rng.normal(size=n),
            "truth": rng.random(n) > 0.5,
            "day": pa.array(day, pa.date32()),
            "midnight": pa.array(day.astype("datetime64[ns]")),
            "clock": pa.array(clock),
            "zoned": pa.array(clock.astype("datetime64[us]"), pa.timestamp("us", "UTC")),
            "word": [f"p{i}" for i in ids],
            "some": [None if i % 7 == 0 else f"q{i}" for i in ids],
        }
    )


@pytest.mark.parametrize("writer", ["arrow", "pandas"])
@pytest.mark.parametrize(
    "key",
    [name for name in kinds(1).column_names if name not in ("a", "y", "truth")]
    + [["zeros", "day"], ["truth", "whole"]],
)
def test_a_key_of_any_type_splits_parquet_and_csv_alike(key: Any, writer: str, tmp_path: Path) -> None:
    rows = kinds()
    parquet.write_table(rows, tmp_path / "x.parquet", row_group_size=70)
    if writer == "arrow":
        csv.write_csv(rows, tmp_path / "x.csv")
    else:
        rows.to_pandas().to_csv(tmp_path / "x.csv", index=False)
    found = []
    for ending in ("parquet", "csv"):
        data = GLMDataModule(tmp_path / f"x.{ending}", ["a"], "y", key=key, validation=0.3, dtype=torch.float64)
        data.setup("fit")
        found.append(rows_of(data.val_dataloader()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=0)
    assert 0 < len(found[0]) < len(rows)
