"""The series of the Tweedie density for many rows of one power: on nodes, and between them by polynomials.

Where all rows have one power, `log S(m, alpha)` is a function of `log m` alone, and smooth: with its first two
derivatives at equally spaced nodes, which the series gives beside the sum, the polynomial of degree 5 between two nodes
errs by `h^6 / 46080` of a sixth derivative. Its error is measured at every second node, beside the polynomial that does
without those, whose error is 64 times as large; nodes are doubled until it is small. Source: Davis (1975),
Interpolation and Approximation, section 3.6 (Hermite's interpolation and its remainder).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchglm.special.tweedie import series_with_third

STEP = {torch.float64: 0.025}  # between nodes at first
STEP_SINGLE = 0.1
PRECISION = {torch.float64: 1e-11}  # of slopes; values have more
PRECISION_SINGLE = 1e-8
SHARE = 4  # rows for each node at least: with fewer the series of every row is as quick
_FEWEST = 8
_HALF_WAY = 64.0  # the error of a value, over that with half the step
# of values, slopes and bends in units of the step at either end: coefficients of 1, u, ..., u^5, and the value half-way
_COEFFICIENTS = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.5, 0.0, 0.0, 0.0],
        [-10.0, -6.0, -1.5, 10.0, -4.0, 0.5],
        [15.0, 8.0, 1.5, -15.0, 7.0, -1.0],
        [-6.0, -3.0, -0.5, 6.0, -3.0, 0.5],
    ],
    dtype=torch.float64,
    device="cpu",
)
_HALF = torch.tensor([1 / 2, 5 / 32, 1 / 64, 1 / 2, -5 / 32, 1 / 64], dtype=torch.float64, device="cpu")
_SLOPE = 3.5  # the largest error of a slope times the step, over the largest of a value


def series_by_nodes(
    log_m: Tensor, alpha: Tensor, low: float, high: float, like: torch.dtype
) -> tuple[Tensor, Tensor, Tensor] | None:
    """`log S(m, alpha)` (*N) and its derivatives by `log m` and `alpha`, of one `alpha` (), in float64.

    `log_m` lies between `low` and `high`. The digits are those of results in the dtype `like`. None where that would
    take more nodes than a share of the rows.
    """
    span = max(high - low, 1e-3)
    if not math.isfinite(span):
        return None
    precision = PRECISION.get(like, PRECISION_SINGLE)
    pairs = max(math.ceil(span / STEP.get(like, STEP_SINGLE) / 2), _FEWEST // 2)
    nodes = None
    while SHARE * 2 * pairs <= log_m.numel():
        step = span / (2 * pairs)
        if nodes is None:
            nodes = _at_nodes(low + step * torch.arange(2 * pairs + 1, dtype=torch.float64), alpha)
        else:
            between = _at_nodes(low + step * torch.arange(1, 2 * pairs, 2, dtype=torch.float64), alpha)
            nodes = torch.cat([torch.stack([nodes[:, :-1], between], -1).flatten(1), nodes[:, -1:]], 1)
        value, by_alpha = _error(nodes, step)
        if value < _HALF_WAY / _SLOPE * step * precision and by_alpha < _HALF_WAY * precision:
            return _between(_COEFFICIENTS @ _ends(nodes, step), (log_m - low) / step, step)
        pairs *= 2
    return None


def _at_nodes(log_m: Tensor, alpha: Tensor) -> Tensor:
    """(6, K) the value and two derivatives by `log m`, of `log S` and of its derivative by alpha."""
    m, alpha = log_m.exp(), alpha.expand_as(log_m)
    return torch.stack(series_with_third(m, alpha))


def _ends(nodes: Tensor, step: float) -> Tensor:
    """(2, 6, K - 1) what nodes (6, K) say of either end of what lies between them, in units of the step."""
    own = nodes.reshape(2, 3, -1) * nodes.new_tensor([1.0, step, step * step]).unsqueeze(-1)
    return torch.cat([own[..., :-1], own[..., 1:]], 1)


def _error(nodes: Tensor, step: float) -> tuple[float, float]:
    """How far polynomials between every second node are from the nodes between, relative to 1 and the value there."""
    want = nodes[::3, 1::2]
    found = _HALF @ _ends(nodes[:, ::2], 2 * step)
    value, by_alpha = ((found - want).abs() / (1 + want.abs())).amax(-1).tolist()
    return value, by_alpha


def _between(coefficients: Tensor, place: Tensor, step: float) -> tuple[Tensor, Tensor, Tensor]:
    """The value, its slope, and the derivative by alpha at places (*N) in units of the step."""
    at = place.reshape(-1)
    interval = at.long().clamp_(0, coefficients.shape[-1] - 1)
    u = at - interval
    own = coefficients.flatten(0, 1).index_select(1, interval)  # (12, n)
    value, slope, by_alpha = own[5], own[5], own[11]
    for k in range(4, -1, -1):
        value = torch.addcmul(own[k], value, u)
        by_alpha = torch.addcmul(own[6 + k], by_alpha, u)
        if k:
            slope = torch.addcmul(value, slope, u)  # of Horner's scheme
    value, slope, by_alpha = (part.reshape(place.shape) for part in (value, slope, by_alpha))
    return value, slope / step, by_alpha


def tweedie_with_slopes(
    y: Tensor, eta: Tensor, log_phi: Tensor, power: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Minus the log-density of rows (*N) of means `exp(eta)`, and its derivatives by `eta`, `log phi` and the power.

    For one dispersion and one power (), in float64; what is returned has the dtype of `eta`. With `r = 2 - p`,
    `o = p - 1` it is `exp(r eta) / (r phi) + y exp(-o eta) / (o phi)` less, where y is positive, `m / o` and the
    logarithm of the density at the mean y. None where a response is not finite or all are 0, and where rows are few
    for the nodes that the series needs, see `series_by_nodes`.
    """
    positive = y > 0
    at, size = eta.double(), y.double()
    log_y = torch.where(positive, size, size.amax()).log_()
    rest, over, precision = 2 - power, power - 1, torch.exp(-log_phi)
    alpha, start = rest / over, log_phi + rest.log()
    log_m = rest * log_y - start
    low, high = torch.stack(torch.aminmax(log_m)).tolist()
    found = series_by_nodes(log_m, alpha, low, high, eta.dtype)
    if found is None:
        return None
    series, by_log_m, by_alpha = found
    level = torch.exp(rest * at).mul_(precision / rest)  # of the mean: minus the log-probability of 0
    tilt = torch.exp(-over * at).mul_(size).mul_(precision / over)
    scale = log_m.exp_().div_(over)
    by_log_m = by_log_m.add_(scale)
    base = series.add_(scale).sub_(log_y).add_(0.5 * alpha.log() - math.log(2 * math.pi))
    base_by_power = by_log_m * (1 / rest - log_y) - (scale.add_(0.5 / rest) + by_alpha.div_(over)).div_(over)
    by_power = level * (1 / rest - at) - tilt * (at + 1 / over)
    by_eta = rest * level - over * tilt
    value = level.add_(tilt)

    def less(what: Tensor, where_positive: Tensor) -> Tensor:
        return what.sub_(where_positive.masked_fill_(~positive, 0.0)).to(eta.dtype)

    by_log_phi = less(-value, by_log_m.neg_())
    return less(value, base), by_eta.to(eta.dtype), by_log_phi, less(by_power, base_by_power)
