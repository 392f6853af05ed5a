"""The inverse Gaussian law of a mean and a dispersion: log-density, both tails, quantiles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchglm.special.elementary import HALF_LOG_2PI
from torchglm.special.incomplete import NODES, WEIGHTS, LogPair, chunked, log_complement, wide
from torchglm.special.quantiles import clip, solve_log_tails, with_ends
from torchglm.special.tracing import constants

_FALL = 40.0


def inverse_gaussian_log_prob(y: Tensor, mu: Tensor, dispersion: Tensor) -> Tensor:
    """`-(y - mu)^2 / (2 phi mu^2 y) - log(2 pi phi y^3) / 2` for positive arguments, which broadcast.

    The variance is `phi mu^3`. Source: Chhikara and Folks (1989), The inverse Gaussian distribution.
    """
    deviance = ((y - mu) / mu) ** 2 / (y * dispersion)
    return -0.5 * (deviance + torch.log(dispersion) + 3 * torch.log(y)) - HALF_LOG_2PI


def _mills(x: Tensor) -> Tensor:
    """Mills' ratio `M(x) = (1 - Phi(x)) / phi(x) = int_0^inf exp(-x s - s^2 / 2) ds`."""
    return torch.special.erfcx(x / math.sqrt(2)) * math.sqrt(math.pi / 2)


def _mills_difference(a: Tensor, gap: Tensor) -> Tensor:
    """`M(a) - M(a + gap)` for `a > -1`, `gap > 0`: by its integral where the two are close."""
    end = 2 * _FALL / (a + torch.sqrt(a**2 + 2 * _FALL))
    s = end.unsqueeze(-1) * constants(NODES, end)
    values = torch.exp(-a.unsqueeze(-1) * s - 0.5 * s**2) * -torch.expm1(-gap.unsqueeze(-1) * s)
    integral = end * (values * constants(WEIGHTS, end)).sum(-1)
    return torch.where(gap < 1, integral, _mills(a) - _mills(a + gap))


@chunked
def _log_tails(x: Tensor, mu: Tensor, dispersion: Tensor) -> LogPair:
    inside = (x > 0) & (x < math.inf)
    safe = torch.where(inside, x, mu)
    root = 1 / torch.sqrt(dispersion * safe)
    a, b = root * (safe - mu) / mu, root * (safe + mu) / mu
    log_normal = -0.5 * a**2 - HALF_LOG_2PI
    lower = torch.logaddexp(torch.special.log_ndtr(a), log_normal + torch.log(_mills(b)))
    right = a > -1
    upper = log_normal + torch.log(_mills_difference(torch.where(right, a, 0.0), 2 * root))
    upper = torch.where(right, upper, log_complement(torch.where(right, -1.0, lower.clamp(max=0))))
    lower = torch.where(upper < math.log(0.5), log_complement(upper.clamp(max=0)), lower)
    lower = torch.where(inside, lower, torch.where(x > 0, 0.0, -math.inf))
    upper = torch.where(inside, upper, torch.where(x > 0, -math.inf, 0.0))
    return lower.where(~torch.isnan(x), x), upper.where(~torch.isnan(x), x)


def inverse_gaussian_log_tails(x: Tensor, mu: Tensor, dispersion: Tensor) -> LogPair:
    """`log P(Y <= x)` and `log P(Y > x)`; `mu, dispersion > 0` and x broadcast.

    With `a, b = (x -+ mu) / (mu sqrt(phi x))`: `Phi(a) + phi(a) M(b)` below and `phi(a) (M(a) - M(b))` above,
    M being Mills' ratio; the textbook `exp(2 / (phi mu)) Phi(-b)` overflows. Source: Shuster (1968).
    """
    return _log_tails(*wide(x, mu, dispersion))


def inverse_gaussian_quantile(mu: Tensor, dispersion: Tensor, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    """The x whose tails have the given logarithms; arguments broadcast."""
    mu, dispersion, log_lower, log_upper = wide(mu, dispersion, log_lower, log_upper)
    below, above = clip(log_lower), clip(log_upper)

    def tails(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.exp(z)
        return *_log_tails(x, mu, dispersion), inverse_gaussian_log_prob(x, mu, dispersion) + z

    spread = torch.log1p(dispersion * mu)  # the variance of the logarithm of a log-normal of the same moments
    start = torch.log(mu) - 0.5 * spread + torch.sqrt(spread) * torch.special.ndtri(torch.exp(below)).clamp(-9, 9)
    z = solve_log_tails(tails, start.detach(), below, above, longest=2.0)
    return with_ends(torch.exp(z), log_lower, log_upper, math.inf)
