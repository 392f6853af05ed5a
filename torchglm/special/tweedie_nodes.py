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

from torchglm.special.tweedie import series_with_bends, series_with_third

STEP = {torch.float64: 0.025}  # between nodes at first
STEP_SINGLE = 0.15
PRECISION = {torch.float64: 1e-11}  # of slopes; values have more
PRECISION_SINGLE = 1e-7
SHARE = 4  # rows for each node at least: with fewer the series of every row is as quick
_FEWEST = 8
_SHEETS = {torch.float64: (9, 24)}  # values of alpha at first, and more of them for each unit of half their range
_SHEETS_SINGLE = 6, 14
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


def series_by_nodes(log_m: Tensor, log_alpha: Tensor, like: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
    """`log S(m, alpha)` (*N) and its derivatives by `log m` and `log alpha`, in float64, of one `log_alpha` ().

    The digits are those of results in the dtype `like`. None where that would take more nodes than a share of the rows,
    and where a number is not finite.
    """
    low, high = torch.stack(torch.aminmax(log_m)).tolist()
    if not math.isfinite(high - low):
        return None
    span, alpha = max(high - low, 1e-3), log_alpha.exp()
    precision = PRECISION.get(like, PRECISION_SINGLE)
    pairs = max(math.ceil(span / STEP.get(like, STEP_SINGLE) / 2), _FEWEST // 2)
    nodes = None
    while SHARE * 2 * pairs <= log_m.numel():
        step = span / (2 * pairs)
        places = low + step * torch.arange(2 * pairs + 1, dtype=torch.float64)
        if nodes is None:
            nodes = _at_nodes(places, alpha)
        else:
            both = torch.stack([nodes[:, :-1], _at_nodes(places[1::2], alpha)], -1)
            nodes = torch.cat([both.flatten(1), nodes[:, -1:]], 1)
        value, by_alpha = _error(nodes, step).tolist()
        if value < _HALF_WAY / _SLOPE * step * precision and by_alpha < _HALF_WAY * precision:
            found = _between(_COEFFICIENTS @ _ends(nodes, step), (log_m - low) / step)
            return found[0], found[1] / step, found[2] * alpha
        pairs *= 2
    return None


def _at_nodes(log_m: Tensor, alpha: Tensor) -> Tensor:
    """(6, K) the value and two derivatives by `log m`, of `log S` and of its derivative by alpha."""
    m, alpha = log_m.exp(), alpha.expand_as(log_m)
    return torch.stack(series_with_third(m, alpha))


def _ends(nodes: Tensor, step: float) -> Tensor:
    """(..., 6, K - 1) what nodes (..., 3, K) say of either end of what lies between them, in units of the step."""
    own = nodes.unflatten(-2, (-1, 3)) * nodes.new_tensor([1.0, step, step * step]).unsqueeze(-1)
    return torch.cat([own[..., :-1], own[..., 1:]], -2)


def _error(nodes: Tensor, step: float) -> Tensor:
    """How far polynomials between every second node are from the nodes between, relative to 1 and the value there."""
    want = nodes[..., ::3, 1::2]
    found = _HALF @ _ends(nodes[..., ::2], 2 * step)
    return ((found - want).abs() / (1 + want.abs())).amax(-1)


def _between(coefficients: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value, its slope in units of the step, and the second function at places (*N) in these units."""
    at = place.reshape(-1)
    interval = at.long().clamp_(0, coefficients.shape[-1] - 1)
    u = at - interval
    value, slope, other = _horner(coefficients.flatten(0, 1).index_select(1, interval), u)
    return value.reshape(place.shape), slope.reshape(place.shape), other.reshape(place.shape)


def _horner(own: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A polynomial of degree 5, its slope, and another polynomial at `u` (n), of coefficients (12, n)."""
    value, slope, other = own[5], own[5], own[11]
    for k in range(4, -1, -1):
        value = torch.addcmul(own[k], value, u)
        other = torch.addcmul(own[6 + k], other, u)
        if k:
            slope = torch.addcmul(value, slope, u)
    return value, slope, other


def series_by_sheets(log_m: Tensor, log_alpha: Tensor, like: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
    """As `series_by_nodes`, where each row has an alpha of its own: nodes at Chebyshev points of `log alpha`.

    Between these goes their polynomial, whose last coefficients say how far it is off. Source: Trefethen (2013),
    Approximation Theory and Approximation Practice, chapters 3 and 8.
    """
    ends = torch.stack([*torch.aminmax(log_m), *torch.aminmax(log_alpha)])
    low, high, least, most = ends.tolist()
    if not math.isfinite(high - low + most - least):
        return None
    span, half = max(high - low, 1e-3), max(most - least, 0.1) / 2  # nearer sheets are apart by rounding
    precision = PRECISION.get(like, PRECISION_SINGLE)
    fewest, growing = _SHEETS.get(like, _SHEETS_SINGLE)
    pairs, sheets = max(math.ceil(span / STEP.get(like, STEP_SINGLE) / 2), _FEWEST // 2), fewest + int(growing * half)
    while SHARE * 2 * pairs * sheets <= log_m.numel():
        step = span / (2 * pairs)
        angles = (torch.arange(sheets, dtype=torch.float64) + 0.5) * (math.pi / sheets)
        order = torch.arange(sheets, dtype=torch.float64)
        alpha = (least + half * (1 + angles.cos())).exp()
        m = (low + step * torch.arange(2 * pairs + 1, dtype=torch.float64)).exp()
        nodes = torch.stack(series_with_bends(*(part.flatten() for part in torch.meshgrid(m, alpha, indexing="xy"))))
        nodes = nodes.unflatten(1, (sheets, -1)).movedim(1, 0)  # (J, 3, K)
        smooth = float(_error(nodes, step).amax()) < _HALF_WAY / _SLOPE * step * precision
        waves = torch.cos(order.unsqueeze(-1) * angles) * (2 / sheets)
        waves[0] /= 2
        waves = torch.tensordot(waves, nodes, 1)  # coefficients of Chebyshev's polynomials
        sizes = (waves[:, 0].abs() / (1 + waves[0, 0].abs())).amax(-1)
        more = _more(sizes, precision * min(half, 1.0) / sheets**2)
        if smooth and not more:
            table = (_COEFFICIENTS @ _ends(waves, step).squeeze(1)).movedim(-1, 0)  # (K, J, 6)
            across = (log_alpha.reshape(-1) - least) / half - 1
            found = _on_sheets(table, (log_m.reshape(-1) - low) / step, across)
            value, slope, other = (part.reshape(log_m.shape) for part in found)
            return value, slope / step, other / half
        pairs, sheets = pairs * (1 if smooth else 2), sheets + more
    return None


def _more(sizes: Tensor, least: float) -> int:
    """How many terms more a Chebyshev series needs for its last ones to be below `least`, by how its terms fall."""
    last = float(sizes[-2:].amax())
    if last < least:
        return 0
    fall = (last / float(sizes[1:3].amax())) ** (1 / max(len(sizes) - 3, 1))
    return math.ceil(math.log(least / last) / math.log(min(fall, 0.9))) + 1


def _on_sheets(table: Tensor, place: Tensor, across: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value and its slopes at places (n) in units of the step and between -1 and 1 across the sheets."""
    interval = place.long().clamp_(0, len(table) - 1)
    u, sheets = place - interval, table.shape[1]
    kinds, slopes = [torch.ones_like(across), across], [torch.zeros_like(across), torch.ones_like(across)]
    for _ in range(2, sheets):
        slopes.append(2 * kinds[-1] + 2 * across * slopes[-1] - slopes[-2])
        kinds.append(2 * across * kinds[-1] - kinds[-2])
    bases = torch.stack([torch.stack(kinds, -1), torch.stack(slopes, -1)], 1)  # (n, 2, J)
    own = torch.bmm(bases, table.index_select(0, interval))  # (n, 2, 6)
    return _horner(own.flatten(1).mT.contiguous(), u)


def tweedie_with_slopes(
    y: Tensor, eta: Tensor, log_phi: Tensor, logit: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Minus the log-density of rows (*N) of means `exp(eta)`, and its derivatives by `eta`, `log phi` and `logit`.

    `logit` is that of `power - 1`; it and `log_phi` are one for all rows, (), or one for each; what is returned has
    the shape and dtype of `eta`. With `r = 2 - p`, `o = p - 1`, it is `exp(r eta) / (r phi) + y exp(-o eta) / (o phi)`
    less, where y is positive, `m / o` and the logarithm of the density at the mean y. None where a response is not
    finite or all are 0, and where rows are few for the nodes that the series needs, see `series_by_nodes`.
    """
    positive = y > 0
    at, size, log_phi, logit = eta.double(), y.double(), log_phi.double(), logit.double()
    log_y = torch.where(positive, size, size.amax()).log_()
    rest, over = torch.sigmoid(-logit), torch.sigmoid(logit)
    precision, far = torch.exp(-log_phi), rest * log_y
    log_m = far - (log_phi + rest.log())
    found = (series_by_sheets if logit.dim() else series_by_nodes)(log_m, -logit, eta.dtype)
    if found is None:
        return None
    series, by_log_m, by_log_alpha = found
    level = torch.exp(rest * at).mul_(precision / rest)  # of the mean: minus the log-probability of 0
    tilt = torch.exp(-over * at).mul_(size).mul_(precision / over)
    scale = log_m.exp_().div_(over)
    by_log_m = by_log_m.add_(scale)
    base = series.add_(scale).sub_(log_y).sub_(0.5 * logit + math.log(2 * math.pi))
    base_by_logit = (1 - far).mul_(by_log_m).mul_(over).sub_(by_log_alpha).sub_(scale.mul_(rest)).sub_(0.5)
    by_logit = level * (over * (1 - rest * at)) - tilt * (rest * (1 + over * at))
    by_eta = rest * level - over * tilt
    value = level.add_(tilt)

    def less(what: Tensor, where_positive: Tensor) -> Tensor:
        return what.sub_(where_positive.masked_fill_(~positive, 0.0)).to(eta.dtype)

    by_log_phi = less(-value, by_log_m.neg_())
    return less(value, base), by_eta.to(eta.dtype), by_log_phi, less(by_logit, base_by_logit)
