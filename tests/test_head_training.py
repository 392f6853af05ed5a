"""What a head hands out after training by any road: its dispersion, intervals that cover, checkpoints that go on."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import torchglm
from torchglm import families
from torchglm.inputs import GLMBatch
from torchglm.model.face import GLMHead
from torchglm.training import IRLSHead, LitGLM, LitIRLS, TensorBatches, fit_sgd

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
SPREADS = [("gaussian", 0.04), ("gaussian", 9.0), ("gaussian", 900.0), ("gamma", 0.3), ("inverse_gaussian", 0.2)]
SPREADS += [("tweedie", 1.7)]


def family_of(name: str) -> Any:
    return families.Tweedie(1.5) if name == "tweedie" else families.get(name)


def problem(name: str, phi: float, n: int = 1500) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    x = torch.randn(n, 3)
    eta = 0.4 + x @ torch.tensor([0.3, -0.2, 0.1])
    mu = eta if name == "gaussian" else eta.exp()
    return x, family_of(name).distribution(mu, phi).sample().clamp(min=0 if name == "tweedie" else -1e9)


def by_loop(head: GLMHead, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = head.loss(x, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    if head.dispersion_kind == "estimated":
        head.estimate_dispersion_(x, y)


def adam(rate: float) -> Any:
    return lambda parameters: torch.optim.Adam(parameters, rate)


ROADS: dict[str, Any] = {
    "fit": lambda head, x, y: head.fit(x, y),
    "partial_fit": lambda head, x, y: [
        head.partial_fit(*part) for part in zip(x.split(500), y.split(500), strict=True)
    ],
    "loop": by_loop,
    "LitGLM": lambda head, x, y: Trainer(max_epochs=30, **QUIET).fit(
        LitGLM(head, optimizer=adam(0.01)), TensorBatches(GLMBatch(x, y), 100)
    ),
    "IRLSHead": lambda head, x, y: Trainer(max_epochs=1, callbacks=[IRLSHead()], **QUIET).fit(
        LitGLM(nn.Sequential(nn.Identity(), head)), TensorBatches(GLMBatch(x, y), 500)
    ),
    "LitIRLS": lambda head, x, y: Trainer(max_epochs=20, **QUIET).fit(
        LitIRLS(head), TensorBatches(GLMBatch(x, y), 500)
    ),
    "fit_sgd": lambda head, x, y: fit_sgd(head, GLMBatch(x, y), batch_size=100, polish=2),
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(("name", "phi"), SPREADS, ids=str)
def test_intervals_cover_after_training_by_any_road(name: str, phi: float, road: str) -> None:
    x, y = problem(name, phi)
    head = GLMHead(3, family_of(name))
    with pytest.raises(ValueError, match="the dispersion of this .* head is not known yet"):
        head.distribution(x)
    assert bool(head.dispersion.isnan())
    ROADS[road](head, x, y)
    want = torchglm.fit(x, y, family=family_of(name), link=head.link).dispersion
    assert float(head.dispersion.detach()) == pytest.approx(float(want), rel=0.05 if road == "partial_fit" else 0.02)
    with torch.no_grad():
        law = head.distribution(x)
        drawn = law.sample((400,))
    low, high = drawn.quantile(0.05, 0), drawn.quantile(0.95, 0)
    covered = ((y.unsqueeze(-1) >= low) & (y.unsqueeze(-1) <= high)).float().mean()
    assert 0.87 < float(covered) < 0.94 + 0.03 * (name == "tweedie")


@pytest.mark.parametrize(("name", "phi"), [spread for spread in SPREADS if spread[0] != "tweedie"], ids=str)
def test_a_learned_dispersion_is_that_of_the_likelihood(name: str, phi: float) -> None:
    x, y = problem(name, phi)
    head = GLMHead(3, name, dispersion="learned", dtype=torch.float64)
    head.init_from(y.double())
    by_loop(head, x.double(), y.double())
    best = torchglm.fit(x.double(), y.double(), family=name, link=head.link, dispersion="ml")
    assert float(head.dispersion.detach()) == pytest.approx(float(best.dispersion), rel=2e-3)
    assert float(head.loss(x.double(), y.double()).detach()) == pytest.approx(-float(best.loglik) / len(y), rel=1e-6)


def test_what_a_dispersion_may_be() -> None:
    assert float(GLMHead(2, "gamma", dispersion=2.5).dispersion) == pytest.approx(2.5)
    assert float(GLMHead(2, "poisson").dispersion) == 1
    for wrong in ("pearson", 0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="dispersion must be"):
            GLMHead(2, "gamma", dispersion=wrong)
    with pytest.raises(ValueError, match="poisson has no dispersion, it is 1; got dispersion=2"):
        GLMHead(2, "poisson", dispersion=2)
    with pytest.raises(ValueError, match="there are 3 rows of positive weight for"):
        GLMHead(3, "gaussian").estimate_dispersion_(torch.randn(3, 3), torch.randn(3))
    several = GLMHead(2, "gaussian", out_features=2)
    x = torch.randn(300, 2)
    several.estimate_dispersion_(x, torch.stack([torch.randn(300), 5 * torch.randn(300)], -1))
    assert several.dispersion.shape == (2,) and float(several.dispersion[1]) > 15


@pytest.mark.parametrize("kind", ["learned", "estimated", 2.5, None], ids=str)
@pytest.mark.parametrize("name", ["gaussian", "gamma", "tweedie", "negative_binomial", "poisson"])
def test_a_checkpoint_has_the_loss_it_was_saved_with_and_goes_on(name: str, kind: Any, tmp_path: Path) -> None:
    if isinstance(kind, float) and not families.get(name).has_dispersion:
        pytest.skip("it has no dispersion")
    torch.manual_seed(3)
    x = torch.randn(300, 2)
    y = torch.poisson((0.5 + x[:, 0] / 3).exp()) + 0.5 * (name in ("gaussian", "gamma"))
    batches = TensorBatches(GLMBatch(x, y), 50)
    lit = LitGLM(GLMHead(2, name, dispersion=kind))
    trainer = Trainer(max_epochs=2, **QUIET)
    trainer.fit(lit, batches, batches)
    during = trainer.callback_metrics["val_loss"]
    trainer.save_checkpoint(tmp_path / "head.ckpt")
    loaded = torchglm.load(tmp_path / "head.ckpt")
    for frozen in (False, True):
        loaded.requires_grad_(not frozen)
        [after] = Trainer(**QUIET).validate(loaded, batches, verbose=False)
        assert after["val_loss"] == pytest.approx(float(during), rel=1e-6)
    again = LitGLM(GLMHead(2, name, dispersion=kind))
    Trainer(max_epochs=3, **QUIET).fit(again, batches, ckpt_path=tmp_path / "head.ckpt")
    assert {k: v.shape for k, v in again.head.state_dict().items()} == {
        k: v.shape for k, v in lit.head.state_dict().items()
    }


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "tweedie", "gamma"])
@pytest.mark.parametrize("responses", [1, 3])
def test_shapes_have_their_size_from_the_start(name: str, responses: int) -> None:
    family = families.get(name)
    heads = [GLMHead(2, family, out_features=responses) for _ in range(2)]
    shape = (responses,) if responses > 1 else ()
    for head in heads:
        assert all(value.shape == shape for value in (head.log_dispersion, *head.family.shapes.values()))
        assert all(value.dtype == torch.float32 for value in head.state_dict().values())
    x, y = torch.randn(80, 2), torch.poisson(torch.full((responses, 80), 3.0)) + 0.5 * (name == "gamma")
    if name != "tweedie":
        heads[0].fit(x, y if responses > 1 else y[0])
    heads[1].load_state_dict(heads[0].state_dict(), strict=True)
    low = copy.deepcopy(heads[1]).to(torch.bfloat16)
    assert low.weight.dtype == torch.bfloat16 and low.log_dispersion.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in low.family.shapes.values())
    assert heads[0].family is not family  # two heads learn apart
    with torch.no_grad():
        for value in heads[0].family.shapes.values():
            value.fill_(-3.0)
    assert all(bool((value != -3.0).all()) for value in (*family.shapes.values(), *heads[1].family.shapes.values()))


@pytest.mark.parametrize("eta", [-100.0, -30.0, 0.0, 30.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["bernoulli", "binomial"])
def test_the_law_of_a_head_is_exact_in_both_tails(name: str, dtype: torch.dtype, eta: float) -> None:
    head = GLMHead(1, name, bias=False, dtype=dtype)
    with torch.no_grad():
        head.weight.fill_(1.0)
    law = head.distribution(torch.full((1, 1), eta, dtype=dtype))
    exact = torch.tensor(eta, dtype=torch.float64)
    for y, want in ((1.0, nn.functional.logsigmoid(exact)), (0.0, nn.functional.logsigmoid(-exact))):
        found = law.log_prob(torch.full((1, 1), y, dtype=dtype))
        assert float(found.detach()) == pytest.approx(
            float(want), rel=1e-6, abs=1e-14 if dtype == torch.float64 else 1e-6
        )


@pytest.mark.parametrize("make", [parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_head_learns_under_weight_norm(make: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 3)
    y = torch.poisson((0.5 + x @ torch.tensor([0.3, -0.2, 0.1])).exp())
    head = make(GLMHead(3, "poisson"))
    assert bool((head(x) == 1).all())
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(400):
        optimizer.zero_grad()
        head.loss(x, y).backward()
        optimizer.step()
    torch.testing.assert_close(
        head.weight[0].detach(), torchglm.fit(x, y, family="poisson").coef[1:].float(), atol=2e-3, rtol=0.01
    )


@pytest.mark.parametrize("name", ["gaussian", "gamma", "poisson", "bernoulli", "negative_binomial"])
@pytest.mark.parametrize("responses", [1, 2])
def test_a_head_begins_at_the_null_model_of_its_responses(name: str, responses: int) -> None:
    torch.manual_seed(1)
    y = torch.rand(60, responses, dtype=torch.float64)
    y = y.round() if name == "bernoulli" else torch.poisson(5 * y) + 0.5 * (name in ("gamma", "gaussian"))
    weights, offset = torch.rand(60, dtype=torch.float64), 0.1 * torch.randn(60, dtype=torch.float64)
    head = GLMHead(2, name, out_features=responses, dtype=torch.float64)
    head.init_from(y, weights=weights, offset=offset)
    head.loss(torch.zeros(60, 2, dtype=torch.float64), y, weights=weights, offset=offset).backward()
    assert float(head.bias.grad.abs().max()) < 1e-7 and not head.weight.any()
    with pytest.raises(ValueError, match="init_from sets the bias"):
        GLMHead(2, name, bias=False).init_from(y[:, 0])
    never = GLMHead(2, "poisson")
    never.init_from(torch.zeros(9))
    assert bool(torch.isfinite(never.bias).all())


@pytest.mark.parametrize("link", ["identity", "cloglog"])
def test_an_exported_head_loads_again(link: str, tmp_path: Path) -> None:
    head, x = GLMHead(3, "bernoulli", link), torch.randn(6, 3)
    torch.export.save(torch.export.export(head, (x,)), tmp_path / "head.pt2")
    assert torch.equal(torch.export.load(tmp_path / "head.pt2").module()(x), head(x))


def test_sequences_of_features_count_as_rows() -> None:
    torch.manual_seed(2)
    x = torch.randn(20, 15, 3)
    y = torch.poisson((0.5 + x[..., 0] / 3).exp())
    weights = torch.rand(20, 15)
    last = []
    for rows in (GLMBatch(x, y, weights=weights), GLMBatch(x.reshape(-1, 3), y.flatten(), weights=weights.flatten())):
        refit, head = IRLSHead(), GLMHead(3, "poisson")
        lit = LitGLM(nn.Sequential(nn.Identity(), head), metrics={})
        Trainer(max_epochs=1, callbacks=[refit], **QUIET).fit(lit, TensorBatches(rows, 20 if rows.y.dim() > 1 else 300))
        last.append(head.coef)
    torch.testing.assert_close(last[0], last[1], rtol=1e-5, atol=1e-6)


class Swap(Callback):
    """Puts other tensors in the place of the weights before each batch, as averaging callbacks do."""

    def on_train_batch_start(self, trainer: Any, module: Any, *rest: Any) -> None:
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()


@pytest.mark.parametrize("optimizer", [lambda p: torch.optim.SGD(p, 0.1), adam(0.05)], ids=["sgd", "adam"])
def test_training_follows_callbacks_that_swap_the_weights(optimizer: Any) -> None:
    x = torch.randn(200, 3)
    batches = TensorBatches(GLMBatch(x, torch.poisson((x[:, 0] / 2).exp())), 50)
    found = []
    for callbacks in ([], [Swap()]):
        head = GLMHead(3, "poisson")
        Trainer(max_epochs=2, callbacks=callbacks, **QUIET).fit(LitGLM(head, optimizer=optimizer), batches)
        found.append(head.coef)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert bool((found[0] != 0).all())


def test_an_average_of_heads_has_their_loss_while_the_dispersion_is_unknown() -> None:
    head, x = GLMHead(2, "gamma"), torch.randn(9, 2)
    average = torch.optim.swa_utils.AveragedModel(head, use_buffers=True)
    for _ in range(3):
        average.update_parameters(head)
    assert torch.equal(average.module.loss(x, torch.ones(9)), head.loss(x, torch.ones(9)))
    with pytest.raises(ValueError, match="not known yet"):
        average.module.distribution(x)


def test_what_dropped_rows_hold_does_not_reach_the_network() -> None:
    x, y = torch.randn(60, 3), torch.ones(60)
    weights = (torch.arange(60) % 2).float()
    x[weights == 0] = math.nan
    lit = LitGLM(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), GLMHead(4, "poisson")))
    lit.training_step(GLMBatch(x, y, weights=weights)).backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in lit.parameters())


def test_time_zero_with_an_event_has_a_loss_and_a_slope() -> None:
    head, x = GLMHead(2, "exponential"), torch.randn(4, 2)
    loss = head.loss(x, torch.zeros(4), event=torch.tensor([1.0, 1.0, 0.0, 1.0]))
    loss.backward()
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(head.weight.grad).all())


@pytest.mark.parametrize("link", [None, "inverse", "identity", "sqrt", "inverse_squared"])
@pytest.mark.parametrize("name", ["gamma", "inverse_gaussian", "poisson", "exponential"])
@pytest.mark.parametrize("rate", [0.1, 3.0])
def test_reckless_steps_do_not_end_in_nan(name: str, link: str | None, rate: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    y = torch.poisson((0.5 + x[:, 0] / 2).exp()) + 0.5
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), GLMHead(8, name, link))
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(60):
        optimizer.zero_grad()
        loss = net[-1].loss(net[:-1](x), y)
        loss.backward()
        optimizer.step()
        assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters())
