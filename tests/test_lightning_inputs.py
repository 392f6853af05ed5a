"""What modules of Lightning do with what they are given: shapes, exposures, rows that do not suit, wrong arguments."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from pyarrow import parquet
from torch import Tensor, nn

from torchglm import metrics
from torchglm.head import GLMHead
from torchglm.lightning import ArrowBatches, GLMBatch, GLMDataModule, LitGLM, LitIRLS, TensorBatches, fit_sgd

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


def exposed(**more: Any) -> dict[str, Any]:
    return {"x": counts().x, "y": counts().y + 1, "exposure": counts().offset.exp(), **more}


def training(lit: LightningModule, batches: Any, tmp_path: Path) -> LightningModule:
    trainer(tmp_path, max_epochs=2).fit(lit, batches)
    return lit


class Loader:
    """An iterable of batches, which a Trainer does not take apart as it does lists and dicts."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


EXPOSED = {  # every place where a head and an exposure meet
    "LitGLM of dicts": lambda head, rows, folder: training(LitGLM(head), Loader(rows), folder),
    "LitGLM of tensors": lambda head, rows, folder: training(LitGLM(head), TensorBatches(rows, 50), folder),
    "a step alone": lambda head, rows, folder: LitGLM(head).training_step(rows),
    "validation": lambda head, rows, folder: trainer(folder).validate(LitGLM(head), Loader(rows), verbose=False),
    "prediction": lambda head, rows, folder: trainer(folder).predict(LitGLM(head), Loader(rows)),
    "LitIRLS": lambda head, rows, folder: training(LitIRLS(head), TensorBatches(rows, 50), folder),
    "fit_sgd of tensors": lambda head, rows, folder: fit_sgd(head, rows, trainer={"max_epochs": 1}),
    "fit_sgd of a loader": lambda head, rows, folder: fit_sgd(head, TensorBatches(rows, 50), trainer={"max_epochs": 1}),
    "fit of a loader": lambda head, rows, folder: head.fit(TensorBatches(rows, 50)),
}


@pytest.mark.parametrize("place", EXPOSED)
def test_an_exposure_needs_a_link_on_which_rates_multiply(place: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exposure needs a link on whose scale rates multiply"):
        EXPOSED[place](GLMHead(3, "gaussian"), exposed(), tmp_path)
    EXPOSED[place](GLMHead(3, "poisson"), exposed(), tmp_path)


def test_an_exposure_is_an_offset_of_its_logarithm() -> None:
    lit, rows = LitGLM(GLMHead(3, "poisson")), exposed()
    offset = rows.pop("exposure").log()
    torch.testing.assert_close(lit.training_step(exposed()), lit.training_step({**rows, "offset": offset}))
    with pytest.raises(ValueError, match="not both"):
        lit.training_step(exposed(offset=offset))


def test_files_with_an_exposure_need_such_a_link_too(tmp_path: Path) -> None:
    rows = exposed()
    table = pa.table({"a": rows["x"][:, 0].numpy(), "y": rows["y"].numpy(), "years": rows["exposure"].numpy()})
    parquet.write_table(table, tmp_path / "rows.parquet")
    for batches in (ArrowBatches(tmp_path / "rows.parquet", ["a"], "y", exposure="years"),
                    GLMDataModule(tmp_path / "rows.parquet", ["a"], "y", exposure="years")):
        with pytest.raises(ValueError, match="exposure needs a link"):
            training(LitGLM(GLMHead(1, "gaussian")), batches, tmp_path)
        training(LitGLM(GLMHead(1, "poisson")), batches, tmp_path)
    parquet.write_table(table.set_column(2, "years", pa.array([0.0] + [1.0] * 119)), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="'years' has a value that is not positive in row 0"):
        list(ArrowBatches(tmp_path / "none.parquet", ["a"], "y", exposure="years"))
