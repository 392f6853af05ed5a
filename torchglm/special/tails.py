"""Upper tails and quantiles of the normal, Student t, chi-squared and F laws, accurate far into both tails.

All arguments broadcast, on any device; the arithmetic is in float64, the result has the dtype of the first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchglm.special.incomplete import log_betainc, log_gammainc, wide
from torchglm.special.quantiles import beta_quantile, beta_quantile_logit, gamma_quantile


def _as_first(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Take numbers or tensors, compute wide, and answer in the floating dtype of the first argument."""

    @functools.wraps(function)
    def apply(first: Tensor, *rest: Tensor | float) -> Tensor:
        others = [torch.as_tensor(r, dtype=torch.float64, device=first.device) for r in rest]
        return function(*wide(first, *others)).to(first.dtype)

    return apply


def log_pair(probability: Tensor) -> tuple[Tensor, Tensor]:
    """`log p` and `log(1 - p)`."""
    return torch.log(probability), torch.log1p(-probability)


# ---- normal


@_as_first
def normal_sf(x: Tensor) -> Tensor:
    """`P(Z > x)` for a standard normal Z, by erfc: `1 - cdf` is zero beyond 8.3."""
    return 0.5 * torch.erfc(x / math.sqrt(2))


@_as_first
def normal_icdf(p: Tensor) -> Tensor:
    """The `x` with `P(Z <= x) = p` for a standard normal Z."""
    return torch.special.ndtri(p)


# ---- Student t


def _student_t_half(t: Tensor, df: Tensor) -> Tensor:
    """`log P(|T| > t)` for finite `df`."""
    scaled = t / torch.sqrt(df)
    x, y = 1 / (1 + scaled**2), 1 / (1 + scaled**-2)
    return log_betainc(0.5 * df, torch.full_like(df, 0.5), x, y)[0]


@_as_first
def student_t_sf(t: Tensor, df: Tensor) -> Tensor:
    """`P(T > t)` for a Student t variable with `df > 0` degrees of freedom, `df = inf` being the normal.

    `I_x(df / 2, 1 / 2) / 2` at `x = df / (df + t^2)` for `t >= 0`. Source: DLMF 8.17 and Johnson, Kotz and
    Balakrishnan (1995), Continuous univariate distributions, chapter 28.
    """
    finite = df != math.inf
    upper = 0.5 * torch.exp(_student_t_half(t, torch.where(finite, df, 1.0)))
    return torch.where(finite, torch.where(t > 0, upper, 1 - upper), normal_sf(t))


@_as_first
def student_t_icdf(p: Tensor, df: Tensor) -> Tensor:
    """The `t` with `P(T <= t) = p` for a Student t variable with `df > 0` degrees of freedom (or `inf`)."""
    finite = df != math.inf
    nu = torch.where(finite, df, 1.0)
    tail = torch.minimum(p, 1 - p)
    inside = (tail > 0) & (p != 0.5)
    both = torch.where(inside, 2 * tail, 0.5)
    log_outer, log_inner = log_pair(both)
    half = torch.full_like(nu, 0.5)
    normal = torch.special.ndtri(0.5 * both)
    near_normal = normal * (1 + (normal**2 + 1) / (4 * nu))  # first term of Cornish and Fisher (1937)
    log_beta = torch.lgamma(0.5 * nu) + math.log(math.sqrt(math.pi)) - torch.lgamma(0.5 * (nu + 1))
    power_law = 2 / nu * (log_outer + log_beta + torch.log(0.5 * nu))
    start = torch.where(nu > normal**2, torch.log(nu) - 2 * torch.log(near_normal.abs()), power_law)
    z = beta_quantile_logit(0.5 * nu, half, log_outer, log_inner, start)
    t = torch.sqrt(nu) * torch.exp(-0.5 * z) * torch.sign(p - 0.5)
    ends = torch.where(p == 0.5, 0.0, torch.where(tail == 0, math.inf, math.nan) * torch.sign(p - 0.5))
    t = torch.where(finite, torch.where(inside, t, ends), torch.special.ndtri(p))
    return t.masked_fill(~(df > 0), math.nan)


# ---- chi-squared and F


@_as_first
def chi2_sf(x: Tensor, df: Tensor) -> Tensor:
    """`P(X > x)` for a chi-squared variable with `df > 0` degrees of freedom: `Q(df / 2, x / 2)`."""
    return torch.exp(log_gammainc(0.5 * df, 0.5 * x.clamp(min=0))[1])


@_as_first
def chi2_icdf(p: Tensor, df: Tensor) -> Tensor:
    """The `x` with `P(X <= x) = p` for a chi-squared variable with `df > 0` degrees of freedom."""
    return 2 * gamma_quantile(0.5 * df, *log_pair(p))


@_as_first
def f_sf(x: Tensor, df1: Tensor, df2: Tensor) -> Tensor:
    """`P(F > x)` for an F variable with `df1, df2 > 0` degrees of freedom.

    `df2 = inf` is chi-squared over `df1`; else `I_z(df2 / 2, df1 / 2)` at `z = df2 / (df2 + df1 x)`.
    """
    x = x.clamp(min=0)
    finite = df2 != math.inf
    ratio = df1 * x / torch.where(finite, df2, 1.0)
    lower, _ = log_betainc(0.5 * torch.where(finite, df2, 1.0), 0.5 * df1, 1 / (1 + ratio), 1 / (1 + 1 / ratio))
    return torch.exp(torch.where(finite, lower, log_gammainc(0.5 * df1, 0.5 * df1 * x)[1]))


@_as_first
def f_icdf(p: Tensor, df1: Tensor, df2: Tensor) -> Tensor:
    """The `x` with `P(F <= x) = p` for an F variable with `df1, df2 > 0` degrees of freedom (or `inf`)."""
    finite = df2 != math.inf
    below, above = log_pair(p)
    x, y = beta_quantile(0.5 * df1, 0.5 * torch.where(finite, df2, 1.0), below, above)
    return torch.where(finite, df2 / df1 * x / y, 2 / df1 * gamma_quantile(0.5 * df1, below, above))


# ---- the ratios themselves


@_as_first
def gammainc(a: Tensor, x: Tensor) -> Tensor:
    """The regularised lower incomplete gamma ratio `P(a, x)`, `a > 0`, `x >= 0`."""
    return torch.exp(log_gammainc(a, x)[0])


@_as_first
def gammaincc(a: Tensor, x: Tensor) -> Tensor:
    """The regularised upper incomplete gamma ratio `Q(a, x) = 1 - P(a, x)`, `a > 0`, `x >= 0`."""
    return torch.exp(log_gammainc(a, x)[1])


@_as_first
def betainc(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """The regularised incomplete beta ratio `I_x(a, b)`, `a, b > 0`, `0 <= x <= 1`."""
    return torch.exp(log_betainc(a, b, x)[0])
