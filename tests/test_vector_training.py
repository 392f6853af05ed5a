"""Heads of several predictors trained: by steps of a search, by gradients, and on the features of a network."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from several_cases import CLASSES, draws, families, title
from torch import Tensor, nn
from torch.nn import functional as F

import torchglm as tg
from torchglm import GLMHead
from torchglm.families.several import Classes, Multinomial, Ordinal, VectorFamily
from torchglm.metrics import BrierScore, Concordance
from torchglm.training import GLMBatch, IRLSHead, LitGLM, LitIRLS, TensorBatches, fit_sgd

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
pytestmark = pytest.mark.filterwarnings("ignore:.*rows of weight zero hold NaN")
TIGHT = {"tol": 1e-12, "max_iter": 100}
FIRST = list({type(family): family for family in reversed(families())}.values())  # one of each class
FEW = [family for family in FIRST if family.name in ("ordinal", "dispersed", "hurdle", "weibull")]
few = pytest.mark.parametrize("family", FEW, ids=title)
each_class = pytest.mark.parametrize("family", FIRST, ids=title)


def rows_of(family: VectorFamily, n: int = 300, dtype: torch.dtype = torch.float64) -> GLMBatch:
    """Rows with weights and repeats, some of weight 0 that hold anything."""
    generator = torch.Generator().manual_seed(4)
    x = 2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1
    drawn, dropped = draws(family, (n,)), torch.arange(n) % 10 == 3
    weights = torch.where(dropped, 0.0, 0.5 + torch.rand(n, generator=generator, dtype=torch.float64))
    spoiled = drawn.each(lambda value: torch.where(dropped, -100.0, value).to(dtype))
    x = torch.where(dropped.unsqueeze(-1), math.nan, x).to(dtype)
    freq = torch.randint(1, 3, (n,), generator=generator).to(dtype)
    return GLMBatch(x, weights=weights.to(dtype), freq=freq, **spoiled)


def head_of(family: VectorFamily, columns: int = 2, dtype: torch.dtype = torch.float64) -> GLMHead:
    return GLMHead(columns, family, dtype=dtype, predictors=family.others)


def fitted(rows: GLMBatch, family: VectorFamily, x: Tensor | None = None) -> tg.Result:
    """The fit of the rows of positive weight, in memory."""
    keep = rows.weights > 0
    roles = {name: value[keep].double() for name, value in rows.roles.given.items()}
    x = (rows.x if x is None else x)[keep].double()
    return head_of(family, x.shape[-1]).fit(x, rows.y[keep].double(), **roles, **TIGHT)


@each_class
def test_a_refit_is_the_fit_of_the_features(family: VectorFamily) -> None:
    """In batches, by a plain loop: the coefficients of a fit in memory, where the gradient of the loss is 0."""
    rows = rows_of(family)
    head = head_of(family)
    done = tg.refit_(nn.Sequential(nn.Identity(), head), TensorBatches(rows, 100))
    want = fitted(rows, family)
    torch.testing.assert_close(head.coef[0], want.flat.coef[0], rtol=0, atol=1e-8)
    assert [str(status) for status in done.status] == ["CONVERGED"] and bool(done.after <= done.before)
    loss = head.loss(rows.x, rows.y, **rows.roles.given)
    slope = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(head.parameters()))])
    assert float(slope.abs().max()) < 1e-6


@each_class
def test_newton_steps_of_a_trainer_end_at_the_fit(family: VectorFamily) -> None:
    """By epochs, in two orders of minibatches, with its standard errors."""
    rows, coef = rows_of(family), []
    want = fitted(rows, family)
    for seed, size in ((0, 90), (1, 150)):
        lit = LitIRLS(head_of(family), tol=1e-12)
        Trainer(max_epochs=100, **QUIET).fit(lit, TensorBatches(rows, size, shuffle=True, seed=seed))
        assert str(lit.status) == "CONVERGED"
        coef.append(lit.coef)
        torch.testing.assert_close(lit.head.coef[0], lit.coef, rtol=0, atol=1e-12)
    torch.testing.assert_close(coef[0], coef[1], rtol=0, atol=1e-10)
    torch.testing.assert_close(coef[0], want.flat.coef[0], rtol=0, atol=1e-8)
    torch.testing.assert_close(lit.std_err, want.flat_covariance[0].diagonal().sqrt(), rtol=1e-6, atol=1e-9)


class Net(nn.Module):
    """A network whose head has a name of its own."""

    def __init__(self, family: VectorFamily, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(2, 3, dtype=dtype)
        self.drop = nn.Dropout(0.5)
        self.classifier = head_of(family, 3, dtype)

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        return self.classifier(self.drop(torch.tanh(self.first(x))), offset)


@few
def test_a_network_is_trained_and_its_head_refitted(family: VectorFamily, tmp_path: Path) -> None:
    """By gradients, then in closed form on the features; a checkpoint holds both."""
    rows = rows_of(family)
    loader, net = TensorBatches(rows, 150, shuffle=True), Net(family)
    lit, refit = LitGLM(net, head="classifier"), IRLSHead()
    trainer = Trainer(max_epochs=1, callbacks=[refit], **QUIET)
    trainer.fit(lit, loader, TensorBatches(rows, 150))
    assert refit.last is not None and bool(refit.last.after <= refit.last.before)
    assert math.isfinite(float(trainer.callback_metrics["val_loss"]))
    features = net.eval() and torch.tanh(net.first(rows.x)).detach()
    torch.testing.assert_close(net.classifier.coef[0], fitted(rows, family, features).flat.coef[0], rtol=0, atol=1e-6)
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    again = LitGLM.load_from_checkpoint(tmp_path / "net.ckpt", model=Net(family), head="classifier", weights_only=True)
    x = rows.x.nan_to_num()
    torch.testing.assert_close(again.model.eval()(x), net(x))


@few
def test_a_checkpoint_of_a_head_says_what_it_is(family: VectorFamily, tmp_path: Path) -> None:
    rows = rows_of(family, 60)
    for head in (head_of(family), fitted(rows, family).head):
        columns = head.in_features
        batch = rows._replace(x=rows.x.nan_to_num()[:, :1].expand(-1, columns).contiguous())
        lit, trainer = LitGLM(head), Trainer(max_epochs=1, **QUIET)
        trainer.fit(lit, TensorBatches(batch, 30))
        trainer.save_checkpoint(tmp_path / "head.ckpt")
        again = tg.load(tmp_path / "head.ckpt")
        torch.testing.assert_close(again.head.coef, head.coef, rtol=0, atol=0)
        torch.testing.assert_close(again.head(batch.x), head(batch.x), rtol=0, atol=0)
        predicted = torch.cat(trainer.predict(again, TensorBatches(batch, 30)))
        assert predicted.shape == ((60, CLASSES) if isinstance(family, Classes) else (60,))


@few
def test_float32_comes_as_near_as_its_digits(family: VectorFamily) -> None:
    rows = rows_of(family, dtype=torch.float32)
    lit = LitIRLS(head_of(family, dtype=torch.float32))
    Trainer(max_epochs=100, **QUIET).fit(lit, TensorBatches(rows, 150))
    want = fitted(rows_of(family), family).flat.coef[0]
    torch.testing.assert_close(lit.coef, want, rtol=1e-3, atol=1e-3)
    assert lit.head.weight.dtype == torch.float32


def test_classes_trained_by_gradients_are_those_of_the_fit() -> None:
    """Long codes with a mask by weight 0, metrics by name, and Adam to the maximum."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator)
    y = (x[:, 0] + torch.randn(400, generator=generator)).mul(1.2).round().clamp(-1, 1).long() + 1
    mask = torch.arange(400) % 7 != 0
    y = torch.where(mask, y, -100)
    rows = GLMBatch(x, y, weights=mask.float())
    head = GLMHead(2, Ordinal(classes=3))
    with pytest.raises(ValueError, match="does not know its classes"):
        LitGLM(GLMHead(2, "ordinal"))
    metrics = {"brier": BrierScore, "acc": tg.metrics.Accuracy}
    lit = LitGLM(head, lambda own: torch.optim.LBFGS(own, line_search_fn="strong_wolfe"), metrics=metrics)
    trainer = Trainer(max_epochs=2, **QUIET)
    trainer.fit(lit, TensorBatches(rows, 400), TensorBatches(rows, 100))
    want = tg.fit(x[mask], y[mask], family="ordinal")
    torch.testing.assert_close(head.coef[0], want.flat.coef[0], rtol=0, atol=0.002)
    p, code = head(x)[mask, 0].detach(), y[mask]
    brier = (p - F.one_hot(code, 3)).square().sum(-1).mean()
    torch.testing.assert_close(trainer.callback_metrics["val_brier"].float(), brier)
    assert float(trainer.callback_metrics["val_acc"]) == pytest.approx(float((p.argmax(-1) == code).float().mean()))


