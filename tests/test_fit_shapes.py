"""What is estimated or given beside the coefficients: penalties, alpha, power, dispersion."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from problems import Problem, close, problem
from scipy import stats
from torch import Tensor

import torchglm
from torchglm import ElasticNet, FitWarning, Result, Ridge, Status


def f64(values: float | list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# penalties ------------------------------------------------------------------------------------------------


def mean_score(data: Problem, result: Result) -> Tensor:
    """(p + 1) the derivative of the mean negative log-likelihood at phi = 1, by the textbook's formula."""
    mu, w = result.fitted, data.rows["weights"] * data.rows.get("trials", torch.ones_like(data.y))
    y = data.y / data.rows.get("trials", torch.ones_like(data.y))
    eta = result.link.link(mu)
    slope = torch.func.vmap(torch.func.grad(result.link.inverse))(eta)
    x = torch.cat([torch.ones_like(data.x[..., :1]), data.x], -1)
    return -(x * (w * (y - mu) * slope / data.family.variance(mu))[:, None]).sum(0) / w.sum()


PENALISED = pytest.mark.parametrize(
    "model",
    [
        "gaussian identity",
        "gaussian log",
        "bernoulli logit",
        "binomial cloglog",
        "poisson log",
        "gamma log",
        "tweedie log",
        "negative binomial log",
    ],
)


@PENALISED
@pytest.mark.parametrize("l2", [0.01, 1.0, f64([0.0, 0.5, 20.0])], ids=str)
def test_a_ridge_fit_meets_its_first_order_condition(model: str, l2: float | Tensor) -> None:
    data = problem(model).one(0)
    result = data.fit(penalty=Ridge(l2))
    strength = torch.cat([f64([0.0]), torch.as_tensor(l2, dtype=torch.float64).expand(3)])
    assert result.status == Status.CONVERGED
    assert float((mean_score(data, result) + strength * result.coef).abs().max()) < 1e-7


@PENALISED
@pytest.mark.parametrize(("l1", "l2"), [(0.003, 0.0), (0.03, 0.02), (f64([0.0, 0.1, 0.02]), 0.1)], ids=str)
def test_an_elastic_net_meets_its_optimality_conditions(model: str, l1: float | Tensor, l2: float) -> None:
    data = problem(model).one(1)
    result = data.fit(penalty=ElasticNet(l1, l2))
    assert result.status == Status.CONVERGED
    slope = mean_score(data, result)
    size = torch.cat([f64([0.0]), torch.as_tensor(l1, dtype=torch.float64).expand(3)])
    curve = f64([0.0, l2, l2, l2]) * result.coef
    active = result.coef != 0
    assert float((slope + curve + size * result.coef.sign())[active].abs().max()) < 1e-7
    assert (slope[~active].abs() <= size[~active] + 1e-9).all()


def test_a_strong_lasso_leaves_the_null_model_and_a_weak_one_the_full_fit() -> None:
    data = problem("poisson log").one(2)
    strong, weak, free = (data.fit(penalty=p) for p in (ElasticNet(l1=100.0), ElasticNet(l1=1e-12), None))
    assert torch.equal(strong.coef[1:], torch.zeros(3).double())
    close(strong.deviance, free.null_deviance, 1e-10)
    close(weak.coef, free.coef, 1e-8, free.std_err)


def test_the_intercept_is_never_penalised() -> None:
    data = problem("gaussian identity").one(0)
    heavy = data.fit(penalty=Ridge(1e12))
    w = data.rows["weights"]
    close(heavy.coef[0], (w * (data.y - data.rows["offset"])).sum() / w.sum(), 1e-9)
    own = data.change(x=torch.cat([torch.ones_like(data.x[:, :1]), data.x], -1))
    by_column = own.fit(intercept=False, penalty=Ridge(f64([0.0, 0.3, 0.3, 0.3])))
    close(by_column.coef, data.fit(penalty=Ridge(0.3)).coef, 1e-10)


