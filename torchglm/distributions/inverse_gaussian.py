"""The inverse Gaussian law as a torch distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from torchglm import special
from torchglm.distributions import tails
from torchglm.distributions.base import Law
from torchglm.special.incomplete import LogPair


class InverseGaussianMean(Law):
    """Inverse Gaussian (Wald) law of mean `mu` and variance `dispersion mu^3`; the shape is `1 / dispersion`.

    `mean` and `dispersion`, positive, broadcast to the batch shape. Source: Chhikara and Folks (1989).
    """

    arg_constraints = {"mean": constraints.positive, "dispersion": constraints.positive}
    support = constraints.positive
    has_rsample = True
    dispersion: Tensor

    def __init__(self, mean: Tensor | float, dispersion: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__(validate_args, mean=mean, dispersion=dispersion)

    @property
    def variance(self) -> Tensor:
        return self.dispersion * self.mean**3

    @property
    def mode(self) -> Tensor:
        """`mu (sqrt(1 + k^2) - k)` with `k = 3 phi mu / 2`."""
        k = 1.5 * self.dispersion * self.mean
        return self.mean / (torch.sqrt(1 + k**2) + k)

    def _log_prob(self, value: Tensor) -> Tensor:
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


@tails.log_tails.register
def _(law: InverseGaussianMean, value: Tensor) -> LogPair:
    return special.inverse_gaussian_log_tails(value, law.mean, law.dispersion)


@tails.quantile.register
def _(law: InverseGaussianMean, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    return special.inverse_gaussian_quantile(law.mean, law.dispersion, log_lower, log_upper)
