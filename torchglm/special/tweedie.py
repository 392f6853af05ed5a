"""The exact Tweedie density for powers between 1 and 2, by a series whose length does not grow.

A Tweedie variable with `1 < p < 2` is a Poisson sum of Gamma variables, so its density is a sum over the
number of terms n (Dunn and Smyth 2005). With `m = y^(2-p) / (phi (2-p))` and `alpha = (2-p) / (p-1)` it is

    y f(y) = exp(-d / (2 phi)) sqrt(alpha) / (2 pi) S(m, alpha),
    S = sum_n exp(-(1 + alpha) kl_div(n, m) - remainder(n) - remainder(n alpha)),

with `d` the unit deviance and `remainder` Stirling's: mu enters through the deviance alone, every exponent is
negative, and nothing large cancels. The summand is an entire function of n that vanishes at 0, -1, -2, ...,
so by Poisson summation a coarser lattice of step h gives the same sum up to the relative error
`exp(-(1 + alpha) m (1 - cos(2 pi (p - 1) / h)))`: about 60 terms are enough for any m.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from torchglm.special.elementary import (
    HALF_LOG_2PI,
    kl_div,
    stirling_third,
    stirling_values,
)
from torchglm.special.tracing import values_are_known

FALL = 35.0  # terms, and the error of a coarser lattice, below exp(-35) of the largest are left out
_MOST_TERMS = 72
_TABLE = 1 << 12
_CHUNK = {"cpu": 1 << 10}  # rows at a time: their terms stay in the cache
_CHUNK_ON_DEVICE = 1 << 17


def expm1_minus_over_square(z: Tensor) -> Tensor:
    """`(exp(z) - 1 - z) / z^2` to full relative precision, elementwise; 1/2 at zero."""
    near = z.abs() < 0.5
    close = torch.where(near, z, 0.0)
    series = torch.full_like(close, 1 / math.factorial(15))
    for k in range(14, 1, -1):
        series = series * close + 1 / math.factorial(k)
    far = torch.where(near, 1.0, z)
    return torch.where(near, series, (torch.expm1(far) - far) / far**2)


def log_ratio(x: Tensor, y: Tensor) -> Tensor:
    """`log(x / y)` for positive `x`, `y`, to full relative precision where they are close."""
    u = (x - y) / y
    near = u.abs() < 0.5
    return torch.where(near, torch.log1p(torch.where(near, u, 0.0)), torch.log(x) - torch.log(y))


def tweedie_unit_deviance(y: Tensor, mu: Tensor, power: Tensor | float) -> Tensor:
    """`2 int_mu^y (y - t) / t^p dt` for `y >= 0`, `mu > 0` and any power `p >= 1`, without cancellation.

    With `l = log(mu / y)` and `E(z) = (exp(z) - 1 - z) / z^2`:
    `2 y^(2-p) l^2 ((2 - p) E((2 - p) l) + (p - 1) E((1 - p) l))`, `p = 1, 2, 3` included.
    At `y = 0` it is `2 mu^(2-p) / (2 - p)`, infinite from `p = 2` on. Arguments broadcast.
    """
    p = torch.as_tensor(power, dtype=mu.dtype, device=mu.device)
    y, mu, p = torch.broadcast_tensors(y, mu, p)
    positive = y > 0
    safe = torch.where(positive, y, mu)
    ratio = log_ratio(mu, safe)
    rest = 2 - p
    shape = rest * expm1_minus_over_square(rest * ratio)
    shape = shape + (p - 1) * expm1_minus_over_square((1 - p) * ratio)
    below_two = rest > 0
    usable = torch.where(below_two, rest, 1.0)
    at_zero = torch.where(below_two, mu**usable / usable, math.inf)
    return 2 * torch.where(positive, safe**rest * ratio**2 * shape, at_zero)


def reach_below(m: Tensor, spread: Tensor) -> Tensor:
    """How far below m `kl_div(n, m) / spread` stays under 1, from above; `spread` and `m` broadcast."""
    return torch.sqrt(2 * spread * m)


def reach_above(m: Tensor, spread: Tensor) -> Tensor:
    """How far above m `kl_div(n, m) / spread` stays under 1, from above; `spread` and `m` broadcast."""
    return spread / 3 + torch.sqrt(spread**2 / 9 + 2 * spread * m)


def lattice_step(m: Tensor, alpha: Tensor) -> Tensor:
    """The largest whole step in the number of terms that leaves the sum as it is."""
    sine = torch.sqrt((0.5 * FALL / (1 + alpha) / m).clamp(max=1))
    return torch.floor(math.pi / ((1 + alpha) * torch.asin(sine))).clamp(min=1)


def _lattice(m: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First term, step and number of terms of the sum for each row."""
    spread, step = FALL / (1 + alpha), lattice_step(m, alpha)
    first = torch.floor(m - reach_below(m, spread)).clamp(min=1)
    return first, step, torch.ceil((m + reach_above(m, spread) - first) / step) + 1


