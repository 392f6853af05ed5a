"""What modules of Lightning do with what they are given: shapes, exposures, rows that do not suit, wrong arguments."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from pyarrow import parquet
from torch import Tensor, nn

from torchglm import metrics
from torchglm.model.face import GLMHead
from torchglm.training import ArrowBatches, GLMBatch, GLMDataModule, IRLSHead, LitGLM, LitIRLS, TensorBatches, fit_sgd

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "default_root_dir": folder,
    }
    return Trainer(**{**quiet, **options})


def counts(n: int = 120) -> GLMBatch:
    """Poisson counts with weights and an offset, `x` (n, 3)."""
    rng = torch.Generator().manual_seed(7)
    x, offset = torch.randn(n, 3, generator=rng), torch.rand(n, generator=rng)
    return GLMBatch(
        x,
        torch.poisson(torch.exp(0.3 * x[:, 0] + offset), generator=rng),
        weights=0.5 + torch.rand(n, generator=rng),
        offset=offset,
    )


def hits(n: int = 120) -> GLMBatch:
    """Binomial counts with trials."""
    rng = torch.Generator().manual_seed(8)
    trials = torch.randint(1, 6, (n,), generator=rng).float()
    return GLMBatch(torch.randn(n, 3, generator=rng), (trials / 2).floor(), trials=trials)


def column(value: Tensor) -> Tensor:
    return value.unsqueeze(-1)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("family", "rows", "named"),
    [
        ("poisson", counts(), "weights"),
        ("poisson", counts(), "offset"),
        ("poisson", counts(), "y"),
        ("binomial", hits(), "trials"),
    ],
)
def test_a_column_of_values_counts_as_the_values(
    deep: bool, family: str, rows: GLMBatch, named: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    head = GLMHead(3, family)
    nn.init.normal_(head.weight)
    model = nn.Sequential(nn.Identity(), head) if deep else head
    other = rows._replace(**{named: column(getattr(rows, named))})
    found = []
    for given in (rows, other):
        head.zero_grad()
        loss = LitGLM(model).training_step(given)
        loss.backward()
        gradient = head.weight.grad.clone()
        scores = trainer(tmp_path).validate(
            LitGLM(model, metrics={"deviance": metrics.Deviance}), TensorBatches(given, 50), verbose=False
        )[0]
        found.append((loss.detach(), gradient, scores))
    torch.testing.assert_close(found[1][:2], found[0][:2])
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-6)


def test_a_column_of_weights_counts_as_the_weights_in_irls(tmp_path: Path) -> None:
    coef = []
    for rows in (counts(), counts()._replace(weights=column(counts().weights))):
        lit: LightningModule = LitIRLS(GLMHead(3, "poisson"))
        trainer(tmp_path, max_epochs=20).fit(lit, TensorBatches(rows), TensorBatches(rows))
        coef.append((lit.coef, float(lit.trainer.callback_metrics["val_deviance"])))
    assert torch.equal(coef[0][0], coef[1][0]) and coef[0][1] == coef[1][1]


def exposed(**more: Any) -> dict[str, Any]:
    return {"x": counts().x, "y": counts().y + 1, "exposure": counts().offset.exp(), **more}


def training(lit: LightningModule, batches: Any, tmp_path: Path) -> LightningModule:
    trainer(tmp_path, max_epochs=2).fit(lit, batches)
    return lit


class Loader:
    """An iterable of batches, which a Trainer does not take apart as it does lists and dicts."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


EXPOSED = {  # every place where a head and an exposure meet
    "LitGLM of dicts": lambda head, rows, folder: training(LitGLM(head), Loader(rows), folder),
    "LitGLM of tensors": lambda head, rows, folder: training(LitGLM(head), TensorBatches(rows, 50), folder),
    "a step alone": lambda head, rows, folder: LitGLM(head).training_step(rows),
    "validation": lambda head, rows, folder: trainer(folder).validate(LitGLM(head), Loader(rows), verbose=False),
    "prediction": lambda head, rows, folder: trainer(folder).predict(LitGLM(head), Loader(rows)),
    "LitIRLS": lambda head, rows, folder: training(LitIRLS(head), TensorBatches(rows, 50), folder),
    "fit_sgd of tensors": lambda head, rows, folder: fit_sgd(head, rows, trainer={"max_epochs": 1}),
    "fit_sgd of a loader": lambda head, rows, folder: fit_sgd(head, TensorBatches(rows, 50), trainer={"max_epochs": 1}),
    "fit of a loader": lambda head, rows, folder: head.fit(TensorBatches(rows, 50)),
}


