"""Log-probabilities of counts as deviance plus remainder: no large terms that cancel, in any precision.

Each is `-deviance / 2` in its cancellation-free form plus Stirling remainders, which are small; the textbook
form in `lgamma` loses digits in proportion to the count. Source: Loader (2000), Fast and accurate computation
of binomial probabilities.
"""

import torch
from torch import Tensor

from torchglm.special.elementary import (
    kl_div,
    log_factorial_remainder,
    log_one_plus_minus_over,
    stirling_remainder_of_inverse,
)


def poisson_log_prob(y: Tensor, mu: Tensor) -> Tensor:
    """`y log mu - mu - lgamma(y + 1)` for `y >= 0`, `mu > 0`; arguments broadcast."""
    return -kl_div(y, mu) - log_factorial_remainder(y)


def binomial_log_prob(y: Tensor, trials: Tensor, probability: Tensor) -> Tensor:
    """`log C(n, y) + y log p + (n - y) log(1 - p)` for `0 <= y <= n`, `0 < p < 1`; arguments broadcast."""
    failures = trials - y
    deviance = kl_div(y, trials * probability) + kl_div(failures, trials * (1 - probability))
    remainder = log_factorial_remainder(y) + log_factorial_remainder(failures)
    return log_factorial_remainder(trials) - remainder - deviance


def negative_binomial_half_deviance(y: Tensor, mu: Tensor, alpha: Tensor) -> Tensor:
    """`y log(y / mu) - (y + 1/alpha) log((1 + alpha y) / (1 + alpha mu))`; at `alpha = 0`, `kl_div(y, mu)`.

    It is the sum of two terms that are both positive, so nothing cancels. `y >= 0`, `mu > 0`, `alpha >= 0`
    broadcast.
    """
    spread = 1 + alpha * mu
    ratio, difference = (1 + alpha * y) / spread, (y - mu) / spread
    safe = torch.where(y > 0, y, 1.0)
    # kl_div(y, mu ratio), whose difference y - mu ratio is the one above, free of rounding
    least = (mu * ratio / safe).clamp(max=torch.finfo(mu.dtype).max)
    own = torch.where(y > 0, difference * log_one_plus_minus_over(-difference / safe, torch.log(least)), mu * ratio)
    return own - difference * log_one_plus_minus_over(alpha * difference, torch.log(ratio))


def negative_binomial_log_prob(y: Tensor, mu: Tensor, alpha: Tensor) -> Tensor:
    """Log-probability of a count of mean `mu` and variance `mu + alpha mu^2`, exact at `alpha = 0` too.

    `lgamma(y + r) - lgamma(r) - lgamma(y + 1) + y log(mu / r) - (y + r) log(1 + mu / r)`, `r = 1 / alpha`,
    arranged so that it meets `poisson_log_prob` smoothly as `alpha -> 0`, derivatives included, in float32 as
    well. `y >= 0`, `mu > 0` and `alpha >= 0` broadcast.
    """
    scaled = 1 + alpha * y
    remainder = stirling_remainder_of_inverse(alpha / scaled) - stirling_remainder_of_inverse(alpha)
    remainder = remainder - 0.5 * torch.log(scaled) - log_factorial_remainder(y)
    return remainder - negative_binomial_half_deviance(y, mu, alpha)
