"""What a Result says row by row: residuals and influence, and predictions for new rows."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from problems import MODELS, close, problem
from torch import Tensor

import torchglm

ALL = pytest.mark.parametrize("model", list(MODELS))


# rows -----------------------------------------------------------------------------------------------------


@ALL
def test_residuals_keep_their_identities(model: str) -> None:
    data = problem(model).fit(), problem(model)
    result, given = data
    trials, w = given.rows.get("trials", torch.ones_like(given.y)), given.rows["weights"]
    y, mu = given.y / trials, result.fitted
    response, pearson, deviance, working = (
        result.residuals(kind) for kind in ("response", "pearson", "deviance", "working")
    )
    close(response, y - mu, 1e-12, 1e-3)
    close(pearson, response * (w * trials / result.family.variance(mu)).sqrt(), 1e-10, 1e-3)
    close(pearson.square().sum(-1), result.pearson_chi2, 1e-11)
    close(deviance.square().sum(-1), result.deviance, 1e-11)
    assert torch.equal(deviance.sign(), response.sign())
    slope = result.link.inverse_deriv(result.link.link(mu))
    close(working, response / slope, 1e-8, 1e-3)
    h = result.leverage()
    close(h.sum(-1), result.rank, 1e-10)
    assert (h >= 0).all() and (h <= 1 + 1e-12).all()
    scale = (result.dispersion[:, None] * (1 - h)).sqrt()
    for kind, plain in (("pearson", pearson), ("deviance", deviance), ("working", working)):
        close(result.residuals(kind, standardized=True), plain / scale, 1e-10, 1e-6)
    close(result.cooks_distance(), (pearson / (1 - h)) ** 2 * h / (4 * result.dispersion[:, None]), 1e-10, 1e-9)


@ALL
def test_rows_without_weight_have_no_leverage_and_residuals_of_their_size(model: str) -> None:
    data = problem(model).one(0)
    weights = data.rows["weights"].clone()
    weights[7] = 0.0
    result = data.change(weights=weights).fit()
    assert float(result.leverage()[7]) == 0.0 and float(result.residuals("deviance")[7]) == 0.0
    assert float(result.cooks_distance()[7]) == 0.0 and result.residuals("response").shape == (40,)
    y = data.y / data.rows.get("trials", torch.ones_like(data.y))
    mu = result.link(result.coef[0] + data.x @ result.coef[1:] + data.rows.get("offset", torch.zeros_like(y)))
    close(result.residuals("response"), y - mu, 1e-9, 1e-3)


def test_unknown_residuals_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown residuals 'raw'. Known: response, pearson, deviance, working"):
        problem("poisson log").fit().residuals("raw")


# predictions ----------------------------------------------------------------------------------------------


@ALL
def test_predictions_have_the_delta_methods_errors(model: str) -> None:
    data = problem(model).one(3)
    result = data.fit()
    new, offset = problem(model, seed=9).x[0, :6], torch.linspace(-0.1, 0.1, 6).double()
    rows = torch.cat([torch.ones(6, 1), new], -1).double()

    def means(coef: Tensor) -> Tensor:
        return result.link(rows @ coef + offset)

    jacobian = torch.func.jacfwd(means)(result.coef)
    mean, error = result.predict(new, offset=offset, se=True)
    close(mean, means(result.coef), 1e-13)
    close(error, (jacobian @ result.covariance() @ jacobian.T).diagonal().sqrt(), 1e-9)
    eta, wide = result.predict(new, offset=offset, kind="link", se=True)
    close(eta, rows @ result.coef + offset, 1e-13, 1.0)
    close(wide, (rows @ result.covariance() @ rows.T).diagonal().sqrt(), 1e-9)
    assert torch.equal(result.predict(new, offset=offset), mean)


def test_a_fit_with_an_offset_refuses_to_predict_without_one() -> None:
    data = problem("poisson log").one(0)
    with pytest.raises(ValueError, match="fitted with an offset.*none is given.*Pass exposure="):
        data.fit().predict(data.x)
    exposed = torchglm.fit(data.x, data.y, family="poisson", exposure=data.rows["weights"])
    with pytest.raises(ValueError, match="offset"):
        exposed.predict(data.x)
    close(exposed.predict(data.x, offset=data.rows["weights"].log()), exposed.fitted, 1e-13)


def test_a_formula_fit_takes_its_offset_from_the_new_rows() -> None:
    data = problem("poisson log").one(0)
    frame = pd.DataFrame({"y": data.y, "a": data.x[:, 0], "b": data.x[:, 1], "t": data.rows["weights"]})
    result = torchglm.fit("y ~ a + b", frame, family="poisson", exposure="t")
    close(result.predict(frame), result.fitted, 1e-13)
    close(result.predict(frame.assign(t=1.0)), result.fitted / data.rows["weights"], 1e-12)
    with pytest.raises(ValueError, match="No column 't'"):
        result.predict(frame.drop(columns="t"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"x": torch.zeros(3, 2)},
            r"x has shape \(3, 2\); new rows need the fit's 3 columns \(without the intercept\)",
        ),
        ({"x": torch.zeros(3)}, r"x has shape \(3,\)"),
        ({"x": torch.full((3, 3), torch.nan)}, "x holds NaN"),
        ({"x": torch.zeros(3, 3), "offset": torch.zeros(4)}, r"offset has shape \(4,\)"),
        ({"x": torch.zeros(3, 3), "kind": "response"}, "unknown kind 'response' .here it is 'mean'.*Known: mean, link"),
        ({"x": torch.zeros(3, 3), "offset": torch.full((3,), torch.nan)}, "offset holds NaN"),
    ],
    ids=["columns", "one dimension", "NaN", "offset length", "kind", "offset NaN"],
)
def test_new_rows_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    result = problem("poisson log").one(0).fit()
    with pytest.raises(ValueError, match=words):
        result.predict(**{"offset": torch.zeros(3), **options})


def test_an_offset_may_be_one_number_for_all_rows() -> None:
    data = problem("poisson log").one(0)
    result = data.fit()
    close(result.predict(data.x, offset=0.5), result.predict(data.x, offset=torch.full((40,), 0.5)), 1e-15)


def test_aliased_columns_do_not_spoil_predictions() -> None:
    data = problem("poisson log").one(0)
    twice = data.change(x=torch.cat([data.x, data.x[:, :1]], -1))
    with pytest.warns(torchglm.FitWarning):
        result = twice.fit()
    mean, error = result.predict(twice.x, offset=data.rows["offset"], se=True)
    want, size = data.fit().predict(data.x, offset=data.rows["offset"], se=True)
    close(mean, want, 1e-10)
    close(error, size, 1e-9)


def test_the_head_is_the_fit() -> None:
    data = problem("gamma log", models=3)
    result, design_of_all = data.fit(), data.x[0]
    none = torch.zeros(40)
    want = result.predict(design_of_all, offset=none)
    close(result.head(design_of_all).detach().T, want, 1e-13)
    one = data.one(1).fit()
    close(one.head(design_of_all).detach()[:, 0], one.predict(design_of_all, offset=none), 1e-13)
    close(one.head.dispersion.detach(), one.dispersion, 1e-13)
