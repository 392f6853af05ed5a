"""LitGLM: the loss is the head's, padding is nothing, metrics and callbacks work, checkpoints load."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError

import torchglm
from torchglm import links, metrics
from torchglm.families import NegativeBinomial
from torchglm.model.face import GLMHead
from torchglm.training import GLMBatch, LitGLM, LitIRLS, TensorBatches

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def data(n: int = 600, dtype: torch.dtype = torch.float32) -> GLMBatch:
    """Poisson counts with weights and an offset, `x` (n, 3)."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=rng, dtype=dtype)
    offset = torch.rand(n, generator=rng, dtype=dtype) - 0.5
    mu = torch.exp(x @ x.new_tensor([0.4, -0.3, 0.2]) + 0.5 + offset)
    weight = 0.5 + torch.rand(n, generator=rng, dtype=dtype)
    return GLMBatch(x, torch.poisson(mu, generator=rng), weights=weight, offset=offset)


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


class Deep(nn.Module):
    """A backbone and a head, as a user would write them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Linear(3, 8), nn.Tanh()), GLMHead(8, "poisson")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), GLMHead(8, "poisson"))


def test_the_loss_is_the_weighted_mean_and_padding_is_nothing() -> None:
    rows, head = data(), GLMHead(3, "poisson")
    nn.init.normal_(head.weight)
    lit = LitGLM(head)
    expected = head.loss(rows.x, rows.y, weights=rows.weights, offset=rows.offset)
    torch.testing.assert_close(lit.training_step(rows), expected)
    torch.testing.assert_close(lit.training_step(dict(rows._asdict())), expected)
    padded = GLMBatch(*(None if v is None else torch.cat([v, v[:50]]) for v in rows))
    padded.weights[600:] = 0.0
    torch.testing.assert_close(lit.training_step(padded), expected)
    empty = rows._replace(weights=torch.zeros(600))
    loss = lit.training_step(empty)
    loss.backward()
    assert float(loss.detach()) == 0 and bool((head.weight.grad == 0).all())


def test_trials_and_events_reach_the_loss() -> None:
    x, trials = torch.randn(50, 2), torch.arange(50.0) % 5 + 1
    head = GLMHead(2, "binomial")
    y = (trials / 2).floor()
    expected = head.loss(x, y, trials=trials)
    torch.testing.assert_close(LitGLM(head).training_step(GLMBatch(x, y, trials=trials)), expected)
    head, event = GLMHead(2, "exponential"), torch.arange(50.0) % 2
    expected = head.loss(x, y + 1, event=event)
    torch.testing.assert_close(LitGLM(head).training_step(GLMBatch(x, y + 1, event=event)), expected)


def test_shapes_are_never_broadcast() -> None:
    rows = data()
    with pytest.raises(ValueError, match="y has shape"):
        LitGLM(GLMHead(3, "poisson", out_features=2)).training_step(rows)
    with pytest.raises(ValueError, match="weights has shape"):
        LitGLM(GLMHead(3, "poisson")).training_step(rows._replace(weights=rows.weights[:7]))
    column = rows._replace(y=rows.y.unsqueeze(-1))
    lit = LitGLM(GLMHead(3, "poisson"))
    torch.testing.assert_close(lit.training_step(column), lit.training_step(rows))
    with pytest.raises(ValueError, match="needs a GLMHead"):
        LitGLM(nn.Linear(3, 1))
    with pytest.raises(ValueError, match="without y"):
        lit.training_step(GLMBatch(rows.x))


@pytest.mark.parametrize("make", [lambda: GLMHead(3, "poisson"), network, Deep])
def test_validation_is_exact_over_batches(make: Any, tmp_path: Path) -> None:
    rows, lit = data(), LitGLM(make())
    lit.optimizer = lambda parameters: torch.optim.Adam(parameters, lr=0.05)
    run = trainer(tmp_path, max_epochs=5)
    run.fit(lit, TensorBatches(rows, 128, shuffle=True), TensorBatches(rows, 250))
    found = run.callback_metrics
    with torch.no_grad():
        mu = torch.cat(run.predict(lit, TensorBatches(rows, 100)))
        loss = lit.head.loss(lit.features(rows.x), rows.y, weights=rows.weights, offset=rows.offset)
    assert mu.shape == rows.y.shape
    torch.testing.assert_close(found["val_loss"].float(), loss)
    deviance = metrics.deviance(mu, rows.y, "poisson", weights=rows.weights)
    d2 = metrics.d2(mu, rows.y, "poisson", weights=rows.weights, offset=rows.offset)
    assert float(found["val_deviance"]) == pytest.approx(float(deviance), rel=1e-6)
    assert float(found["val_d2"]) == pytest.approx(float(d2), rel=1e-5) and float(d2) > 0.1
    assert {"train_loss", "train_loss_step"} <= set(found)
    scores = run.test(lit, TensorBatches(rows, 250), verbose=False)[0]
    assert scores["test_deviance"] == pytest.approx(float(deviance), rel=1e-6)


def test_metrics_of_ones_own_and_of_torchmetrics(tmp_path: Path) -> None:
    rows = data()
    lit = LitGLM(
        GLMHead(3, "poisson"), metrics={"mae": MeanAbsoluteError(), "nll": metrics.NLL, "gini": metrics.Gini("poisson")}
    )
    run = trainer(tmp_path)
    found = run.validate(lit, TensorBatches(rows, 250), verbose=False)[0]
    assert set(found) == {"val_loss", "val_mae", "val_nll", "val_gini"}
    mu = lit(rows.x, rows.offset).detach()[:, 0]
    assert found["val_mae"] == pytest.approx(float((mu - rows.y).abs().mean()), rel=1e-5)


def test_d2_is_left_out_where_an_offset_rules_it_out(tmp_path: Path) -> None:
    rows = data()
    rows = rows._replace(y=(rows.y > 1).float())
    run = trainer(tmp_path)
    with_offset = run.validate(LitGLM(GLMHead(3, "bernoulli")), TensorBatches(rows, 250), verbose=False)[0]
    without = run.validate(
        LitGLM(GLMHead(3, "bernoulli")), TensorBatches(rows._replace(offset=None), 250), verbose=False
    )[0]
    assert "val_d2" not in with_offset and "val_d2" in without


def test_checkpoint_early_stopping_and_loading_a_head(tmp_path: Path) -> None:
    rows = data()
    head = GLMHead(3, NegativeBinomial(), dtype=torch.float32)
    lit = LitGLM(head, lambda parameters: torch.optim.Adam(parameters, lr=0.1))
    keep = ModelCheckpoint(tmp_path, monitor="val_deviance", save_top_k=1)
    stop = EarlyStopping("val_loss", patience=2, min_delta=1e-3)
    run = trainer(tmp_path, max_epochs=40, callbacks=[keep, stop], enable_checkpointing=True)
    run.fit(lit, TensorBatches(rows, 128, shuffle=True), TensorBatches(rows))
    assert run.current_epoch < 40 and float(head.family.alpha) != 1.0
    loaded = LitGLM.load_from_checkpoint(keep.best_model_path)
    again = LitGLM.load_from_checkpoint(keep.best_model_path, model=GLMHead(3, NegativeBinomial()))
    best = float(keep.best_model_score)
    for one in (loaded, again):
        found = run.validate(one, TensorBatches(rows), verbose=False)[0]
        assert found["val_deviance"] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("family", [NegativeBinomial(0.5), "poisson", "gamma"])
def test_a_head_is_made_again_from_its_checkpoint(family: Any, tmp_path: Path) -> None:
    head = GLMHead(3, family, "log", bias=False)
    nn.init.normal_(head.weight)
    run = trainer(tmp_path)
    run.strategy.connect(LitGLM(head))
    run.save_checkpoint(tmp_path / "head.ckpt")
    loaded = torchglm.load(tmp_path / "head.ckpt").head
    assert torch.equal(LitGLM.load_from_checkpoint(tmp_path / "head.ckpt").head.weight, loaded.weight)
    assert torch.equal(loaded.weight, head.weight) and loaded.bias is None
    assert loaded.family.name == head.family.name and loaded.link.name == "log"
    assert loaded.family.estimates_shape == head.family.estimates_shape
    for one, other in zip(loaded.family.parameters(), head.family.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("link", ["log", links.Power(0.5), links.Power(-2)])
def test_dtype_and_link_come_back_from_a_checkpoint(link: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    head, x = GLMHead(3, "gamma", link, dtype=dtype), torch.randn(5, 3, dtype=dtype) / 10
    nn.init.normal_(head.weight, std=0.1)
    run = trainer(tmp_path)
    run.strategy.connect(LitGLM(head))
    run.save_checkpoint(tmp_path / "head.ckpt")
    for loaded in (torchglm.load(tmp_path / "head.ckpt"), LitGLM.load_from_checkpoint(tmp_path / "head.ckpt")):
        assert loaded.head.weight.dtype == dtype and torch.equal(loaded(x), head(x))


def test_a_network_is_loaded_into_a_module_of_its_shape(tmp_path: Path) -> None:
    lit = LitGLM(network())
    run = trainer(tmp_path, max_epochs=1)
    run.fit(lit, TensorBatches(data(), 200))
    run.save_checkpoint(tmp_path / "network.ckpt")
    for load in (LitGLM.load_from_checkpoint, torchglm.load):
        loaded = load(tmp_path / "network.ckpt", model=network())
        for one, other in zip(loaded.parameters(), lit.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    "metric", [metrics.LiftTable, metrics.LiftTable("poisson"), metrics.Coverage, metrics.Coverage()]
)
def test_metrics_that_are_no_number_are_refused(metric: Any) -> None:
    with pytest.raises(ValueError, match="is not one number made of means and responses.*score trainer.predict"):
        LitGLM(GLMHead(3, "poisson"), metrics={"one": metric})


def test_what_is_no_whole_checkpoint_of_a_head_or_network_is_refused(tmp_path: Path) -> None:
    modules = {"network": LitGLM(network()), "irls": LitIRLS(GLMHead(3, "poisson"))}
    for name, module in modules.items():
        run = trainer(tmp_path, max_epochs=1)
        run.fit(module, TensorBatches(data(), 200))
        run.save_checkpoint(tmp_path / f"{name}.ckpt")
    whole = (tmp_path / "network.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"weight": 1}, tmp_path / "other.ckpt")
    for name, said in {
        "network": r"load\(path, model=",
        "irls": "another module than LitGLM",
        "cut": "not a whole",
        "other": "not a whole",
        "none": "there is no checkpoint",
    }.items():
        with pytest.raises(ValueError, match=said):
            torchglm.load(tmp_path / f"{name}.ckpt")
    with pytest.raises(ValueError, match="does not fit the module given"):
        torchglm.load(tmp_path / "network.ckpt", model=GLMHead(3, "poisson"))
    with pytest.raises(ValueError, match="model= goes with a checkpoint"):
        torchglm.load(tmp_path, model=network())


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_loggers_get_the_losses_and_metrics_at_their_steps(kind: Any, tmp_path: Path) -> None:
    if kind is TensorBoardLogger:
        pytest.importorskip("tensorboard")
    logged: dict[str, list[int]] = {}

    class Seen(kind):  # type: ignore[misc]
        """Notes what is logged, and when."""

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            for name in metrics:
                logged.setdefault(name, []).append(-1 if step is None else step)
            super().log_metrics(metrics, step)

    lit = LitGLM(GLMHead(3, "poisson"), lambda p: torch.optim.SGD(p, lr=0.05))
    run = trainer(tmp_path, max_epochs=2, logger=Seen(tmp_path, "log", ""), log_every_n_steps=4)
    run.fit(lit, TensorBatches(data(), 50), TensorBatches(data(), 200))
    assert logged["train_loss_step"] == [3, 7, 11, 15, 19, 23]
    assert logged["train_loss"] == logged["val_loss"] == logged["val_deviance"] == [11, 23]
    assert any((tmp_path / "log").rglob("metrics.csv" if kind is CSVLogger else "events.out*"))


def test_resumed_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    rows = data()

    def train(epochs: int, path: Path | None = None) -> Tensor:
        torch.manual_seed(0)
        lit = LitGLM(GLMHead(3, "poisson"))
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(lit, TensorBatches(rows, 64, shuffle=True), ckpt_path=path)
        if path is None:
            run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return lit.head.weight.detach()

    train(2)
    assert torch.equal(train(4, tmp_path / "2.ckpt"), train(4))


def test_bf16_mixed_stays_finite(tmp_path: Path) -> None:
    rows = data()
    lit = LitGLM(network())
    run = trainer(tmp_path, max_epochs=2, precision="bf16-mixed")
    run.fit(lit, TensorBatches(rows._replace(x=20 * rows.x), 128), TensorBatches(rows))
    with torch.autocast("cpu", torch.bfloat16):
        assert LitGLM(lit.model).training_step(rows).dtype == torch.float32
    assert all(torch.isfinite(p).all() for p in lit.parameters())
    assert torch.isfinite(run.callback_metrics["val_loss"])


def test_schedulers(tmp_path: Path) -> None:
    rows = data()
    plateau = LitGLM(GLMHead(3, "poisson"), scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
    trainer(tmp_path, max_epochs=1).fit(plateau, TensorBatches(rows), TensorBatches(rows))
    lit = LitGLM(
        GLMHead(3, "poisson"),
        lambda p: torch.optim.SGD(p, lr=1.0),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        scheduler_interval="step",
    )
    run = trainer(tmp_path, max_epochs=1)
    run.fit(lit, TensorBatches(rows, 200))
    assert run.optimizers[0].param_groups[0]["lr"] == 0.125


def test_the_trainer_has_nothing_to_say_about_our_loaders(tmp_path: Path) -> None:
    rows = data(64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        lit = LitGLM(GLMHead(3, "poisson"))
        trainer(tmp_path, max_epochs=2).fit(lit, TensorBatches(rows, 2, shuffle=True), TensorBatches(rows, 2))
