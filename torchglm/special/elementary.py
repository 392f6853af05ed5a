"""Differences of logarithms without cancellation, and Stirling's remainder."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

# (log1p(u) - u) / u = (2 r^2 (1/3 + r^2/5 + r^4/7 + ...) - u) / (2 + u) with r = u / (2 + u), for |u| < 0.2.
_NEAR = 0.2
_ATANH = tuple(2 / (2 * k + 3) for k in range(7))

# Coefficients of x^-1, x^-3, ... in Stirling's series: B_2k / (2k (2k - 1)). At x = 10 the next is 3e-17.
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)
_STIRLING_ONCE = tuple((2 * k + 1) * c for k, c in enumerate(STIRLING))  # of minus the first derivative
_STIRLING_TWICE = tuple((2 * k + 1) * (2 * k + 2) * c for k, c in enumerate(STIRLING))  # of the second derivative
_STIRLING_THIRD = tuple(-(2 * k + 3) * c for k, c in enumerate(_STIRLING_TWICE))  # of the third derivative
_THIRD_FROM = 12.0
_STIRLING_FROM = {torch.float64: 10.0}
_STIRLING_FROM_SINGLE = 3.0  # four terms are enough for single precision, and the direct form loses digits


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """`c0 + c1 x + c2 x^2 + ...`; single precision needs only the first half of our series."""
    if x.dtype != torch.float64:
        coefficients = coefficients[: (len(coefficients) + 1) // 2]
    value = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        # In place where nothing is recorded: fresh memory for each step costs more than the arithmetic.
        value = value * x + coefficient if value.requires_grad else value.mul_(x).add_(coefficient)
    return value


def exp_to_the_last(t: Tensor) -> Tensor:
    """`exp(t)`, continued by its tangent where it would overflow: finite, and rising, as far as its slope is.

    Beyond `c`, nine tenths of the way to the largest exponent of the dtype, it is `exp(c) (1 + t - c)`; a gradient of
    zero from outside then stays zero.
    """
    most = 0.9 * math.log(torch.finfo(t.dtype).max)
    inner = t.clamp(max=most)
    return inner.exp() * (1 + (t - inner))


def log_one_plus_minus_over(u: Tensor, log_ratio: Tensor) -> Tensor:
    """`(log(1 + u) - u) / u` to full relative precision; `log_ratio` is `log(1 + u)`, however best computed.

    Only the values of `log_ratio` away from `u = 0` are used; `u = 0` gives 0.
    """
    near = u.abs() < _NEAR
    close = torch.where(near, u, 0.0)
    twice = close + 2
    r = close / twice
    square = r * r
    series = (square * _horner(square, _ATANH) - close) / twice
    return torch.where(near, series, log_ratio / torch.where(near, 1.0, u) - 1)


def log1pmx(u: Tensor) -> Tensor:
    """`log(1 + u) - u` to full relative precision, `u > -1`, elementwise; `-u^2 / 2 + ...` near zero.

    Source: the expansion of `2 atanh(u / (2 + u))`, as in Loader (2000), Fast and accurate computation of
    binomial probabilities.
    """
    return u * log_one_plus_minus_over(u, torch.log1p(u))


def kl_div(x: Tensor, y: Tensor) -> Tensor:
    """`x log(x / y) - x + y` for `x >= 0`, `y > 0`, to full relative precision also where they are close.

    Half the Poisson unit deviance is `kl_div(y, mu)`; half the binomial one is
    `kl_div(y, mu) + kl_div(1 - y, 1 - mu)`; half the Gamma one is `kl_div(mu, y) / mu`.
    `x` and `y` broadcast; `x = 0` gives `y`.
    """
    positive = x > 0
    safe = torch.where(positive, x, 1.0)
    difference = safe - y
    ratio = (y / safe).clamp(max=torch.finfo(safe.dtype).max)  # infinite for the least x: its share is nil
    value = difference * log_one_plus_minus_over(-difference / safe, torch.log(ratio))
    return torch.where(positive, value, y)


def stirling_remainder(x: Tensor) -> Tensor:
    """`lgamma(x) - ((x - 1/2) log x - x + log(2 pi) / 2)` for `x > 0`; `1 / (12 x)` for large `x`."""
    return stirling_remainder_of_inverse(1 / x)


def stirling_remainder_of_inverse(w: Tensor) -> Tensor:
    """`stirling_remainder(1 / w)` for `w >= 0`: zero, with finite derivatives, at `w = 0`."""
    large = w < 1 / _STIRLING_FROM.get(w.dtype, _STIRLING_FROM_SINGLE)
    small_w = torch.where(large, w, 0.0)
    series = small_w * _horner(small_w * small_w, STIRLING)
    x = 1 / torch.where(large, 1.0, w)
    exact = torch.lgamma(x) - ((x - 0.5) * torch.log(x) - x + HALF_LOG_2PI)
    return torch.where(large, series, exact)


def trigamma(x: Tensor) -> Tensor:
    """The second derivative of `lgamma` at `x > 0` to its last digits, of which `torch.polygamma(1, x)` has eight.

    By its recurrence to `x + 10`, and Stirling's series there. Source: Abramowitz & Stegun (1972), 6.4.6 and 6.4.12.
    """
    total = torch.zeros_like(x)
    for k in range(10):
        total = total + (x + k).reciprocal().square()
    w = 1 / (x + 10)
    return total + w * (1 + w / 2 + w * w * _horner(w * w, _STIRLING_TWICE))


def stirling_derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative of `stirling_remainder` at `x > 0`, elementwise."""
    large = x > _STIRLING_FROM.get(x.dtype, _STIRLING_FROM_SINGLE)
    w = 1 / torch.where(large, x, 100.0)
    square = w * w
    first = -square * _horner(square, _STIRLING_ONCE)
    second = w * square * _horner(square, _STIRLING_TWICE)
    small = torch.where(large, 1.0, x)
    exact_first = torch.digamma(small) - torch.log(small) + 0.5 / small
    exact_second = trigamma(small) - 1 / small - 0.5 / small**2
    return torch.where(large, first, exact_first), torch.where(large, second, exact_second)


