"""Multiples of a Poisson count, the Tweedie law of power 1, as a torch distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Poisson, constraints

from torchglm import special
from torchglm.distributions import tails
from torchglm.distributions.base import Law
from torchglm.special.incomplete import LogPair


class ScaledPoisson(Law):
    """`dispersion` times a Poisson count of mean `mean / dispersion`: its variance is `dispersion mean`.

    `mean > 0` and `dispersion > 0` broadcast to the batch shape. Source: Jorgensen (1997), The Theory of Dispersion
    Models, section 4.1.
    """

    arg_constraints = {"mean": constraints.nonnegative, "dispersion": constraints.positive}
    support = constraints.nonnegative
    dispersion: Tensor

    def __init__(self, mean: Tensor | float, dispersion: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__(validate_args, mean=mean, dispersion=dispersion)

    @property
    def count(self) -> Poisson:
        """The law of the count that is multiplied."""
        return Poisson(self.mean / self.dispersion, validate_args=False)

    @property
    def variance(self) -> Tensor:
        return self.dispersion * self.mean

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the count, multiplied."""
        return self.dispersion * self.count.sample(Size(sample_shape))

    def _log_prob(self, value: Tensor) -> Tensor:
        return special.poisson_log_prob(value / self.dispersion, self.mean / self.dispersion)


@tails.log_tails.register
def _(law: ScaledPoisson, value: Tensor) -> LogPair:
    count = value / law.dispersion
    whole = count.round()  # dividing a multiple by its unit rounds
    near = (count - whole).abs() <= 1e-9 * whole
    return tails.log_tails(law.count, torch.where(near, whole, count))


@tails.quantile.register
def _(law: ScaledPoisson, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    return law.dispersion * tails.quantile(law.count, log_lower, log_upper)
