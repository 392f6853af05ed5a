"""Distribution functions and quantiles of the laws of the families, accurate in either tail.

`log_tails` and `quantile` dispatch on the type of the law; the rest is the same for all. To add a law,
register both for its class. Everything broadcasts and is computed in float64 where the device has it.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Distribution, Exponential, Gamma, Normal, Poisson

from torchglm.special import gamma_quantile, log_betainc, log_gammainc
from torchglm.special.incomplete import LogPair, log_complement, wide
from torchglm.special.tracing import repeated

Found = TypeVar("Found")

_APART = 1e-15  # of a count: beyond 1e15 its neighbours are farther apart than 1
_MOST_STEPS = 4000  # of a search for a count: outward by doubling, then by halves
_SLACK = 1e-14  # so that the quantile of a computed probability is the number it was computed at


class ByLaw(Generic[Found]):
    """A function of a law and numbers, written for each class of laws and registered there: `@log_tails.register`.

    It is as `functools.singledispatch`, but keeps no memory of calls, so that graphs can be traced through it.
    """

    def __init__(self, otherwise: Callable[..., Found]) -> None:
        self.otherwise = otherwise
        self.known: dict[type, Callable[..., Found]] = {}
        functools.update_wrapper(self, otherwise)

    def register(self, formula: Callable[..., Found]) -> Callable[..., Found]:
        """Take a formula for the class that its first argument is annotated with."""
        first = next(iter(inspect.signature(formula, eval_str=True).parameters.values()))
        self.known[first.annotation] = formula
        return formula

    def __call__(self, law: Distribution, *values: Tensor) -> Found:
        for kind in type(law).__mro__:
            if kind in self.known:
                return self.known[kind](law, *values)
        return self.otherwise(law, *values)


@ByLaw
def log_tails(law: Distribution, value: Tensor) -> LogPair:
    """`log P(Y <= value)` and `log P(Y > value)`, each to full precision, broadcast over the law's batch.

    Raises `NotImplementedError` for a law whose class is not registered here.
    """
    raise NotImplementedError(f"No tails are known for {type(law).__name__}. Register them with log_tails.register.")


@ByLaw
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


def count_quantile(
    law: Distribution, tails_at: Callable[[Tensor], LogPair], log_lower: Tensor, log_upper: Tensor, skewness: Tensor
) -> Tensor:
    """The smallest whole k >= 0 with the lower tail: a bracket by doubling steps, then bisection on `tails_at(k)`."""
    mean, variance, skewness, log_lower, log_upper = wide(law.mean, law.variance, skewness, log_lower, log_upper)
    by_lower = log_lower < log_upper

    def reached(k: Tensor) -> Tensor:
        below, above = tails_at(k)
        low, high = below >= log_lower - _SLACK * (1 - log_lower), above <= log_upper + _SLACK
        return torch.where(by_lower, low, high)

    z = torch.special.ndtri(torch.exp(torch.where(by_lower, log_lower, log_upper)))
    z = torch.where(by_lower, z, -z).clamp(-40, 40)
    guess = mean + torch.sqrt(variance) * (z + skewness * (z**2 - 1) / 6)  # Cornish and Fisher (1937)
    probe = torch.floor(guess.nan_to_num(0.0).clamp(min=0))
    low, high = torch.full_like(probe, -math.inf), torch.full_like(probe, math.inf)
    step = torch.ones_like(probe)
    searched = torch.isfinite(log_lower) & (log_upper > -math.inf) & torch.isfinite(guess)

    def once(probe: Tensor, low: Tensor, high: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        hit = reached(probe)
        low, high = torch.where(hit, low, probe), torch.where(hit, probe, high)
        low = torch.where(high == 0, -1.0, low)
        outward = torch.where(torch.isinf(high), low + step, (high - step).clamp(min=0))
        bracketed = torch.isfinite(low) & torch.isfinite(high)
        probe = torch.where(bracketed, torch.floor(0.5 * (low + high)), outward)
        kept = torch.where(torch.isinf(high), low, high)
        return torch.where(searched & _apart(low, high), probe, kept), low, high, 2 * step

    def unfinished(probe: Tensor, low: Tensor, high: Tensor, step: Tensor) -> Tensor:
        return searched & _apart(low, high)

    high = repeated(once, (probe, low, high, step), unfinished, _MOST_STEPS)[2]
    found = torch.where(log_upper == -math.inf, _largest(law, high), high)
    found = torch.where(log_lower == -math.inf, 0.0, found)
    return torch.where((log_lower <= 0) & (log_upper <= 0), found, math.nan)


def _apart(low: Tensor, high: Tensor) -> Tensor:
    """Whether there is a count between two."""
    return high - low > 1 + _APART * high.nan_to_num(posinf=0.0)


def _largest(law: Distribution, like: Tensor) -> Tensor:
    """The end of the support."""
    count = getattr(law, "total_count", None)
    return torch.full_like(like, math.inf) if count is None else wide(like, torch.as_tensor(count))[1]


def _poisson(rate: Tensor) -> Callable[[Tensor], LogPair]:
    [rate] = wide(rate)

    def at(k: Tensor) -> LogPair:
        return log_gammainc(k + 1, rate)[::-1]

    return lambda value: count_tails(value, at)


@log_tails.register
def _(law: Poisson, value: Tensor) -> LogPair:
    return _poisson(law.rate)(wide(value)[0])


@quantile.register
def _(law: Poisson, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    return count_quantile(law, _poisson(law.rate), log_lower, log_upper, 1 / torch.sqrt(law.rate))


def _binomial(trials: Tensor, probability: Tensor) -> Callable[[Tensor], LogPair]:
    trials, probability = wide(trials, probability)

    def at(k: Tensor) -> LogPair:
        return log_betainc((trials - k).clamp(min=1), k + 1, 1 - probability, probability)

    return lambda value: count_tails(value, at, trials)


@log_tails.register
def _(law: Binomial, value: Tensor) -> LogPair:
    return _binomial(law.total_count, law.probs)(wide(value)[0])


@quantile.register
def _(law: Binomial, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    skewness = (1 - 2 * law.probs) / law.stddev
    return count_quantile(law, _binomial(law.total_count, law.probs), log_lower, log_upper, skewness)


@log_tails.register
def _(law: Bernoulli, value: Tensor) -> LogPair:
    return log_tails(Binomial(1, law.probs, validate_args=False), value)


@quantile.register
def _(law: Bernoulli, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    return quantile(Binomial(1, law.probs, validate_args=False), log_lower, log_upper)