def test_times_and_exposures_of_trained_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    time = (x[:, 0] + 0.5 * torch.randn(300, generator=generator, dtype=torch.float64)).exp()
    event, exposure = (time < 2).double(), 0.5 + torch.rand(300, generator=generator, dtype=torch.float64)
    rows = GLMBatch(x, time.clamp(max=2), event=event)
    lit = LitGLM(GLMHead(2, "weibull", dtype=torch.float64), metrics={"c": Concordance})
    trainer = Trainer(max_epochs=1, callbacks=[IRLSHead()], **QUIET)
    trainer.fit(lit, TensorBatches(rows, 100))
    [found] = trainer.validate(lit, TensorBatches(rows, 100), verbose=False)
    want = tg.fit(x, time.clamp(max=2), event=event, family="weibull", **TIGHT)
    torch.testing.assert_close(lit.head.coef[0], want.coef, rtol=0, atol=1e-8)
    assert found["val_c"] > 0.8 and math.isclose(found["val_loss"], float(-want.loglik / 300), rel_tol=1e-9)
    counts = torch.poisson(exposure * x[:, 0].exp(), generator=generator)
    head = GLMHead(2, tg.ZeroInflated("negative_binomial"), dtype=torch.float64)
    lit = LitIRLS(head, tol=1e-12)
    Trainer(max_epochs=100, **QUIET).fit(lit, TensorBatches(GLMBatch(x, counts, exposure=exposure), 64))
    want = tg.fit(x, counts, exposure=exposure, family=tg.ZeroInflated("negative_binomial"), **TIGHT)
    assert str(lit.status) == str(want.status)
    torch.testing.assert_close(-head.loss(x, counts, exposure=exposure, reduction="sum").detach(), want.loglik)


