"""Two gloo ranks under Lightning's DDP: the weights and metrics of one process, with odd rows and weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys, torch
from lightning.pytorch import Trainer
from torchglm.head import GLMHead
from torchglm.lightning import GLMBatch, LitGLM, TensorBatches
from torchglm.metrics import CRPS, D2, Deviance

ranks, folder = int(sys.argv[1]), sys.argv[2]
rng, n = torch.Generator().manual_seed(1), 1001
x = torch.randn(n, 3, generator=rng, dtype=torch.float64)
weight = 0.5 + torch.rand(n, generator=rng, dtype=torch.float64)
y = torch.poisson(torch.exp(x @ x.new_tensor([0.4, -0.3, 0.2])), generator=rng)
rows = GLMBatch(x, y, weight)
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
    done = subprocess.run([sys.executable, folder / "train.py", str(ranks), folder], capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    weight, found = json.loads(line.removeprefix("RESULT"))
    return weight, found


def test_two_ranks_are_one(tmp_path: Path) -> None:
    (weight, found), (other, others) = train(1, tmp_path), train(2, tmp_path)
    assert other == pytest.approx(weight, rel=1e-10)
    for name in ("train_loss", "val_loss", "val_deviance", "val_d2", "val_crps"):
        assert others[name] == pytest.approx(found[name], rel=1e-10), name
