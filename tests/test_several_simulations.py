"""Simulations with fixed seeds: 95 % intervals of families of several predictors cover the truth 95 times of 100."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchglm as tg

pytestmark = pytest.mark.slow
FITS, N, SEED = 2000, 600, 20260101
MEAN, OTHER = (0.8, 0.4, -0.3), (-0.4, 0.3)  # constant and slopes of the first predictor, and of each other


class Draw:
    """Responses of `FITS` models of one design; `eta` is the first predictor, `other` each of those beside it."""

    def __init__(self, fits: int = FITS, n: int = N) -> None:
        self.generator = torch.Generator().manual_seed(SEED)
        self.x = torch.rand(n, 2, generator=self.generator, dtype=torch.float64) * 3 - 1.5
        one = torch.ones(fits, 1, dtype=torch.float64)
        self.eta = one * (MEAN[0] + self.x @ torch.tensor(MEAN[1:], dtype=torch.float64))
        self.other = one * (OTHER[0] + OTHER[1] * self.x[:, 0])

    def uniform(self) -> Tensor:
        return torch.rand(self.eta.shape, generator=self.generator, dtype=torch.float64)

    def normal(self) -> Tensor:
        return torch.randn(self.eta.shape, generator=self.generator, dtype=torch.float64)

    def gamma(self, shape: Tensor) -> Tensor:
        return torch._standard_gamma(shape.contiguous(), generator=self.generator)

    def poisson(self) -> Tensor:
        return torch.poisson(self.eta.exp(), generator=self.generator)

    def negative_binomial(self, alpha: Tensor) -> Tensor:
        return torch.poisson(self.eta.exp() * self.gamma(1 / alpha) * alpha, generator=self.generator)

    def amounts(self) -> Tensor:
        phi = self.other.exp()
        return self.gamma(1 / phi) * phi * self.eta.exp()

    def beta(self) -> Tensor:
        mean, phi = self.eta.sigmoid(), (self.other + 3).exp()
        one, rest = self.gamma(mean * phi), self.gamma((1 - mean) * phi)
        return one / (one + rest)

    def above(self, draw: Callable[[], Tensor]) -> Tensor:
        """What is above 0."""
        y = draw()
        while bool((y == 0).any()):
            y = torch.where(y == 0, draw(), y)
        return y

    def times(self, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Times, about a third of them censored."""
        time, end = (self.eta + self.other.exp() * z).exp(), (1.2 + self.normal()).exp()
        return torch.minimum(time, end), {"event": (time <= end).double()}

    def or_zero(self, y: Tensor) -> Tensor:
        return torch.where(self.uniform() < self.other.sigmoid(), 0.0, y)


def inverse_gaussian(d: Draw) -> Tensor:
    mu, phi = d.eta.exp(), (d.other - 1).exp()
    v = d.normal().square() * mu * phi
    small = mu * (1 + v / 2 - (v + v.square() / 4).sqrt())
    return torch.where(d.uniform() < mu / (mu + small), small, mu.square() / small)


def counts_of_trials(d: Draw) -> tuple[Tensor, dict[str, Tensor]]:
    trials = torch.randint(4, 20, d.eta.shape, generator=d.generator).double()
    return torch.binomial(trials, d.beta(), generator=d.generator), {"trials": trials}


# family, its predictors that have columns with what is added to their constants, and how responses are drawn
CASES: dict[str, tuple[Any, dict[str, float], Callable[[Draw], Any]]] = {
    "gaussian": (tg.Gaussian(), {"dispersion": 0}, lambda d: d.eta + (d.other / 2).exp() * d.normal()),
    "gamma": (tg.Gamma(), {"dispersion": 0}, lambda d: d.amounts()),
    "inverse_gaussian": (tg.InverseGaussian(), {"dispersion": -1}, inverse_gaussian),
    "negative_binomial": (tg.NegativeBinomial(), {"alpha": 0}, lambda d: d.negative_binomial(d.other.exp())),
    "beta": (tg.Beta(), {"precision": 3}, lambda d: d.beta()),
    "beta_binomial": (tg.BetaBinomial(), {"precision": 3}, counts_of_trials),
    "zero_inflated": (tg.ZeroInflated("poisson"), {"zero": 0}, lambda d: d.or_zero(d.poisson())),
    "hurdle": (tg.Hurdle("poisson"), {"zero": 0}, lambda d: d.or_zero(d.above(d.poisson))),
    "hurdle of counts": (
        tg.Hurdle(tg.NegativeBinomial(0.5)),
        {"zero": 0},
        lambda d: d.or_zero(d.above(lambda: d.negative_binomial(torch.full_like(d.eta, 0.5)))),
    ),
    "hurdle of costs": (tg.Hurdle("gamma"), {"zero": 0, "dispersion": 0}, lambda d: d.or_zero(d.amounts())),
    "hurdle of normal logs": (
        tg.Hurdle("lognormal"),
        {"zero": 0, "scale": 0},
        lambda d: d.or_zero((d.eta + d.other.exp() * d.normal()).exp()),
    ),
    "weibull": (tg.Weibull(), {"scale": 0}, lambda d: d.times((-d.uniform().log()).log())),
    "lognormal": (tg.LogNormal(), {"scale": 0}, lambda d: d.times(d.normal())),
    "loglogistic": (tg.LogLogistic(), {"scale": 0}, lambda d: d.times(d.uniform().logit())),
}
LOGS = ("gamma", "inverse_gaussian", "hurdle of costs")


