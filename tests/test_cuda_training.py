"""Heads train on a CUDA device: losses without a wait, under autocast, by a Trainer, refitted, as on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

import torchglm
from torchglm import Family, GLMHead, Status, families
from torchglm.training import GLMBatch, IRLSHead, LitGLM, LitIRLS, TensorBatches, fit_sgd

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore::UserWarning")]
DEVICE = "cuda"
MEMBERS = ["gaussian", "bernoulli", "poisson", "gamma", "inverse_gaussian", "exponential"]
FAMILIES: list[Family] = [*map(families.get, MEMBERS), families.NegativeBinomial(0.5), families.Tweedie(1.5)]


def rows(family: Family, n: int = 600, dtype: torch.dtype = torch.float64) -> GLMBatch:
    """`x` (n, 4), responses of the family, weights and offsets, on the CPU."""
    g = torch.Generator().manual_seed(6)
    x = torch.randn(n, 4, generator=g, dtype=torch.float64)
    head = GLMHead(4, family, dtype=torch.float64)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        mu = head.link(0.2 * x[:, 0] + head.link.link(torch.tensor(family.inner_mean).double()))
        y = family.distribution(mu, torch.tensor(0.3).double()).sample()
    y = y.clamp(min=1e-2) if family.name in ("gamma", "inverse_gaussian", "exponential") else y
    weight = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    return GLMBatch(x.to(dtype), y.to(dtype), weights=weight.to(dtype))


@pytest.fixture
def no_waiting() -> Iterator[Any]:
    """A function within whose call after it any wait for the device is an error."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_a_step_never_waits_for_the_device(family: Family, no_waiting: Any) -> None:
    batch = rows(family, dtype=torch.float32).to(DEVICE)
    head = GLMHead(4, family, device=DEVICE)
    descent = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=0.01)
    head.loss(batch.x, batch.y).backward()
    no_waiting()
    loss = head.loss(batch.x, batch.y, weights=batch.weights)
    loss.backward()
    descent.step()
    torch.cuda.set_sync_debug_mode("default")
    assert bool(loss.isfinite()) and all(bool(p.grad.isfinite().all()) for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_autocast_leaves_the_head_its_float32(family: Family, dtype: torch.dtype) -> None:
    batch = rows(family, dtype=torch.float32).to(DEVICE)
    torch.manual_seed(1)
    body, head = nn.Linear(4, 4, device=DEVICE), GLMHead(4, family, device=DEVICE)
    with torch.autocast(DEVICE, dtype=dtype):
        features = body(batch.x)
        loss = head.loss(features, batch.y)
        mean = head(features)
    assert features.dtype == dtype and loss.dtype == mean.dtype == torch.float32
    loss.backward()
    plain = head.loss(features.detach().float(), batch.y)
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=1e-6)
    assert body.weight.grad is not None and bool(body.weight.grad.isfinite().all())


def test_tf32_does_not_reach_a_head() -> None:
    family = families.get("poisson")
    batch = rows(family, 4000, torch.float32)
    head = GLMHead(4, family)
    head.set_coef_(torch.tensor([0.2, 3.0, -2.0, 1.0, 0.5]))
    want = head.linear_predictor(batch.x.double() * 100.0).detach()
    got = head.to(DEVICE).linear_predictor((batch.x * 100.0).to(DEVICE)).detach().cpu()
    torch.testing.assert_close(got.double(), want.double(), rtol=2e-6, atol=2e-4)


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        accelerator="gpu", devices=1, enable_model_summary=False, default_root_dir=folder, **quiet, **options
    )


@pytest.mark.parametrize("where", ["cpu", DEVICE])
@pytest.mark.parametrize("name", ["poisson", "gamma", "bernoulli"])
def test_newton_by_a_trainer_is_the_fit(name: str, where: str, tmp_path: Path) -> None:
    family = families.get(name)
    batch = rows(family)
    want = torchglm.fit(batch.x, batch.y, family=name, weights=batch.weights, tol=1e-12)
    lit = LitIRLS(GLMHead(4, name, dtype=torch.float64))
    trainer(tmp_path, max_epochs=30).fit(lit, TensorBatches(batch.to(where), 150, shuffle=True))
    assert lit.status == Status.CONVERGED
    torch.testing.assert_close(lit.coef.cpu(), want.coef, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(lit.std_err.cpu(), want.std_err, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_network_trains_and_its_head_is_refitted(precision: Any, tmp_path: Path) -> None:
    batch = rows(families.get("poisson"), dtype=torch.float32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), GLMHead(8, "poisson"))
    lit, refit = LitGLM(model), IRLSHead()
    run = trainer(tmp_path, max_epochs=2, callbacks=[refit], precision=precision)
    run.fit(lit, TensorBatches(batch, 150, shuffle=True), TensorBatches(batch, 300))
    assert refit.last is not None and refit.last.status == [Status.CONVERGED]
    assert float(refit.last.after) <= float(refit.last.before)
    assert "val_deviance" in run.callback_metrics
    predicted = run.predict(lit, TensorBatches(batch, 300))
    assert predicted is not None and len(predicted) == 2


@pytest.mark.parametrize("polish", [None, 2])
def test_a_loop_without_lightning_ends_at_the_fit(polish: int | None) -> None:
    batch = rows(families.get("poisson"))
    want = torchglm.fit(batch.x, batch.y, family="poisson", weights=batch.weights, tol=1e-12)
    head = GLMHead(4, "poisson", dtype=torch.float64, device=DEVICE)
    options: dict[str, Any] = {} if polish is None else {"polish": polish}
    fit_sgd(head, batch, **options)
    rtol = 0.05 if polish is None else 1e-7
    torch.testing.assert_close(head.coef[0].cpu(), want.coef, rtol=rtol, atol=rtol)


def test_a_checkpoint_of_the_device_is_read_on_the_cpu(tmp_path: Path) -> None:
    head = GLMHead(4, families.NegativeBinomial(), out_features=2, device=DEVICE)
    torch.save(head.state_dict(), tmp_path / "head.pt")
    here = GLMHead(4, families.NegativeBinomial(), out_features=2)
    here.load_state_dict(torch.load(tmp_path / "head.pt", map_location="cpu", weights_only=True))
    x: Tensor = torch.randn(5, 4)
    torch.testing.assert_close(here(x), head(x.to(DEVICE)).cpu())


def test_compiled_it_gives_the_same_loss() -> None:
    batch = rows(families.get("poisson"), dtype=torch.float32).to(DEVICE)
    head = GLMHead(4, "poisson", device=DEVICE)
    head.set_coef_(torch.tensor([0.1, 0.2, -0.1, 0.3, 0.0], device=DEVICE))
    compiled = torch.compile(lambda x, y: head.loss(x, y), fullgraph=True)
    torch.testing.assert_close(compiled(batch.x, batch.y), head.loss(batch.x, batch.y), rtol=1e-5, atol=1e-6)
