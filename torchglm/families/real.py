"""Families for a response on the whole real line."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributions
from torch.distributions import constraints

from torchglm import links, special
from torchglm.families.base import Family
from torchglm.families.numerics import checking, like
from torchglm.links import Link


class Gaussian(Family):
    """Normal errors: `V = 1`. The identity link makes least squares."""

    name = "gaussian"
    canonical = links.Identity
    least_squares = True
    support = constraints.real
    support_text = "finite y"
    mean_lower = -math.inf

    def variance(self, mu: Tensor) -> Tensor:
        return torch.ones_like(mu)

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return torch.zeros_like(mu)

    def constant_information(self, link: Link) -> bool:
        return type(link) is links.Identity

    def theta(self, mu: Tensor) -> Tensor:
        return mu

    def cumulant(self, theta: Tensor) -> Tensor:
        return theta.square() / 2

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        return (y - mu).square()

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        return (y - link(eta)).square() / 2

    def nll_and_slope(self, y: Tensor, eta: Tensor, link: Link) -> tuple[Tensor, Tensor] | None:
        if type(link) is not links.Identity:
            return None
        excess = eta - y
        return excess.square().mul_(0.5), excess

    def nll_saturated(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def base_slopes(self, y: Tensor, log_dispersion: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(log_dispersion, -0.5), torch.zeros_like(log_dispersion)

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        return -0.5 * torch.log(2 * math.pi * dispersion) + torch.zeros_like(y)

    def base_and_slope(self, y: Tensor, log_dispersion: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * (math.log(2 * math.pi) + log_dispersion), torch.full_like(log_dispersion, -0.5)

    def crps(self, y: Tensor, mu: Tensor, dispersion: Tensor) -> Tensor:
        return special.normal_crps(y, mu, dispersion)

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        return distributions.Normal(mu, like(dispersion, mu).sqrt(), validate_args=checking())