_SHIFT = 8
_FAR = 100.0  # from which on the second derivative is that of the series at x itself: the other rounds to eps / x^2


def stirling_values(x: Tensor, slopes: bool) -> tuple[Tensor, ...]:
    """`stirling_remainder` at `x > 0`, and where asked for its `stirling_derivatives`, in one go.

    By Stirling's series at `z = x + 8`, where it has all its digits, and the product `P = x (x + 1) ... (x + 7)` with
    its derivatives: `lgamma(x) = lgamma(z) - log P`. Absolute errors are those of rounding. Single precision, in which
    P would overflow, is computed apart.
    """
    if x.dtype != torch.float64:
        return (stirling_remainder(x), *(stirling_derivatives(x) if slopes else ()))
    z = x + _SHIFT
    w = 1 / z
    square, inverse = w * w, 1 / x
    product, first, second = x, torch.ones_like(x), torch.zeros_like(x)
    for k in range(1, _SHIFT):
        factor = x + k
        if slopes:
            second = torch.addcmul(2 * first, second, factor)
            first = torch.addcmul(product, first, factor)
        product = product * factor
    ahead = torch.log1p(_SHIFT * inverse)  # log(z / x)
    ratio = torch.log(z.square().square().square() / product)
    value = w * _horner(square, STIRLING) + (x - 0.5) * ahead - _SHIFT + ratio
    if not slopes:
        return (value,)
    first, second = first / product, second / product
    once = ahead - square * _horner(square, _STIRLING_ONCE) + 0.5 * (inverse - w) - first
    twice = w * square * _horner(square, _STIRLING_TWICE) + (first * first - second)
    own = inverse * inverse
    twice = twice + (w - inverse) + 0.5 * (square - own)
    return value, once, torch.where(x > _FAR, inverse * own * _horner(own, _STIRLING_TWICE), twice)


def stirling_third(x: Tensor) -> Tensor:
    """The third derivative of `stirling_remainder` at `x > 0`: `psi''(x) + 1 / x^2 + 1 / x^3`; a series for large x."""
    far = x > _THIRD_FROM
    w = 1 / torch.where(far, x, _THIRD_FROM).square()
    near = torch.where(far, 1.0, x)
    return torch.where(far, w * w * _horner(w, _STIRLING_THIRD), torch.polygamma(2, near) + 1 / near**2 + 1 / near**3)


def log_factorial_remainder(y: Tensor) -> Tensor:
    """`lgamma(y + 1) - (y log y - y)` for `y >= 0`, elementwise; zero at `y = 0`."""
    large = y > _STIRLING_FROM.get(y.dtype, _STIRLING_FROM_SINGLE)
    big = torch.where(large, y, 100.0)
    w = 1 / big
    series = 0.5 * torch.log(big) + HALF_LOG_2PI + w * _horner(w * w, STIRLING)
    small = torch.where(large, 0.0, y)
    exact = torch.lgamma(small + 1) - torch.xlogy(small, small) + small
    return torch.where(large, series, exact)


def log_minus_digamma(a: Tensor) -> tuple[Tensor, Tensor]:
    """`a (log a - psi(a))` and `a^2 psi'(a) - a`, which both tend to 1/2 for large `a`, without cancellation there.

    Source: Abramowitz & Stegun (1972), 6.3.18 and 6.4.12.
    """
    large = a > 100
    near = torch.where(large, 100.0, a)
    r = torch.where(large, 1 / a, 0.01)
    s = r.square()
    first = 0.5 + r / 12 - r * s / 120 + r * s.square() / 252
    second = 0.5 + r / 6 - r * s / 30 + r * s.square() / 42
    return (
        torch.where(large, first, near * (near.log() - torch.digamma(near))),
        torch.where(large, second, near.square() * trigamma(near) - near),
    )