def test_a_gaussian_ridge_is_the_closed_form() -> None:
    data = problem("gaussian identity").one(3)
    x, w = torch.cat([torch.ones_like(data.x[:, :1]), data.x], -1), data.rows["weights"]
    ridge = torch.diag(f64([0.0, 0.3, 0.3, 0.3])) * w.sum()
    want = torch.linalg.solve(x.T @ (x * w[:, None]) + ridge, x.T @ (w * (data.y - data.rows["offset"])))
    close(data.fit(penalty=Ridge(0.3)).coef, want, 1e-11)


@pytest.mark.parametrize("penalty", [Ridge(0.1), ElasticNet(0.02, 0.05)], ids=str)
def test_a_penalised_batch_is_a_loop(penalty: torchglm.Penalty) -> None:
    data = problem("bernoulli logit")
    batch = data.fit(penalty=penalty)
    for i in range(4):
        close(batch.coef[i], data.one(i).fit(penalty=penalty).coef, 1e-9, 1.0)


def by_hand(data: Problem, result: Result) -> tuple[Tensor, Tensor]:
    """The information and the curvature of the penalty on columns that are not held at zero; else zero."""
    x, w = torch.cat([torch.ones_like(data.x[:, :1]), data.x], -1), data.rows["weights"]
    w = w * data.rows.get("trials", torch.ones_like(w))
    eta = result.link.link(result.fitted)
    information = w * result.link.inverse_deriv(eta).square() / data.family.variance(result.fitted)
    curvature = f64([0.0, *[float(result.penalty.l2[-1])] * 3]) * w.sum()  # type: ignore[union-attr]
    return x.T @ (x * information[:, None]), torch.diag(curvature)


@PENALISED
@pytest.mark.parametrize("l2", [0.01, 1.0])
def test_df_of_a_ridge_fit_are_effective_and_its_covariance_that_of_a_prior(model: str, l2: float) -> None:
    data = problem(model).one(0)
    result = data.fit(penalty=Ridge(l2))
    information, curvature = by_hand(data, result)
    inverse = torch.linalg.inv(information + curvature)
    close(result.edf, (inverse @ information).diagonal(), 1e-7)
    close(result.df_resid, result.nobs - result.edf.sum(), 1e-12)
    close(result.covariance(), result.dispersion * inverse, 1e-7, 1.0)
    count = result.edf.sum() + float(result.family.has_dispersion)
    close(result.aic, -2 * result.loglik + 2 * count, 1e-12)
    close(result.bic, -2 * result.loglik + count * result.nobs.log(), 1e-12)
    if result.family.has_dispersion:
        close(result.dispersion, result.pearson_chi2 / result.df_resid, 1e-12)
    assert str(result.penalty) == f"Ridge(l2={l2:g})"
    said = str(result.summary())
    assert f"Ridge(l2={l2:g})" in said and "Bayesian" in said and "Effective df" in said


@PENALISED
def test_an_l1_fit_counts_its_columns_and_has_no_errors(model: str) -> None:
    data = problem(model).one(1)
    result = data.fit(penalty=ElasticNet(f64([0.001, 10.0, 0.001]), 0.02))
    assert float(result.coef[2]) == 0 and float(result.edf[2]) == 0
    information, curvature = by_hand(data, result)
    active = [0, 1, 3]
    both = (information + curvature)[active][:, active]
    want = torch.linalg.solve(both, information[active][:, active]).diagonal()
    close(result.edf[active], want, 1e-6)
    for value in (result.std_err, result.conf_int(), result.p_value, result.covariance("HC0"), result.covariance()):
        assert torch.isnan(value).all()
    _, error = result.predict(data.x, se=True, offset=data.rows["offset"])
    assert torch.isnan(error).all()
    said = str(result.summary())
    assert "no standard errors" in said and "0.001, 10, 0.001" in said
    only = data.fit(penalty=ElasticNet(0.03))
    close(only.edf, (only.coef != 0).double(), 1e-7)


