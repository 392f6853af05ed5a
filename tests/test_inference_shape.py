"""Dispersion and shape by maximum likelihood: textbook errors, limits by their equation, and the Poisson boundary."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from test_reference import fitted
from torch import Tensor

import torchglm
from torchglm import Result, Tweedie
from torchglm.inference.table import Table

EXPECTED = json.loads((Path(__file__).parent / "reference_inference" / "expected.json").read_text())
Z2 = 1.959963984540054**2


def sample(family: str, seed: int = 0, n: int = 60) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    n = 20 if family == "tweedie" else n  # its density is a sum
    x = generator.normal(size=(n, 1))
    mean = np.exp(0.8 + 0.3 * x[:, 0])
    if family == "tweedie":
        number = generator.poisson(mean)
        y = np.array([generator.gamma(0.6, 1.5, k).sum() for k in number])
    elif family == "negative_binomial":
        y = generator.poisson(mean * generator.gamma(1.5, 1 / 1.5, n)).astype(float)
    else:
        y = generator.gamma(3.0, mean / 3)
    return torch.tensor(x), torch.tensor(y)


def fit(family: str, seed: int = 0, **options: object) -> Result:
    chosen = {"tweedie": Tweedie(), "negative_binomial": torchglm.NegativeBinomial()}.get(family, family)
    x, y = sample(family, seed)
    return torchglm.fit(x, y, family=chosen, link="log", tol=1e-12, **options)  # type: ignore[arg-type]


def numbers(table: Table, row: str) -> list[float]:
    return [float(value) for value in table.row(row).values()]


def test_the_error_of_theta_is_that_of_glm_nb() -> None:
    want = EXPECTED["quine_negbin_theta_estimated"]
    estimate, error, _, _ = numbers(fitted("quine_negbin_theta_estimated").shape_parameters(), "theta")
    assert estimate == pytest.approx(want["theta"], rel=1e-7)
    assert error == pytest.approx(want["se_theta"], rel=1e-4)  # there with the means held


def test_the_error_of_alpha_is_that_of_the_joint_information() -> None:
    x, y = sample("negative_binomial")
    other = sm.NegativeBinomial(y.numpy(), sm.add_constant(x.numpy())).fit(
        disp=0, method="newton", maxiter=200, tol=1e-13
    )
    estimate, error, _, _ = numbers(fit("negative_binomial").shape_parameters(), "alpha")
    assert estimate == pytest.approx(other.params[-1], rel=1e-6)
    assert error == pytest.approx(other.bse[-1], rel=1e-6)


def test_the_error_of_a_gamma_shape_is_that_of_mass() -> None:
    shape, error, lower, upper = numbers(fit("gamma").shape_parameters(), "shape")
    trigamma = float(torch.special.polygamma(1, torch.tensor(shape, dtype=torch.float64)))
    assert error == pytest.approx((60 * (trigamma - 1 / shape)) ** -0.5, rel=1e-7)
    phi = numbers(fit("gamma").shape_parameters(), "dispersion")
    assert [1 / phi[0], phi[1] / phi[0] ** 2, 1 / phi[3], 1 / phi[2]] == pytest.approx([shape, error, lower, upper])


def test_the_dispersion_of_least_squares_has_the_limits_of_its_equation() -> None:
    result = fit("gaussian")
    phi, error, lower, upper = numbers(result.shape_parameters(), "dispersion")
    assert phi == pytest.approx(float(result.deviance) / 60, rel=1e-8)
    assert error == pytest.approx(phi * math.sqrt(2 / 60), rel=1e-8)
    for limit in (lower, upper):
        assert 60 * (math.log(limit / phi) + phi / limit - 1) == pytest.approx(Z2, rel=1e-7)


@pytest.mark.parametrize("family", ["negative_binomial", "tweedie"])
def test_at_a_limit_the_refitted_likelihood_has_fallen_by_the_quantile(family: str) -> None:
    result = fit(family)
    row = {"negative_binomial": "alpha", "tweedie": "power"}[family]
    estimate, error, lower, upper = numbers(result.shape_parameters(), row)
    assert lower < estimate < upper and error > 0
    x, y = sample(family)
    for limit in (lower, upper):
        fixed = torchglm.NegativeBinomial(limit) if row == "alpha" else Tweedie(limit)
        again = torchglm.fit(x, y, family=fixed, link="log", tol=1e-12)
        assert 2 * float(result.loglik - again.loglik) == pytest.approx(Z2, rel=1e-6)


def test_an_alpha_at_the_poisson_boundary_has_an_upper_limit_alone() -> None:
    y = torch.tensor([2.0, 3, 2, 3, 2, 2, 3, 3, 2, 3], dtype=torch.float64)
    with pytest.warns(torchglm.FitWarning, match="SHAPE_LIMIT"):
        result = torchglm.fit(torch.zeros(10, 0), y, family=torchglm.NegativeBinomial(), tol=1e-12)
    alpha, error, lower, upper = numbers(result.shape_parameters(), "alpha")
    assert alpha == 0 and math.isnan(error) and lower == 0 and 0 < upper < 1
    at = torchglm.fit(torch.zeros(10, 0), y, family=torchglm.NegativeBinomial(upper), tol=1e-12)
    assert 2 * float(result.loglik - at.loglik) == pytest.approx(Z2, rel=1e-8)
    theta, _, low, high = numbers(result.shape_parameters(), "theta")
    assert theta == math.inf and low == pytest.approx(1 / upper) and high == math.inf


def test_a_limit_is_zero_where_poisson_is_within_reach() -> None:
    y = torch.tensor([0.0, 1, 2, 2, 3, 3, 4, 6, 7, 5], dtype=torch.float64)
    result = torchglm.fit(torch.zeros(10, 0), y, family=torchglm.NegativeBinomial(), tol=1e-12)
    alpha, error, lower, upper = numbers(result.shape_parameters(), "alpha")
    assert lower == 0 < alpha < upper < math.inf and error > 0
    assert 2 * float(result.loglik - torchglm.fit(torch.zeros(10, 0), y, family="poisson").loglik) < Z2


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize("family", ["negative_binomial", "gamma", "inverse_gaussian"])
def test_a_batch_has_the_shapes_of_its_members(family: str) -> None:
    pairs = [sample(family, seed) for seed in range(3)]
    y = torch.stack([y for _, y in pairs])
    if family == "negative_binomial":
        y[1] = 2.0 + torch.arange(60) % 2  # at the boundary
    chosen = torchglm.NegativeBinomial() if family == "negative_binomial" else family

    def made(x: Tensor, y: Tensor) -> Table:
        return torchglm.fit(x, y, family=chosen, link="log", tol=1e-12).shape_parameters(0.9)

    many = made(torch.stack([x for x, _ in pairs]), y)
    for i in range(3):
        for name, value in made(pairs[i][0], y[i]).columns.items():
            torch.testing.assert_close(many[name][i], value, rtol=1e-6, atol=1e-9, equal_nan=True, msg=name)


@pytest.mark.parametrize("family", ["negative_binomial", "gamma"])
def test_streamed_rows_have_the_shapes_of_rows_in_memory(family: str) -> None:
    x, y = sample(family)
    chosen = torchglm.NegativeBinomial() if family == "negative_binomial" else family

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(x.split(17), y.split(17), strict=True)

    streamed = torchglm.fit(batches, family=chosen, link="log", tol=1e-12).shape_parameters()
    for name, value in fit(family).shape_parameters().columns.items():
        torch.testing.assert_close(streamed[name], value, rtol=1e-7, atol=1e-9, msg=name)


def test_a_model_that_fits_perfectly_or_was_not_fitted_has_no_dispersion() -> None:
    x, y = sample("gamma")
    bad = torch.stack([y, y, (1 + x[:, 0]).clone()])
    bad[1, 3] = math.nan
    with pytest.warns(torchglm.FitWarning):
        table = torchglm.fit(x, bad, family="gaussian").shape_parameters()
    assert torch.isfinite(table["upper"][0]).all() and torch.isnan(table["upper"][1]).all()


def test_fits_without_a_shape_penalised_fits_and_levels_are_refused() -> None:
    x, y = sample("negative_binomial")
    with pytest.raises(ValueError, match="coefficients alone"):
        torchglm.fit(x, y, family="poisson").shape_parameters()
    with pytest.raises(ValueError, match="coefficients alone"):
        torchglm.fit(x, y + 1, family="gamma", link="log", dispersion=1.0).shape_parameters()
    with pytest.raises(ValueError, match="penalty"):
        fit("gamma", penalty=torchglm.Ridge(0.1)).shape_parameters()
    with pytest.raises(ValueError, match="level"):
        fit("gamma").shape_parameters(95)
