"""The Tweedie families, whose variance is a power of the mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributions, nn
from torch.distributions import constraints

from torchglm import distributions as exact
from torchglm import links, special
from torchglm.families.base import Family
from torchglm.families.counts import Poisson
from torchglm.families.numerics import checking, like, number, product, rows_of, text
from torchglm.families.positive import Gamma, InverseGaussian
from torchglm.families.real import Gaussian
from torchglm.links import Link
from torchglm.special.elementary import exp_to_the_last

_LIMITS: dict[float | None, Family] = {0.0: Gaussian(), 1.0: Poisson(), 2.0: Gamma(), 3.0: InverseGaussian()}


class Tweedie(Family):
    """`V = mu^power`. Between 1 and 2: exactly zero or positive, a Poisson sum of Gammas.

    The powers 0, 1, 2 and 3 are the Gaussian, (over-dispersed) Poisson, Gamma and inverse Gaussian families.
    `power=None` estimates a power in (1, 2): it is then a learned parameter of the module. Other powers above 2
    (tilted stable laws) have mean, variance and deviance, but no density here: `log_prob` is NaN.
    Raises `ValueError` for a power in (0, 1), where no such family exists, or below 0.
    Source: Dunn & Smyth (2005), Series evaluation of Tweedie exponential dispersion model densities.
    """

    name = "tweedie"
    support: constraints.Constraint = constraints.nonnegative

    def __init__(self, power: float | None = None) -> None:
        super().__init__()
        value = 1.5 if power is None else float(power)
        if not (value == 0 or value >= 1) or not math.isfinite(value):
            raise ValueError(f"Tweedie needs power 0 or >= 1, got {power}. Between 1 and 2 is the usual range.")
        self._fixed = None if 1 < value < 2 else value
        raw = number(value - 1 if 1 < value < 2 else 0.5).logit()
        self.raw_power = nn.Parameter(raw, requires_grad=power is None)
        self.support = (
            constraints.real if value == 0 else (constraints.positive if value >= 2 else constraints.nonnegative)
        )
        self.support_text = "finite y" if value == 0 else ("y > 0" if value >= 2 else "y >= 0")
        self.mean_lower = -math.inf if value == 0 else 0.0

    @property
    def _limit(self) -> Family | None:
        """The family this one is, where it has a name of its own."""
        return _LIMITS.get(self._fixed)

    @property
    def canonical(self) -> type[Link] | None:  # type: ignore[override]
        return None if self._limit is None else self._limit.canonical

    @property
    def least_squares(self) -> bool:  # type: ignore[override]
        return self._limit is not None and self._limit.least_squares

    @property
    def power(self) -> Tensor:
        """The variance power, shape `(*B)`."""
        if self._fixed is not None:
            return torch.full_like(self.raw_power, self._fixed)
        return 1 + self.raw_power.sigmoid()

    def _power(self, mu: Tensor) -> Tensor:
        return rows_of(self.power, mu)

    @property
    def canonical_link(self) -> Link:
        if self._limit is not None:
            return self._limit.canonical_link
        return links.Power(1 - float(self.power.mean()))

    @property
    def default_link(self) -> Link:
        return links.Log()

    def variance(self, mu: Tensor) -> Tensor:
        return mu.pow(self._power(mu))

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return self._power(mu) / mu

    def theta(self, mu: Tensor) -> Tensor:
        if self._limit is not None:
            return self._limit.theta(mu)
        p = self._power(mu)
        return mu.pow(1 - p) / (1 - p)

    def cumulant(self, theta: Tensor) -> Tensor:
        if self._limit is not None:
            return self._limit.cumulant(theta)
        p = self._power(theta)
        return ((1 - p) * theta).pow((2 - p) / (1 - p)) / (2 - p)

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        if self._limit is not None:
            return self._limit.unit_deviance(y, mu)
        return special.tweedie_unit_deviance(y, mu, self._power(mu))

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        if self._limit is not None:
            return self._limit.nll(y, eta, link)
        log_mean = link.log_inverse(eta)
        p = self._power(log_mean)
        return torch.exp((2 - p) * log_mean) / (2 - p) - product(y, exp_to_the_last((1 - p) * log_mean)) / (1 - p)

    def nll_and_slope(self, y: Tensor, eta: Tensor, link: Link) -> tuple[Tensor, Tensor] | None:
        if self._limit is not None:
            return self._limit.nll_and_slope(y, eta, link)
        if type(link) is not links.Log:
            return None
        p = self._power(eta)
        most, least = torch.exp((2 - p) * eta), y * torch.exp((1 - p) * eta)
        return most / (2 - p) + least / (p - 1), most - least

    def dispersed_and_slopes(
        self, y: Tensor, eta: Tensor, link: Link, log_dispersion: Tensor
    ) -> tuple[Tensor, ...] | None:
        if self._limit is not None:
            return self._limit.dispersed_and_slopes(y, eta, link, log_dispersion)
        if type(link) is not links.Log or self.raw_power.numel() != 1:
            return None
        found = special.tweedie_with_slopes(y, eta, log_dispersion, self.raw_power.detach().reshape(()))
        return found if found is None or self.estimates_shape else found[:3]

    def nll_saturated(self, y: Tensor) -> Tensor:
        if self._limit is not None:
            return self._limit.nll_saturated(y)
        p = self._power(y)
        positive = y > 0  # the second derivative of 0^(2 - p) by p is not 0 to torch
        powered = torch.where(positive, y, 1.0).pow(2 - p)
        return torch.where(positive, -powered, torch.where(p < 2, 0.0, math.inf)) / ((1 - p) * (2 - p))

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        if self._limit is not None and self._fixed != 1:
            return self._limit.log_base(y, dispersion)
        mean = torch.where(y > 0, y, 1.0)
        if self._limit is not None:  # dispersion times a count
            at_mean = -special.log_factorial_remainder(mean / dispersion)
        else:
            at_mean = special.tweedie_log_prob(mean, mean, dispersion, self._power(y))
        return torch.where(y > 0, at_mean, 0.0)

    def base_slopes(self, y: Tensor, log_dispersion: Tensor) -> tuple[Tensor, Tensor]:
        if self._limit is not None:
            return super().base_slopes(y, log_dispersion)
        mean = torch.where(y > 0, y, 1.0)
        slopes = special.tweedie_slopes(mean, mean, log_dispersion.exp(), self._power(y))
        return torch.where(y > 0, slopes.by_log_phi, 0.0), torch.where(y > 0, slopes.by_log_phi_twice, 0.0)

    def slope_over_variance(self, slope: Tensor, mu: Tensor) -> Tensor:
        return slope / mu * mu.pow(1 - self._power(mu))

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y if self._fixed == 0 else torch.where(y == 0, 0.1, y)

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        if self._fixed == 1:
            return exact.ScaledPoisson(mu, like(dispersion, mu), validate_args=checking())
        if self._limit is not None:
            return self._limit.distribution(mu, dispersion)
        if self._fixed is not None:
            raise ValueError(
                f"Tweedie has no distribution at hand for power {self._fixed:g}. Take a power in (1, 2), "
                "2 (Gamma) or 3 (inverse Gaussian)."
            )
        return exact.TweedieMean(mu, like(dispersion, mu), self._power(mu), validate_args=checking())

    def arguments(self) -> dict[str, float]:
        return {} if self._fixed is None else {"power": self._fixed}

    def extra_repr(self) -> str:
        return "power=estimated" if self.raw_power.requires_grad else f"power={text(self.power)}"
