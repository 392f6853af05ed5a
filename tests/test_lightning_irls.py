"""IRLS under a Trainer ends where `torchglm.fit` does; a head refitted on its features is at its optimum there."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import torchglm
from torchglm import ElasticNet, Ridge, families, links
from torchglm.fitting.status import Status
from torchglm.model.face import GLMHead
from torchglm.training import GLMBatch, IRLSHead, LitGLM, LitIRLS, TensorBatches

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")
PAIRS = [
    ("poisson", "log"),
    ("bernoulli", "logit"),
    ("gamma", "log"),
    ("bernoulli", "probit"),
    ("gamma", "inverse"),
    ("inverse_gaussian", "log"),
    ("gaussian", "identity"),
    ("poisson", "identity"),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def problem(family: str, link: str, n: int = 700) -> GLMBatch:
    """`x` (n, 3) that keeps every mean in range, `y`, weights and (on a line without edge) offsets."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=rng, dtype=torch.float64)
    x = x.abs() if link in ("inverse", "identity") else x
    member = families.get(family)
    offset = torch.rand(n, generator=rng, dtype=torch.float64) * (link == "log")
    mu = links.get(link)(x @ x.new_tensor([0.2, 0.1, 0.3]) + 1.0 - 0.7 * (family == "bernoulli") + offset)
    torch.manual_seed(1)
    y = member.distribution(mu, 0.5 if member.has_dispersion else 1.0).sample()
    return GLMBatch(x, y, weights=0.5 + torch.rand(n, generator=rng, dtype=torch.float64), offset=offset)


def trainer(folder: Path, **options: Any) -> Trainer:
    plain: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "default_root_dir": folder,
    }
    return Trainer(**{**plain, **options})


def exact(rows: GLMBatch, family: str, link: str | None = None, **options: Any) -> Any:
    return torchglm.fit(
        rows.x, rows.y, family=family, link=link, weights=rows.weights, offset=rows.offset, tol=1e-13, **options
    )


