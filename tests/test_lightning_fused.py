"""Quick training is plain training: the closed form is autograd's gradient, a group of steps is those steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR
from torch.utils.data import DataLoader

from torchglm import families
from torchglm.families import NegativeBinomial
from torchglm.model.face import GLMHead
from torchglm.training import GLMBatch, LitGLM, TensorBatches, fused_steps, lit_glm
from torchglm.training.closed_form import ClosedForm, stepper
from torchglm.training.fused_steps import STEPS, FusedSteps
from torchglm.training.whitening import Whitening

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")

LINKS = {
    "gaussian": ["identity", "log"],
    "poisson": ["log", "sqrt", "identity"],
    "gamma": ["inverse", "log"],
    "inverse_gaussian": ["inverse_squared", "log"],
    "bernoulli": ["logit", "probit", "cloglog", "cauchit"],
    "binomial": ["logit", "probit"],
    "exponential": ["log"],
    "negative_binomial": ["log"],
    "tweedie": ["log"],
}
SHAPES = {"negative_binomial": {"alpha": 0.5}, "tweedie": {"power": 1.5}}


def rows(n: int = 1000, dtype: torch.dtype = torch.float64) -> GLMBatch:
    """Counts with weights, some of them 0, and an offset; `x` (n, 4) positive."""
    rng = torch.Generator().manual_seed(1)
    x = 0.2 + torch.rand(n, 4, generator=rng, dtype=dtype)
    offset = 0.2 * torch.rand(n, generator=rng, dtype=dtype)
    y = torch.poisson(torch.exp(0.4 * x.sum(1) + offset - 0.6), generator=rng)
    weight = 0.5 + torch.rand(n, generator=rng, dtype=dtype)
    weight[::7] = 0.0
    return GLMBatch(x, y, weights=weight, offset=offset)


def responses(name: str, given: GLMBatch) -> GLMBatch:
    """The same rows with a response of the family; what has no weight is out of its support."""
    assert given.y is not None and given.weights is not None
    y = given.y
    if name in ("bernoulli", "binomial"):
        y = (y > 1).to(y)
    if name in ("gamma", "exponential", "inverse_gaussian"):
        y = y + 0.5
    given = given._replace(y=torch.where(given.weights > 0, y, torch.nan))
    if name == "binomial":
        return given._replace(y=torch.where(given.weights > 0, 2 * y, 0.0), trials=2 + 0 * y)
    return given._replace(event=(given.x[:, 0] > 0.5).to(y)) if name == "exponential" else given


def test_every_family_is_tested() -> None:
    assert {families.get(name, **SHAPES.get(name, {})).name for name in families.names()} == set(LINKS)


@pytest.mark.parametrize(("name", "link"), [(name, link) for name, links in LINKS.items() for link in links])
def test_the_closed_form_is_the_gradient_and_the_loss(name: str, link: str) -> None:
    head = GLMHead(4, families.get(name, **SHAPES.get(name, {})), link, dtype=torch.float64)
    with torch.no_grad():
        head.weight.uniform_(0.1, 0.3, generator=torch.Generator().manual_seed(0))
        head.bias.fill_(0.2 if link != "log" else -0.1)
    for batch in (responses(name, rows()), responses(name, rows())._replace(weights=None, offset=None)):
        kept = torch.isfinite(batch.y)
        batch = GLMBatch(*(None if v is None else v[kept] if batch.weights is None else v for v in batch))
        lit = LitGLM(head, scale=3.0)
        closed = ClosedForm.of(head, 3.0)
        assert closed is not None and closed.takes(batch)
        found = closed(batch)
        total, weight = lit._loss(batch, batch.x)
        expected = torch.autograd.grad(total / weight / 3.0, [head.weight, head.bias])
        for one, other in zip(found.gradient, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(torch.as_tensor(found.weight, dtype=torch.float64), weight)
        torch.testing.assert_close(found.total, total.detach(), rtol=1e-10, atol=1e-10)
        loss = lit.training_step(batch)
        torch.testing.assert_close(loss.detach(), (total / weight / 3.0).detach())
        torch.testing.assert_close(torch.autograd.grad(2 * loss, [head.weight])[0], 2 * expected[0])


def test_the_closed_form_of_several_responses_and_of_no_bias() -> None:
    batch = rows()
    y = torch.stack([batch.y, batch.y + 1, 2 * batch.y], 1)
    for bias in (True, False):
        head = GLMHead(4, "poisson", out_features=3, bias=bias, dtype=torch.float64)
        closed = ClosedForm.of(head)
        assert closed is not None
        many = batch._replace(y=y)
        total, weight = LitGLM(head)._loss(many, many.x)
        found, expected = closed(many), torch.autograd.grad(total / weight, list(closed.parts))
        for one, other in zip(found.gradient, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_autograd_is_kept_where_more_is_trained_or_a_hook_looks() -> None:
    head = GLMHead(4, "poisson")
    assert ClosedForm.of(head) is not None
    assert ClosedForm.of(GLMHead(4, NegativeBinomial())) is None
    assert ClosedForm.of(nn.Sequential(nn.Linear(4, 4), head)) is None
    assert ClosedForm.of(GLMHead(4, "poisson").half()) is None
    assert ClosedForm.of(GLMHead(4, "gamma")) is not None
    assert ClosedForm.of(GLMHead(4, "gamma", dispersion="learned")) is None
    assert ClosedForm.of(GLMHead(4, "gamma", dispersion=2.0)) is None
    hook = head.register_forward_hook(lambda *_: None)
    assert ClosedForm.of(head) is None
    hook.remove()
    head.weight.requires_grad_(False)
    assert ClosedForm.of(head) is None

    class Mine(GLMHead):
        """A head with a loss of its own, for all the library knows."""

    assert ClosedForm.of(Mine(4, "poisson")) is None


@pytest.mark.parametrize("shift", [0.0, 3.0, 1e5])
def test_the_closed_form_on_whitened_columns(shift: float) -> None:
    batch = rows(dtype=torch.float32)
    batch = batch._replace(x=batch.x + shift, weights=None)
    head = GLMHead(4, "poisson")
    inner = Whitening.learn(head, [batch]).whitened(head)
    assert inner.far == (shift > 1e3)
    nn.init.normal_(inner.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    closed = ClosedForm.of(inner)
    assert closed is not None
    total, weight = LitGLM(inner)._loss(batch, inner.backbone(batch.x))
    [expected] = torch.autograd.grad(total / weight, [inner.head.weight])
    torch.testing.assert_close(closed(batch).gradient[0], expected, rtol=1e-4, atol=1e-5)


def test_plain_sgd_is_a_step_of_torch() -> None:
    for options in ({}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"maximize": True}):
        parts = [nn.Parameter(torch.ones(3)) for _ in "ab"]
        one, other = (SGD([part], lr=0.1, **options) for part in parts)
        move = stepper(one)
        for i in range(3):
            for part in parts:
                part.grad = torch.full((3,), 0.3 + i)
            one.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.1 / (1 + i)
            move()
            other.step()
        assert torch.equal(*parts)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), GLMHead(8, "poisson"))


def quiet(folder: Path, **options: Any) -> Trainer:
    given: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "default_root_dir": folder,
    }
    return Trainer(**{**given, **options})


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps made ahead, one entry for each group."""
    made: list[int] = []
    plain = FusedSteps._count

    def counting(self: FusedSteps, steps: int, last: bool) -> None:
        made.append(steps)
        plain(self, steps, last)

    monkeypatch.setattr(FusedSteps, "_count", counting)
    monkeypatch.setattr(fused_steps, "SECONDS", 1e9)  # however slow this machine is
    return made


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Switches groups off and on."""
    with monkeypatch.context() as patch:
        allowed = lit_glm.may_fuse
        yield lambda off: patch.setattr(lit_glm, "may_fuse", (lambda *_, **__: False) if off else allowed)


Make = Callable[[], LitGLM]
WAYS: dict[str, Make] = {
    "sgd": lambda: LitGLM(GLMHead(4, "poisson"), lambda p: SGD(p, 0.1)),
    "momentum": lambda: LitGLM(GLMHead(4, "poisson"), lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=1e-3)),
    "adam": lambda: LitGLM(GLMHead(4, "poisson"), lambda p: Adam(p, 0.05)),
    "schedule by step": lambda: LitGLM(
        GLMHead(4, "poisson"), lambda p: SGD(p, 0.1), lambda o: CosineAnnealingLR(o, 120), scheduler_interval="step"
    ),
    "schedule by epoch": lambda: LitGLM(GLMHead(4, "poisson"), lambda p: Adam(p, 0.05), lambda o: StepLR(o, 1, 0.3)),
    "penalty": lambda: LitGLM(
        GLMHead(4, "poisson"), lambda p: SGD(p, 0.1), penalty=lambda m: 0.1 * m.weight.square().sum(), scale=2.0
    ),
    "shape": lambda: LitGLM(GLMHead(4, NegativeBinomial()), lambda p: Adam(p, 0.05)),
    "network": lambda: LitGLM(network(), lambda p: Adam(p, 0.01)),
}


def trained(make: Make, folder: Path, batches: Any, **options: Any) -> tuple[LitGLM, Trainer]:
    torch.manual_seed(0)
    lit, run = make(), quiet(folder, **{"max_epochs": 3, **options})
    run.fit(lit, batches, TensorBatches(rows(200, torch.float32), 64))
    return lit, run


@pytest.mark.parametrize("way", WAYS)
def test_groups_of_steps_are_the_steps_one_by_one(
    way: str, tmp_path: Path, groups: list[int], one_by_one: Callable[[bool], None]
) -> None:
    found = []
    for off in (True, False):
        one_by_one(off)
        batches = TensorBatches(rows(dtype=torch.float32), 25, shuffle=True)
        lit, run = trained(WAYS[way], tmp_path, batches)
        loop = run.fit_loop.epoch_loop
        found.append(
            (
                lit,
                run,
                {name: float(value) for name, value in run.callback_metrics.items()},
                loop.state_dict(),
                run.optimizers[0].state_dict(),
            )
        )
        assert run.global_step == 120 and bool(groups) is not off
    (plain, _, logged, counts, state), (quick, _, relogged, recounts, restate) = found
    assert max(groups) == 38  # of 40 batches the last stands alone
    for one, other in zip(plain.parameters(), quick.parameters(), strict=True):
        assert torch.equal(one, other)
    assert counts == recounts and logged.keys() == relogged.keys()
    assert relogged["train_loss"] == pytest.approx(logged["train_loss"], rel=1e-6)
    assert relogged["val_loss"] == logged["val_loss"]
    assert state["param_groups"] == restate["param_groups"]


SETTINGS: dict[str, dict[str, Any]] = {
    "log every 10": {"log_every_n_steps": 10, "logger": True},
    "validate every 7": {"val_check_interval": 7},
    "validate over epochs": {"val_check_interval": 33, "check_val_every_n_epoch": None},
    "stop at 53": {"max_steps": 53},
    "half of the batches": {"limit_train_batches": 0.5},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_looks_at_some_steps_sees_them(
    setting: str, tmp_path: Path, groups: list[int], one_by_one: Callable[[bool], None]
) -> None:
    class Seen(Callback):
        """The steps and losses at each validation."""

        def __init__(self) -> None:
            self.at: list[tuple[int, float]] = []

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.at.append((trainer.global_step, float(trainer.callback_metrics["val_loss"])))

    found = []
    for off in (True, False):
        one_by_one(off)
        seen, folder = Seen(), tmp_path / str(off)
        saves = ModelCheckpoint(folder, every_n_train_steps=13, save_top_k=-1, filename="{step}")
        options = dict(SETTINGS[setting])
        options["logger"] = CSVLogger(folder, "", "") if options.get("logger") else False
        batches = TensorBatches(rows(dtype=torch.float32), 25, shuffle="blocks")
        lit, run = trained(WAYS["sgd"], folder, batches, callbacks=[seen, saves], enable_checkpointing=True, **options)
        files = sorted(file.name for file in folder.glob("*.ckpt"))
        log = (folder / "metrics.csv").read_text() if options["logger"] else ""
        found.append(
            (
                lit.head.weight.tolist(),
                seen.at,
                files,
                run.global_step,
                log.count("\n"),
                [line.split(",")[:2] for line in log.splitlines()],
            )
        )
    assert found[0] == found[1]
    assert groups and max(groups) < STEPS


class EachBatch(Callback):
    """One that wants to see every batch."""

    def __init__(self) -> None:
        self.seen = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen += 1


class Own(LitGLM):
    """A module with an optimizer step of its own."""

    def optimizer_step(self, *given: Any, **named: Any) -> None:
        super().optimizer_step(*given, **named)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 4},
        {"gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.1, "precision": "bf16-mixed"},
        {"callbacks": EachBatch},
        {"callbacks": lambda: LearningRateMonitor("step"), "logger": True},
        {"detect_anomaly": True},
        {"profiler": "simple"},
        {"fast_dev_run": True},
        {"module": Own},
    ],
    ids="-".join,
)
def test_the_plain_road_is_taken_where_it_must_be(options: dict[str, Any], tmp_path: Path, groups: list[int]) -> None:
    options = dict(options)
    kind = options.pop("module", LitGLM)
    if "callbacks" in options:
        options["callbacks"] = [options["callbacks"]()]
    if options.get("logger"):
        options["logger"] = CSVLogger(tmp_path)
    lit, run = trained(
        lambda: kind(GLMHead(4, "poisson"), lambda p: SGD(p, 0.1)),
        tmp_path,
        TensorBatches(rows(dtype=torch.float32), 100),
        **options,
    )
    assert not groups and torch.isfinite(lit.head.weight).all()
    for callback in options.get("callbacks", []):
        assert not isinstance(callback, EachBatch) or callback.seen == 30


def test_bf16_mixed_leaves_a_head_as_it_is_and_a_network_to_the_plain_road(tmp_path: Path, groups: list[int]) -> None:
    batches = TensorBatches(rows(dtype=torch.float32), 25)
    narrow, _ = trained(WAYS["sgd"], tmp_path, batches, precision="bf16-mixed")
    assert groups
    wide, _ = trained(WAYS["sgd"], tmp_path, batches)
    assert torch.equal(narrow.head.weight, wide.head.weight)
    groups.clear()
    trained(WAYS["network"], tmp_path, batches, precision="bf16-mixed")
    assert not groups


def test_accumulation_and_clipping_are_what_they_say(tmp_path: Path) -> None:
    data = rows(dtype=torch.float64)._replace(weights=None)

    def make() -> LitGLM:
        return LitGLM(GLMHead(4, "poisson", dtype=torch.float64), lambda p: SGD(p, 0.1))

    def fit(size: int, **options: Any) -> Tensor:
        torch.manual_seed(0)
        lit = make()
        quiet(tmp_path, max_epochs=1, **options).fit(lit, TensorBatches(data, size))
        return torch.cat([lit.head.weight[0], lit.head.bias]).detach()

    torch.testing.assert_close(fit(25, accumulate_grad_batches=4), fit(100))
    head = make().head
    start = torch.cat([head.weight[0], head.bias]).detach()
    moved = fit(1000, gradient_clip_val=0.05) - start
    assert float(moved.norm()) == pytest.approx(0.1 * 0.05, rel=1e-4)


def test_a_loader_that_ends_early_or_has_no_length(tmp_path: Path, groups: list[int]) -> None:
    data = rows(dtype=torch.float32)

    class Stream:
        """Batches, as many as there are."""

        def __iter__(self) -> Iterator[GLMBatch]:
            yield from TensorBatches(data, 25)

    class Short(Stream):
        """Fewer than it says."""

        def __len__(self) -> int:
            return 50

    expected = trained(WAYS["sgd"], tmp_path, TensorBatches(data, 25))[0].head.weight
    for loader in (Stream(), Short()):
        lit, run = trained(WAYS["sgd"], tmp_path, loader)
        assert torch.equal(lit.head.weight, expected) and run.global_step == 120


def test_dicts_are_batches_too(tmp_path: Path, groups: list[int]) -> None:
    data = rows(dtype=torch.float32)
    named = [
        {name: value for name, value in batch._asdict().items() if value is not None}
        for batch in TensorBatches(data, 25)
    ]
    found, _ = trained(WAYS["sgd"], tmp_path, DataLoader(named, batch_size=None))
    expected, _ = trained(WAYS["sgd"], tmp_path, TensorBatches(data, 25))
    assert groups and torch.equal(found.head.weight, expected.head.weight)
