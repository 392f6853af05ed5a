"""On a CUDA device a fit says what it says on the CPU, leaves its results there and the settings of torch alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cuda_cases import DEVICE, agree, moved
from problems import MODELS, close, problem, same

import torchglm
from torchglm import ElasticNet, GLMHead, Ridge, Status

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("model", list(MODELS))
def test_one_model_is_that_of_the_cpu(model: str) -> None:
    data = problem(model).one(0)
    agree(moved(data).fit(), data.fit())


@pytest.mark.parametrize("model", list(MODELS))
def test_a_batch_is_that_of_the_cpu(model: str) -> None:
    data = problem(model)
    agree(moved(data).fit(), data.fit())


@pytest.mark.parametrize("model", ["gaussian identity", "poisson log", "bernoulli logit", "gamma inverse"])
def test_a_shared_design_is_that_of_the_cpu(model: str) -> None:
    data = problem(model)
    data = data.change(x=data.x[0])
    agree(moved(data).fit(), data.fit())


@pytest.mark.parametrize("model", ["gaussian identity", "poisson log", "bernoulli logit", "gamma log"])
def test_float32_data_with_a_raw_year_are_right_though_tf32_is_on(model: str) -> None:
    data = problem(model, n=500).one(0)
    year = (1950 + torch.arange(500) % 70).double()[:, None]
    narrow = data.change(x=torch.cat([data.x, year], -1).float())
    want = narrow.change(x=narrow.x.double()).fit()
    result = moved(narrow).fit(tol=1e-8)
    close(result.coef.cpu(), want.coef, 1e-5, want.std_err)
    close(result.std_err.cpu(), want.std_err, 1e-5)


def test_data_of_the_cpu_are_moved_by_device() -> None:
    data = problem("poisson log").one(0)
    for device in ("cuda", "cuda:0", "auto", torch.device("cuda")):
        agree(data.fit(device=device), data.fit())


def test_a_formula_fit_by_groups_runs_on_the_device() -> None:
    import pandas as pd

    data = problem("poisson log").one(0)
    frame = pd.DataFrame({"y": data.y, "a": data.x[:, 0], "g": ["p", "q"] * 20, "t": data.rows["weights"]})
    want, got = (
        torchglm.fit("y ~ a", frame, family="poisson", by="g", exposure="t", tol=1e-12, device=device)
        for device in ("cpu", DEVICE)
    )
    agree(got, want)
    one = torchglm.fit("y ~ a", frame, family="poisson", device=DEVICE)
    close(one.predict(frame).cpu(), torchglm.fit("y ~ a", frame, family="poisson").predict(frame), 1e-9)


@pytest.mark.parametrize("penalty", [Ridge(0.1), ElasticNet(0.01, 0.05)], ids=str)
def test_penalised_fits_are_those_of_the_cpu(penalty: torchglm.Penalty) -> None:
    data = problem("poisson log").one(0)
    close(moved(data).fit(penalty=penalty).coef.cpu(), data.fit(penalty=penalty).coef, 1e-8, 1.0)


@pytest.mark.parametrize("family", [torchglm.NegativeBinomial(), torchglm.Tweedie(None)], ids=str)
def test_estimated_shapes_are_those_of_the_cpu(family: torchglm.Family) -> None:
    data = problem("negative binomial log", n=100).one(0)
    data = data.change(weights=torch.ones(100).double())
    want, got = data.fit(family=family), moved(data).fit(family=family)
    close(got.loglik.cpu(), want.loglik, 1e-8)
    close(got.coef.cpu(), want.coef, 1e-5, want.std_err)


def test_everything_about_rows_stays_on_the_device() -> None:
    data = problem("gamma log").one(0)
    want, got = data.fit(), moved(data).fit()
    for kind in ("response", "pearson", "deviance", "working"):
        value = got.residuals(kind, standardized=True)
        assert value.device.type == DEVICE
        close(value.cpu(), want.residuals(kind, standardized=True), 1e-8, 1e-6)
    for kind in ("model", "observed", "HC0", "HC3"):
        close(got.covariance(kind).cpu(), want.covariance(kind), 1e-8, float(want.std_err.max()) ** 2)
    label = torch.arange(40) % 6
    close(
        got.covariance("cluster", clusters=label).cpu(),
        want.covariance("cluster", clusters=label),
        1e-8,
        float(want.std_err.max()) ** 2,
    )
    for name in ("leverage", "cooks_distance"):
        close(getattr(got, name)().cpu(), getattr(want, name)(), 1e-8, 1e-9)
    mean, error = got.predict(data.x, offset=data.rows["offset"], se=True)
    assert mean.device.type == error.device.type == DEVICE
    close(mean.cpu(), want.fitted, 1e-9)


def test_the_head_lives_where_the_fit_does() -> None:
    data = problem("poisson log").one(0)
    head = moved(data).fit().head
    assert head.weight.device.type == DEVICE
    new = data.x.to(DEVICE)
    close(head(new).detach().cpu()[:, 0], data.fit().predict(data.x, offset=torch.zeros(40)), 1e-9)
    other = GLMHead(3, "poisson", device=DEVICE, dtype=torch.float64)
    result = other.fit(new, data.y.to(DEVICE))
    assert other.weight.device.type == DEVICE
    close(other.weight.detach()[0], result.coef[1:], 1e-12)


def test_separation_and_bad_models_are_named_as_on_the_cpu() -> None:
    data = problem("bernoulli logit")
    x, y = data.x.clone(), data.y.clone()
    x[1, :, 0] = y[1]
    y[2, 0] = torch.nan
    spoiled = data.change(x, y)
    with pytest.warns(torchglm.FitWarning):
        got = moved(spoiled).fit()
    assert got.status == [Status.CONVERGED, Status.SEPARATED, Status.NOT_FINITE, Status.CONVERGED]
    clean = moved(data.change(x[[0, 3]], y[[0, 3]], **{k: v[[0, 3]] for k, v in data.rows.items()})).fit()
    close(got.coef[[0, 3]], clean.coef, 1e-12, 1.0)


def test_an_ill_conditioned_design_takes_the_factored_road() -> None:
    powers = torch.linspace(0, 20, 21).double()[:, None] ** torch.arange(6)
    y = powers.sum(-1)
    result = torchglm.fit(powers.to(DEVICE), y.to(DEVICE), family="gaussian", intercept=False)
    close(result.coef.cpu(), torch.ones(6).double(), 1e-6)


def test_autocast_around_a_fit_does_not_touch_it() -> None:
    data = problem("poisson log").one(0)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        result = moved(data).fit()
    agree(result, data.fit())


def test_a_fit_saved_on_the_device_loads_without_one(tmp_path: Path) -> None:
    data = problem("poisson log").one(0)
    result = moved(data).fit()
    result.save(tmp_path)
    again = torchglm.load(tmp_path)
    assert again.coef.device.type == "cpu"
    close(again.coef, result.coef.cpu(), 0.0)


def test_data_are_left_as_they_were() -> None:
    data = moved(problem("poisson log").one(0))
    before = data.x.clone(), data.y.clone()
    same(data.fit(), data.fit())
    assert torch.equal(data.x, before[0]) and torch.equal(data.y, before[1])
