"""All that is asked of a fit on a CUDA device is answered there as it is on the CPU: inference, reports, metrics."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_cases import DEVICE, moved
from problems import Problem, close, problem
from torch import Tensor

import torchglm
import torchglm.metrics as metrics
from torchglm import Result
from torchglm.report import write_page

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore::torchglm.FitWarning")]
MODELS = ["gaussian identity", "poisson log", "bernoulli logit", "gamma log", "negative binomial log", "tweedie log"]
ROWS = 80


def data(model: str) -> Problem:
    return problem(model, models=2, n=ROWS)


@cache
def pair(model: str, batch: bool = False) -> tuple[Result, Result]:
    """A fit on the CPU and the same on the device."""
    rows = data(model) if batch else data(model).one(0)
    return rows.fit(), moved(rows).fit()


def both(model: str, ask: Any, rtol: float = 1e-7, scale: float = 1e-9, batch: bool = False) -> None:
    """The answers of both fits are equal, and that of the one on the device lies there."""
    want, got = (ask(result) for result in pair(model, batch))
    for value, right in zip(*(v if isinstance(v, tuple) else (v,) for v in (got, want)), strict=True):
        assert value.device.type == DEVICE
        close(value.cpu(), right, rtol, scale)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_predictions_and_their_intervals(model: str, batch: bool) -> None:
    new = data(model).one(0).x[:20]
    both(model, lambda r: r.predict(new, offset=0, se=True), batch=batch)
    for kind in ("mean", "link", "response"):
        both(model, lambda r, kind=kind: r.predict_interval(new, offset=0, kind=kind), 1e-6, 1e-8, batch)
    both(model, lambda r: r.predict(new.to(DEVICE), offset=torch.zeros(20).double()), batch=batch)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_residuals_and_influence(model: str, batch: bool) -> None:
    for kind in ("response", "pearson", "deviance", "working"):
        both(model, lambda r, kind=kind: r.residuals(kind), batch=batch)
    both(model, lambda r: r.residuals("quantile", seed=1), 1e-6, 1e-6, batch)
    both(model, lambda r: r.leverage(), batch=batch)
    both(model, lambda r: r.cooks_distance(), batch=batch)
    both(model, lambda r: r.fitted, batch=batch)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_covariances_and_intervals(model: str, batch: bool) -> None:
    labels = torch.arange(ROWS) % 9
    for kind in ("model", "observed", "HC0", "HC1", "HC2", "HC3"):
        both(model, lambda r, kind=kind: r.covariance(kind), 1e-7, 1e-6, batch)
    for clusters in (labels, labels.to(DEVICE), [f"c{i}" for i in labels.tolist()], (labels, torch.arange(ROWS) % 7)):
        both(model, lambda r, clusters=clusters: r.covariance("cluster", clusters=clusters), 1e-7, 1e-6, batch)
    both(model, lambda r: r.conf_int(), batch=batch)
    both(model, lambda r: r.conf_int(method="profile"), 1e-5, 1e-3, batch)


@pytest.mark.parametrize("model", MODELS)
def test_tests_of_hypotheses(model: str) -> None:
    both(model, lambda r: r.wald("x0 = 0, x1 = x2").p_value, 1e-6, 1e-9)
    both(model, lambda r: r.robust("HC3").wald("x0 = 0").p_value, 1e-6, 1e-9)
    for table in ("anova", "drop1"):
        want, got = (getattr(result, table)().columns for result in pair(model))
        for name, value in got.items():
            close(value.cpu(), want[name], 1e-6, 1e-9)
    rows = data(model).one(0)
    small = rows.change(x=rows.x[:, :1])
    want, got = (
        torchglm.lrt(fit, r).p_value for fit, r in zip((small.fit(), moved(small).fit()), pair(model), strict=True)
    )
    close(got.cpu(), want, 1e-6, 1e-9)


@pytest.mark.parametrize("batch", [False, True])
def test_what_is_said_in_words_is_the_same(batch: bool) -> None:
    want, got = pair("poisson log", batch)
    assert str(got.summary()) == str(want.summary())
    assert repr(got) == repr(want).replace("cpu", DEVICE)


@pytest.mark.parametrize("model", MODELS)
def test_the_page_of_a_fit_is_written(model: str, tmp_path: Path) -> None:
    _, got = pair(model)
    assert write_page(got, tmp_path / "report.html") is not None
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    "name", ["Deviance", "D2", "NLL", "PearsonDispersion", "ObservedExpected", "Gini", "LiftTable"]
)
@pytest.mark.parametrize("family", ["poisson", "gamma", "bernoulli"])
def test_metrics_live_on_the_device(name: str, family: str) -> None:
    g = torch.Generator().manual_seed(2)
    mu = torch.rand(300, generator=g, dtype=torch.float64) * 0.8 + 0.1
    y = (torch.rand(300, generator=g, dtype=torch.float64) < mu).double()
    y = y + 0.5 if family == "gamma" else y

    def value(device: str) -> Any:
        metric = getattr(metrics, name)(family).to(device)
        for rows, response in zip(mu.to(device).split(100), y.to(device).split(100), strict=True):
            metric.update(rows, response)
        return metric.compute()

    want, got = value("cpu"), value(DEVICE)
    found = got.items() if isinstance(got, dict) else [("", got)]
    for key, part in found:
        right = want[key] if key else want
        if isinstance(part, Tensor):
            assert part.device.type == DEVICE
            torch.testing.assert_close(part.cpu(), right, rtol=1e-9, atol=1e-12, equal_nan=True)
