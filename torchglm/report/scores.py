"""Residuals that are standard normal under the model: randomised quantile residuals where a cdf is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributions

from torchglm.special import log_betainc, log_gammainc

if TYPE_CHECKING:
    from torchglm.families import Family

_SMALLEST = 1e-300


def normal_scores(y: Tensor, mu: Tensor, family: Family, dispersion: float | Tensor = 1.0,
                  weight: Tensor | None = None, seed: int = 0) -> tuple[Tensor, str]:
    """Randomised quantile residuals (*B, n) and their name; deviance residuals where no cdf is at hand.

    r = Φ⁻¹(u), u = F(y) for continuous families and uniform on (F(y−), F(y)] where y has positive probability
    (Dunn & Smyth, 1996), from the smaller tail. Columns are (*B, n); `weight` > 0 divides the dispersion; the
    `dispersion` of several models is (*B, 1).
    """
    y, mu = y.detach().double(), mu.detach().double()
    w = torch.ones_like(mu) if weight is None else weight.detach().double()
    phi = torch.as_tensor(dispersion, dtype=mu.dtype, device=mu.device)
    found = _span(y, mu, family, phi, w)
    if found is None:
        size = w * family.unit_deviance(y, mu).clamp(min=0) / phi
        return (y - mu).sign() * size.sqrt(), "deviance residual"
    (below, above_below), (at, above) = found
    u = torch.rand(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed)).to(y.device)
    low = torch.lerp(below, at, u).clamp(min=_SMALLEST)
    high = torch.lerp(above_below, above, u).clamp(min=_SMALLEST)
    return torch.where(low < high, torch.special.ndtri(low), -torch.special.ndtri(high)), "quantile residual"


_Tails = tuple[Tensor, Tensor]  # F and 1 - F, each to full relative precision


def _span(y: Tensor, mu: Tensor, family: Family, phi: Tensor, w: Tensor) -> tuple[_Tails, _Tails] | None:
    """F and 1 − F just below y and at y; None without a cdf, off the lattice, or for a quasi-likelihood."""
    if not family.has_dispersion and bool((phi != 1).any()):
        return None
    found = span(family.distribution(mu, phi / w), y)
    known = found is not None and all(bool(t.isfinite().all()) for tails in found for t in tails)
    return found if known else None


@singledispatch
def span(law: distributions.Distribution, y: Tensor) -> tuple[_Tails, _Tails] | None:
    """F and 1 − F of a law just below `y` and at `y`, as families encode responses; None without a cdf."""
    try:
        at = law.cdf(y)
    except NotImplementedError:
        return None
    mass = (y == 0) & (at > 0)  # a Tweedie law holds probability at zero
    below = torch.where(mass, 0.0, at)
    return (below, 1 - below), (at, 1 - at)


@span.register
def _(law: distributions.Normal, y: Tensor) -> tuple[_Tails, _Tails]:
    z = (y - law.mean) / law.stddev
    tails = torch.special.ndtr(z), torch.special.ndtr(-z)
    return tails, tails


@span.register
def _(law: distributions.Gamma, y: Tensor) -> tuple[_Tails, _Tails]:
    lower, upper = log_gammainc(law.concentration, law.rate * y)
    tails = lower.exp(), upper.exp()
    return tails, tails


@span.register
def _(law: distributions.Exponential, y: Tensor) -> tuple[_Tails, _Tails]:
    hazard = law.rate * y.abs()
    tails = -torch.expm1(-hazard), torch.exp(-hazard)
    censored = y < 0  # such a time is only known to be longer
    return tails, (torch.where(censored, 1.0, tails[0]), torch.where(censored, 0.0, tails[1]))


@span.register
def _(law: distributions.Poisson, y: Tensor) -> tuple[_Tails, _Tails] | None:
    return _lattice(lambda k: log_gammainc(k + 1, law.rate)[::-1], y)


@span.register
def _(law: distributions.Binomial, y: Tensor) -> tuple[_Tails, _Tails] | None:
    trials, p = law.total_count, law.probs

    def tails(k: Tensor) -> _Tails:
        full = k >= trials
        upper, lower = log_betainc(k + 1, torch.where(full, 1.0, trials - k), p)
        return torch.where(full, 0.0, lower), torch.where(full, -torch.inf, upper)

    return _lattice(tails, y * trials)


@span.register
def _(law: distributions.Bernoulli, y: Tensor) -> tuple[_Tails, _Tails] | None:
    if not bool(((y == 0) | (y == 1)).all()):
        return None
    zero, one = torch.zeros_like(y), torch.ones_like(y)
    failed = y == 0
    return ((torch.where(failed, zero, 1 - law.probs), torch.where(failed, one, law.probs)),
            (torch.where(failed, 1 - law.probs, one), torch.where(failed, law.probs, zero)))


def _lattice(log_tails: Callable[[Tensor], _Tails], count: Tensor) -> tuple[_Tails, _Tails] | None:
    """The span of a count from the logarithms of F and 1 − F at whole numbers; None for one that is not."""
    k = count.round()
    if bool(((count - k).abs() > 1e-6 * (1 + k)).any()):
        return None
    first = k == 0
    below = [t.exp() for t in log_tails((k - 1).clamp(min=0))]
    at = [t.exp() for t in log_tails(k)]
    return (torch.where(first, 0.0, below[0]), torch.where(first, 1.0, below[1])), (at[0], at[1])
