"""Two gloo ranks under Lightning's DDP: the weights and metrics of one process, with odd rows and weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import torchglm

SCRIPT = """
import json, sys, torch
from lightning.pytorch import Trainer
from torchglm.model.face import GLMHead
from torchglm.training import GLMBatch, LitGLM, TensorBatches
from torchglm.metrics import CRPS, D2, Deviance

ranks, folder = int(sys.argv[1]), sys.argv[2]
rng, n = torch.Generator().manual_seed(1), 1001
x = torch.randn(n, 3, generator=rng, dtype=torch.float64)
weight = 0.5 + torch.rand(n, generator=rng, dtype=torch.float64)
y = torch.poisson(torch.exp(x @ x.new_tensor([0.4, -0.3, 0.2])), generator=rng)
rows = GLMBatch(x, y, weights=weight)
head = GLMHead(3, "poisson", dtype=torch.float64)
lit = LitGLM(head, lambda parameters: torch.optim.SGD(parameters, lr=0.1),
             metrics={"deviance": Deviance, "d2": D2, "crps": CRPS})
trainer = Trainer(accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_epochs=5,
                  logger=False, enable_checkpointing=False, enable_progress_bar=False,
                  enable_model_summary=False, default_root_dir=folder)
trainer.fit(lit, TensorBatches(rows, -(-n // ranks), shuffle=True), TensorBatches(rows, 100))
if trainer.global_rank == 0:
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    print("RESULT" + json.dumps([lit.head.weight[0].tolist(), found]))
"""


def train(ranks: int, folder: Path) -> tuple[list[float], dict[str, float]]:
    (folder / "train.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, folder / "train.py", str(ranks), folder],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    weight, found = json.loads(line.removeprefix("RESULT"))
    return weight, found


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path: Path) -> None:
    (weight, found), (other, others) = train(1, tmp_path), train(2, tmp_path)
    assert other == pytest.approx(weight, rel=1e-10)
    for name in ("train_loss", "val_loss", "val_deviance", "val_d2", "val_crps"):
        assert others[name] == pytest.approx(found[name], rel=1e-10), name


def test_processes_of_torchrun_train_one_head(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    a, b, years = draw.normal(3, 2, 900), draw.choice(["u", "v"], 900), draw.uniform(0.3, 2, 900)
    mean = years * np.exp(0.1 * a + 0.4 * (b == "v"))
    pd.DataFrame({"y": draw.poisson(mean), "a": a, "b": b, "years": years}).to_parquet(
        tmp_path / "rows.parquet", row_group_size=170
    )
    (tmp_path / "config.yaml").write_text(
        "data: {path: rows.parquet, formula: y ~ a + C(b), exposure: years}\nfamily: poisson\noutput_dir: run\n"
        "solver: {name: sgd, batch_size: 64, trainer: {max_epochs: 4}, polish: 3}\n"
    )
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        told = {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(made.getsockname()[1]),
        }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "torchglm", "fit", "config.yaml"],
            cwd=tmp_path,
            text=True,
            env=os.environ | told | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        (first, error), (second, other) = [process.communicate(timeout=150) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], error + other
    assert "Report: run/report.html" in first and second == ""
    got = torchglm.load(tmp_path / "run")
    want = torchglm.fit("y ~ a + C(b)", str(tmp_path / "rows.parquet"), family="poisson", exposure="years")
    assert float(((got.coef - want.coef) / want.std_err).abs().max()) < 1e-6
    assert got.std_err.tolist() == pytest.approx(want.std_err.tolist(), rel=1e-6)
