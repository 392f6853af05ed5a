"""Residuals of fits of several predictors: quantile ones by the law, and plain differences from the mean."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.inference.quantile import between
from torchglm.inference.several import VectorValues, family_of, vector_values
from torchglm.rows.responses import filled

KINDS = ("quantile", "response", "pearson")


@torch.no_grad()
def residuals_several(result: Fitted, kind: str | None = None, standardized: bool = False, seed: int = 0) -> Tensor:
    """(*B, n) residuals: quantile (None), response `y - mean` or pearson, which divides by the standard deviation.

    Of classes the last two are (*B, n, C), of the indicator of each class; quantile residuals go by the classes in
    their order, those of a multinomial model too.
    """
    if kind not in (None, *KINDS):
        raise ValueError(
            f"residuals of kind {kind!r} are not known for several predictors. Known: {', '.join(KINDS)}; quantile "
            "residuals are standard normal where the law is right."
        )
    if standardized:
        raise ValueError("standardized= is of fits of one predictor. Leave it out; quantile residuals have a scale.")
    generator, parts = torch.Generator().manual_seed(seed), []
    for values in vector_values(result.source, family_of(result), result.flat.coef):
        if kind in (None, "quantile"):
            n = values.rows.y.shape[-1]
            uniform = torch.rand(n, dtype=torch.float64, generator=generator).to(values.eta.device)
            parts.append(quantile_of(result, values, uniform))
        else:
            parts.append(_difference(result, values, kind == "pearson"))
    value = torch.cat(parts, -1)
    return result.shaped(value if value.dim() == 2 else value.movedim(0, -1))


def quantile_of(result: Fitted, values: VectorValues, uniform: Tensor) -> Tensor:
    """(B, n) the quantile residuals of a chunk, by `uniform` (n,) where the law has an atom; NaN without weight."""
    family = family_of(result)
    known = values.used & family.valid(values.eta)
    y = filled(values.rows.response, known, family.inner_mean)  # harmless ones in rows without weight
    found = between(*family.tails(y, torch.where(known, values.eta, 0.0)), uniform)
    return torch.where(values.used, found, torch.nan)


def _difference(result: Fitted, values: VectorValues, scaled: bool) -> Tensor:
    """(B, n), for classes (C, B, n)."""
    found, variance = family_of(result).departure(values.rows.response, values.eta)
    if not scaled:
        return found
    prior = values.rows.weight / values.repeats  # that divides a dispersion is in the predictors
    return torch.where(values.used, found * (prior / variance).sqrt(), 0.0)
