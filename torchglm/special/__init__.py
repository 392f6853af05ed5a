"""Functions that torch lacks: exact densities at their limits, tails and quantiles, on any device."""

from torchglm.special.counts import (
    binomial_log_prob,
    negative_binomial_half_deviance,
    negative_binomial_log_prob,
    poisson_log_prob,
)
from torchglm.special.elementary import (
    kl_div,
    log1pmx,
    log_factorial_remainder,
    stirling_remainder,
)

__all__ = [
    "binomial_log_prob",
    "kl_div",
    "log1pmx",
    "log_factorial_remainder",
    "negative_binomial_half_deviance",
    "negative_binomial_log_prob",
    "poisson_log_prob",
    "stirling_remainder",
]
