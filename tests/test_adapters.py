"""The parts of examples/adapters.py in the libraries that they are for, where these are installed."""

from __future__ import annotations

import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import torchglm as tg

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "adapters.py"


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    torch.manual_seed(0)
    return runpy.run_path(str(EXAMPLE))


def fell(said: str) -> bool:
    """Whether the loss that a part printed is lower at its end."""
    first, _, last = said.partition("loss ")[2].partition(",")[0].partition(" -> ")
    return float(last) < float(first)


def test_accelerate(parts: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    accelerate = pytest.importorskip("accelerate")
    parts["accelerated"](200, accelerate.Accelerator(cpu=True))
    said = capsys.readouterr().out
    assert fell(said) and "converged" in said


def test_skorch(parts: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    skorch = pytest.importorskip("skorch")
    parts["by_skorch"](100, skorch.NeuralNet)
    assert fell(capsys.readouterr().out.splitlines()[-1])


def test_trainer_of_hugging_face(parts: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    held = parts["padded"](256)
    rows = [{name: value[k] for name, value in held.items()} for k in range(256)]
    model = parts["CountsOfTokens"](20)
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        num_train_epochs=8,
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.1
    mean = model.loss.law(torch.tensor(trainer.predict(rows).predictions)).mean
    used = held["attention_mask"] > 0
    assert float((mean - held["input_ids"] % 5)[used].abs().mean()) < 0.6


@pytest.mark.parametrize("name", ["simple_feedforward.SimpleFeedForward", "deepar.DeepAR"])
def test_gluonts(name: str, parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gluonts.torch", reason="gluonts with torch")
    common = import_module("gluonts.dataset.common")
    monkeypatch.chdir(tmp_path)
    module, _, kind = name.partition(".")
    estimator = getattr(import_module(f"gluonts.torch.model.{module}.estimator"), f"{kind}Estimator")
    rates = torch.tensor([0.5, 3.0, 40.0])
    series = torch.poisson(rates[:, None].expand(3, 60))
    data = common.ListDataset([{"start": "2020-01-01", "target": row.numpy()} for row in series], freq="D")
    made = estimator(
        prediction_length=7,
        distr_output=parts["GLMOutput"](tg.GLMLoss(tg.NegativeBinomial())),
        batch_size=16,
        num_batches_per_epoch=30,
        trainer_kwargs={"max_epochs": 3, "accelerator": "cpu", "logger": False, "enable_progress_bar": False},
        **({"freq": "D"} if kind == "DeepAR" else {}),
    ).train(data)
    for forecast, rate in zip(made.predict(data), rates.tolist(), strict=True):
        assert rate / 3 - 1 < forecast.quantile(0.5).mean() < 3 * rate + 1
        assert (forecast.quantile(0.9) >= forecast.quantile(0.5)).all()
    learned = {name: float(value) for name, value in made.prediction_net.named_parameters() if "log_alpha" in name}
    begins = float(tg.NegativeBinomial().log_alpha)
    assert learned and all(value != begins for value in learned.values())