def test_no_penalty_has_an_edf_of_its_rank() -> None:
    data = problem("poisson log").one(0)
    with pytest.warns(FitWarning, match="aliased"):
        result = data.change(x=torch.cat([data.x, data.x[:, :1]], -1)).fit()
    assert result.edf.tolist() == [1, 1, 1, 1, 0]


@PENALISED
@pytest.mark.parametrize("columns", [1, 3, 4])
@pytest.mark.parametrize("l1", [0.0, 0.02])
def test_every_model_of_a_batch_may_have_its_own_strengths(model: str, columns: int, l1: float) -> None:
    data = problem(model)
    strength = torch.linspace(0.01, 0.6, 4 * columns, dtype=torch.float64).reshape(4, columns)
    strength = torch.where(torch.arange(columns) + 1 == columns - 3, 0.0, strength)  # of an intercept: none
    first = strength.clamp(max=l1) if l1 else 0.0
    batch = data.fit(penalty=ElasticNet(first, strength))
    for i in range(4):
        own = ElasticNet(first[i] if l1 else 0.0, strength[i] if columns > 1 else float(strength[i]))  # type: ignore
        if columns == 1 and l1:
            own = ElasticNet(float(first[i]), float(strength[i]))  # type: ignore[index]
        alone = data.one(i).fit(penalty=own)
        close(batch.coef[i], alone.coef, 1e-7, 1.0)
        close(batch.edf[i], alone.edf, 1e-6)
        close(batch.aic[i], alone.aic, 1e-8)
        torch.testing.assert_close(batch.std_err[i], alone.std_err, rtol=1e-6, atol=1e-9, equal_nan=True)
        assert str(batch[i].penalty) == str(alone.penalty)


def test_strengths_of_other_models_are_refused() -> None:
    data = problem("poisson log")
    with pytest.raises(ValueError, match=r"\(3, 3\) and the models are \(4,\)"):
        data.fit(penalty=Ridge(torch.ones(3, 3)))
    with pytest.raises(ValueError, match=r"the models are \(\)"):
        data.one(0).fit(penalty=Ridge(torch.ones(4, 3)))


def test_a_penalty_solves_separated_and_dependent_problems_without_a_warning() -> None:
    x = torch.arange(10).double()[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = torchglm.fit(torch.cat([x, 2 * x], -1), (x[:, 0] > 4).double(), family="bernoulli", penalty=Ridge(0.1))
    assert result.status == Status.CONVERGED and torch.isfinite(result.coef).all()
    close(2 * result.coef[1], result.coef[2], 1e-9)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, [[-1.0]]])
def test_a_strength_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="l2 must be one number >= 0"):
        Ridge(bad)  # type: ignore[arg-type]


def test_strengths_must_be_one_for_each_column() -> None:
    data = problem("poisson log").one(0)
    with pytest.raises(ValueError, match="l2 has 2 values for 3 columns"):
        data.fit(penalty=Ridge(torch.ones(2)))


# alpha ----------------------------------------------------------------------------------------------------


def counts(seed: int, size: float, n: int = 150, models: int = 1) -> Problem:
    """Counts with `alpha = 1 / size`, weights and an offset."""
    data = problem("poisson log", models=models, n=n, seed=seed)
    mu = (1.0 + data.x @ f64([0.4, -0.2, 0.1]) + data.rows["offset"]).exp()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rate = torch.distributions.Gamma(size, size / mu).sample()
        y = torch.poisson(rate)
    return Problem(torchglm.NegativeBinomial(), "log", data.x, y, data.rows)


