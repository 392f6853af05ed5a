"""The loss of a head of several predictors where these have no law, or one of no finite density.

A network may put out any predictors: thresholds that cross, a dispersion of `exp(1000)`. There the negative
log-density goes on along its tangent at the last point that has one on the way from a harmless point, so that it stays
finite and its gradient leads back.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from torchglm import links
from torchglm.families.numerics import within
from torchglm.families.several import Classes, VectorFamily
from torchglm.model.closed_form import Closed, has_closed_form
from torchglm.model.continuation import STEEPEST
from torchglm.rows.responses import Response, each, filled
from torchglm.special.tracing import values_are_known

STEEP = (links.Log, links.Logit, links.Probit, links.CLogLog, links.LogLog, links.Softplus)
FAR = 30.0  # of a predictor with such a link: beyond, curvatures are of no size
INWARD = 63 / 64  # of that way: at its very end sums in another order may not be finite
HALVINGS = 24  # of the way between the harmless point and the predictors


def continued_nll(family: VectorFamily, y: Response, eta: Tensor) -> Tensor:
    """`family.nll(y, eta)` (*N), continued, for predictors (K, *N).

    Its slope is that of `family.derivatives`: parts of a formula that is finite may not be, and autograd goes through
    all of them. A row without a finite slope counts as one without a density.
    """
    known = known_nll(family, y, eta)
    if known is not None:
        return known.rows()
    at, formula = eta.detach(), partial(family.nll, y)
    steep = [k for k, name in enumerate(family.predictors) if isinstance(family.links[name], STEEP)]
    with torch.no_grad():
        good, slope = _good(family, y, at)
        far = ~good | (at[steep].abs() > FAR).any(0)
        if not values_are_known(eta) or bool(far.any()):
            end, beyond = _ends(family, y, at, far)
            slope = torch.where(far, beyond, slope)
            formula = partial(_continued, family, y, far, end, slope)
        if not family.estimates_shape and has_closed_form(y, eta):
            known = Closed(formula(at), (slope,), formula, (eta,))
    return formula(eta) if known is None else known.rows()


def _continued(family: VectorFamily, y: Response, far: Tensor, end: Tensor, slope: Tensor, eta: Tensor) -> Tensor:
    """`family.nll(y, eta)` with a tangent at `end` in rows that are `far`."""
    inside = family.nll(y, torch.where(far, end, eta))
    return inside + torch.where(far, (slope * torch.where(far, eta - end, 0.0)).sum(0), 0.0)


def known_nll(family: VectorFamily, y: Response, eta: Tensor) -> Closed | None:
    """`family.nll(y, eta)` by its closed form, None without one, or where some predictors are of no common size."""
    if not values_are_known(eta) or eta.device.type != "cpu" or not eta.numel():
        return None
    at = eta.detach()
    if family.estimates_shape or not has_closed_form(y, eta) or not within(at, FAR) or not family.has_laws(at):
        return None
    found = family.nll_and_score(y, at)
    if found is None or not float(found[0].amax()) < STEEPEST or not within(found[1], STEEPEST):
        return None
    return Closed(found[0], (-found[1],), lambda moved: family.nll(y, moved), (eta,))


def harmless(family: VectorFamily, y: Response, like: Tensor) -> Tensor:
    """(K, *N) predictors at which every row has a density: of rows like itself and like any."""
    if isinstance(family, Classes):
        even = family.start(like.new_ones(len(family.known)))
        return even.reshape(-1, *[1] * (like.dim() - 1)).expand_as(like)
    other = filled(y, torch.zeros_like(like[0], dtype=torch.bool), family.inner_mean)
    start = family.start((family.statistics(y) + family.statistics(other)) / 2).to(like.dtype)
    return torch.nan_to_num(start, nan=0.0, posinf=0.0, neginf=0.0)  # a row of one trial has no spread


def _good(family: VectorFamily, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
    """(*N) where there is a density that is not too steep, and its slope (K, *N)."""
    value, score, _ = family.evaluated(y, eta)
    return family.valid(eta) & (value < STEEPEST) & (score.abs() < STEEPEST).all(0), -score


def _ends(family: VectorFamily, y: Response, eta: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """`_end`, by a search over the rows that are `far` alone: few of many, where shapes may depend on values."""
    own_shapes = any(part.dim() for part in (*family.parameters(), *family.buffers()))  # of each response
    if own_shapes or not values_are_known(eta):
        return _end(family, y, eta, far)
    end, slope = eta.clone(), torch.zeros_like(eta)
    some = each(y, lambda part: part.expand(far.shape)[far])
    end[:, far], slope[:, far] = _end(family, some, eta[:, far], torch.ones_like(far[far]))
    return end, slope


def _end(family: VectorFamily, y: Response, eta: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """(K, *N) `eta`, or the last point with a density on the way there, and the slope of the loss at it."""
    good, slope = _good(family, y, eta)
    good = good | ~far
    if values_are_known(eta) and bool(good.all()):
        return eta, slope
    start = harmless(family, y, eta)
    there = torch.where(torch.isfinite(eta), eta, start)
    low, high = torch.zeros_like(eta[0]), torch.ones_like(eta[0])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = _good(family, y, start + middle * (there - start))[0]
        low, high = torch.where(found, middle, low), torch.where(found, high, middle)
    end = torch.where(good, eta, start + INWARD * low * (there - start))
    return end, torch.nan_to_num(-family.derivatives(y, end)[0])
