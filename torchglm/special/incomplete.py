"""Logarithms of both incomplete gamma and beta ratios, to about 1e-13 in either tail.

torch's `gammainc` is good to 1e-9 only from shape 20 on, and torch has no incomplete beta. Written in `log x`
(or `logit x`) both integrands are log-concave, so from the mode outward the integral is the integrand at the
end point times that of a smooth decreasing function: Gauss-Legendre up to where it has fallen by `exp(-36)`.
No iteration depends on the data, so shapes are static and autograd reaches every argument.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import torch
from torch import Tensor

from torchglm.special.elementary import (
    HALF_LOG_2PI,
    kl_div,
    log_one_plus_minus_over,
    stirling_remainder,
)
from torchglm.special.tracing import constants, traced

_FALL = 36.0
_NODES = 44
_NEWTON_STEPS = 6
_CHUNK = 1 << 14  # elements taken together: 44 nodes each, about 5 MB per temporary

LogPair = tuple[Tensor, Tensor]


def wide(*values: Tensor) -> list[Tensor]:
    """The arguments broadcast together, in float64 where the device has it (Apple's MPS has not)."""
    device = next((v.device for v in values if v.ndim), values[0].device)
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return list(torch.broadcast_tensors(*(v.to(device=device, dtype=dtype) for v in values)))


def chunked(function: Callable[..., LogPair]) -> Callable[..., LogPair]:
    """Apply an elementwise function of broadcast tensors to a bounded number of elements at a time."""

    @functools.wraps(function)
    def apply(*values: Tensor) -> LogPair:
        shape = values[0].shape
        if traced() or math.prod(shape) <= _CHUNK:
            return function(*values)
        pieces = zip(*(v.reshape(-1).split(_CHUNK) for v in values), strict=True)
        first, second = zip(*(function(*piece) for piece in pieces), strict=True)
        return torch.cat(first).reshape(shape), torch.cat(second).reshape(shape)

    return apply


def _gauss_legendre() -> tuple[list[float], list[float]]:
    """Nodes and weights on (0, 1), in decimal arithmetic: numpy's weights are good to 1e-12 only."""
    nodes, weights = [], []
    with localcontext() as context:
        context.prec = 40
        for k in range(_NODES):
            x = Decimal(math.cos(math.pi * (k + 0.75) / (_NODES + 0.5)))
            for _ in range(5):
                before, value = Decimal(1), x
                for n in range(1, _NODES):
                    before, value = value, ((2 * n + 1) * x * value - n * before) / (n + 1)
                slope = _NODES * (x * value - before) / (x * x - 1)
                x -= value / slope
            nodes.append(float((1 + x) / 2))
            weights.append(float(1 / ((1 - x * x) * slope * slope)))
    return nodes, weights


NODES, WEIGHTS = _gauss_legendre()  # 8 ms, here so that torch.compile need not trace it


def _integral(
    psi: Callable[..., Tensor],
    slope: Callable[..., Tensor],
    steepness: Tensor,
    curvature: Tensor,
    *shape: Tensor,
) -> Tensor:
    """`int_0^inf exp(psi(s)) ds` for concave decreasing `psi` with `psi(0) = 0`; elementwise in `shape`.

    `steepness >= 0` and `curvature >= 0` are `-psi'` and `-psi''` at zero, from which the range is found.
    """
    with torch.no_grad():
        end = 2 * _FALL / (steepness + torch.sqrt(steepness**2 + 2 * _FALL * curvature))
        for _ in range(_NEWTON_STEPS):
            end = end - (psi(end, *shape) + _FALL) / slope(end, *shape)
    s = end.unsqueeze(-1) * constants(NODES, end)
    values = torch.exp(psi(s, *(v.unsqueeze(-1) for v in shape)))
    return end * (values * constants(WEIGHTS, end)).sum(-1)


def log_complement(log_p: Tensor) -> Tensor:
    """`log(1 - exp(log_p))` for `log_p <= 0`, elementwise."""
    near = log_p > -0.7
    small = torch.where(near, log_p, -1.0)
    large = torch.where(near, -1.0, log_p)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def gamma_log_kernel(a: Tensor, x: Tensor) -> Tensor:
    """`log(x^a exp(-x) / Gamma(a))`, the log-density of `log X` for a Gamma variable of shape `a`."""
    return 0.5 * torch.log(a) - HALF_LOG_2PI - kl_div(a, x) - stirling_remainder(a)


def _gamma_psi(s: Tensor, sign: Tensor, power: Tensor, x: Tensor) -> Tensor:
    return power * sign * s - x * torch.expm1(sign * s)


def _gamma_slope(s: Tensor, sign: Tensor, power: Tensor, x: Tensor) -> Tensor:
    return sign * (power - x * torch.exp(sign * s))


@chunked
def _log_gammainc(a: Tensor, x: Tensor) -> LogPair:
    inside = (x > 0) & (x < math.inf)
    safe = torch.where(inside, x, a)
    below = safe <= a.clamp(min=1)
    sign = torch.where(below, -1.0, 1.0).to(a.dtype)
    power = torch.where(below, a + 1, a)  # the lower ratio by its recurrence in the shape, good for small shapes
    steepness = (sign * (safe - power)).clamp(min=0)
    integral = _integral(_gamma_psi, _gamma_slope, steepness, safe, sign, power, safe)
    kernel = gamma_log_kernel(a, safe)
    first = kernel - torch.log(a)
    rest = safe * integral
    log_lower = first + torch.log1p(rest)
    log_upper = kernel + torch.log(integral)
    lower = torch.where(below, log_lower, log_complement(log_upper.clamp(max=0)))
    upper = torch.where(below, _log_one_minus_sum(first, rest, log_lower, a), log_upper)
    lower = torch.where(inside, lower, torch.where(x > 0, 0.0, -math.inf))
    upper = torch.where(inside, upper, torch.where(x > 0, -math.inf, 0.0))
    missing = torch.isnan(x) | ~(a > 0)
    return lower.masked_fill(missing, math.nan), upper.masked_fill(missing, math.nan)


def _log_one_minus_sum(first: Tensor, rest: Tensor, log_sum: Tensor, a: Tensor) -> Tensor:
    """`log(1 - exp(first) (1 + rest))`, for small shapes `a` without subtracting numbers close to one."""
    direct = log_complement(torch.where(a < 1, -1.0, log_sum.clamp(max=0)))
    near_one = torch.where(a < 1, first, -1.0)
    difference = -torch.expm1(near_one) - torch.exp(near_one) * torch.where(a < 1, rest, 0.0)
    return torch.where(a < 1, torch.log(difference.clamp(min=torch.finfo(a.dtype).tiny)), direct)


def log_gammainc(a: Tensor, x: Tensor) -> LogPair:
    """`log P(a, x)` and `log Q(a, x)`, the regularised incomplete gamma ratios; `a > 0`, `x >= 0` broadcast.

    NaN for other shapes. Source: DLMF 8.6, with `P(a, x) = P(a + 1, x) + x^a exp(-x) / Gamma(a + 1)`.
    """
    return _log_gammainc(*wide(a, x))


def beta_log_kernel(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`log(x^a y^b / B(a, b))`, `y = 1 - x`: the log-density of `logit X` for a Beta variable."""
    total = a + b
    excess = b * x - a * y  # (a + b) x - a
    deviance = -excess * log_one_plus_minus_over(excess / a, torch.log(total * x / a))
    deviance = deviance + excess * log_one_plus_minus_over(-excess / b, torch.log(total * y / b))
    remainder = stirling_remainder(total) - stirling_remainder(a) - stirling_remainder(b)
    return 0.5 * torch.log(a / total * b) - HALF_LOG_2PI - deviance + remainder


def _beta_psi(s: Tensor, a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`-(a + 1) s - (a + 1 + b) log(y + x exp(-s))`, referred to the smaller of x and y."""
    small = x < y
    inner = torch.where(small, x, y) * torch.expm1(torch.where(small, -s, s))
    return torch.where(small, -(a + 1), b) * s - (a + 1 + b) * torch.log1p(inner)


def _beta_slope(s: Tensor, a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    grown = y * torch.exp(s)
    return (b * x - (a + 1) * grown) / (x + grown)


@chunked
def _log_betainc(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> LogPair:
    inside = (x > 0) & (y > 0)
    x, y = torch.where(inside, x, 0.5), torch.where(inside, y, 0.5)
    beyond = b * x > a * y
    # Next to the end of a small parameter the other side's integrand is flat over a long range.
    swap = torch.where(beyond, (x >= 0.5) | (a > 1) | (b * x > 1), (y < 0.5) & (b <= 1) & (a * y <= 1))
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    x, y = torch.where(swap, y, x), torch.where(swap, x, y)
    steepness = ((a + 1) * y - b * x).clamp(min=0)
    integral = _integral(_beta_psi, _beta_slope, steepness, (a + 1 + b) * x * y, a, b, x, y)
    first = beta_log_kernel(a, b, x, y) - torch.log(a)
    rest = (a + b) * x * integral
    log_sum = first + torch.log1p(rest)
    complement = _log_one_minus_sum(first, rest, log_sum, a)
    return torch.where(swap, complement, log_sum), torch.where(swap, log_sum, complement)


def log_betainc(a: Tensor, b: Tensor, x: Tensor, y: Tensor | None = None) -> LogPair:
    """`log I_x(a, b)` and `log(1 - I_x(a, b))`, the regularised incomplete beta ratios.

    `a, b > 0` and `0 <= x <= 1` broadcast; NaN for other shapes. Give `y = 1 - x` where it is known
    better than by subtraction. Source: DLMF 8.17, with `I_x(a, b) = I_x(a + 1, b) + x^a y^b / (a B(a, b))`.
    """
    a, b, x, y = wide(a, b, x, 1 - x if y is None else y)
    lower, upper = _log_betainc(a, b, x, y)
    lower = torch.where(x <= 0, -math.inf, torch.where(y <= 0, 0.0, lower))
    upper = torch.where(x <= 0, 0.0, torch.where(y <= 0, -math.inf, upper))
    missing = torch.isnan(x) | torch.isnan(y) | ~(a > 0) | ~(b > 0)
    return lower.masked_fill(missing, math.nan), upper.masked_fill(missing, math.nan)
