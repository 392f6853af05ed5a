"""Distribution functions and quantiles of the laws of the families, accurate in either tail.

`log_tails` and `quantile` dispatch on the type of the law; the rest is the same for all. To add a law,
register both for its class. Everything broadcasts and is computed in float64 where the device has it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Distribution, Exponential, Gamma, Normal, Poisson

from torchglm.special import gamma_quantile, log_betainc, log_gammainc
from torchglm.special.incomplete import LogPair, log_complement, wide

_APART = 1e-15  # of a count: beyond 1e15 its neighbours are farther apart than 1
_SLACK = 1e-14  # so that the quantile of a computed probability is the number it was computed at


@functools.singledispatch
def log_tails(law: Distribution, value: Tensor) -> LogPair:
    """`log P(Y <= value)` and `log P(Y > value)`, each to full precision, broadcast over the law's batch.

    Raises `NotImplementedError` for a law whose class is not registered here.
    """
    raise NotImplementedError(f"No tails are known for {type(law).__name__}. Register them with log_tails.register.")


@functools.singledispatch
def quantile(law: Distribution, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    """The smallest value whose lower tail is at least that given by its logarithm and its complement's.

    NaN where they are no probabilities. Raises `NotImplementedError` for a law whose class is not registered.
    """
    raise NotImplementedError(f"No quantiles are known for {type(law).__name__}. Register them with quantile.register.")


def cdf(law: Distribution, value: Tensor) -> Tensor:
    """`P(Y <= value)`."""
    return torch.exp(log_tails(law, value)[0]).to(value.dtype)


def sf(law: Distribution, value: Tensor) -> Tensor:
    """`P(Y > value)`, the survival function: far in the upper tail it is not `1 - cdf`."""
    return torch.exp(log_tails(law, value)[1]).to(value.dtype)


def icdf(law: Distribution, probability: Tensor) -> Tensor:
    """The smallest value with `P(Y <= value) >= probability`; NaN outside [0, 1]."""
    p = probability.to(wide(probability)[0].dtype)
    return quantile(law, torch.log(p), torch.log1p(-p)).to(probability.dtype)


def isf(law: Distribution, probability: Tensor) -> Tensor:
    """The smallest value with `P(Y > value) <= probability`; NaN outside [0, 1]."""
    q = probability.to(wide(probability)[0].dtype)
    return quantile(law, torch.log1p(-q), torch.log(q)).to(probability.dtype)


# ---- continuous laws of torch


@log_tails.register
def _(law: Normal, value: Tensor) -> LogPair:
    value, loc, scale = wide(value, law.loc, law.scale)
    z = (value - loc) / scale
    return torch.special.log_ndtr(z), torch.special.log_ndtr(-z)


@quantile.register
def _(law: Normal, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    loc, scale, log_lower, log_upper = wide(law.loc, law.scale, log_lower, log_upper)
    lower = log_lower < log_upper
    z = torch.special.ndtri(torch.exp(torch.where(lower, log_lower, log_upper)))
    return loc + scale * torch.where(lower, z, -z)


@log_tails.register
def _(law: Exponential, value: Tensor) -> LogPair:
    value, rate = wide(value, law.rate)
    hazard = (rate * value).clamp(min=0)
    return log_complement(-hazard), -hazard


@quantile.register
def _(law: Exponential, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    rate, log_lower, log_upper = wide(law.rate, log_lower, log_upper)
    return torch.where((log_lower <= 0) & (log_upper <= 0), -log_upper / rate, math.nan)


@log_tails.register
def _(law: Gamma, value: Tensor) -> LogPair:
    value, concentration, rate = wide(value, law.concentration, law.rate)
    return log_gammainc(concentration, (rate * value).clamp(min=0))


@quantile.register
def _(law: Gamma, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    concentration, rate, log_lower, log_upper = wide(law.concentration, law.rate, log_lower, log_upper)
    return gamma_quantile(concentration, log_lower, log_upper) / rate


# ---- counts


def count_tails(value: Tensor, at: Callable[[Tensor], LogPair], most: Tensor | float = math.inf) -> LogPair:
    """The tails of a count at any real `value`, from their formula `at(k)` for whole `0 <= k < most`."""
    k = torch.floor(value)
    inside = (k >= 0) & (k < most)
    lower, upper = at(torch.where(inside, k, 0.0))
    beyond = torch.where(torch.isnan(k), math.nan, torch.where(k < 0, -math.inf, 0.0))
    before = torch.where(torch.isnan(k), math.nan, torch.where(k < 0, 0.0, -math.inf))
    return torch.where(inside, lower, beyond), torch.where(inside, upper, before)


def count_quantile(law: Distribution, log_lower: Tensor, log_upper: Tensor, skewness: Tensor) -> Tensor:
    """The smallest whole k >= 0 with the lower tail: a bracket by doubling steps, then bisection."""
    mean, variance, skewness, log_lower, log_upper = wide(law.mean, law.variance, skewness, log_lower, log_upper)
    by_lower = log_lower < log_upper

    def reached(k: Tensor) -> Tensor:
        below, above = log_tails(law, k)
        return torch.where(by_lower, below >= log_lower - _SLACK * (1 - log_lower), above <= log_upper + _SLACK)

    z = torch.special.ndtri(torch.exp(torch.where(by_lower, log_lower, log_upper)))
    z = torch.where(by_lower, z, -z).clamp(-40, 40)
    guess = mean + torch.sqrt(variance) * (z + skewness * (z**2 - 1) / 6)  # Cornish and Fisher (1937)
    probe = torch.floor(guess.nan_to_num(0.0).clamp(min=0))
    low, high = torch.full_like(probe, -math.inf), torch.full_like(probe, math.inf)
    step = torch.ones_like(probe)
    searched = torch.isfinite(log_lower) & (log_upper > -math.inf) & torch.isfinite(guess)
    while True:
        hit = reached(probe)
        low, high = torch.where(hit, low, probe), torch.where(hit, probe, high)
        low = torch.where(high == 0, -1.0, low)
        apart = high - low > 1 + _APART * high.nan_to_num(posinf=0.0)
        if not (searched & apart).any():
            break
        outward = torch.where(torch.isinf(high), low + step, (high - step).clamp(min=0))
        bracketed = torch.isfinite(low) & torch.isfinite(high)
        probe = torch.where(bracketed, torch.floor(0.5 * (low + high)), outward)
        probe = torch.where(searched & apart, probe, torch.where(torch.isinf(high), low, high))
        step = 2 * step
    found = torch.where(log_upper == -math.inf, _largest(law, high), high)
    found = torch.where(log_lower == -math.inf, 0.0, found)
    return torch.where((log_lower <= 0) & (log_upper <= 0), found, math.nan)


def _largest(law: Distribution, like: Tensor) -> Tensor:
    """The end of the support."""
    count = getattr(law, "total_count", None)
    return torch.full_like(like, math.inf) if count is None else wide(like, torch.as_tensor(count))[1]


@log_tails.register
def _(law: Poisson, value: Tensor) -> LogPair:
    value, rate = wide(value, law.rate)
    return count_tails(value, lambda k: log_gammainc(k + 1, rate)[::-1])


@quantile.register
def _(law: Poisson, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    return count_quantile(law, log_lower, log_upper, 1 / torch.sqrt(law.rate))


@log_tails.register
def _(law: Binomial, value: Tensor) -> LogPair:
    value, trials, probability = wide(value, law.total_count, law.probs)

    def at(k: Tensor) -> LogPair:
        return log_betainc((trials - k).clamp(min=1), k + 1, 1 - probability, probability)

    return count_tails(value, at, trials)


@quantile.register
def _(law: Binomial, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    return count_quantile(law, log_lower, log_upper, (1 - 2 * law.probs) / law.stddev)


@log_tails.register
def _(law: Bernoulli, value: Tensor) -> LogPair:
    return log_tails(Binomial(1, law.probs, validate_args=False), value)


@quantile.register
def _(law: Bernoulli, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    return quantile(Binomial(1, law.probs, validate_args=False), log_lower, log_upper)