@pytest.mark.parametrize("name", CASES)
def test_wald_intervals_cover_95_percent(name: str) -> None:
    family, others, draw = CASES[name]
    d = Draw()
    drawn = draw(d)
    y, roles = drawn if isinstance(drawn, tuple) else (drawn, {})
    options = {"link": "log"} if name in LOGS else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.FitWarning)
        r = tg.fit(d.x, y, family=family, predictors=dict.fromkeys(others, d.x[:, :1]), **roles, **options)
    truth = torch.tensor(
        [*MEAN, *(value for shift in others.values() for value in (OTHER[0] + shift, OTHER[1]))], dtype=torch.float64
    )
    fine = r.converged
    assert float(fine.double().mean()) > 0.99
    limits = r.conf_int(0.95)[fine]
    covered = ((limits[..., 0] <= truth) & (truth <= limits[..., 1])).double().mean(0)
    assert abs(float(covered.mean()) - 0.95) <= 0.01, covered
    noise = math.sqrt(0.95 * 0.05 / FITS)
    assert float((covered - 0.95).abs().max()) <= 3.5 * noise, covered


@pytest.mark.parametrize("family", [tg.Multinomial(classes=3), tg.Ordinal(classes=3)], ids=lambda family: family.name)
def test_those_of_classes_cover_95_percent(family: Any) -> None:
    d = Draw()
    ordinal = family.name == "ordinal"
    if ordinal:
        eta = torch.stack([-1.0 - d.eta + MEAN[0], 0.5 - d.eta + MEAN[0]])
        truth = [*MEAN[1:], -1.0, 0.5]
    else:
        eta, truth = torch.stack([d.eta, d.other + 0 * d.eta]), [*MEAN, *OTHER, 0.0]
    p = family.probabilities(eta).cumsum(0)
    y = (u := d.uniform()).gt(p[0]).double() + u.gt(p[1]).double()
    r = tg.fit(d.x, y, family=family)
    cov = r.covariance().diagonal(dim1=-2, dim2=-1).sqrt()
    coef = torch.cat([r.coef, r.thresholds], -1) if ordinal else r.coef
    covered = ((coef - torch.tensor(truth)).abs() <= 1.959963984540054 * cov)[r.converged].double().mean(0)
    assert abs(float(covered.mean()) - 0.95) <= 0.01, covered
    assert float((covered - 0.95).abs().max()) <= 3.5 * math.sqrt(0.95 * 0.05 / FITS), covered


COUNTS = {"zero_inflated": tg.ZeroInflated, "hurdle": tg.Hurdle}


@pytest.mark.parametrize("name", ["zero_inflated", "hurdle", "tweedie"])
def test_those_of_laws_with_a_shape_cover_95_percent(name: str) -> None:
    """A constant alpha behind zeros, and a constant dispersion and power."""
    d = Draw(n=400)
    if name == "tweedie":
        mu, phi, power = d.eta.exp(), 1.5, 1.6
        jumps = torch.poisson(mu.pow(2 - power) / (phi * (2 - power)), generator=d.generator)
        shape = torch.where(jumps > 0, jumps * (2 - power) / (power - 1), 1.0)
        y = torch.where(jumps > 0, d.gamma(shape) * phi * (power - 1) * mu.pow(power - 1), 0.0)
        r = tg.fit(d.x, y, family=tg.Tweedie(), predictors={"dispersion": "~ 1"})
        others = [math.log(phi), math.log(0.6 / 0.4)]
    else:
        alpha = torch.full_like(d.eta, 0.5)
        y = d.negative_binomial(alpha)
        y = d.or_zero(d.above(lambda: d.negative_binomial(alpha)) if name == "hurdle" else y)
        r = tg.fit(d.x, y, family=COUNTS[name]("negative_binomial"), predictors={"zero": d.x[:, :1]})
        others = [*OTHER, math.log(0.5)]
    fine = r.converged
    assert float(fine.double().mean()) > 0.97
    truth, limits = torch.tensor([*MEAN, *others], dtype=torch.float64), r.conf_int()[fine]
    covered = ((limits[..., 0] <= truth) & (truth <= limits[..., 1])).double().mean(0)
    assert abs(float(covered.mean()) - 0.95) <= 0.01, covered
    assert float((covered - 0.95).abs().max()) <= 3.5 * math.sqrt(0.95 * 0.05 / FITS), covered
