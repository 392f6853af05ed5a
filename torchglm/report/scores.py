"""Residuals that are standard normal under the model: randomised quantile residuals where a cdf is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributions

from torchglm.inference.quantile import Tails, between, tails_of
from torchglm.rows.times import Response, Times, event_of, response, size_of

if TYPE_CHECKING:
    from torchglm.families import Family


@torch.no_grad()
def normal_scores(
    y: Tensor, mu: Tensor, family: Family, dispersion: float | Tensor = 1.0, weight: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, str]:
    """Randomised quantile residuals (*B, n) and their name; deviance residuals where no cdf is at hand.

    r = Φ⁻¹(u), u = F(y) for continuous families and uniform on (F(y−), F(y)] where y has positive probability
    (Dunn & Smyth, 1996), from the smaller tail. Columns are (*B, n); `weight` > 0 divides the dispersion; the
    `dispersion` of several models is (*B, 1).
    """
    y, mu = response(size_of(y).detach().double(), event_of(y)), mu.detach().double()
    w = torch.ones_like(mu) if weight is None else weight.detach().double()
    phi = torch.as_tensor(dispersion, dtype=mu.dtype, device=mu.device)
    found = _span(y, mu, family, phi, w)
    if found is None:
        size = w * family.unit_deviance(y, mu).clamp(min=0) / phi
        return (size_of(y) - mu).sign() * size.sqrt(), "deviance residual"
    u = torch.rand(mu.shape, dtype=mu.dtype, generator=torch.Generator().manual_seed(seed)).to(mu.device)
    return between(*found, u), "quantile residual"


def _span(y: Response, mu: Tensor, family: Family, phi: Tensor, w: Tensor) -> tuple[Tails, Tails] | None:
    """F and 1 − F just below y and at y; None without a cdf, off the lattice, or for a quasi-likelihood."""
    if not family.has_dispersion and bool((phi != 1).any()):
        return None
    law = family.distribution(mu, phi / w)
    counted = isinstance(law, distributions.Binomial)  # the family takes proportions, the law counts
    value = y * w if counted else size_of(y)
    discrete = law.support is not None and law.support.is_discrete
    found = _lattice_span(law, value) if discrete else _continuous_span(law, value)
    if isinstance(y, Times) and found is not None:  # a censored time is only known to be longer
        below, (at, above) = found
        found = below, (torch.where(y.event, at, 1.0), torch.where(y.event, above, 0.0))
    known = found is not None and all(bool(t.isfinite().all()) for tails in found for t in tails)
    return found if known else None


def _lattice_span(law: distributions.Distribution, count: Tensor) -> tuple[Tails, Tails] | None:
    """The tails at the whole numbers before and at `count`; None where it is none."""
    k = count.round()
    if bool(((count - k).abs() > 1e-6 * (1 + k)).any()):
        return None
    return tails_of(law, k - 1), tails_of(law, k)


def _continuous_span(law: distributions.Distribution, value: Tensor) -> tuple[Tails, Tails] | None:
    """The tails at `value`, but from 0 where a law holds probability at zero; None for an unknown law."""
    try:
        at, above = tails_of(law, value)
    except NotImplementedError:
        return None
    mass = (value == 0) & (at > 0)
    return (torch.where(mass, 0.0, at), torch.where(mass, 1.0, above)), (at, above)
