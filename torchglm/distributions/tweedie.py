"""The Tweedie law with power between 1 and 2 as a torch distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from torchglm import special
from torchglm.distributions import tails
from torchglm.distributions.base import Law
from torchglm.special.incomplete import LogPair


class TweedieMean(Law):
    """Tweedie law of mean `mu` and variance `dispersion mu^power`, `1 < power < 2`: zero, or positive.

    A Poisson number of Gamma terms. `mean`, `dispersion` and `power` broadcast to the batch shape; `log_prob`
    is the log-probability at 0 and the log-density beyond. Source: Jorgensen (1997), The theory of dispersion
    models, chapter 4.
    """

    arg_constraints = {
        "mean": constraints.positive,
        "dispersion": constraints.positive,
        "power": constraints.interval(1.0, 2.0),
    }
    support = constraints.nonnegative
    dispersion: Tensor
    power: Tensor

    def __init__(
        self,
        mean: Tensor | float,
        dispersion: Tensor | float,
        power: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(validate_args, mean=mean, dispersion=dispersion, power=power)

    @property
    def variance(self) -> Tensor:
        return self.dispersion * self.mean**self.power

    def _log_prob(self, value: Tensor) -> Tensor:
        return special.tweedie_log_prob(value, self.mean, self.dispersion, self.power)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws: a Poisson number n of terms, then one Gamma variable of n times the shape."""
        shape = self._extended_shape(Size(sample_shape))
        rate, alpha, scale = special.tweedie_compound(self.mean, self.dispersion, self.power)
        number = torch.poisson(rate.expand(shape))
        drawn = torch.distributions.Gamma(number.clamp(min=1) * alpha, 1.0, validate_args=False).sample()
        return torch.where(number > 0, scale * drawn, 0.0)


@tails.log_tails.register
def _(law: TweedieMean, value: Tensor) -> LogPair:
    return special.tweedie_log_tails(value, law.mean, law.dispersion, law.power)


@tails.quantile.register
def _(law: TweedieMean, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    return special.tweedie_quantile(law.mean, law.dispersion, law.power, log_lower, log_upper)