@cache
def _remainders() -> Tensor:
    """Stirling's remainder of 0 (a place that is not asked for), 1, 2, ..."""
    return torch.cat(
        [torch.zeros(1, dtype=torch.float64), stirling_values(torch.arange(1, _TABLE, dtype=torch.float64), False)[0]]
    )


def _remainder_of_counts(n: Tensor) -> Tensor:
    """Stirling's remainder of whole numbers, looked up where they are not large."""
    plain = n.dtype == torch.float64 and n.device.type == "cpu" and n.numel() > 0 and values_are_known()
    if not plain or not bool(n.amax() < _TABLE):  # of a power beyond 2 it is not a number
        return stirling_values(n, False)[0]
    return _remainders()[n.long()]


def _terms(
    m: Tensor, alpha: Tensor, first: Tensor, step: Tensor, count: int, slopes: bool
) -> tuple[Tensor, Tensor, list[Tensor], Tensor, Tensor]:
    """n, `kl_div(n, m)`, derivatives of Stirling's remainder at n alpha if asked for, the log-sum (rows, 1), and the
    normalised terms; the others (rows, count)."""
    n = first.unsqueeze(-1) + step.unsqueeze(-1) * torch.arange(count, dtype=m.dtype, device=m.device)
    m, alpha = m.unsqueeze(-1), alpha.unsqueeze(-1)
    divergence = kl_div(n, m)
    of_count = _remainder_of_counts(n)
    of_shape, *found = stirling_values(n * alpha, slopes)
    log_terms = -(1 + alpha) * divergence - of_count - of_shape
    top = log_terms.amax(-1, keepdim=True)
    terms = torch.exp(log_terms - top)
    total = terms.sum(-1, keepdim=True)
    return n, divergence, found, top + torch.log(total * step.unsqueeze(-1)), terms / total


def _series(m: Tensor, alpha: Tensor, count: int, order: int) -> tuple[Tensor, ...]:
    """`log S`, its first and second derivatives in `log m` (order 1), and those in alpha too (order 2), and the third
    ones (order 3); each shaped as `m`."""
    n, divergence, slopes, log_sum, weight = _terms(m, alpha, *_lattice(m, alpha)[:2], count, order > 1)
    if order == 0:
        return (log_sum.squeeze(-1),)

    def mean(v: Tensor) -> Tensor:
        return (weight * v).sum(-1)

    excess = n - m.unsqueeze(-1)
    centre = mean(excess)
    spread = excess - centre.unsqueeze(-1)
    by_m = (1 + alpha) * centre
    by_mm = (1 + alpha) ** 2 * mean(spread**2) - (1 + alpha) * m
    if order == 1:
        return log_sum.squeeze(-1), by_m, by_mm
    first, second = slopes
    score = -divergence - n * first
    by_alpha = mean(score)
    by_ma = centre + (1 + alpha) * mean(spread * score)
    turn, away = -(n**2) * second, score - by_alpha.unsqueeze(-1)
    by_aa = mean(away**2) + mean(turn)
    found = log_sum.squeeze(-1), by_m, by_mm, by_alpha, by_ma, by_aa
    if order == 2:
        return found
    times = 1 + alpha  # third cumulants of the slopes of a term, and covariances of its bends and slopes
    by_mmm = times**3 * mean(spread**3) - times * m
    by_mma = 2 * times * mean(spread**2) + times**2 * mean(spread**2 * away) - m
    by_maa = 2 * mean(spread * away) + times * mean(spread * (turn + away**2))
    third = stirling_third(n * alpha.unsqueeze(-1))
    return *found, by_mmm, by_mma, by_maa, mean(3 * away * turn + away**3 - n**3 * third)


def series_with_bends(m: Tensor, alpha: Tensor) -> tuple[Tensor, ...]:
    """`log S` and its two derivatives by `log m`, each shaped as `m`."""
    return _series(m, alpha, _longest(_lattice(m, alpha)[2]), 1)


def series_with_third(m: Tensor, alpha: Tensor) -> tuple[Tensor, ...]:
    """`log S` and its two derivatives by `log m`, and those of its derivative by alpha, each shaped as `m`."""
    first, step, many = _lattice(m, alpha)
    n, divergence, slopes, log_sum, weight = _terms(m, alpha, first, step, _longest(many), True)
    times, excess = 1 + alpha, n - m.unsqueeze(-1)
    score = -divergence - n * slopes[0]
    centre, by_alpha = (weight * excess).sum(-1), (weight * score).sum(-1)
    spread = excess - centre.unsqueeze(-1)
    along = weight * spread
    square, away = (along * spread).sum(-1), score - by_alpha.unsqueeze(-1)
    along_both = along * away
    by_ma, by_mma = (
        centre + times * along_both.sum(-1),
        times * (2 * square + times * (along_both * spread).sum(-1)) - m,
    )
    return log_sum.squeeze(-1), times * centre, times * (times * square - m), by_alpha, by_ma, by_mma


