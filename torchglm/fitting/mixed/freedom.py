"""Degrees of freedom of fixed effects beside estimated variances, for Gaussian responses.

The variance `v` of an effect is a function of the parameters `psi` of the covariances and of the dispersion; its own
variance, by the delta method, is that of a multiple of chi-squared with `2 v^2 / Var(v)` degrees of freedom. At given
`psi` the logarithm of the dispersion has the variance `2 / (n - M)`, and `psi` that of the criterion's Hessian.
Source: Satterthwaite (1946), Biometrics Bull. 2(6); Kuznetsova et al. (2017), J. Stat. Software 82(13).
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.fitting.mixed.criterion import MixedCriterion
from torchglm.fitting.mixed.search import MixedSearch


def freedom(criterion: MixedCriterion, search: MixedSearch, psi_covariance: Tensor) -> Tensor | None:
    """(B, p) Satterthwaite's degrees of freedom; None beside smooths, a dispersion that is held, and other laws."""
    if not criterion.flat or criterion.phi is not None or criterion.ranges is not None:
        return None
    mark, lane = search.mark, search.every
    models, many = mark.psi.shape
    step = search.units(lane, mark)
    moves = torch.diag_embed(step)
    around = torch.cat([mark.psi.unsqueeze(1) + moves, mark.psi.unsqueeze(1) - moves], 1).flatten(0, 1)
    lanes = lane.repeat_interleave(2 * many)
    each = [
        _variances(criterion, lanes[at], around[at], mark.u[lanes[at]])
        for at in torch.arange(len(lanes), device=lane.device).split(max(1, len(lane)))
    ]
    above, below = torch.cat(each).unflatten(0, (models, 2, many)).unbind(1)
    slope = (above - below) / (2 * step.unsqueeze(-1))  # (B, K, p)
    value = _variances(criterion, lane, mark.psi, mark.u)
    spread = torch.einsum("bkp,bkj,bjp->bp", slope, psi_covariance, slope)
    of_dispersion = 2 / (criterion.count - criterion.free).clamp(min=1e-300)
    df = 2 * value.square() / (value.square() * of_dispersion.unsqueeze(-1) + spread)
    return torch.where(criterion.keep, df, torch.nan)


def _variances(criterion: MixedCriterion, lane: Tensor, psi: Tensor, u: Tensor) -> Tensor:
    """(b, p) the variances of the fixed effects, the dispersion following the covariances."""
    mark, p = criterion.at(lane, psi, u), criterion.effects.columns
    inverse = criterion.eliminated(lane, mark.gram, criterion.turn(lane, psi), psi).on(criterion.every).inverse
    return mark.phi.unsqueeze(-1) * inverse.diagonal(dim1=-2, dim2=-1)[:, :p]
