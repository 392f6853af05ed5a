"""The derivatives of the Tweedie log-density in its dispersion and power, from one pass of its series."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.special.elementary import HALF_LOG_2PI
from torchglm.special.tweedie import log_ratio, log_series, tweedie_unit_deviance

NEAR = 1.0  # of the argument of a moment: nearer to 0 by its series
_TERMS = 20


class TweedieSlopes(NamedTuple):
    """A log-density, its first and second derivatives in `log phi` and the power, and half the unit deviance."""

    log_prob: Tensor
    by_log_phi: Tensor
    by_power: Tensor
    by_log_phi_twice: Tensor
    by_both: Tensor
    by_power_twice: Tensor
    half_deviance: Tensor


def tweedie_slopes(y: Tensor, mu: Tensor, dispersion: Tensor, power: Tensor) -> TweedieSlopes:
    """`tweedie_log_prob` and its derivatives for `1 < power < 2`, `y >= 0`; all arguments broadcast.

    With `log m = (2 - p) log y - log(phi (2 - p))` and `alpha = (2 - p) / (p - 1)` the chain rule takes the derivatives
    of `log S(m, alpha)`, which are weighted moments of its terms, to those in `log phi` and p; half the deviance over
    `phi` has its own. Source: Dunn & Smyth (2005), Series evaluation of Tweedie exponential dispersion model densities.
    """
    y, mu, phi, p = torch.broadcast_tensors(y.to(mu.dtype), mu, dispersion, power)
    positive = y > 0
    safe = torch.where(positive, y, 1.0)
    log_y, rest, over = torch.log(safe), 2 - p, p - 1
    alpha = rest / over
    log_m = rest * log_y - torch.log(phi * rest)
    value, s_m, s_mm, s_a, s_ma, s_aa = log_series(log_m, alpha, positive)
    m_p, m_pp = 1 / rest - log_y, 1 / rest.square()
    a_p, a_pp = -1 / over.square(), 2 / over.pow(3)
    half, half_p, half_pp = (part / phi for part in half_deviance_slopes(y, mu, p))
    along = a_p / alpha
    log_density = 0.5 * torch.log(alpha) - 2 * HALF_LOG_2PI - log_y + value
    by_p = 0.5 * along + s_m * m_p + s_a * a_p
    by_pp = 0.5 * (a_pp / alpha - along.square()) + s_mm * m_p.square() + 2 * s_ma * m_p * a_p + s_aa * a_p.square()
    by_pp = by_pp + s_m * m_pp + s_a * a_pp

    def seen(value: Tensor) -> Tensor:
        return torch.where(positive, value, 0.0)

    return TweedieSlopes(
        seen(log_density) - half,
        half - seen(s_m),
        seen(by_p) - half_p,
        seen(s_mm) - half,
        half_p - seen(s_mm * m_p + s_ma * a_p),
        seen(by_pp) - half_pp,
        half * phi,
    )


def half_deviance_slopes(y: Tensor, mu: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Half the unit deviance `h = int_mu^y (y - t) t^-p dt`, `1 < p < 2`, and its first and second derivative in p.

    With `l = log(mu / y)`, `M_k(z) = int_0^1 u^k e^(z u) du`, `G_k = l^(k+1) (M_k((2 - p) l) - M_k((1 - p) l))` these
    are `-log y h - y^(2-p) G_1` and `log^2 y h + y^(2-p) (2 log y G_1 + G_2)`. At `y = 0`, `h = mu^(2-p) / (2 - p)`.
    """
    positive = y > 0
    safe = torch.where(positive, y, mu)
    log_y, rest = torch.log(safe), 2 - p
    ratio = log_ratio(mu, safe)
    scale = torch.exp(rest * log_y)
    above, below = _moments(rest * ratio), _moments((1 - p) * ratio)
    one, two = (scale * ratio.pow(k + 2) * (a - b) for k, (a, b) in enumerate(zip(above, below, strict=True)))
    half = tweedie_unit_deviance(y, mu, p) / 2
    slope = 1 / rest - torch.log(mu)
    return (
        half,
        torch.where(positive, -log_y * half - one, half * slope),
        torch.where(positive, log_y * (log_y * half + 2 * one) + two, half * (slope.square() + 1 / rest.square())),
    )


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """`int_0^1 u^k e^(z u) du` for k = 1, 2."""
    near = z.abs() < NEAR
    close, far = torch.where(near, z, 0.0), torch.where(near, 1.0, z)
    series = [torch.zeros_like(z) for _ in range(2)]
    for j in range(_TERMS - 1, -1, -1):
        for k in range(2):
            series[k] = series[k] * close + 1 / (math.factorial(j) * (j + k + 2))
    whole = torch.exp(far)
    one = (whole - torch.expm1(far) / far) / far
    two = (whole - 2 * one) / far
    return torch.where(near, series[0], one), torch.where(near, series[1], two)
