"""What a pass sums of shape parameters that are sought together with the coefficients, by one Newton's method.

The raw shape of a model stands behind its coefficients: `log alpha` of a negative binomial, `log phi` and
`logit(power - 1)` of a Tweedie. The objective is then the whole negative log-likelihood, and score and information get
a row for each. Expected information has nothing between coefficients and shape; the observed one has.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm import special
from torchglm.families import Family, NegativeBinomial, Tweedie
from torchglm.families.several.base import Pairs, absolute
from torchglm.fitting.factors import working_factor
from torchglm.fitting.moments import Moments, Point
from torchglm.rows.products import project
from torchglm.rows.rows import Rows

POWER_END = math.log(0.99 / 0.01)  # of the logit of power - 1: nearer to 1 or 2 the density takes too many terms
ALPHA_END = 40.0  # of log alpha


def has_alpha(family: Family) -> bool:
    """Whether the shape a family estimates is the `alpha` of a negative binomial; else it is the power of a Tweedie.

    Raises `ValueError` for a family whose shape is another.
    """
    if isinstance(family, NegativeBinomial):
        return True
    if isinstance(family, Tweedie):
        return False
    raise ValueError(
        f"a fit estimates the shape of NegativeBinomial and Tweedie, not that of {type(family).__name__}. Give its "
        "value (requires_grad False on its parameters), or learn it in a GLMHead by its loss."
    )


def shapes_of(family: Family) -> int:
    """How many raw shape parameters stand behind the coefficients: the dispersion of a Tweedie is one."""
    return 1 if has_alpha(family) else 2


def with_raw_shape(family: Family, raw: Tensor) -> Family:
    """The family with the last of the raw shape parameters (*B, S) of its models."""
    return family.with_parameters({"log_alpha" if has_alpha(family) else "raw_power": raw[..., -1]})


def of_coefficients(point: Point) -> Point:
    """The point without the shape parameters behind its coefficients."""
    coef, before = (None if value is None else value[:, : -point.shapes] for value in (point.coef, point.before))
    return replace(point, coef=coef, before=coef if point.before is point.coef else before, shapes=0)


def with_unit_shape(sums: Moments, shapes: int, design: bool) -> Moments:
    """Sums that say nothing of the shape: 1 on the diagonal of the Gram, so that it stays where it is.

    The factor of a `design` has no right side behind its columns.
    """
    models, p = sums.score.shape
    unit = torch.eye(shapes, dtype=torch.float64, device=sums.score.device).expand(models, -1, -1)
    none = unit.new_zeros(models, shapes)
    factor = sums.factor
    if factor is not None:
        factor = _wider(factor, shapes, 0 if design else 1)
    gram = sums.gram
    if gram.layout.columns:
        gram = gram.with_columns(unit.new_zeros(models, p, shapes), unit)
    return replace(sums, gram=gram, score=torch.cat([sums.score, none], -1), factor=factor)


class _Values(NamedTuple):
    """What the rows bring to the sums of their models' shape, weights in it: (B, n), or (S, B, n) by parameter.

    `base` is the part of the objective that half the deviance lacks, `slope` and `own` the score and observed
    information of the shape, `cross` that between the linear predictor and the shape.
    """

    base: Tensor
    slope: Tensor
    own: Pairs
    cross: Tensor


def with_shape(
    sums: Moments,
    rows: Rows,
    mu: Tensor,
    score: Tensor,
    information: Tensor,
    family: Family,
    point: Point,
) -> Moments:
    """The sums of the coefficients at a point, and beside them those of the shape, as sums of the log-likelihood.

    `mu`, the weighted `score` and `information` (B, n) are those of unit dispersion. A factor takes the absolute value
    of the information of a row, and of the shape only what it has with the coefficients: see `linalg.invert_factor`.
    """
    assert point.coef is not None
    raw = point.coef[:, -point.shapes :]
    if has_alpha(family):
        values, end = _of_alpha(rows, mu, score, family), ALPHA_END
    else:
        values, end = _of_power(rows, mu, score, family, raw[:, :1]), POWER_END
        sums = _over(sums, raw[:, 0].exp())
        score, information = score / raw[:, :1].exp(), information / raw[:, :1].exp()
    observed = torch.as_tensor(point.observed, device=mu.device).expand(len(mu)).unsqueeze(-1)
    safe = absolute(values.own, range(point.shapes))
    own = values.slope.new_empty(len(mu), point.shapes, point.shapes)
    for (k, j), value in values.own.items():
        own[:, k, j] = own[:, j, k] = torch.where(observed, value, safe[k, j]).sum(-1)
    slope = values.slope.sum(-1).mT
    gram, cross = sums.gram, torch.where(observed, values.cross, 0.0)
    if point.curved:
        gram = gram.with_columns(_cross(rows, cross), own)
    beyond = (raw[:, -1:].abs() > end).to(torch.float64).sum(-1)
    change = sums.change
    if point.before is not None:
        step = (raw - point.before[:, -point.shapes :]).abs() / (1 + raw.abs())
        change = torch.maximum(change, step.amax(-1))
    return replace(
        sums,
        gram=gram,
        factor=working_factor(rows, score, information.abs(), cross) if point.factor else None,
        change=change,
        score=torch.cat([sums.score, slope], -1),
        objective=sums.objective + values.base.sum(-1),
        invalid=sums.invalid + beyond,
    )


def _cross(rows: Rows, values: Tensor) -> Tensor:
    """(B, p, S) the products of the design with values (S, B, n)."""
    return torch.stack([project(rows, own) for own in values], -1)


def _over(sums: Moments, phi: Tensor) -> Moments:
    """Sums of a likelihood of unit dispersion at another one (B,)."""
    return replace(
        sums,
        gram=sums.gram.scaled(1 / phi),
        score=sums.score / phi.unsqueeze(-1),
        objective=sums.objective / phi,
        scale=sums.scale / phi,
    )


def _wider(factor: Tensor, shapes: int, right: int) -> Tensor:
    """The triangular factor with unit columns for the shape, before so many `right` sides."""
    p = factor.shape[-1] - right
    out = torch.eye(p + shapes + right, dtype=factor.dtype, device=factor.device).repeat(len(factor), 1, 1)
    out[:, :p, :p] = factor[:, :p, :p]
    if right:
        out[:, :p, p + shapes :], out[:, p + shapes :, p + shapes :] = factor[:, :p, p:], factor[:, p:, p:]
    return out


def _of_alpha(rows: Rows, mu: Tensor, score: Tensor, family: Family) -> _Values:
    used = rows.weight > 0
    y, weight = torch.where(used, rows.y, 0.0), torch.where(used, rows.weight, 0.0)
    alpha = family.get_parameter("log_alpha").exp().unsqueeze(-1)
    [base] = special.of_counts(lambda count, at: (_log_base(count, at),), y, alpha)
    first, second = special.negative_binomial_slopes(y, mu, alpha)
    share = alpha * mu / (1 + alpha * mu)
    own = {(0, 0): -second * weight}
    return _Values(-base * weight, (first * weight).unsqueeze(0), own, (score * share).unsqueeze(0))


def _log_base(count: Tensor, alpha: Tensor) -> Tensor:
    """The log-density of counts whose mean they are."""
    mean = torch.where(count > 0, count, 1.0)
    return torch.where(count > 0, special.negative_binomial_log_prob(count, mean, alpha), 0.0)


class OfPower(NamedTuple):
    """What rows bring to the likelihood of a Tweedie in `log phi` and `logit(power - 1)`: (B, n), repeats in it.

    `base` is the log-density less that of the deviance.
    """

    log_prob: Tensor
    base: Tensor
    slope: Tensor
    own: Pairs


def of_power(rows: Rows, mu: Tensor, log_phi: Tensor, raw: Tensor) -> OfPower:
    """The values of rows at means (B, n), for `log phi` and the raw power (B, 1)."""
    used = rows.weight > 0
    repeats = torch.ones_like(rows.weight) if rows.repeats is None else rows.repeats.to(rows.weight.dtype)
    times = torch.where(used, repeats, 0.0)
    phi = log_phi.exp() * torch.where(used, times / torch.where(used, rows.weight, 1.0), 1.0)
    share = raw.sigmoid()
    move = share * (1 - share)  # the derivative of the power
    found = special.tweedie_slopes(torch.where(used, rows.y, 0.0), mu, phi, 1 + share)
    own = {
        (0, 0): -found.by_log_phi_twice * times,
        (0, 1): -found.by_both * move * times,
        (1, 1): -(found.by_power_twice * move.square() + found.by_power * move * (1 - 2 * share)) * times,
    }
    base = (found.log_prob + found.half_deviance / phi) * times
    return OfPower(found.log_prob * times, base, torch.stack([found.by_log_phi, found.by_power * move]) * times, own)


def _of_power(rows: Rows, mu: Tensor, score: Tensor, family: Family, log_phi: Tensor) -> _Values:
    raw = family.get_parameter("raw_power").unsqueeze(-1)
    found = of_power(rows, mu, log_phi, raw)
    cross = torch.stack([score, score * mu.log() * raw.sigmoid() * (-raw).sigmoid()]) / log_phi.exp()
    return _Values(-found.base, found.slope, found.own, cross)