def _longest(many: Tensor) -> int:
    """The number of terms that are enough for all rows."""
    return min(int(many.amax().nan_to_num(_MOST_TERMS)), _MOST_TERMS) if many.numel() else 1


def _tracked(value: Tensor) -> bool:
    """Whether a derivative with respect to `value` may be asked for, in reverse or forward mode."""
    return (
        not values_are_known(value)
        or value.requires_grad
        or torch.autograd.forward_ad.unpack_dual(value)[1] is not None
    )


def _series_everywhere(m: Tensor, alpha: Tensor, positive: Tensor, order: int) -> tuple[Tensor, ...]:
    """`_series` for the rows marked positive, zero elsewhere, a bounded number of rows at a time."""
    if not values_are_known(m):  # shapes must not depend on them
        return _series(m, alpha, _MOST_TERMS, order)
    rows = positive.reshape(-1).nonzero().squeeze(-1)
    m, alpha = m.reshape(-1)[rows], alpha.reshape(-1)[rows]
    found: list[tuple[Tensor, ...]] = []
    chunk = _CHUNK.get(m.device.type, _CHUNK_ON_DEVICE)
    order_of = torch.argsort(_lattice(m, alpha)[2])  # rows of as many terms together
    rows, m, alpha = rows[order_of], m[order_of], alpha[order_of]
    for some_m, some_alpha in zip(m.split(chunk), alpha.split(chunk), strict=True):
        found.append(_series(some_m, some_alpha, _longest(_lattice(some_m, some_alpha)[2]), order))
    whole = torch.zeros(positive.numel(), dtype=m.dtype, device=m.device)
    columns = zip(*found, strict=True)
    return tuple(whole.index_copy(0, rows, torch.cat(column)).reshape(positive.shape) for column in columns)


def log_series(log_m: Tensor, alpha: Tensor, positive: Tensor) -> tuple[Tensor, ...]:
    """`log S(m, alpha)`, its derivatives in `log m`, that twice, alpha, both, and alpha twice; 0 where not positive."""
    return _series_everywhere(torch.exp(log_m), alpha, positive, 2)


def _log_series(log_m: Tensor, alpha: Tensor, positive: Tensor, thrice: bool) -> Tensor:
    """`log S(m, alpha)` with its first and second derivatives: a quadratic about the point itself, a cubic if `thrice`.

    The derivatives come out of the same pass as the sum, so nothing of it is kept for the backward pass.
    """
    at_m, at_alpha = log_m.detach(), alpha.detach()
    order = 3 if thrice else 2 if _tracked(alpha) else 1 if _tracked(log_m) else 0
    value, *slopes = _series_everywhere(torch.exp(at_m), at_alpha, positive, order)
    if order == 0:
        return value
    step = log_m - at_m
    value = value + step * (slopes[0] + 0.5 * slopes[1] * step)
    if order == 1:
        return value
    move = alpha - at_alpha
    value = value + move * (slopes[2] + slopes[3] * step + 0.5 * slopes[4] * move)
    if order == 2:
        return value
    mmm, mma, maa, aaa = slopes[5:]
    return value + (step**3 * mmm + 3 * step**2 * move * mma + 3 * step * move**2 * maa + move**3 * aaa) / 6


def tweedie_log_prob(
    y: Tensor, mu: Tensor, dispersion: Tensor, power: Tensor | float, *, thrice: bool = False
) -> Tensor:
    """Exact log-density of a Tweedie variable of mean `mu`, variance `dispersion mu^power`, `1 < power < 2`.

    At `y = 0` it is the logarithm of the probability of zero, `-mu^(2-p) / (phi (2-p))`; beyond, of the
    density. A prior weight w enters as `dispersion / w`. `y >= 0`, `mu > 0`, `dispersion > 0` broadcast.
    Differentiable twice in all arguments, in reverse and forward mode, and three times if `thrice`, which costs more;
    derivatives beyond those in dispersion and power are not those of the density. Source: Dunn and Smyth (2005),
    Series evaluation of Tweedie exponential dispersion model densities; Jorgensen (1997), The theory of dispersion
    models.
    """
    p = torch.as_tensor(power, dtype=mu.dtype, device=mu.device)
    y, mu, dispersion, p = torch.broadcast_tensors(y.to(mu.dtype), mu, dispersion, p)
    positive = y > 0
    safe = torch.where(positive, y, 1.0)
    log_y = torch.log(safe)
    alpha = (2 - p) / (p - 1)
    log_m = (2 - p) * log_y - torch.log(dispersion * (2 - p))
    log_density = 0.5 * torch.log(alpha) - 2 * HALF_LOG_2PI - log_y + _log_series(log_m, alpha, positive, thrice)
    deviance = tweedie_unit_deviance(y, mu, p)
    return torch.where(positive, log_density, 0.0) - 0.5 * deviance / dispersion
