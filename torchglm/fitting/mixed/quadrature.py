"""Adaptive Gauss-Hermite quadrature over the one effect of each level, as a correction of Laplace's approximation.

With the mode `u` of a level, its curvature `h` and nodes `x_k`, weights `w_k` of Gauss and Hermite, the integral of the
level over Laplace's value of it is

    sum_k w_k / sqrt(pi) exp(x_k^2 + l(u_k) - l(u) - (u_k^2 - u^2) / (2 phi)),    u_k = u + sqrt(2 phi / h) x_k

Source: Pinheiro & Bates (1995), J. Comput. Graph. Stat. 4(1), 12-35; lme4's `nAGQ`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.kernel import take_family
from torchglm.fitting.mixed.effects import Lambda
from torchglm.links import Link
from torchglm.rows.arrow import ArrowIndexed, Grouping
from torchglm.rows.planned import predictors
from torchglm.rows.planned_arrow import in_the_design
from torchglm.rows.products import linear_predictor
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows, to_float64

MOST = 100  # nodes


def correction(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    turn: Lambda,
    u: Tensor,
    inverse: Tensor,
    phi: Tensor,
    nodes: int,
) -> Tensor:
    """(B,) what quadrature adds to the negative log marginal likelihood by Laplace.

    `u` (B, P) are the modes and `inverse` (B, L) the inverse of their curvature, both of one effect for each level.
    """
    grouping = turn.effects.groupings[0]
    at, weight = (torch.from_numpy(value).to(u) for value in np.polynomial.hermite.hermgauss(nodes))
    own = u[:, grouping.columns]
    spread = (2 * phi.unsqueeze(-1) * inverse).sqrt()
    points = [own, *(own + spread * x for x in at)]
    coef = []
    for point in points:
        moved = u.clone()
        moved[:, grouping.columns] = point
        coef.append(turn.times(moved))
    falls = _falls(source, family, link, coef, grouping) / phi.unsqueeze(-1)  # (nodes, B, L)
    logs = [
        (w.log() + x**2 - fall - (point**2 - own**2) / (2 * phi.unsqueeze(-1)))
        for w, x, fall, point in zip(weight, at, falls, points[1:], strict=True)
    ]
    return -(torch.logsumexp(torch.stack(logs), 0) - 0.5 * np.log(np.pi)).sum(-1)


def _falls(source: Iterable[Rows], family: Family, link: Link, coef: list[Tensor], grouping: Grouping) -> Tensor:
    """(K, B, L) the rise of half the deviance of each level from the first coefficients (B, P) to the others."""
    total, ranks = coef[0].new_zeros(len(coef) - 1, len(coef[0]), grouping.levels), ranks_of(source)
    own = own_rows(source)
    parts = own.parts if isinstance(own, Ragged) else ((None, chunk) for chunk in own)
    with ranks.together():
        for models, chunk in parts:
            law = family if models is None else take_family(family, models)
            rows = to_float64(chunk)
            first: Tensor | None = None
            for k, whole in enumerate(coef):
                half = _halves(rows, law, link, whole if models is None else whole[models])
                if first is None:
                    first = half
                    continue
                sums = _by_level(rows, half - first, grouping)
                if models is None:
                    total[k - 1] += sums
                else:
                    total[k - 1, models] += sums
    return ranks.sum(total)[0]


def _halves(rows: Rows, family: Family, link: Link, coef: Tensor) -> Tensor:
    """(B, n) half the deviance of each row with its weight, of several predictors the negative log-density."""
    used = rows.weight > 0
    if isinstance(family, VectorFamily):
        return torch.where(used, rows.weight * family.nll(rows.response, predictors(rows, coef)), 0.0)
    eta = linear_predictor(rows, coef)
    eta = torch.where(used, eta, link.link(eta.new_tensor(family.inner_mean)))
    return torch.where(used, rows.weight * family.half_deviance(rows.response, eta, link(eta), link), 0.0)


def _by_level(rows: Rows, values: Tensor, grouping: Grouping) -> Tensor:
    """(B, L) the sums of values (B, n) over the rows of each level."""
    if isinstance(rows.indexed, ArrowIndexed):
        return rows.indexed.effects[0].sums(values)
    columns = grouping.columns if rows.plan is None else in_the_design(rows.plan, grouping).columns
    member = (rows.x[..., columns] != 0).to(values)  # the columns are behind an intercept of their own
    return values @ member if rows.shared else (values.unsqueeze(-2) @ member).squeeze(-2)
