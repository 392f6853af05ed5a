"""The inverse Gaussian law as a torch distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from torchglm import special
from torchglm.distributions import tails
from torchglm.special.incomplete import LogPair


class InverseGaussian(Distribution):
    """Inverse Gaussian (Wald) law of mean `mu` and variance `dispersion mu^3`; the shape is `1 / dispersion`.

    `mean` and `dispersion`, positive, broadcast to the batch shape. Source: Chhikara and Folks (1989).
    """

    arg_constraints = {"mean": constraints.positive, "dispersion": constraints.positive}
    support = constraints.positive
    has_rsample = True
    mean: Tensor = None  # type: ignore[assignment]  # an argument, where the base class has a property

    def __init__(self, mean: Tensor | float, dispersion: Tensor | float, validate_args: bool | None = None) -> None:
        self.mean, self.dispersion = broadcast_all(mean, dispersion)
        super().__init__(self.mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> InverseGaussian:
        shape = Size(batch_shape)
        return InverseGaussian(self.mean.expand(shape), self.dispersion.expand(shape), validate_args=False)

    @property
    def variance(self) -> Tensor:
        return self.dispersion * self.mean**3

    @property
    def mode(self) -> Tensor:
        """`mu (sqrt(1 + k^2) - k)` with `k = 3 phi mu / 2`."""
        k = 1.5 * self.dispersion * self.mean
        return self.mean / (torch.sqrt(1 + k**2) + k)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return special.inverse_gaussian_log_prob(value, self.mean, self.dispersion)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by Michael, Schucany and Haas (1976), differentiable through the distribution function."""
        with torch.no_grad():
            value = self._draw(self._extended_shape(Size(sample_shape)))
        if not (self.mean.requires_grad or self.dispersion.requires_grad):
            return value
        log_lower = special.inverse_gaussian_log_tails(value, self.mean, self.dispersion)[0]
        log_density = special.inverse_gaussian_log_prob(value, self.mean, self.dispersion)
        weight = torch.exp(log_lower - log_density).detach()
        return value - (weight * (log_lower - log_lower.detach())).to(value.dtype)

    def _draw(self, shape: Size) -> Tensor:
        mean = self.mean.expand(shape)
        half = 0.5 * mean * self.dispersion * torch.randn_like(mean) ** 2
        ratio = 1 / (1 + half + torch.sqrt(half * (half + 2)))  # the smaller root over the mean
        smaller = torch.rand_like(mean) * (1 + ratio) <= 1
        return mean * torch.where(smaller, ratio, 1 / ratio)

    def cdf(self, value: Tensor) -> Tensor:
        return tails.cdf(self, value)

    def icdf(self, value: Tensor) -> Tensor:
        return tails.icdf(self, value)


@tails.log_tails.register
def _(law: InverseGaussian, value: Tensor) -> LogPair:
    return special.inverse_gaussian_log_tails(value, law.mean, law.dispersion)


@tails.quantile.register
def _(law: InverseGaussian, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    return special.inverse_gaussian_quantile(law.mean, law.dispersion, log_lower, log_upper)
