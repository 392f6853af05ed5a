"""Residuals that are standard normal under the model: randomised quantile residuals where a cdf is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchglm.families import Family

_MOST_TERMS = 50_000_000  # probabilities that the cdf of a discrete family may sum
_SMALLEST = 1e-300


def normal_scores(y: Tensor, mu: Tensor, family: Family, dispersion: float | Tensor = 1.0,
                  weight: Tensor | None = None, seed: int = 0) -> tuple[Tensor, str]:
    """Randomised quantile residuals (n,) and their name; deviance residuals where no cdf is at hand.

    r = Φ⁻¹(u), u = F(y) for continuous families and uniform on (F(y−), F(y)] where y has positive probability
    (Dunn & Smyth, 1996). Columns are (n,); `weight` divides the dispersion.
    """
    y, mu = y.detach().double(), mu.detach().double()
    w = torch.ones_like(mu) if weight is None else weight.detach().double()
    phi = torch.as_tensor(dispersion, dtype=mu.dtype, device=mu.device)
    if _is_lattice(family, y, w):
        span = _lattice_span(y, mu, family, phi, w)
    else:
        span = _continuous_span(y, mu, family, phi / w)
    if span is None:
        residual = (y - mu).sign() * (w * family.unit_deviance(y, mu).clamp(min=0) / phi).sqrt()
        return residual, "deviance residual"
    below, at = span
    u = torch.rand(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed)).to(y.device)
    probability = (below + u * (at - below)).clamp(_SMALLEST, 1 - 2**-53)
    return torch.special.ndtri(probability), "quantile residual"


def _is_lattice(family: Family, y: Tensor, weight: Tensor) -> bool:
    """Whether responses are counts, or proportions of `weight` trials."""
    return bool(family.support.is_discrete) or family.name == "binomial" and _whole(y * weight)


def _whole(values: Tensor) -> bool:
    return bool(((values - values.round()).abs() < 1e-6).all())


def _lattice_span(y: Tensor, mu: Tensor, family: Family, phi: Tensor,
                  w: Tensor) -> tuple[Tensor, Tensor] | None:
    """F(y − step) and F(y), by summing probabilities from 0 up; a row drops out once its y is reached."""
    proportion = family.name == "binomial"
    step = 1 / w if proportion else torch.ones_like(y)
    count = (y / step).round()
    if float(count.sum()) + len(y) > _MOST_TERMS or not _whole(y / step):
        return None
    below, at = torch.zeros_like(y), torch.zeros_like(y)
    active = torch.arange(len(y), device=y.device)
    for k in range(int(count.max()) + 1):
        active = active[count[active] >= k]
        part = {"weight": w[active]} if proportion else {}
        shape = phi[active] if phi.ndim else phi
        below[active] = at[active]
        at[active] += family.log_prob(k * step[active], mu[active], shape, **part).exp()
    return below.clamp(max=1), at.clamp(max=1)


def _continuous_span(y: Tensor, mu: Tensor, family: Family,
                     phi: Tensor) -> tuple[Tensor, Tensor] | None:
    """F(y−) and F(y), which differ only where a family holds a point mass at zero; None without a cdf."""
    try:
        law = family.distribution(mu, phi)
        at = law.cdf(y)
    except NotImplementedError:
        return None
    below = torch.where(y == 0, torch.zeros_like(at), at)
    return (below, at) if bool(at.isfinite().all()) else None