def test_several_responses_and_sequences_are_refitted() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 5, 2, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (20, 5, 2), generator=generator)
    head = GLMHead(2, Multinomial(classes=3), out_features=2, dtype=torch.float64)
    tg.refit_(head, [(x[:10], y[:10]), (x[10:], y[10:])])
    for r in range(2):
        want = tg.fit(x.reshape(-1, 2), y[..., r].reshape(-1), family="multinomial", **TIGHT)
        torch.testing.assert_close(head.coef[r], want.flat.coef[0], rtol=0, atol=1e-8)


def test_a_penalty_spares_the_constants() -> None:
    rows = rows_of(Ordinal(classes=CLASSES))
    head = head_of(Ordinal(classes=CLASSES))
    lit = LitIRLS(head, tg.Ridge(0.3), tol=1e-12)
    Trainer(max_epochs=100, **QUIET).fit(lit, TensorBatches(rows, 150))
    again = head_of(Ordinal(classes=CLASSES))
    tg.refit_(again, TensorBatches(rows, 150), penalty=tg.Ridge(0.3))
    keep = rows.weights > 0
    want = tg.fit(
        rows.x[keep],
        rows.y[keep],
        weights=rows.weights[keep],
        freq=rows.freq[keep],
        family="ordinal",
        penalty=tg.Ridge(0.3),
        **TIGHT,
    )
    for coef in (lit.coef, again.coef[0]):
        torch.testing.assert_close(coef, want.flat.coef[0], rtol=0, atol=1e-8)


def test_a_head_is_found_by_its_name() -> None:
    net = Net(Multinomial(classes=CLASSES))
    rows = rows_of(Multinomial(classes=CLASSES))
    with pytest.raises(ValueError, match="head='name'"):
        LitGLM(net)
    with pytest.raises(ValueError, match="classifier"):
        LitGLM(net, head="first")
    lit = LitGLM(net, head="classifier")
    assert lit.head is net.classifier
    x = rows.x.nan_to_num()
    net.eval()
    torch.testing.assert_close(lit.features(x), torch.tanh(net.first(x)))
    tg.refit_(net, TensorBatches(rows, 150), head="classifier")
    twice = nn.ModuleDict({"head": net.classifier})
    twice.forward = lambda x: net.classifier(x) + net.classifier(x)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="2 times"):
        LitGLM(twice, head="head").features(torch.zeros(4, 3, dtype=torch.float64))


@pytest.mark.parametrize("family", FEW[:2], ids=title)
def test_minibatch_steps_come_near_the_fit(family: VectorFamily) -> None:
    """By plain SGD at one rate; Newton steps after it end at the fit, and say how far it was."""
    rows = rows_of(family)
    shifted = rows._replace(x=rows.x * torch.tensor([1.0, 30.0]) + torch.tensor([0.0, 2000.0]))
    want = fitted(shifted, family)
    error = want.flat_covariance[0].diagonal().sqrt()
    head = head_of(family)
    done = fit_sgd(head, shifted, batch_size=100, trainer={"max_epochs": 20})
    far = float(((head.coef[0] - want.flat.coef[0]) / error).abs().max())
    assert far < 0.5 and math.isclose(done.distance, far, rel_tol=0.3, abs_tol=0.02)
    loss = head.loss(shifted.x, shifted.y, **shifted.roles.given).detach()
    torch.testing.assert_close(torch.tensor(done.loss, dtype=torch.float64), loss)
    done = fit_sgd(head_of(family), TensorBatches(shifted, 100), trainer={"max_epochs": 1}, polish="irls")
    assert str(done.status) == "CONVERGED" and done.distance < 1e-3
    again = head_of(family)
    fit_sgd(again, shifted, trainer={"max_epochs": 1}, polish="irls")
    torch.testing.assert_close(again.coef[0], want.flat.coef[0], rtol=1e-6, atol=1e-6)