@pytest.mark.parametrize("size", [0.3, 1.0, 5.0])
def test_at_the_estimated_alpha_the_likelihood_is_flat(size: float) -> None:
    data = counts(1, size).one(0)
    result = data.fit()
    alpha, w = float(result.family.alpha), data.rows["weights"]

    def at(a: float) -> float:
        mu = data.fit(family=torchglm.NegativeBinomial(a)).fitted
        return float((w * torch.tensor(stats.nbinom.logpmf(data.y, 1 / a, 1 / (1 + a * mu)))).sum())

    assert result.status == Status.CONVERGED
    step = 1e-4 * alpha
    slope, bend = (
        (at(alpha + step) - at(alpha - step)) / (2 * step),
        (at(alpha + step) - 2 * at(alpha) + at(alpha - step)) / step**2,
    )
    assert bend < 0 and abs(slope / bend) < 1e-6 * alpha
    close(result.loglik, f64(at(alpha)), 1e-10)
    close(result.aic, -2 * result.loglik + 2 * 5, 1e-12)


def test_alpha_is_zero_where_counts_are_less_dispersed_than_poisson() -> None:
    data = problem("poisson log").one(0)
    even = data.change(y=(1.2 + data.x @ f64([0.4, -0.2, 0.1]) + data.rows["offset"]).exp().round())
    with pytest.warns(FitWarning, match="SHAPE_LIMIT"):
        result = Problem(torchglm.NegativeBinomial(), "log", even.x, even.y, even.rows).fit()
    poisson = even.fit()
    assert float(result.family.alpha) == 0.0 and result.status == Status.SHAPE_LIMIT
    close(result.coef, poisson.coef, 1e-9, poisson.std_err)
    close(result.loglik, poisson.loglik, 1e-10)


def test_estimated_alphas_of_a_batch_are_those_of_a_loop() -> None:
    data = counts(3, 1.5, models=3)
    batch = data.fit()
    assert batch.family.alpha.shape == (3,)
    for i in range(3):
        alone = data.one(i).fit()
        close(batch[i].family.alpha, alone.family.alpha, 1e-7)
        close(batch.coef[i], alone.coef, 1e-7, alone.std_err)
        close(batch.loglik[i], alone.loglik, 1e-9)


# power ----------------------------------------------------------------------------------------------------


def claims(n: int) -> Problem:
    """Tweedie responses of power 1.6, a good part of them zero."""
    data = problem("tweedie log", n=n, seed=2).one(0)
    mu = (0.5 + data.x @ f64([0.4, -0.2, 0.1]) + data.rows["offset"]).exp()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        y = torchglm.Tweedie(1.6).distribution(mu, f64(1.5)).sample()
    assert 0.1 < float((y == 0).double().mean()) < 0.6
    return data.change(y=y)


def test_at_the_estimated_power_the_profile_likelihood_is_flat() -> None:
    data = claims(100)
    free = Problem(torchglm.Tweedie(None), "log", data.x, data.y, data.rows).fit()
    power = float(free.family.power)
    assert 1 < power < 2 and free.status == Status.CONVERGED

    def at(p: float) -> float:
        # at every power the dispersion has its maximum likelihood value
        return float(data.fit(family=torchglm.Tweedie(p)).loglik)

    step = 1e-4
    slope, bend = (
        (at(power + step) - at(power - step)) / (2 * step),
        (at(power + step) - 2 * at(power) + at(power - step)) / step**2,
    )
    assert bend < 0 and abs(slope / bend) < 1e-5
    close(free.loglik, f64(at(power)), 1e-8)
    close(free.aic, -2 * free.loglik + 2 * 6, 1e-12)


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_a_power_at_the_limit_of_its_range_is_a_boundary() -> None:
    data = problem("tweedie log", n=80, seed=2).one(0)
    result = Problem(torchglm.Tweedie(None), "log", data.x, data.y, data.rows).fit()  # the profile rises to power 2
    assert result.status == Status.SHAPE_LIMIT