@pytest.mark.parametrize(("family", "link"), PAIRS)
def test_epochs_of_newton_steps_end_where_a_fit_does(family: str, link: str, tmp_path: Path) -> None:
    rows = problem(family, link)
    full, lit = exact(rows, family, link), LitIRLS(GLMHead(3, family, link, dtype=torch.float64), tol=1e-13)
    run = trainer(tmp_path, max_epochs=40)
    run.fit(lit, TensorBatches(rows, 150, shuffle=True), TensorBatches(rows, 300))
    assert lit.status == Status.CONVERGED and run.current_epoch <= 12 and run.global_step == run.current_epoch
    torch.testing.assert_close(lit.coef, full.coef, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(lit.std_err, full.std_err, rtol=1e-7, atol=0.0)
    assert float(lit.dispersion) == pytest.approx(float(full.dispersion), rel=1e-7)
    torch.testing.assert_close(torch.cat([lit.head.bias, lit.head.weight[0]]).detach(), lit.coef, rtol=0.0, atol=0.0)
    mean = float(full.deviance / rows.weights.sum())
    assert float(run.callback_metrics["train_deviance"]) == pytest.approx(mean, rel=1e-8)
    assert float(run.callback_metrics["val_deviance"]) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("penalty", [Ridge(0.1), ElasticNet(0.05, 0.01)])
def test_a_penalised_fit_is_the_same(penalty: ElasticNet, tmp_path: Path) -> None:
    rows = problem("poisson", "log")
    lit = LitIRLS(GLMHead(3, "poisson", dtype=torch.float64), penalty)
    trainer(tmp_path, max_epochs=40).fit(lit, TensorBatches(rows, 150))
    torch.testing.assert_close(lit.coef, exact(rows, "poisson", penalty=penalty).coef, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("added", ["dependent", "nearly"])
def test_columns_that_depend_on_others_are_found(added: str, tmp_path: Path) -> None:
    rows = problem("poisson", "log")
    noise = torch.randn(700, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    column = rows.x[:, :1] + (1e-5 * noise if added == "nearly" else rows.x[:, 1])[:, None]
    rows = rows._replace(x=torch.cat([rows.x, column], 1))
    lit = LitIRLS(GLMHead(4, "poisson", dtype=torch.float64))
    trainer(tmp_path, max_epochs=40).fit(lit, TensorBatches(rows, 150))
    with pytest.warns(torchglm.FitWarning) if added == "dependent" else pytest.MonkeyPatch.context():
        full = exact(rows, "poisson")
    assert lit.status == Status.CONVERGED
    torch.testing.assert_close(lit.coef, full.coef.nan_to_num(), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(lit.std_err, full.std_err, rtol=1e-6, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("bias", [30.0, -30.0])
def test_from_a_far_or_an_invalid_start_steps_are_halved_until_the_deviance_falls(bias: float, tmp_path: Path) -> None:
    rows = problem("gamma", "inverse")
    head = GLMHead(3, "gamma", "inverse", dtype=torch.float64)
    torch.nn.init.constant_(head.bias, bias)  # full Newton steps leave the range of the mean, or the start does
    lit, seen = LitIRLS(head, warm=True), []
    run = trainer(tmp_path, max_epochs=60)
    lit.on_train_epoch_end = lambda: seen.append(  # type: ignore[method-assign]
        float(lit.search.here()[0].objective) if lit.search.reached else torch.inf
    )
    run.fit(lit, TensorBatches(rows, 150))
    assert lit.status == Status.CONVERGED
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in zip(seen, seen[1:], strict=False))
    torch.testing.assert_close(lit.coef, exact(rows, "gamma", "inverse").coef, rtol=1e-8, atol=1e-9)


def test_separation_is_said_and_a_trainer_that_ends_early_too(tmp_path: Path) -> None:
    rows = problem("bernoulli", "logit")
    lit = LitIRLS(GLMHead(3, "bernoulli", dtype=torch.float64))
    trainer(tmp_path, max_epochs=60).fit(lit, TensorBatches(rows._replace(y=(rows.x[:, 0] > 0).double()), 150))
    assert lit.status == Status.SEPARATED
    trainer(tmp_path, max_epochs=2).fit(lit, TensorBatches(rows, 150))
    assert lit.status == Status.ITERATION_LIMIT


def test_a_checkpoint_goes_on_from_its_coefficients(tmp_path: Path) -> None:
    rows = problem("gamma", "log")
    saver = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1)
    run = trainer(tmp_path, max_epochs=4, enable_checkpointing=True, callbacks=[saver])
    first = LitIRLS(GLMHead(3, "gamma", "log"))
    run.fit(first, TensorBatches(rows, 150))
    assert len(list(tmp_path.glob("*.ckpt"))) == 4 and first.status == Status.ITERATION_LIMIT
    second = LitIRLS(GLMHead(3, "gamma", "log"))
    rest = trainer(tmp_path, max_epochs=20)
    rest.fit(second, TensorBatches(rows, 150), ckpt_path=saver.best_model_path)
    assert second.status == Status.CONVERGED and rest.current_epoch <= 8
    torch.testing.assert_close(second.coef, exact(rows, "gamma", "log").coef, rtol=1e-8, atol=1e-9)


def test_what_it_cannot_fit_is_refused(tmp_path: Path) -> None:
    rows = problem("poisson", "log")
    with pytest.raises(ValueError, match="one response"):
        LitIRLS(GLMHead(3, "poisson", out_features=2))
    with pytest.raises(ValueError, match="Give its value"):
        LitIRLS(GLMHead(3, families.get("negative_binomial").requires_grad_(True)))
    with pytest.raises(ValueError, match="No coefficients yet"):
        _ = LitIRLS(GLMHead(3, "poisson")).coef
    for bad, match in [
        (rows._replace(y=rows.y - 9), "batch 0: .*poisson"),
        (rows._replace(y=None), "y is missing"),
        (rows._replace(weights=0 * rows.weights), "positive weight"),
        (rows._replace(event=rows.y), "event"),
    ]:
        with pytest.raises(ValueError, match=match):
            trainer(tmp_path, max_epochs=2).fit(LitIRLS(GLMHead(3, "poisson")), TensorBatches(bad, 700))


def network(responses: int = 1, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, GLMHead(8, "poisson", out_features=responses, **options)).to(dtype)


def loss_of(lit: LitGLM, rows: GLMBatch) -> float:
    lit.eval()
    with torch.no_grad():
        return float(lit.head.loss(lit.features(rows.x), rows.y, weights=rows.weights, offset=rows.offset))


def test_a_refitted_head_is_the_exact_fit_on_its_features(tmp_path: Path) -> None:
    rows, losses = problem("poisson", "log"), []
    for refit in ([], [IRLSHead()]):
        lit = LitGLM(network())
        trainer(tmp_path, max_epochs=2, callbacks=refit).fit(lit, TensorBatches(rows, 150, shuffle=True))
        losses.append(loss_of(lit, rows))
    [last] = refit
    with torch.no_grad():
        features = lit.features(rows.x)
    full = torchglm.fit(features, rows.y, family="poisson", weights=rows.weights, offset=rows.offset, tol=1e-13)
    torch.testing.assert_close(lit.head.weight[0].detach(), full.coef[1:], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(lit.head.bias.detach(), full.coef[:1], rtol=1e-7, atol=1e-8)
    assert losses[1] < losses[0] and last.last.status == [Status.CONVERGED]
    assert float(last.last.before - last.last.after) == pytest.approx(losses[0] - losses[1], rel=1e-6)


def test_a_refit_is_made_every_k_epochs_and_not_twice(tmp_path: Path) -> None:
    rows, made = problem("poisson", "log"), []

    class Counted(IRLSHead):
        def _refit(self, run: Trainer, module: Any) -> None:
            modes = [m.training for m in module.modules()]
            super()._refit(run, module)
            assert [m.training for m in module.modules()] == modes
            assert all(p not in o.state for o in run.optimizers for p in module.head.parameters())
            made.append(run.current_epoch)

    lit = LitGLM(network())
    trainer(tmp_path, max_epochs=4, callbacks=[Counted(every=2)]).fit(lit, TensorBatches(rows, 150, shuffle=True))
    assert made == [1, 3]
    trainer(tmp_path, max_epochs=3, callbacks=[Counted(every=2)]).fit(lit, TensorBatches(rows, 150, shuffle=True))
    assert made == [1, 3, 1, 3]  # the last when training has ended


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_refit_never_raises_the_loss(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = GLMBatch(*(value if value is None else value.to(dtype) for value in problem("poisson", "log")))
    callback = IRLSHead()
    lit = LitGLM(network(dtype=dtype), lambda some: torch.optim.SGD(some, lr=0.0))
    for _ in range(3):  # from the optimum there is nothing to gain, and nothing may be lost
        found = loss_of(lit, rows)
        lit.model[1].momentum = 0.0
        trainer(tmp_path, max_epochs=1, callbacks=[callback]).fit(lit, TensorBatches(rows, 150, shuffle=True))
        assert loss_of(lit, rows) <= found + 4 * torch.finfo(dtype).eps
        assert bool((callback.last.after <= callback.last.before).all())
    assert float(callback.last.before - callback.last.after) < 1e-9


def test_many_responses_and_dead_features_are_refitted_at_once(tmp_path: Path) -> None:
    rows = problem("poisson", "log")
    both = rows._replace(y=torch.stack([rows.y, rows.y.flip(0)], 1))
    model, callback = network(2), IRLSHead()
    with torch.no_grad():
        model[1].weight[3] = 0.0  # one feature is constant
    trainer(tmp_path, max_epochs=1, callbacks=[callback]).fit(
        LitGLM(model, lambda some: torch.optim.SGD(some, lr=0.0)), TensorBatches(both, 150)
    )
    model.eval()
    with torch.no_grad():
        features = model[:-1](rows.x)
    for j, y in enumerate((rows.y, rows.y.flip(0))):
        with pytest.warns(torchglm.FitWarning):
            full = torchglm.fit(features, y, family="poisson", weights=rows.weights, offset=rows.offset)
        torch.testing.assert_close(model[-1].weight[j].detach(), full.coef[1:].nan_to_num(), rtol=1e-6, atol=1e-7)
    assert callback.last.status == [Status.CONVERGED] * 2 and bool((callback.last.after < callback.last.before).all())


def test_a_ridge_is_part_of_the_refit(tmp_path: Path) -> None:
    rows, model = problem("poisson", "log"), network()
    trainer(tmp_path, max_epochs=1, callbacks=[IRLSHead(penalty=Ridge(0.5))]).fit(
        LitGLM(model), TensorBatches(rows, 150)
    )
    model.eval()
    with torch.no_grad():
        full = exact(rows._replace(x=model[:-1](rows.x)), "poisson", penalty=Ridge(0.5))
    torch.testing.assert_close(model[-1].weight[0].detach(), full.coef[1:], rtol=1e-7, atol=1e-8)


def test_a_refit_takes_the_rows_of_its_own_loader(tmp_path: Path) -> None:
    rows, model = problem("poisson", "log"), network(bias=False)
    part = GLMBatch(*(value if value is None else value[:400] for value in rows))
    callback = IRLSHead(loader=TensorBatches(rows, 300))
    trainer(tmp_path, max_epochs=1, callbacks=[callback]).fit(LitGLM(model), TensorBatches(part, 150, drop_last=True))
    model.eval()
    with torch.no_grad():
        full = exact(rows._replace(x=model[:-1](rows.x)), "poisson", intercept=False)
    torch.testing.assert_close(model[-1].weight[0].detach(), full.coef, rtol=1e-7, atol=1e-8)


def test_what_cannot_be_refitted_is_refused(tmp_path: Path) -> None:
    rows = problem("poisson", "log")
    with pytest.raises(ValueError, match="every"):
        IRLSHead(every=0)
    with pytest.raises(ValueError, match="LitGLM"):
        trainer(tmp_path, max_epochs=1, callbacks=[IRLSHead()]).fit(LitIRLS(GLMHead(3, "poisson")), TensorBatches(rows))
    with pytest.raises(ValueError, match="drop_last"):
        trainer(tmp_path, max_epochs=1, callbacks=[IRLSHead()]).fit(
            LitGLM(network()), TensorBatches(rows, 150, drop_last=True)
        )


RANKS = """
import sys, torch
from lightning.pytorch import Trainer
from torchglm import GLMHead
from torchglm.training import GLMBatch, LitIRLS, TensorBatches
rng = torch.Generator().manual_seed(1)
x = torch.randn(1001, 3, generator=rng, dtype=torch.float64)
y = torch.poisson(torch.exp(x @ x.new_tensor([0.4, -0.3, 0.2])), generator=rng)
ranks, lit = int(sys.argv[1]), LitIRLS(GLMHead(3, "poisson", dtype=torch.float64))
run = Trainer(accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_epochs=20, logger=False,
              enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
run.fit(lit, TensorBatches(GLMBatch(x, y), 130, shuffle=True))
if run.global_rank == 0:
    print("RESULT", str(lit.status), *lit.coef.tolist(), *lit.std_err.tolist())
"""


@pytest.mark.slow
def test_two_ranks_end_where_one_does(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    found = []
    for ranks in ("1", "2"):
        done = subprocess.run(
            [sys.executable, tmp_path / "ranks.py", ranks],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        [line] = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
        assert line.split()[1] == "CONVERGED"
        found.append(torch.tensor([float(word) for word in line.split()[2:]], dtype=torch.float64))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
