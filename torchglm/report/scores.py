"""Residuals that are standard normal under the model: randomised quantile residuals where a cdf is known."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.inference.quantile import scores
from torchglm.rows.responses import event_of, response, size_of


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
    uniform = torch.rand(mu.shape, dtype=mu.dtype, generator=torch.Generator().manual_seed(seed)).to(mu.device)
    if family.has_dispersion or not bool((phi != 1).any()):  # a quasi-likelihood has no law
        with suppress(NotImplementedError):
            found = scores(y, mu, family, phi, w, uniform)
            if bool(found.isfinite().all()):
                return found, "quantile residual"
    size = w * family.unit_deviance(y, mu).clamp(min=0) / phi
    return (size_of(y) - mu).sign() * size.sqrt(), "deviance residual"
