"""What modules of Lightning do with what they are given: shapes, exposures, rows that do not suit, wrong arguments."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from torchglm import metrics
from torchglm.head import GLMHead
from torchglm.lightning import GLMBatch, LitGLM, LitIRLS, TensorBatches

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
                             "enable_model_summary": False, "accelerator": "cpu", "default_root_dir": folder}
    return Trainer(**{**quiet, **options})


def counts(n: int = 120) -> GLMBatch:
    """Poisson counts with weights and an offset, `x` (n, 3)."""
    rng = torch.Generator().manual_seed(7)
    x, offset = torch.randn(n, 3, generator=rng), torch.rand(n, generator=rng)
    return GLMBatch(x, torch.poisson(torch.exp(0.3 * x[:, 0] + offset), generator=rng),
                    0.5 + torch.rand(n, generator=rng), offset)


def hits(n: int = 120) -> GLMBatch:
    """Binomial counts with trials."""
    rng = torch.Generator().manual_seed(8)
    trials = torch.randint(1, 6, (n,), generator=rng).float()
    return GLMBatch(torch.randn(n, 3, generator=rng), (trials / 2).floor(), trials=trials)


def column(value: Tensor) -> Tensor:
    return value.unsqueeze(-1)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(("family", "rows", "named"), [
    ("poisson", counts(), "weight"), ("poisson", counts(), "offset"), ("poisson", counts(), "y"),
    ("binomial", hits(), "trials")])
def test_a_column_of_values_counts_as_the_values(deep: bool, family: str, rows: GLMBatch, named: str,
                                                 tmp_path: Path) -> None:
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
        scores = trainer(tmp_path).validate(LitGLM(model, metrics={"deviance": metrics.Deviance}),
                                            TensorBatches(given, 50), verbose=False)[0]
        found.append((loss.detach(), gradient, scores))
    torch.testing.assert_close(found[1][:2], found[0][:2])
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-6)


def test_a_column_of_weights_counts_as_the_weights_in_irls(tmp_path: Path) -> None:
    coef = []
    for rows in (counts(), counts()._replace(weight=column(counts().weight))):
        lit: LightningModule = LitIRLS(GLMHead(3, "poisson"))
        trainer(tmp_path, max_epochs=20).fit(lit, TensorBatches(rows), TensorBatches(rows))
        coef.append((lit.coef, float(lit.trainer.callback_metrics["val_deviance"])))
    assert torch.equal(coef[0][0], coef[1][0]) and coef[0][1] == coef[1][1]
