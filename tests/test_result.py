"""What a Result says: shapes, and each quantity against the formula that defines it, written out here."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest
import torch
from problems import MODELS, TRIALS, Problem, close, problem
from scipy import stats
from torch import Tensor

import torchglm
from torchglm import Result, Status

ALL = pytest.mark.parametrize("model", list(MODELS))


def reshaped(data: Problem, *batch: int) -> Problem:
    def shape(value: Tensor) -> Tensor:
        return value.reshape(*batch, *value.shape[1:])

    return data.change(shape(data.x), shape(data.y), **{k: shape(v) for k, v in data.rows.items()})


def design(data: Problem) -> Tensor:
    return torch.cat([torch.ones_like(data.x[..., :1]), data.x], -1)


# shapes ---------------------------------------------------------------------------------------------------

BY_MODEL = (
    "dispersion",
    "deviance",
    "null_deviance",
    "pearson_chi2",
    "loglik",
    "aic",
    "bic",
    "df_resid",
    "df_null",
    "nobs",
    "rank",
    "converged",
    "n_iter",
)


@pytest.mark.parametrize("batch", [(), (6,), (2, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("shared", [False, True], ids=["own designs", "shared design"])
def test_batch_dimensions_lead_everywhere(batch: tuple[int, ...], shared: bool) -> None:
    data = problem("gamma log", models=max(1, math.prod(batch)))
    data = reshaped(data, *batch)
    if shared:
        data = data.change(x=data.x.reshape(-1, 40, 3)[0])
    result = data.fit()
    assert result.batch_shape == torch.Size(batch)
    for name in BY_MODEL:
        assert getattr(result, name).shape == batch, name
    for name in ("coef", "std_err", "statistic", "p_value"):
        assert getattr(result, name).shape == (*batch, 4), name
    assert result.conf_int().shape == (*batch, 4, 2)
    for kind in ("model", "observed", "HC0", "HC3"):
        assert result.covariance(kind).shape == (*batch, 4, 4)
    for kind in ("response", "pearson", "deviance", "working"):
        assert result.residuals(kind).shape == (*batch, 40)
        assert result.residuals(kind, standardized=True).shape == (*batch, 40)
    for rows in (result.leverage(), result.cooks_distance(), result.fitted):
        assert rows.shape == (*batch, 40)
    mean, error = result.predict(torch.zeros(7, 3), offset=torch.zeros(7), se=True)
    assert mean.shape == (*batch, 7) and error.shape == (*batch, 7)
    assert result.head.weight.shape == (max(1, math.prod(batch)), 3)


def test_indexing_gives_the_model_with_its_rows() -> None:
    data = problem("poisson log", models=6)
    flat, grid = data.fit(), reshaped(data, 2, 3).fit()
    assert len(flat) == 6 and len(grid) == 2
    one, same = flat[4], grid[1][1]
    for result in (one, same):
        assert result.batch_shape == () and result.status == Status.CONVERGED
        assert torch.equal(result.coef, flat.coef[4]) and torch.equal(result.loglik, flat.loglik[4])
        assert torch.equal(result.residuals(), flat.residuals()[4])
        assert torch.equal(result.covariance("HC3"), flat.covariance("HC3")[4])
    assert grid[1].batch_shape == (3,) and torch.equal(grid[1].deviance, flat.deviance[3:])
    assert torch.equal(flat[-1].coef, flat.coef[5])
    with pytest.raises(IndexError):
        flat[6]


def test_one_model_has_no_length_and_no_members() -> None:
    result = problem("poisson log").one(0).fit()
    with pytest.raises(TypeError, match="one model"):
        len(result)
    with pytest.raises(TypeError, match="one model"):
        result[0]


def test_a_batch_with_an_estimated_shape_is_indexed_with_it() -> None:
    data = problem("negative binomial log", n=100)
    result = data.fit(family=torchglm.NegativeBinomial())
    assert result[2].family.alpha.shape == () and float(result[2].family.alpha) == float(result.family.alpha[2])
    close(result[2].aic, result.aic[2], 1e-14)


# tests and intervals --------------------------------------------------------------------------------------


@ALL
def test_statistics_and_p_values_are_coefficient_over_error(model: str) -> None:
    result = problem(model).fit()
    close(result.std_err, result.covariance().diagonal(dim1=-2, dim2=-1).sqrt(), 1e-14)
    close(result.statistic, result.coef / result.std_err, 1e-14)
    t = torch.as_tensor(2 * stats.t.sf(result.statistic.abs(), result.df_resid[:, None]))
    z = torch.as_tensor(2 * stats.norm.sf(result.statistic.abs()))
    assert result.statistic_name == ("t" if result.family.has_dispersion else "z")
    close(result.p_value, t if result.statistic_name == "t" else z, 1e-9)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999999])
@pytest.mark.parametrize("model", ["poisson log", "gamma log"])
def test_wald_limits_are_coefficient_and_quantile(model: str, level: float) -> None:
    result = problem(model).fit()
    tail = 0.5 + level / 2
    t = torch.as_tensor(stats.t.ppf(tail, result.df_resid[:, None].numpy()))
    size = stats.norm.ppf(tail) if model == "poisson log" else t
    low, high = result.conf_int(level).unbind(-1)
    close(high - result.coef, size * result.std_err, 1e-8)
    close(result.coef - low, size * result.std_err, 1e-8)


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, math.nan])
def test_a_level_outside_zero_to_one_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level must lie between 0 and 1.*0.95 is 95 %"):
        problem("poisson log").fit().conf_int(level)


@pytest.mark.parametrize("alpha", [0.1, 0.05, 0.001])
def test_an_alpha_in_the_place_of_a_level_is_refused(alpha: float) -> None:
    fit = problem("poisson log").fit()
    for ask in (fit.conf_int, lambda level: fit.conf_int(level, method="profile")):
        with pytest.raises(ValueError, match=f"covers, got {alpha:g}; with alpha = {alpha:g} it is {1 - alpha:g}"):
            ask(alpha)


def test_p_values_do_not_underflow_at_thirty_standard_errors() -> None:
    x = torch.arange(120, dtype=torch.float64).remainder(2)[:, None]
    y = torch.where(x[:, 0] > 0, 40.0, 10.0).double()
    z = torchglm.fit(x, y, family="poisson")
    assert 30 < float(z.statistic[1]) < 31
    close(z.p_value[1], torch.tensor(2 * stats.norm.sf(float(z.statistic[1])), dtype=torch.float64), 1e-6)
    assert 0 < float(z.p_value[1]) < 1e-190
    t = torchglm.fit(x, y + 5 * (torch.arange(120) % 3), family="gaussian")
    assert 30 < float(t.statistic[1]) < 60 and 0 < float(t.p_value[1]) < 1e-40
    close(t.p_value[1], torch.tensor(2 * stats.t.sf(float(t.statistic[1]), 118), dtype=torch.float64), 1e-6)


# covariances ----------------------------------------------------------------------------------------------


def pieces(data: Problem, result: Result) -> tuple[Tensor, Tensor, Tensor]:
    """The design, the expected weights and the score of each row at phi = 1, by the textbook."""
    trials = data.rows.get("trials", torch.ones_like(data.y))
    y, w = data.y / trials, data.rows["weights"] * trials
    mu = result.fitted
    slope = torch.func.vmap(torch.func.grad(result.link.inverse))(result.link.link(mu))
    variance = result.family.variance(mu)
    return design(data), w * slope**2 / variance, w * (y - mu) * slope / variance


@ALL
def test_covariances_are_their_textbook_formulas(model: str) -> None:
    data = problem(model).one(1)
    result = data.fit()
    x, weight, score = pieces(data, result)
    bread = torch.linalg.inv(x.T @ (x * weight[:, None]))
    size = result.std_err.outer(result.std_err)
    close(result.covariance(), result.dispersion * bread, 1e-9, size)
    h = weight * (x @ bread * x).sum(-1)
    close(result.leverage(), h, 1e-9)
    for kind, factor in (
        ("HC0", torch.ones_like(h)),
        ("HC1", torch.full_like(h, 40 / 36)),
        ("HC2", 1 / (1 - h)),
        ("HC3", 1 / (1 - h) ** 2),
    ):
        meat = x.T @ (x * (score**2 * factor)[:, None])
        close(result.covariance(kind), bread @ meat @ bread, 1e-8, size)
    label = torch.arange(40) % 7
    sums = torch.stack([(x * score[:, None])[label == g].sum(0) for g in range(7)])
    want = 7 / 6 * (39 / 36 if model == "gaussian identity" else 1) * bread @ sums.T @ sums @ bread
    close(result.covariance("cluster", clusters=label), want, 1e-8, size)


def test_clusters_of_one_row_are_hc1_but_for_the_factor() -> None:
    result = problem("poisson log").one(0).fit()
    one_each = result.covariance("cluster", clusters=torch.arange(40), type="HC1")
    close(one_each, result.covariance("HC1"), 1e-10, float(result.std_err.max()) ** 2)  # 40/39 39/36 = 40/36


def test_clusters_may_be_text_and_a_series() -> None:
    data = problem("poisson log").one(0)
    result = data.fit()
    label = torch.arange(40) % 5
    text = [f"clinic {int(i)}" for i in label]
    want = result.covariance("cluster", clusters=label)
    for clusters in (label.tolist(), pd.Series(label.numpy()), text, pd.Series(text)):
        close(result.covariance("cluster", clusters=clusters), want, 1e-14)


@pytest.mark.parametrize(
    ("kind", "clusters", "words"),
    [
        ("HC9", None, "unknown covariance 'HC9' .did you mean 'HC3'... Known: model"),
        ("cluster", None, "clusters"),
        ("cluster", torch.zeros(40), "at least two"),
        ("cluster", torch.arange(39), "39 labels"),
        ("cluster", torch.arange(41), "41 labels"),
    ],
    ids=str,
)
def test_a_covariance_that_cannot_be_is_refused(kind: str, clusters: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        problem("poisson log").one(0).fit().covariance(kind, clusters=clusters)


# likelihood -----------------------------------------------------------------------------------------------


@ALL
def test_the_null_deviance_is_that_of_the_intercept_alone(model: str) -> None:
    data = problem(model)
    result = data.fit()
    for i in range(4):
        empty = data.one(i).change(x=torch.zeros(40, 0)).fit()
        close(result.null_deviance[i], empty.deviance, 1e-9)
        close(result.df_null[i], empty.df_resid)


@pytest.mark.parametrize("model", ["gaussian identity", "poisson log", "bernoulli logit", "binomial cloglog"])
def test_without_an_intercept_the_null_model_is_the_offset(model: str) -> None:
    data = problem(model).one(0)
    result, empty = data.fit(intercept=False), data.change(x=torch.zeros(40, 0)).fit(intercept=False)
    close(result.null_deviance, empty.deviance, 1e-12)
    assert float(result.df_null) == 40 == float(empty.df_resid) and empty.coef.shape == (0,)


def test_a_batch_may_have_no_columns() -> None:
    data = problem("poisson log")
    result = data.change(x=data.x[..., :0]).fit()
    close(result.deviance, data.fit().null_deviance, 1e-10)


DENSITIES = {
    "gaussian": lambda y, mu, phi: stats.norm.logpdf(y, mu, phi.sqrt()),
    "gamma": lambda y, mu, phi: stats.gamma.logpdf(y, 1 / phi, scale=mu * phi),
    "inverse_gaussian": lambda y, mu, phi: stats.invgauss.logpdf(y, mu * phi, scale=1 / phi),
    "poisson": lambda y, mu, phi: stats.poisson.logpmf(y, mu),
    "exponential": lambda y, mu, phi: stats.expon.logpdf(y, scale=mu),
    "bernoulli": lambda y, mu, phi: stats.bernoulli.logpmf(y, mu),
    "binomial": lambda y, mu, phi: stats.binom.logpmf(y, TRIALS, mu),
    "negative_binomial": lambda y, mu, phi: stats.nbinom.logpmf(y, 1 / 0.7, 1 / (1 + 0.7 * mu)),
}


@pytest.mark.parametrize("model", [m for m in MODELS if "tweedie" not in m])
def test_the_loglik_is_the_sum_of_the_log_densities_of_scipy(model: str) -> None:
    data = problem(model).one(0)
    if not data.family.has_dispersion:
        data = data.change(weights=torch.ones(40).double())
    result = data.fit(dispersion="ml" if data.family.has_dispersion else None)
    phi = result.dispersion / data.rows["weights"]
    logs = torch.as_tensor(DENSITIES[data.family.name](data.y, result.fitted, phi))
    close(result.loglik, logs.sum(), 1e-8)
    k = 4 + int(data.family.has_dispersion)
    close(result.aic, -2 * logs.sum() + 2 * k, 1e-8)
    close(result.bic, -2 * logs.sum() + k * math.log(40), 1e-8)


@ALL
def test_the_loglik_is_the_sum_of_log_prob(model: str) -> None:
    data = problem(model).one(2)
    result = data.fit(dispersion="ml" if data.family.has_dispersion else None)
    trials = data.rows.get("trials", torch.ones(40).double())
    logs = data.family.log_prob(data.y / trials, result.fitted, result.dispersion, data.rows["weights"] * trials)
    close(result.loglik, logs.sum(), 1e-10)


# for people -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (2, 2)], ids=str)
def test_a_description_is_json(batch: tuple[int, ...]) -> None:
    result = reshaped(problem("gamma log", models=max(1, math.prod(batch))), *batch).fit()
    facts = json.loads(json.dumps(result.describe(), allow_nan=False))
    assert facts["link"] == "log" and "Gamma" in facts["family"]
    assert torch.tensor(facts["deviance"], dtype=torch.float64).equal(result.deviance)
    assert torch.tensor(facts["nobs"]).eq(40).all()


def test_a_description_of_a_quasi_fit_has_null_for_what_is_not_there() -> None:
    facts = problem("poisson log").one(0).fit(dispersion="pearson").describe()
    assert facts["loglik"] is None and facts["aic"] is None
    json.dumps(facts, allow_nan=False)


def test_a_result_names_itself() -> None:
    data = problem("negative binomial log")
    assert repr(data.one(0).fit()) == "Result(NegativeBinomial(alpha=0.7), link=log, 4 coefficients)"
    assert repr(data.fit()).endswith("4 coefficients, 4 models)")


def test_a_result_on_its_rows_again_says_the_same() -> None:
    data = problem("binomial probit").one(0)
    result = data.fit()
    again = result.with_rows(data.x, data.y, **data.rows)
    assert torch.equal(again.residuals(), result.residuals()) and torch.equal(again.coef, result.coef)
    with pytest.raises(ValueError, match="3 entries for 2 columns"):
        result.with_rows(data.x[:, :2], data.y, **data.rows)
