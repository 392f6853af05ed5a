"""Several heads under Lightning, compiled networks, and a learning rate that the Tuner finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader

import torchglm as tg
from torchglm.training import LitGLM, LitHeads


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    return Trainer(accelerator="cpu", default_root_dir=folder, **{"max_epochs": 3} | quiet | options)


def batches() -> list[dict[str, Any]]:
    torch.manual_seed(0)
    x = torch.randn(256, 4)
    count = torch.poisson((0.5 * x[:, 0]).exp())
    cost = torch.where(count > 0, torch.rand(256) + 0.1, torch.nan)  # missing where nothing happened
    rows = [slice(k, k + 64) for k in range(0, 256, 64)]
    return [
        {
            "x": x[part],
            "y": {"count": count[part], "cost": cost[part]},
            "weights": {"cost": (count[part] > 0).float()},
        }
        for part in rows
    ]


def heads(uncertainty: bool) -> tg.nn.Heads:
    return tg.nn.Heads({"count": tg.GLMHead(8, "poisson"), "cost": tg.GLMHead(8, "gamma")}, uncertainty=uncertainty)


@pytest.mark.parametrize("uncertainty", [False, True])
def test_several_heads_are_trained(uncertainty: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    body = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    lit, data = LitHeads(heads(uncertainty), body, lr=0.02), DataLoader(batches(), batch_size=None)
    run = trainer(tmp_path, max_epochs=8)
    run.fit(lit, data, data)
    found = run.callback_metrics
    assert set(found) == {"train_loss", "val_loss", "val_loss_count", "val_loss_cost"}
    with torch.no_grad():
        means = [lit.heads.means(body(b["x"]), b["y"], weights=b["weights"])["cost"] for b in batches()]
    want = sum(mean * weight for mean, weight in means) / sum(weight for _, weight in means)
    torch.testing.assert_close(found["val_loss_cost"].float(), want)
    assert float(found["val_loss"]) < float(
        trainer(tmp_path).validate(fresh(uncertainty), data, verbose=False)[0]["val_loss"]
    )
    [first, *_] = run.predict(lit, data)
    assert first["count"].shape == (64, 1)


def test_a_batch_is_looked_at_once() -> None:
    """Each head is asked once for its loss of a batch, in training, validation and test."""
    lit = fresh(True)
    lit.log = lambda *values, **options: None  # type: ignore[method-assign]
    calls: list[str] = []
    for name in lit.heads:
        whole = lit.heads[name].training_loss

        def counted(*values: Any, name: str = name, whole: Any = whole, **roles: Any) -> Any:
            calls.append(name)
            return whole(*values, **roles)

        lit.heads[name].training_loss = counted  # type: ignore[method-assign]
    for step in (lit.training_step, lit.validation_step, lit.test_step):
        calls.clear()
        step(batches()[0])
        assert sorted(calls) == ["cost", "count"]


def fresh(uncertainty: bool) -> LitHeads:
    torch.manual_seed(1)
    return LitHeads(heads(uncertainty), nn.Sequential(nn.Linear(4, 8), nn.Tanh()))


def test_what_are_no_heads_is_refused() -> None:
    with pytest.raises(TypeError, match="LitGLM takes care"):
        LitHeads(tg.GLMHead(2, "poisson"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a batch of several heads"):
        fresh(False).training_step((torch.zeros(2, 4), torch.zeros(2)))


def test_a_compiled_network_is_trained_as_a_plain_one(tmp_path: Path) -> None:
    data = [(b["x"], b["y"]["count"]) for b in batches()]
    weights = []
    for compiled in (False, True):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), tg.GLMHead(8, "poisson"))
        lit = LitGLM(torch.compile(network, backend="eager") if compiled else network)
        if compiled:
            before, head = lit._split
            lit._split = torch.compile(before._orig_mod, backend="eager"), head  # inductor takes half a minute
        trainer(tmp_path).fit(lit, DataLoader(data, batch_size=None))
        weights.append(lit.head.weight.detach())
    torch.testing.assert_close(*weights)


def test_the_tuner_sets_the_learning_rate(tmp_path: Path) -> None:
    data = DataLoader([(b["x"], b["y"]["count"]) for b in batches()], batch_size=None)
    torch.manual_seed(1)
    lit = LitGLM(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), tg.GLMHead(8, "poisson")), lr=1e-4)
    assert lit.configure_optimizers().param_groups[0]["lr"] == 1e-4
    run = trainer(tmp_path, enable_checkpointing=True, max_epochs=20)
    Tuner(run).lr_find(lit, data, num_training=30, early_stop_threshold=None)
    assert lit.lr != 1e-4 and lit.configure_optimizers().param_groups[0]["lr"] == lit.lr
    given = LitGLM(tg.GLMHead(4, "poisson"), lambda parameters: torch.optim.SGD(parameters, lr=0.5), lr=0.1)
    assert given.configure_optimizers().param_groups[0]["lr"] == 0.1