@pytest.mark.parametrize(
    ("power", "peer"), [(0.0, "gaussian"), (1.0, "poisson"), (2.0, "gamma"), (3.0, "inverse_gaussian")]
)
def test_tweedie_at_its_limits_is_the_family_there(power: float, peer: str) -> None:
    data = problem("gamma log").one(0)
    got = data.fit(family=torchglm.Tweedie(power), dispersion="pearson")
    want = data.fit(family=torchglm.families.get(peer), dispersion="pearson")
    close(got.coef, want.coef, 1e-9, want.std_err)
    close(got.std_err, want.std_err, 1e-9)
    close(got.deviance, want.deviance, 1e-10)


# dispersion -----------------------------------------------------------------------------------------------

DISPERSED = pytest.mark.parametrize("model", ["gaussian identity", "gamma log", "inverse gaussian log", "tweedie log"])


@DISPERSED
def test_the_named_dispersions_are_what_their_names_say(model: str) -> None:
    data = problem(model).one(0)
    plain, deviance, number = (data.fit(dispersion=d) for d in (None, "deviance", 2.5))
    close(plain.dispersion, plain.pearson_chi2 / plain.df_resid, 1e-14)
    close(deviance.dispersion, deviance.deviance / deviance.df_resid, 1e-14)
    assert float(number.dispersion) == 2.5 and number.statistic_name == "z" and plain.statistic_name == "t"
    for other in (deviance, number):
        close(other.std_err, plain.std_err * (other.dispersion / plain.dispersion).sqrt(), 1e-12)
        close(other.coef, plain.coef, 1e-13, plain.std_err)


@DISPERSED
def test_the_maximum_likelihood_dispersion_is_a_maximum(model: str) -> None:
    data = problem(model).one(1)
    best = data.fit(dispersion="ml")
    phi = float(best.dispersion)
    near = [float(data.fit(dispersion=phi * f).loglik) for f in (1 - 1e-3, 1.0, 1 + 1e-3)]
    assert near[1] > near[0] and near[1] > near[2]
    assert abs(near[2] - near[0]) < 2e-2 * (2 * near[1] - near[0] - near[2])
    close(best.loglik, f64(near[1]), 1e-10)
    close(data.fit().loglik, best.loglik, 1e-10)  # the log-likelihood is taken there whatever the standard errors use


def test_the_maximum_likelihood_dispersions_with_a_closed_form() -> None:
    data = problem("gaussian identity").one(0)
    close(data.fit(dispersion="ml").dispersion, data.fit().deviance / 40, 1e-8)
    wald = problem("inverse gaussian log").one(0)
    close(wald.fit(dispersion="ml").dispersion, wald.fit().deviance / 40, 1e-8)
    gamma = problem("gamma log").one(0)
    plain = gamma.change(weights=torch.ones(40).double()).fit(dispersion="ml")
    nu = 1 / plain.dispersion
    close(nu.log() - torch.digamma(nu), plain.deviance / 80, 1e-8)


@pytest.mark.parametrize("model", ["poisson log", "binomial probit", "negative binomial log"])
def test_a_quasi_fit_widens_errors_and_has_no_likelihood(model: str) -> None:
    data = problem(model).one(0)
    plain, quasi = data.fit(), data.fit(dispersion="pearson")
    assert float(plain.dispersion) == 1.0 and plain.statistic_name == "z" and quasi.statistic_name == "t"
    close(quasi.dispersion, plain.pearson_chi2 / plain.df_resid, 1e-12)
    close(quasi.std_err, plain.std_err * quasi.dispersion.sqrt(), 1e-12)
    assert torch.isnan(quasi.loglik) and torch.isnan(quasi.aic) and torch.isfinite(plain.loglik)


@pytest.mark.parametrize("bad", ["robust", 0.0, -1.0, math.nan, math.inf])
def test_a_dispersion_that_is_none_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="dispersion must be"):
        problem("gamma log").one(0).fit(dispersion=bad)


def test_no_family_without_a_dispersion_maximises_one() -> None:
    with pytest.raises(ValueError, match="poisson.*no dispersion"):
        problem("poisson log").one(0).fit(dispersion="ml")
