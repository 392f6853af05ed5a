"""Simulations with fixed seeds: what is promised of intervals, tests and residuals holds over thousands of fits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import torchglm
from torchglm import families

pytestmark = pytest.mark.slow
FITS, N, SEED = 4000, 200, 20240229

# family, link, intercept, slopes, dispersion: common links, far enough from the edges of their means
CASES: dict[str, tuple[Any, str, float, float, float]] = {
    "gaussian-identity": (families.Gaussian(), "identity", 1.0, 0.5, 1.0),
    "gaussian-log": (families.Gaussian(), "log", 1.0, 0.3, 0.25),
    "bernoulli-logit": (families.Bernoulli(), "logit", 0.2, 0.5, 1.0),
    "bernoulli-probit": (families.Bernoulli(), "probit", 0.1, 0.4, 1.0),
    "bernoulli-cloglog": (families.Bernoulli(), "cloglog", -0.4, 0.4, 1.0),
    "binomial-logit": (families.Binomial(), "logit", -0.5, 0.4, 1 / 8),
    "poisson-log": (families.Poisson(), "log", 0.7, 0.3, 1.0),
    "binomial-cloglog": (families.Binomial(), "cloglog", -0.8, 0.4, 1 / 8),
    "poisson-identity": (families.Poisson(), "identity", 3.0, 0.6, 1.0),
    "poisson-sqrt": (families.Poisson(), "sqrt", 2.5, 0.3, 1.0),
    "gamma-log": (families.Gamma(), "log", 0.5, 0.3, 0.3),
    "gamma-identity": (families.Gamma(), "identity", 2.0, 0.4, 0.2),
    "gamma-inverse": (families.Gamma(), "inverse", 2.0, 0.25, 0.2),
    "exponential-log": (families.Exponential(), "log", 0.5, 0.3, 1.0),
    "exponential-inverse": (families.Exponential(), "inverse", 1.5, 0.25, 1.0),
    "inverse_gaussian-log": (families.InverseGaussian(), "log", 0.2, 0.3, 0.2),
    "inverse_gaussian-inverse_squared": (families.InverseGaussian(), "inverse_squared", 3.0, 0.3, 0.2),
    "negative_binomial-log": (families.NegativeBinomial(0.5), "log", 1.0, 0.3, 1.0),
    "tweedie-log": (families.Tweedie(1.5), "log", 0.7, 0.3, 0.8),
}


def design(n: int = N) -> Tensor:
    """(n, 2) columns within (-1.5, 1.5), one of them shared by all fits."""
    g = torch.Generator().manual_seed(SEED)
    return torch.rand(n, 2, generator=g, dtype=torch.float64) * 3 - 1.5


def truth(name: str) -> Tensor:
    _, _, intercept, slope, _ = CASES[name]
    return torch.tensor([intercept, slope, -slope / 2], dtype=torch.float64)


def draw(name: str, x: Tensor, fits: int = FITS, seed: int = SEED) -> Tensor:
    """(fits, n) responses of the true model."""
    family, link, _, _, phi = CASES[name]
    coef = truth(name)
    mu = torchglm.links.get(link)(coef[0] + x @ coef[1:]).expand(fits, -1)
    torch.manual_seed(seed)
    if family.name == "exponential":
        return -mu * torch.rand(mu.shape, dtype=torch.float64).log()
    return family.distribution(mu, phi).sample().double()


def fit(name: str, x: Tensor, y: Tensor, **options: Any) -> torchglm.Result:
    family, link = CASES[name][:2]
    if family.name == "binomial":
        options["trials"] = torch.full_like(y, 8.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torchglm.FitWarning)  # a few of thousands of samples have no maximum
        return torchglm.fit(x, y, family=family, link=link, **options)


def share(hit: Tensor) -> float:
    return float(hit.double().mean())


@pytest.mark.parametrize("name", CASES)
def test_wald_intervals_cover_95_percent(name: str) -> None:
    x = design()
    r = fit(name, x, draw(name, x))
    assert share(r.converged) > 0.995
    limits, coef = r.conf_int(0.95), truth(name)
    covered = (limits[..., 0] <= coef) & (coef <= limits[..., 1])
    for j in range(3):
        assert 0.94 <= share(covered[r.converged, j]) <= 0.96, r.names[j]


@pytest.mark.parametrize("name", CASES)
def test_link_tests_hold_their_size(name: str) -> None:
    x = design()
    p = fit(name, x, draw(name, x, seed=SEED + 1)).link_test().p_value
    assert 0.035 <= share(p[~p.isnan()] < 0.05) <= 0.065


@pytest.mark.parametrize(
    ("name", "ask", "low", "high"),
    [
        ("poisson-log", lambda r: r.dispersion_test(), 0.035, 0.065),
        ("poisson-sqrt", lambda r: r.dispersion_test(), 0.035, 0.065),
        ("poisson-log", lambda r: r.dispersion_test("nb2"), 0.03, 0.095),  # slow to its limit, as its docstring says
        ("binomial-logit", lambda r: r.dispersion_test(), 0.035, 0.065),
        ("poisson-log", lambda r: r.zero_test(), 0.04, 0.06),
        ("negative_binomial-log", lambda r: r.zero_test(), 0.04, 0.06),
        ("gaussian-identity", lambda r: r.variance_test(), 0.04, 0.06),
        ("gamma-log", lambda r: r.variance_test(), 0.005, 0.06),  # on the safe side where residuals have long tails
        ("bernoulli-logit", lambda r: r.hosmer_lemeshow(), 0.035, 0.065),
        ("gamma-log", lambda r: r.power_link_test(), 0.035, 0.065),
        ("gamma-inverse", lambda r: r.power_link_test(), 0.035, 0.065),
    ],
)
def test_tests_of_the_model_hold_their_size(name: str, ask: Any, low: float, high: float) -> None:
    x = design()
    p = ask(fit(name, x, draw(name, x, seed=SEED + 2))).p_value
    assert low <= share(p[~p.isnan()] < 0.05) <= high


@pytest.mark.parametrize("name", CASES)
def test_quantile_residuals_of_a_true_model_are_standard_normal(name: str) -> None:
    x = design(1000)
    r = fit(name, x, draw(name, x, 50, SEED + 3))
    u = torch.special.ndtr(torch.stack([r[k].residuals("quantile", seed=k) for k in range(50)]))
    # 50 000 numbers: the largest gap from uniform stays within Kolmogorov's 0.1 % point
    ordered = u.flatten().sort().values
    grid = torch.arange(1, ordered.numel() + 1, dtype=torch.float64) / ordered.numel()
    assert float((ordered - grid).abs().max()) < 1.95 / math.sqrt(ordered.numel())


@pytest.mark.parametrize("name", CASES)
def test_prediction_intervals_cover_new_responses(name: str) -> None:
    fits = 300 if name == "tweedie-log" else 1000
    x = design(60)
    y, new = draw(name, x, fits, SEED + 4), draw(name, x[:1], fits, SEED + 5)
    extra: dict[str, Any] = {"trials": 8.0} if name.startswith("binomial") else {}
    r = fit(name, x, y)
    limits = r.predict_interval(x[:1], kind="response", level=0.9, **extra)[r.converged]
    inside = (limits[..., 0] <= new[r.converged]) & (new[r.converged] <= limits[..., 1])
    law = CASES[name][0].distribution(torch.ones(1), 1.0)
    counts = law.support is not None and law.support.is_discrete or name == "tweedie-log"
    assert 0.875 <= share(inside) <= (1.0 if counts else 0.925)


# check -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_check_is_silent_on_a_right_model_in_93_percent_and_more(name: str) -> None:
    x = design(500)
    found = fit(name, x, draw(name, x, 1000, SEED + 6)).check()
    assert share(found.silent) >= 0.93, str(found)


def wrong() -> Iterator[Any]:
    x = design(500)
    g = torch.Generator().manual_seed(SEED + 7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def gamma(shape: float, fits: int) -> Tensor:
        return torch._standard_gamma(torch.full((fits, 500), shape, dtype=torch.float64), generator=g) / shape

    eta, fits = x @ torch.tensor([0.5, -0.3], dtype=torch.float64), 300
    yield "link", 0.9, x, torch.poisson((3 + 1.5 * eta).square().expand(fits, -1), generator=g), {"family": "poisson"}
    yield "link", 0.9, x, (1 + eta).exp() + 0.5 * normal(fits, 500), {"family": "gaussian"}
    yield "link", 0.8, x, (1 / (2 - eta)) * gamma(20, fits), {"family": "gamma", "link": "identity"}
    yield "dispersion", 0.95, x, torch.poisson((1 + eta).exp() * gamma(5, fits), generator=g), {"family": "poisson"}
    yield (
        "zeros",
        0.95,
        x,
        torch.poisson((1 + eta).exp().expand(fits, -1), generator=g) * (torch.rand(fits, 500, generator=g) > 0.1),
        {"family": "poisson"},
    )
    yield "variance", 0.9, x, (1 + eta).exp() * gamma(4, fits), {"family": "gaussian", "link": "log"}


@pytest.mark.parametrize("case", range(6))
def test_check_finds_what_is_wrong_with_the_stated_power(case: int) -> None:
    topic, power, x, y, options = list(wrong())[case]
    found = torchglm.fit(x, y, **options).check()
    assert share(found.found(topic)) >= power, str(found)


def test_check_names_the_direction_whenever_data_are_separated() -> None:
    x = design(100)
    rare = (torch.arange(100) % 10 == 0).double()
    torch.manual_seed(SEED)
    y = torch.rand(200, 100).lt(0.5).double() * (1 - rare)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torchglm.FitWarning)
        r = torchglm.fit(torch.cat([x, rare[:, None]], -1), y, family="bernoulli", names=["a", "b", "rare"])
    found = r.check()
    assert share(found.found("separation")) == 1
    assert all("1 level (10 rows) set apart: rare to -infinity" in one[0].sentence for one in found.findings)
