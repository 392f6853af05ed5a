"""Log-probabilities of counts as deviance plus remainder: no large terms that cancel, in any precision.

Each is `-deviance / 2` in its cancellation-free form plus Stirling remainders, which are small; the textbook
form in `lgamma` loses digits in proportion to the count. Source: Loader (2000), Fast and accurate computation
of binomial probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchglm.special.elementary import (
    kl_div,
    log1pmx,
    log_factorial_remainder,
    log_one_plus_minus_over,
    stirling_derivatives,
    stirling_remainder,
    stirling_remainder_of_inverse,
)

FEWEST = 32  # counts for which a table is made


def poisson_log_prob(y: Tensor, mu: Tensor) -> Tensor:
    """`y log mu - mu - lgamma(y + 1)` for `y >= 0`, `mu > 0`; arguments broadcast."""
    return -kl_div(y, mu) - log_factorial_remainder(y)


def binomial_log_prob(y: Tensor, trials: Tensor, probability: Tensor) -> Tensor:
    """`log C(n, y) + y log p + (n - y) log(1 - p)` for `0 <= y <= n`, `0 < p < 1`; arguments broadcast."""
    failures = trials - y
    deviance = kl_div(y, trials * probability) + kl_div(failures, trials * (1 - probability))
    remainder = log_factorial_remainder(y) + log_factorial_remainder(failures)
    return log_factorial_remainder(trials) - remainder - deviance


def log_rising(p: Tensor, y: Tensor) -> Tensor:
    """`lgamma(p + y) - lgamma(p) - y log p` for `p > 0`, `y >= 0`: what `p (p + 1) ... (p + y - 1)` is above `p^y`."""
    u = y / p
    return p * log1pmx(u) + (y - 0.5) * torch.log1p(u) + stirling_remainder(p + y) - stirling_remainder(p)


def log_rising_of_inverse(alpha: Tensor, y: Tensor) -> Tensor:
    """`log_rising(1 / alpha, y)` for `alpha >= 0`: 0 at `alpha = 0`."""
    u = alpha * y
    log = torch.log1p(u)
    remainder = stirling_remainder_of_inverse(alpha / (1 + u)) - stirling_remainder_of_inverse(alpha)
    return y * log_one_plus_minus_over(u, log) + (y - 0.5) * log + remainder


def log_rising_table(alpha: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """`log_rising_of_inverse(alpha, y) - lgamma(y + 1)` and its derivative by `log alpha`, of a number `alpha > 0`.

    Sums of `log(1 + alpha k)` less those of `log(k + 1)`, which no digit is lost of, over a table of the counts; None
    where `y` are no counts, or nearly as many as the table has entries.
    """
    top = float(y.amax()) if y.numel() else math.inf
    at = y.long() if 0 <= top < y.numel() // 2 else None
    if at is None or float(y.amin()) < 0 or not torch.equal(at.to(y.dtype), y):
        return None
    k = torch.arange(int(top), dtype=torch.float64, device=y.device)
    u = alpha.double().reshape(()) * k
    sums = torch.stack([torch.log1p(u) - torch.log1p(k), u / (1 + u)]).cumsum(-1)
    table = torch.cat([sums.new_zeros(2, 1), sums], -1).to(y.dtype)
    value, slope = table[0].take(at), table[1].take(at)
    return value, slope


def log_rising_slopes(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The first and second derivative of `log_rising` by `p`, without cancellation for large `p`."""
    total = p + y
    (first, second), (own, own_bend) = stirling_derivatives(total), stirling_derivatives(p)
    half = y / (2 * p * total)
    bend = (y / p).square() / total - half * (p + total) / (p * total)
    return log1pmx(y / p) + half + first - own, bend + second - own_bend


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


def negative_binomial_slopes(y: Tensor, mu: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The first and second derivative of `negative_binomial_log_prob` by `log alpha`; `alpha > 0`.

    With `r = 1 / alpha` and `u = (y - mu) / (r + mu)` those by `r` are `log(1 + u) - u` and `u^2 / (r + y)`
    beside what depends on `y` and `r` alone, differences of digamma and trigamma functions by their distance from
    Stirling's leading terms, so that nothing cancels for large `r`. Source: Lawless (1987), Canadian J. Statist. 15.
    """
    r = 1 / alpha
    u = (y - mu) / (r + mu)
    base, bend = of_counts(_rising_slopes, y, r)
    far = u < -0.5  # where mu is the largest by far, u rounds to -1
    own = torch.where(far, torch.log((r + y) / (r + mu)) - u, log1pmx(torch.where(far, 0.0, u)))
    first, second = own + base, u.square() / (r + y) + bend
    return -r * first, r * first + r.square() * second


def _rising_slopes(y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """What the derivatives by `r` have of `y` and `r` alone."""
    total = r + y
    (first, second), (own, own_bend) = stirling_derivatives(total), stirling_derivatives(r)
    half = y / (2 * r * total)
    return half + first - own, second - own_bend - half * (r + total) / (r * total)


def of_counts(function: Callable[[Tensor, Tensor], tuple[Tensor, ...]], y: Tensor, shape: Tensor) -> tuple[Tensor, ...]:
    """`function(y, shape)`, looked up in a table over 0, 1, ..., max y where that is the shorter way.

    It is where `y` (..., n) are whole numbers and `shape` is the same for all n of them.
    """
    n = y.shape[-1] if y.dim() else 0
    if shape.dim() and shape.shape[-1] > 1 or n < FEWEST:
        return function(y, shape)
    top = y.amax()
    if not bool((top < n // 2) & (y == y.floor()).all()):
        return function(y, shape)
    own = shape if shape.dim() else shape.unsqueeze(-1)
    tables = function(torch.arange(int(top) + 1, dtype=y.dtype, device=y.device), own)
    at = y.long()
    return tuple(table.expand(*at.shape[:-1], table.shape[-1]).gather(-1, at) for table in tables)
