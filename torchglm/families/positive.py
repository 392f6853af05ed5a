"""Families for positive amounts: skewed, and with a heavier tail."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributions
from torch.distributions import constraints

from torchglm import distributions as exact
from torchglm import links, special
from torchglm.families.base import Family
from torchglm.families.numerics import any_observed, checking, like, log_less_excess, mask, within
from torchglm.links import Link

COMMON = 9.0  # of |log phi|: within, float64 has digits to spare for a result in float32


class ConstantVariation(Family):
    """What the Gamma and the exponential share: `V = mu^2`, a constant coefficient of variation."""

    def variance(self, mu: Tensor) -> Tensor:
        return mu.square()

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return 2 / mu

    def theta(self, mu: Tensor) -> Tensor:
        return -1 / mu

    def cumulant(self, theta: Tensor) -> Tensor:
        return -torch.log(-theta)


class Gamma(ConstantVariation):
    """Positive and skewed, constant coefficient of variation: `V = mu^2`; the shape is `1 / phi`."""

    name = "gamma"
    canonical = links.Inverse
    support = constraints.positive
    support_text = "y > 0"

    @property
    def head_link(self) -> Link:
        return links.Log()

    def constant_information(self, link: Link) -> bool:
        return type(link) is links.Log

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        return -2 * log_less_excess(y, mu)

    def cheap(
        self, y: Tensor, eta: Tensor, mu: Tensor, link: Link, relative: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        ratio = y / mu
        if relative:
            return ratio + (eta if type(link) is links.Log else mu.log()), None
        return ratio - 1 - ratio.log(), ratio + 1

    def score_and_weight(
        self, y: Tensor, eta: Tensor, mu: Tensor, link: Link, observed: Tensor | bool
    ) -> tuple[Tensor, Tensor]:
        relative = link.relative_slope(eta)
        score, weight = (y / mu - 1) * relative, relative.square()
        if not self.is_canonical(link) and any_observed(observed):
            bend = link.inverse_curvature(eta) - 2 * relative
            weight = torch.where(mask(observed, weight), weight - score * bend, weight)
        return score, weight

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        log_mean = link.log_inverse(eta)
        return y * torch.exp(-log_mean) + log_mean

    def nll_and_slope(self, y: Tensor, eta: Tensor, link: Link) -> tuple[Tensor, Tensor] | None:
        if type(link) is not links.Log:
            return None
        ratio = y * torch.exp(-eta)
        return ratio + eta, 1 - ratio

    def nll_saturated(self, y: Tensor) -> Tensor:
        return 1 + y.log()

    def base_slopes(self, y: Tensor, log_dispersion: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.exp(-log_dispersion)
        first, trigamma = special.log_minus_digamma(a)
        return -first, first - trigamma

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        return -0.5 * torch.log(2 * math.pi * dispersion) - y.log() - special.stirling_remainder(1 / dispersion)

    def base_and_slope(self, y: Tensor, log_dispersion: Tensor) -> tuple[Tensor, Tensor] | None:
        if log_dispersion.dtype == torch.float64 or not within(log_dispersion, COMMON):
            return None
        logs = -log_dispersion.double()  # in which lgamma and what is near it keep all that a float32 has
        a = logs.exp()
        value = a * (logs - 1) - torch.lgamma(a)
        slope = a * (torch.digamma(a) - logs)
        return value.to(y.dtype) - y.log(), slope.to(y.dtype)

    def crps(self, y: Tensor, mu: Tensor, dispersion: Tensor) -> Tensor:
        return special.gamma_crps(y, mu, dispersion)

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        shape = 1 / like(dispersion, mu)
        return distributions.Gamma(shape, shape / mu, validate_args=checking())


class InverseGaussian(Family):
    """Positive with a heavy right tail (first passage times): `V = mu^3`."""

    name = "inverse_gaussian"
    canonical = links.InverseSquared
    support = constraints.positive
    support_text = "y > 0"

    @property
    def head_link(self) -> Link:
        return links.Log()

    def variance(self, mu: Tensor) -> Tensor:
        return mu.pow(3)

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return 3 / mu

    def theta(self, mu: Tensor) -> Tensor:
        return -0.5 / mu.square()

    def cumulant(self, theta: Tensor) -> Tensor:
        return -torch.sqrt(-2 * theta)

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        excess = (y - mu) / mu
        return excess * (excess / y)  # the square alone would overflow

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        excess = y * torch.exp(-link.log_inverse(eta)) - 1
        return excess * (excess / y) / 2

    def nll_and_slope(self, y: Tensor, eta: Tensor, link: Link) -> tuple[Tensor, Tensor] | None:
        if type(link) is not links.Log:
            return None
        ratio = y * torch.exp(-eta)
        excess = ratio - 1
        share = excess / y
        return excess * share / 2, -share * ratio

    def nll_saturated(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def base_slopes(self, y: Tensor, log_dispersion: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(log_dispersion, -0.5), torch.zeros_like(log_dispersion)

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        return -0.5 * (torch.log(2 * math.pi * dispersion) + 3 * y.log())

    def base_and_slope(self, y: Tensor, log_dispersion: Tensor) -> tuple[Tensor, Tensor]:
        value = -0.5 * (math.log(2 * math.pi) + log_dispersion + 3 * y.log())
        return value, torch.full_like(log_dispersion, -0.5)

    def slope_over_variance(self, slope: Tensor, mu: Tensor) -> Tensor:
        return slope / mu / mu / mu

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        return exact.InverseGaussianMean(mu, like(dispersion, mu), validate_args=checking())
