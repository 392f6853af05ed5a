"""Degrees of freedom of fixed effects beside estimated variances.

The variance `v` of an effect is a function of the parameters `psi` of the covariances, of a shape and of the
dispersion; its own variance, by the delta method, is that of a multiple of chi-squared with `2 v^2 / Var(v)` degrees of
freedom. `psi` has the covariance that the criterion's Hessian gives; at given `psi` the logarithm of the dispersion has
the inverse of the criterion's curvature by it, which is `2 / (n - M)` for a Gaussian response.
Source: Satterthwaite (1946), Biometrics Bull. 2(6); Kuznetsova et al. (2017), J. Stat. Software 82(13).
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.fitting.dispersions import bend_at_least
from torchglm.fitting.mixed.criterion import MixedCriterion
from torchglm.fitting.mixed.mark import Mark
from torchglm.fitting.shape import RowMeans


def freedom(criterion: MixedCriterion, mark: Mark, slopes: Tensor, psi_covariance: Tensor) -> Tensor | None:
    """(B, p) Satterthwaite's degrees of freedom at the end; None beside smooths.

    `slopes` (B, K, p) are those of `variances` by the parameters of `psi` that are no fixed effects, whose covariance
    is (B, K, K).
    """
    if criterion.ranges is not None:
        return None
    every = torch.arange(len(mark.psi), device=mark.psi.device)
    value = variances(criterion, every, mark)
    spread = torch.einsum("bkp,bkj,bjp->bp", slopes, psi_covariance, slopes)
    spread = spread + value.square() * _of_dispersion(criterion, every, mark).unsqueeze(-1)
    return torch.where(criterion.keep, 2 * value.square() / spread, torch.nan)


def variances(criterion: MixedCriterion, lane: Tensor, mark: Mark) -> Tensor:
    """(b, p) the variances of the fixed effects of some models at given covariances."""
    p, turn = criterion.effects.columns, criterion.turn(lane, mark.psi)
    inverse = criterion.eliminated(lane, mark.gram, turn, mark.psi).on(criterion.every).inverse
    return mark.phi.unsqueeze(-1) * inverse.diagonal(dim1=-2, dim2=-1)[:, :p]


def _of_dispersion(criterion: MixedCriterion, every: Tensor, mark: Mark) -> Tensor:
    """(B,) the variance of the logarithm of the dispersion at given covariances; 0 where it is known."""
    family, free = criterion.family, criterion.free
    if criterion.phi is not None or not family.has_dispersion:
        return torch.zeros_like(mark.phi)
    if family.least_squares:
        return 2 / (criterion.count - free).clamp(min=1e-300)
    coef = criterion.turn(every, mark.psi).times(mark.u)
    means = RowMeans(criterion.rows_of(every), criterion.link, coef)
    return 1 / bend_at_least(means, criterion.law(every, mark.psi), mark.phi, free).clamp(min=1e-300)
