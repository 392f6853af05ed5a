"""Densities: they are the deviance and a base, have mass one, and are those of scipy and of series summed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from family_cases import ALL, Case, grid, wide
from scipy import stats
from torch import Tensor

from torchglm import families
from torchglm.families import Family

each_case = pytest.mark.parametrize("case", ALL, ids=repr)


def has_density(case: Case) -> bool:
    """The Tweedie families beyond power 2 have none in closed form but at 3."""
    power = getattr(case.family, "power", wide(0.0))
    return not bool((power > 2) & (power != 3))


each_density = pytest.mark.parametrize("case", [c for c in ALL if has_density(c)], ids=repr)


@each_density
@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_the_log_density_is_deviance_and_base(case: Case, weight: float) -> None:
    y, mu = grid(case)
    half = case.family.unit_deviance(y, mu) / 2
    if case.family.has_dispersion:
        base = case.family.log_base(y, torch.full_like(y, case.phi / weight))
        want = base - weight * half / case.phi
    elif case.family.mean_upper == 1:  # the weight counts trials
        want = case.family.log_base(y, torch.full_like(y, 1 / weight)) - weight * half
    else:  # the weight repeats the row
        want = weight * (case.family.log_base(y, torch.ones_like(y)) - half)
    got = case.family.log_prob(y, mu, case.phi, weight)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    at_mean = case.family.log_base(mu, torch.full_like(y, case.phi))
    torch.testing.assert_close(case.family.log_prob(mu, mu, case.phi), at_mean, rtol=1e-12, atol=1e-14)


@each_case
def test_a_row_of_weight_zero_counts_as_dropped(case: Case) -> None:
    y, mu = grid(case)
    weight = (torch.arange(len(y)) % 2).double()
    spoiled = torch.where(weight > 0, y, math.nan)
    got = case.family.log_prob(spoiled, mu, case.phi, weight)
    assert bool((got[weight == 0] == 0).all())
    kept = case.family.log_prob(y[1::2], mu[1::2], case.phi)
    torch.testing.assert_close(got[1::2], kept, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", [c for c in ALL if c.law is not None], ids=repr)
def test_the_log_density_is_that_of_scipy(case: Case) -> None:
    y, mu = grid(case)
    law = case.law(mu.numpy(), case.phi)
    want = law.logpmf(y.numpy()) if hasattr(law.dist, "logpmf") else law.logpdf(y.numpy())
    tolerance = 1e-5 if repr(case) == "NegativeBinomial(alpha=1e-09)" else 1e-10  # scipy's lgamma cancels there
    np.testing.assert_allclose(case.family.log_prob(y, mu, case.phi).numpy(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("trials", [1, 7, 1000])
def test_binomial_probabilities_are_those_of_scipy(trials: int) -> None:
    counts = torch.arange(0, trials + 1, max(1, trials // 9), dtype=torch.float64)
    y, mu = torch.meshgrid(counts, wide(0.01, 0.5, 0.97), indexing="ij")
    got = families.Binomial().log_prob(y / trials, mu, weight=float(trials))
    np.testing.assert_allclose(got, stats.binom(trials, mu.numpy()).logpmf(y.numpy()), rtol=1e-11, atol=1e-11)


def test_successes_between_whole_numbers_interpolate_the_binomial() -> None:
    """Proportions such as 0.33 of 10 trials are no error: the coefficient is that of the gamma function."""
    y, trials, p = 0.33, 10.0, 0.4
    coefficient = math.lgamma(11) - math.lgamma(1 + trials * y) - math.lgamma(1 + trials * (1 - y))
    want = coefficient + trials * (y * math.log(p) + (1 - y) * math.log(1 - p))
    assert float(families.Binomial().log_prob(wide(y), wide(p), weight=trials)) == pytest.approx(want, rel=1e-13)


def support_points(family: Family, mu: float, phi: float) -> tuple[Tensor, Tensor]:
    """Points of the support and the measure of each: counts, or a fine net on the logarithm (or the line)."""
    power = float(family.power) if hasattr(family, "power") else None
    if family.name in ("poisson", "negative_binomial") or power == 1:
        step = phi if power == 1 else 1.0
        y = torch.arange(0, 4000, dtype=torch.float64) * step
        return y, torch.ones_like(y)
    if family.mean_lower < 0:
        y = mu + math.sqrt(phi) * torch.linspace(-12, 12, 20001, dtype=torch.float64)
        return y, torch.full_like(y, float(y[1] - y[0]))
    log_y = torch.linspace(-60, 12, 60001, dtype=torch.float64)
    return log_y.exp(), log_y.exp() * float(log_y[1] - log_y[0])


@pytest.mark.parametrize("mu", [0.3, 2.5])
@pytest.mark.parametrize("case", [c for c in ALL if has_density(c) and c.family.mean_upper > 1], ids=repr)
def test_the_density_has_mass_one_the_mean_and_the_variance(case: Case, mu: float) -> None:
    family = case.family
    y, measure = support_points(family, mu, case.phi)
    mean = torch.full_like(y, mu)
    mass = family.log_prob(y, mean, case.phi).exp() * measure
    atom = 0.0
    if family.name == "tweedie" and 1 < float(family.power) < 2:
        atom = float(family.log_prob(wide(0.0), wide(mu), case.phi).exp())
        assert atom == pytest.approx(
            math.exp(-(mu ** (2 - float(family.power))) / (2 - float(family.power)) / case.phi)
        )
    if float(getattr(family, "power", wide(0.0))) == 1.0001:
        return  # all but a lattice: no net is fine enough; the series by hand below holds it
    variance = case.phi * float(family.variance(wide(mu)))
    assert float(mass.sum()) + atom == pytest.approx(1, rel=1e-7)
    assert float((mass * y).sum()) == pytest.approx(mu, rel=1e-6)
    assert float((mass * (y - mu) ** 2).sum()) + atom * mu**2 == pytest.approx(variance, rel=1e-5)


@pytest.mark.parametrize("mu", [0.02, 0.6])
def test_binomial_probabilities_sum_to_one(mu: float) -> None:
    for trials in (1, 2, 30):
        y = torch.arange(trials + 1, dtype=torch.float64) / trials
        total = families.Binomial().log_prob(y, torch.full_like(y, mu), weight=float(trials)).exp()
        assert float(total.sum()) == pytest.approx(1, rel=1e-13)
        assert float((total * y).sum()) == pytest.approx(mu, rel=1e-12)


@pytest.mark.parametrize("power", [1.0001, 1.2, 1.5, 1.9, 1.9999])
def test_tweedie_is_the_poisson_sum_of_gammas(power: float) -> None:
    family, phi = families.Tweedie(power), 0.6
    y, mu = torch.meshgrid(wide(0.01, 0.3, 1.2, 5.0), wide(0.4, 2.0), indexing="ij")
    n = np.arange(1, 60000.0)[:, None, None] if power == 1.9999 else np.arange(1, 400.0)[:, None, None]
    rate = mu.numpy() ** (2 - power) / (2 - power) / phi
    gammas = stats.gamma(n * (2 - power) / (power - 1), scale=phi * (power - 1) * mu.numpy() ** (power - 1))
    terms = stats.poisson(rate).logpmf(n) + gammas.logpdf(y.numpy())
    want = np.logaddexp.reduce(terms, axis=0)
    np.testing.assert_allclose(family.log_prob(y, mu, phi).numpy(), want, rtol=2e-8, atol=2e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_tweedie_meets_its_limits(dtype: torch.dtype) -> None:
    y, mu = torch.meshgrid(wide(0.3, 1.0, 4.0), wide(0.5, 3.0), indexing="ij")
    y, mu, phi = y.to(dtype), mu.to(dtype), 0.8
    limits = {0.0: families.Gaussian(), 2.0: families.Gamma(), 3.0: families.InverseGaussian()}
    for power, limit in limits.items():
        for name, arguments in (("unit_deviance", (y, mu)), ("log_prob", (y, mu, phi)), ("variance", (mu,))):
            torch.testing.assert_close(
                getattr(families.Tweedie(power), name)(*arguments),
                getattr(limit, name)(*arguments),
                rtol=1e-6,
                atol=1e-6,
            )
    near = families.Tweedie(2 - 1e-6).log_prob(y, mu, phi)
    torch.testing.assert_close(near, families.Gamma().log_prob(y, mu, phi), rtol=2e-5, atol=2e-5)
    for power, limit in (
        (1 + 1e-9, families.Poisson()),
        (1.0, families.Poisson()),
        (2.0 + 1e-9, families.Gamma()),
        (3 + 1e-9, families.InverseGaussian()),
        (3 - 1e-9, families.InverseGaussian()),
    ):
        torch.testing.assert_close(
            families.Tweedie(power).unit_deviance(y, mu), limit.unit_deviance(y, mu), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 3e-6)], ids=str)
@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1e-16, 1e-12])
def test_the_negative_binomial_meets_poisson_as_alpha_vanishes(alpha: float, dtype: torch.dtype, rtol: float) -> None:
    near, poisson = families.NegativeBinomial(alpha), families.Poisson()
    y, mu = (v.flatten().to(dtype) for v in torch.meshgrid(wide(0, 1, 7, 300), wide(0.05, 1, 6, 280), indexing="ij"))
    for name in ("log_prob", "unit_deviance"):
        ours, theirs = (getattr(family, name)(y, mu) for family in (near, poisson))
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-5 * rtol)
    torch.testing.assert_close(near.variance(mu), poisson.variance(mu), rtol=1e-6, atol=0)
    link, eta = near.default_link, mu.log()
    torch.testing.assert_close(
        near.nll(y, eta, link) - near.nll_saturated(y),
        poisson.nll(y, eta, link) - poisson.nll_saturated(y),
        rtol=1e-4,
        atol=1e-3,
    )
    for ours, theirs in zip(
        near.score_and_weight(y, eta, mu, link, True), poisson.score_and_weight(y, eta, mu, link, True), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_censored_times_have_the_survival_function() -> None:
    family = families.Exponential()
    y, mu = torch.meshgrid(wide(0.1, 1.0, 9.0), wide(0.5, 4.0), indexing="ij")
    event = wide(1, 0, 1).unsqueeze(-1).expand_as(y)
    coded, _ = family.encode(y, event=event)
    want = np.where(event == 1, stats.expon(scale=mu).logpdf(y), stats.expon(scale=mu).logsf(y))
    np.testing.assert_allclose(family.log_prob(coded, mu).numpy(), want, rtol=1e-13)
    np.testing.assert_allclose(-family.nll(coded, mu.log(), family.default_link).numpy(), want, rtol=1e-13)
