"""Where a fit ends: at the zero of a score written independently, at known answers, or at a Status that says why."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import MODELS, TRIALS, Problem, close, problem
from torch import Tensor

import torchglm
from torchglm import FitWarning, Status
from torchglm.rows.rows import Rows

ALL = pytest.mark.parametrize("model", list(MODELS))

# written from the textbook, not with the library: means by link, log-densities by family up to terms in y alone
MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda eta: eta,
    "log": lambda eta: eta.exp(),
    "logit": lambda eta: 1 / (1 + (-eta).exp()),
    "probit": lambda eta: 0.5 * (1 + torch.erf(eta / math.sqrt(2))),
    "sqrt": lambda eta: eta**2,
    "cloglog": lambda eta: 1 - (-eta.exp()).exp(),
    "cauchit": lambda eta: 0.5 + torch.atan(eta) / math.pi,
    "inverse": lambda eta: 1 / eta,
    "inverse_squared": lambda eta: eta**-0.5,
}
LOGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gaussian": lambda y, mu: -((y - mu) ** 2) / 2,
    "poisson": lambda y, mu: y * mu.log() - mu,
    "bernoulli": lambda y, mu: y * mu.log() + (1 - y) * (1 - mu).log(),
    "binomial": lambda y, mu: y * mu.log() + (TRIALS - y) * (1 - mu).log(),
    "gamma": lambda y, mu: -y / mu - mu.log(),
    "exponential": lambda y, mu: -y / mu - mu.log(),
    "inverse_gaussian": lambda y, mu: -((y - mu) ** 2) / (2 * mu**2 * y),
    "negative_binomial": lambda y, mu: y * (mu / (1 + 0.7 * mu)).log() - (1 + 0.7 * mu).log() / 0.7,
    "tweedie": lambda y, mu: y * mu**-0.5 / -0.5 - mu**0.5 / 0.5,
}


def loglik(data: Problem, coef: Tensor) -> Tensor:
    x = torch.cat([torch.ones_like(data.x[..., :1]), data.x], -1)
    mu = MEANS[data.link](x @ coef + data.rows["offset"])
    return (data.rows["weights"] * LOGS[data.family.name](data.y, mu)).sum()


@ALL
def test_the_score_is_zero_at_the_optimum(model: str) -> None:
    data = problem(model).one(3)
    result = data.fit(dispersion=1.0)
    score = torch.func.grad(lambda b: loglik(data, b))(result.coef)
    # in units of its standard deviation under the model
    assert float((score * result.std_err).abs().max()) < 1e-6


@ALL
def test_the_observed_covariance_is_the_inverse_hessian(model: str) -> None:
    data = problem(model).one(1)
    result = data.fit(dispersion=1.0)
    hessian = torch.func.hessian(lambda b: loglik(data, b))(result.coef)
    size = result.std_err.outer(result.std_err)
    close(result.covariance("observed"), torch.linalg.inv(-hessian), 1e-8, size)


def test_gaussian_identity_is_least_squares() -> None:
    data = problem("gaussian identity").one(0)
    x, w = torch.cat([torch.ones_like(data.x[:, :1]), data.x], -1), data.rows["weights"].sqrt()
    want = torch.linalg.lstsq(x * w[:, None], ((data.y - data.rows["offset"]) * w)[:, None]).solution[:, 0]
    result = data.fit()
    close(result.coef, want, 1e-12, 1.0)
    assert int(result.n_iter) <= 2


@pytest.mark.parametrize("model", [m for m in MODELS if "bernoulli" not in m and m != "tweedie log"])
def test_a_saturated_model_fits_every_row(model: str) -> None:
    data = problem(model, n=4).one(0)
    y = torch.full((4,), 2.0).double() + torch.arange(4)
    result = data.change(y=y).fit()
    close(result.fitted * (TRIALS if model.startswith("binomial") else 1.0), y, 1e-7)
    assert float(result.deviance) < 1e-12 and float(result.df_resid) == 0
    assert torch.isfinite(result.coef).all()


@pytest.mark.parametrize(("model", "margin"), [("poisson log", 1.0), ("bernoulli logit", 1.0)])
def test_canonical_fits_keep_the_margins_of_the_response(model: str, margin: float) -> None:
    data = problem(model).one(2)
    result, w = data.fit(), data.rows["weights"]
    x = torch.cat([torch.ones_like(data.x[:, :1]), data.x], -1)
    close(x.T @ (w * result.fitted), x.T @ (w * data.y), 1e-10, 1.0)


@pytest.mark.parametrize("link", ["log", "identity", "sqrt"])
@pytest.mark.parametrize("family", ["poisson", "gamma"])
def test_an_intercept_alone_is_the_weighted_mean(family: str, link: str) -> None:
    y = torch.tensor([1.0, 2.0, 4.0, 8.0, 3.0]).double()
    w = torch.tensor([1.0, 2.0, 1.0, 0.5, 3.0]).double()
    result = torchglm.fit(torch.zeros(5, 0).double(), y, family=family, link=link, weights=w, tol=1e-12)
    close(result.fitted, ((w * y).sum() / w.sum()).expand(5), 1e-12)
    close(result.null_deviance, result.deviance, 1e-12)


# precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gaussian identity", "poisson log", "bernoulli logit", "gamma log"])
def test_float32_data_with_a_raw_year_are_right_to_1e_5(model: str) -> None:
    data = problem(model, n=400).one(0)
    year = 1950 + torch.arange(400, dtype=torch.float64) % 70
    narrow = torch.cat([data.x, year[:, None]], -1).float()
    result = data.change(x=narrow).fit(tol=1e-8)
    want = data.change(x=torch.cat([data.x, year[:, None] - 1985], -1)).fit()
    close(result.coef[1:].double(), want.coef[1:], 1e-5, want.std_err[1:])
    close(result.coef[0].double() + 1985 * result.coef[4].double(), want.coef[0], 1e-5, want.std_err[0])
    close(result.std_err[1:].double(), want.std_err[1:], 1e-5)


@pytest.mark.parametrize("shift", [1e4, 1e7])
def test_a_column_with_a_large_mean_keeps_its_slope(shift: float) -> None:
    data = problem("poisson log", n=200).one(0)
    moved = data.change(x=data.x + torch.tensor([shift, 0.0, 0.0]).double())
    exact = moved.change(x=moved.x - torch.tensor([shift, 0.0, 0.0]).double())
    close(moved.fit().coef[1:], exact.fit().coef[1:], 1e-7)
    close(moved.fit().deviance, exact.fit().deviance, 1e-9)


def test_a_large_offset_moves_the_intercept_alone() -> None:
    data = problem("poisson log").one(0)
    far = data.change(offset=data.rows["offset"] - 600.0).fit()
    near = data.fit()
    close(far.coef[0] - 600.0, near.coef[0], 1e-10)
    close(far.coef[1:], near.coef[1:], 1e-10, near.std_err[1:])
    close(far.deviance, near.deviance, 1e-10)


@pytest.mark.parametrize(("size", "rtol"), [(4, 1e-10), (6, 1e-8), (8, 1e-6)])
def test_hilbert_matrices_are_solved(size: int, rtol: float) -> None:
    index = np.arange(size)
    # the Hilbert matrix times the common denominator is exact, and so is the response
    common = math.lcm(*range(1, 2 * size))
    design = common / (index[:, None] + index + 1.0)
    result = torchglm.fit(design, design.sum(1), family="gaussian", intercept=False)
    assert result.status == Status.CONVERGED and int(result.rank) == size
    close(result.coef, torch.ones(size).double(), rtol)


# how a fit ends -------------------------------------------------------------------------------------------


@ALL
def test_a_converged_fit_has_valid_means_and_a_small_score(model: str) -> None:
    data = problem(model, models=8, n=12, seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        result = data.fit(tol=1e-8)
    for i in range(8):
        if bool(result.converged[i]):
            one = data.one(i)
            eta = result[i].predict(one.x, offset=one.rows["offset"], kind="link")
            assert data.family.valid_mean(result[i].fitted).all() and torch.isfinite(eta).all()
            assert eta.gt(result.link.lower).all()
            score = torch.func.grad(lambda b, one=one: loglik(one, b))(result.coef[i])
            assert float((score * result.std_err[i]).abs().max()) < 1e-2


def ending(x: Tensor, y: Tensor, family: str, **options: object) -> torchglm.Result:
    with pytest.warns(FitWarning):
        return torchglm.fit(x, y, family=family, **options)  # type: ignore[arg-type]


STEPS = torch.arange(10, dtype=torch.float64)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "loglog"])
def test_complete_separation_is_named(link: str) -> None:
    result = ending(STEPS[:, None], (STEPS > 4.5).double(), "bernoulli", link=link, max_iter=100)
    assert result.status == Status.SEPARATED and torch.isfinite(result.coef).all()
    assert float(result.deviance) < 0.05


def test_quasi_complete_separation_is_named_though_the_deviance_settles() -> None:
    x = torch.tensor([1.0, 2, 3, 4, 5, 5, 6, 7, 8, 9]).double()
    result = ending(x[:, None], torch.tensor([0.0, 0, 0, 0, 0, 1, 1, 1, 1, 1]).double(), "bernoulli")
    assert result.status == Status.SEPARATED
    close(result.deviance, torch.tensor(4 * math.log(2)).double(), 1e-4)


def test_a_level_with_no_events_is_set_apart_and_the_others_stay_right() -> None:
    level = torch.arange(30) % 3
    y = torch.where(level == 2, 0.0, 1.0 + torch.arange(30) % 4).double()
    result = ending(torch.nn.functional.one_hot(level).double(), y, "poisson", intercept=False)
    assert result.status == Status.SEPARATED_LEVELS
    for j in (0, 1):
        close(result.coef[j].exp(), y[level == j].mean(), 1e-6)


def test_nearly_separated_data_are_not_called_separated() -> None:
    y = (STEPS > 4.5).double()
    y[[4, 5]] = y[[5, 4]]
    result = torchglm.fit(STEPS[:, None], y, family="bernoulli")
    assert result.status == Status.CONVERGED


def test_one_iteration_is_the_limit_and_says_so() -> None:
    data = problem("poisson log").one(0)
    with pytest.warns(FitWarning, match="ITERATION_LIMIT.*max_iter"):
        result = data.fit(max_iter=1)
    assert result.status == Status.ITERATION_LIMIT and not bool(result.converged)
    assert int(result.n_iter) == 1 and torch.isfinite(result.std_err).all()


def test_a_mean_on_the_edge_of_its_range_is_a_boundary() -> None:
    y = torch.tensor([0.0, 0, 0, 1, 2, 3, 4, 5, 6, 7]).double()
    result = ending(STEPS[:, None], y, "poisson", link="identity")
    assert result.status == Status.BOUNDARY
    assert float(result.fitted.min()) < 1e-2


def small(model: str, link: str, seed: int) -> Problem:
    """A few rows under a link that may send means out of range."""
    data = problem(model, models=1, n=6 + seed % 12, p=1 + seed % 3, seed=seed).one(0)
    return Problem(data.family, link, data.x * (1 + 3 * (seed % 2)), data.y, data.rows)


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize(
    ("model", "link", "seed"),
    [
        ("poisson log", "identity", 0),
        ("negative binomial log", "identity", 0),
        ("negative binomial log", "identity", 2),
        ("negative binomial log", "identity", 5),
        ("bernoulli logit", "log", 1),
    ],
)
def test_an_edge_where_the_score_is_not_zero_is_not_called_converged(model: str, link: str, seed: int) -> None:
    data = small(model, link, seed)
    result = data.fit(tol=1e-8)
    score = torch.func.grad(lambda b: loglik(data, b))(result.coef)
    size = (score * result.std_err).abs().max()
    assert (result.status == Status.CONVERGED) == bool(size < 1e-2)


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize(
    ("model", "link", "seed", "level"),
    [
        ("inverse gaussian log", "inverse_squared", 6, 0.3),
        ("inverse gaussian log", "inverse_squared", 13, 0.3),
        ("inverse gaussian log", "inverse", 15, 0.5),
        ("bernoulli logit", "identity", 0, 0.5),
    ],
)
def test_a_level_high_enough_for_every_offset_is_found_to_start_from(
    model: str, link: str, seed: int, level: float
) -> None:
    data = small(model, link, seed)
    start = torch.zeros(data.x.shape[-1] + 1)
    start[0] = level
    own, given = data.fit(tol=1e-8), data.fit(tol=1e-8, start=start)
    assert own.status != Status.INVALID_START
    close(own.deviance, given.deviance, 1e-6)


def test_a_start_without_a_valid_mean_is_replaced_and_said() -> None:
    data = problem("poisson sqrt").one(0)
    with pytest.warns(UserWarning, match="start="):
        result = torchglm.fit(data.x, data.y, family="poisson", link="identity", start=[-5.0, 0.0, 0.0, 0.0])
    assert result.status == Status.CONVERGED
    close(result.coef, torchglm.fit(data.x, data.y, family="poisson", link="identity").coef, 1e-6)


def test_no_valid_start_at_all_is_named() -> None:
    # without an intercept a column of both signs gives negative means whatever its slope
    x = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]).double()
    result = ending(x, torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), "gamma", link="inverse", intercept=False)
    assert result.status == Status.INVALID_START and not bool(result.converged)


def test_a_model_of_a_batch_that_holds_nan_is_not_fitted() -> None:
    data = problem("poisson log")
    y = data.y.clone()
    y[1, 4] = torch.nan
    with pytest.warns(FitWarning, match=r"1 of 4 models \(\[.\]\): NOT_FINITE"):
        result = data.change(y=y).fit()
    assert result.status[1] == Status.NOT_FINITE and torch.isnan(result.coef[1]).all()
    assert torch.isnan(result.deviance[1]) and torch.isfinite(result.coef[[0, 2, 3]]).all()


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_a_model_that_was_not_fitted_has_no_likelihood() -> None:
    data = problem("poisson log")
    y = data.y.clone()
    y[1, 4] = torch.nan
    result = data.change(y=y).fit()
    for name in ("loglik", "aic", "bic", "dispersion", "null_deviance"):
        assert torch.isnan(getattr(result, name)[1]), name


def test_every_status_explains_itself() -> None:
    for status in Status:
        assert str(status) == status.name and len(status.explanation) > 60 and status.explanation.endswith(".")


def test_an_empty_source_is_refused() -> None:
    empty = torch.zeros(1, 0).double()
    rows = Rows(torch.zeros(1, 0, 2).double(), empty, empty, empty)
    for source in ([], rows, [rows]):
        with pytest.raises(ValueError, match="no rows"):
            torchglm.irls(source, torchglm.Poisson(), torchglm.links.Log())


def test_a_start_at_the_optimum_needs_no_more_than_a_step() -> None:
    data = problem("negative binomial log").one(0)
    result = data.fit()
    again = data.fit(start=result.coef, tol=1e-8)
    assert int(again.n_iter) <= 1
    close(again.coef, result.coef, 1e-8)