@pytest.mark.parametrize("place", EXPOSED)
def test_an_exposure_needs_a_link_on_which_rates_multiply(place: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exposure needs a link on whose scale rates multiply"):
        EXPOSED[place](GLMHead(3, "gaussian"), exposed(), tmp_path)
    EXPOSED[place](GLMHead(3, "poisson"), exposed(), tmp_path)


def test_an_exposure_is_an_offset_of_its_logarithm() -> None:
    lit, rows = LitGLM(GLMHead(3, "poisson")), exposed()
    offset = rows.pop("exposure").log()
    torch.testing.assert_close(lit.training_step(exposed()), lit.training_step({**rows, "offset": offset}))
    both = lit.training_step(exposed(offset=offset))
    torch.testing.assert_close(both, lit.training_step({**rows, "offset": 2 * offset}))


def test_files_with_an_exposure_need_such_a_link_too(tmp_path: Path) -> None:
    rows = exposed()
    table = pa.table({"a": rows["x"][:, 0].numpy(), "y": rows["y"].numpy(), "years": rows["exposure"].numpy()})
    parquet.write_table(table, tmp_path / "rows.parquet")
    for batches in (
        ArrowBatches(tmp_path / "rows.parquet", ["a"], "y", exposure="years"),
        GLMDataModule(tmp_path / "rows.parquet", ["a"], "y", exposure="years"),
    ):
        with pytest.raises(ValueError, match="exposure needs a link"):
            training(LitGLM(GLMHead(1, "gaussian")), batches, tmp_path)
        training(LitGLM(GLMHead(1, "poisson")), batches, tmp_path)
    parquet.write_table(table.set_column(2, "years", pa.array([0.0] + [1.0] * 119)), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="none.parquet, row group 0: exposure must be finite and > 0; row 0 has 0"):
        list(ArrowBatches(tmp_path / "none.parquet", ["a"], "y", exposure="years"))


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ({"metrics": {"loss": metrics.Deviance}}, ValueError, "cannot be named 'loss'"),
        ({"metrics": {"a.b": metrics.Deviance}}, ValueError, "cannot be named 'a.b'"),
        ({"metrics": [metrics.Deviance]}, TypeError, "metrics must be a dict"),
        ({"metrics": {"gini": 3}}, TypeError, "'gini' must be a class"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)], 0.1)}, TypeError, "optimizer must be a class .* got SGD"),
        ({"scheduler": "step"}, TypeError, "scheduler must be a class"),
        ({"scheduler_interval": "batch"}, ValueError, "scheduler_interval must be"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_in_words(wrong: dict[str, Any], kind: type, said: str) -> None:
    with pytest.raises(kind, match=said):
        LitGLM(GLMHead(3, "poisson"), **wrong)


def test_irls_says_that_it_takes_a_head() -> None:
    with pytest.raises(TypeError, match="LitIRLS fits a GLMHead alone, got Sequential"):
        LitIRLS(nn.Sequential(nn.Linear(3, 2), GLMHead(2, "poisson")))  # type: ignore[arg-type]


@pytest.mark.parametrize("every", [1.5, 0, True])
def test_epochs_between_refits_are_counted(every: Any) -> None:
    with pytest.raises(ValueError, match="whole number of epochs"):
        IRLSHead(every=every)


def test_a_loader_that_cannot_be_refitted_on_is_refused_before_training(tmp_path: Path) -> None:
    lit = LitGLM(GLMHead(3, "poisson"))
    run = trainer(tmp_path, max_epochs=3, callbacks=[IRLSHead()])
    with pytest.raises(ValueError, match="drop_last"):
        run.fit(lit, TensorBatches(counts(), 50, drop_last=True))
    assert run.global_step == 0


@pytest.mark.parametrize("make", [LitGLM, LitIRLS])
def test_several_loaders_have_scores_of_their_own(make: Any, tmp_path: Path) -> None:
    rows = counts()
    parts = [GLMBatch(*(None if v is None else v[one] for v in rows)) for one in (slice(0, 40), slice(40, 120))]
    lit, run = make(GLMHead(3, "poisson")), trainer(tmp_path, max_epochs=2)
    run.fit(lit, TensorBatches(rows), [TensorBatches(part, 30) for part in parts])
    for stage, score in (("val", run.validate), ("test", run.test)):
        found = score(lit, [TensorBatches(part, 30) for part in parts], verbose=False)
        for number, part in enumerate(parts):
            mu = lit(part.x, part.offset).detach()[:, 0]
            want = float(metrics.deviance(mu, part.y, "poisson", weights=part.weights))
            assert found[number][f"{stage}_deviance/dataloader_idx_{number}"] == pytest.approx(want, rel=1e-6)
    assert [len(torch.cat(one)) for one in run.predict(lit, [TensorBatches(part, 30) for part in parts])] == [40, 80]


def test_a_loaded_irls_has_its_coefficients(tmp_path: Path) -> None:
    lit, run = LitIRLS(GLMHead(3, "poisson")), trainer(tmp_path, max_epochs=20)
    run.fit(lit, TensorBatches(counts()))
    run.save_checkpoint(tmp_path / "irls.ckpt")
    loaded = LitIRLS.load_from_checkpoint(tmp_path / "irls.ckpt", head=GLMHead(3, "poisson"))
    assert torch.equal(loaded.coef, lit.coef) and loaded.coef.dtype == torch.float64


BAD = {
    "y < 0": (counts()._replace(y=counts().y - 5), "poisson family needs y >= 0; row"),
    "weight < 0": (counts()._replace(weights=-counts().weights), "weights must be >= 0; row 0"),
    "NaN in x": (counts()._replace(x=counts().x * torch.nan), "x holds NaN"),
    "NaN in y": (counts()._replace(y=counts().y / 0), "y holds"),
    "exposure 0": (
        counts()._replace(offset=None, exposure=0 * counts().y),
        "exposure must be finite and > 0; row 0 has 0",
    ),
}


@pytest.mark.parametrize("wrong", BAD)
def test_rows_that_do_not_suit_are_refused_before_training(wrong: str, tmp_path: Path) -> None:
    rows, said = BAD[wrong]
    run = trainer(tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match=said):
        run.fit(LitGLM(GLMHead(3, "poisson")), TensorBatches(rows, 50))
    assert run.global_step == 0
    for data in (rows, Loader(rows)):
        with pytest.raises(ValueError, match=said):
            fit_sgd(GLMHead(3, "poisson"), data)


def test_rows_of_weight_zero_may_hold_anything(tmp_path: Path) -> None:
    rows = counts()
    rows.y[3], rows.weights[3] = -1.0, 0.0
    trainer(tmp_path, max_epochs=1).fit(LitGLM(GLMHead(3, "poisson")), TensorBatches(rows, 50))


def test_a_file_and_row_group_that_does_not_suit_is_named(tmp_path: Path) -> None:
    y = torch.ones(60)
    y[45] = -1.0
    parquet.write_table(
        pa.table({"a": torch.randn(60).numpy(), "y": y.numpy()}), tmp_path / "r.parquet", row_group_size=20
    )
    rows = ArrowBatches(tmp_path / "r.parquet", ["a"], "y", batch_size=10)
    assert len(list(rows)) == 6  # without a family nothing speaks against -1
    with pytest.raises(ValueError, match=r"r\.parquet, row group 2: the poisson family needs y >= 0; row 5"):
        trainer(tmp_path, max_epochs=1).fit(LitGLM(GLMHead(1, "poisson")), rows)
    parquet.write_table(pa.table({"a": y.numpy(), "w": y.numpy()}), tmp_path / "w.parquet", row_group_size=20)
    with pytest.raises(ValueError, match="row group 2: weights must be >= 0; row 5"):
        list(ArrowBatches(tmp_path / "w.parquet", ["a"], "a", weights="w", batch_size=10))


@pytest.mark.parametrize("deep", [False, True])
def test_an_empty_batch_is_nothing(deep: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows, empty, found = counts(), GLMBatch(*(None if v is None else v[:0] for v in counts())), []
    for batches in ((rows, rows), (empty, rows, empty, rows)):
        head = GLMHead(3, "poisson")
        lit = LitGLM(nn.Sequential(nn.Identity(), head) if deep else head, lambda p: torch.optim.SGD(p, lr=0.1))
        run = trainer(tmp_path, max_epochs=2)
        run.fit(lit, Loader(*batches), Loader(*batches))
        found.append((head.weight.detach().clone(), run.callback_metrics["train_loss"]))
    torch.testing.assert_close(found[1], found[0])


def test_batches_move_with_what_x_is_made_of() -> None:
    rows = GLMBatch({"a": torch.ones(2), "b": [torch.ones(2)]}, torch.ones(2))
    moved = rows.to("meta")
    assert moved.x["a"].is_meta and moved.x["b"][0].is_meta and moved.y.is_meta and moved.weights is None
    assert counts().to("cpu").x is not None and (held := counts()).to("cpu") is held


def test_a_trainer_says_nothing_about_our_modules(tmp_path: Path) -> None:
    table = pa.table({"a": torch.randn(100).numpy(), "y": torch.ones(100).numpy()})
    parquet.write_table(table, tmp_path / "r.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=kind)
        data = GLMDataModule(tmp_path / "r.parquet", ["a"], "y", validation=0.3, batch_size=10)
        trainer(tmp_path, max_epochs=2, log_every_n_steps=1).fit(LitGLM(GLMHead(1, "poisson")), datamodule=data)
