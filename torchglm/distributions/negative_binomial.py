"""The negative binomial law of a mean and an over-dispersion as a torch distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from torchglm import special
from torchglm.distributions import tails
from torchglm.distributions.base import Law
from torchglm.special.incomplete import LogPair, wide

_LEAST = 1e-30  # an alpha that is Poisson to the last digit, and whose inverse is finite


class NegativeBinomialMean(Law):
    """Negative binomial law of mean `mu` and variance `mu + alpha mu^2`, Poisson at `alpha = 0`.

    `mean > 0` and `alpha >= 0` broadcast to the batch shape; `1 / alpha` is torch's `total_count`. Source:
    Cameron and Trivedi (2013), Regression analysis of count data, section 3.3 (NB2).
    """

    arg_constraints = {"mean": constraints.positive, "alpha": constraints.nonnegative}
    support = constraints.nonnegative_integer
    alpha: Tensor

    def __init__(self, mean: Tensor | float, alpha: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__(validate_args, mean=mean, alpha=alpha)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 + self.alpha * self.mean)

    def _log_prob(self, value: Tensor) -> Tensor:
        return special.negative_binomial_log_prob(value, self.mean, self.alpha)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws: a Poisson count whose rate is Gamma, of mean `mu` and variance `alpha mu^2`."""
        shape = self._extended_shape(Size(sample_shape))
        mean, alpha = self.mean.expand(shape), self.alpha.expand(shape)
        mixed = alpha > torch.finfo(mean.dtype).eps
        shape_ = 1 / torch.where(mixed, alpha, 1.0)
        factor = torch.distributions.Gamma(shape_, shape_, validate_args=False).sample()
        return torch.poisson(mean * torch.where(mixed, factor, 1.0))


def _tails(mean: Tensor, alpha: Tensor) -> Callable[[Tensor], LogPair]:
    mean, alpha = wide(mean, alpha)
    alpha = alpha.clamp(min=_LEAST)
    failure = 1 / (1 + alpha * mean)

    def at(k: Tensor) -> LogPair:
        return special.log_betainc(1 / alpha, k + 1, failure, alpha * mean * failure)

    return lambda value: tails.count_tails(value, at)


@tails.log_tails.register
def _(law: NegativeBinomialMean, value: Tensor) -> LogPair:
    return _tails(law.mean, law.alpha)(wide(value)[0])


@tails.quantile.register
def _(law: NegativeBinomialMean, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    skewness = (1 + 2 * law.alpha * law.mean) / law.stddev
    return tails.count_quantile(law, _tails(law.mean, law.alpha), log_lower, log_upper, skewness)
