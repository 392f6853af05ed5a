"""How much of the variance random effects account for: intraclass correlation, and R2 with and without them.

Source: Nakagawa, Johnson & Schielzeth (2017), J. R. Soc. Interface 14(134); Johnson (2014), Methods Ecol. Evol. 5(9).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchglm.families import Bernoulli, Binomial, Gamma, NegativeBinomial
from torchglm.families.several import Ordinal, VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.links import CLogLog, Identity, Log, Logit, Probit

OF_LINKS = {Logit: math.pi**2 / 3, Probit: 1.0, CLogLog: math.pi**2 / 6}


def variance_shares(result: Fitted) -> dict[str, Tensor]:
    """(*B) `icc`, the adjusted intraclass correlation, and `r2_marginal` and `r2_conditional`.

    With the variance `f` of the fixed part of the linear predictor over the rows, the mean variance `r` of the random
    part and the variance `d` of the observations on the scale of the link: `r / (r + d)`, `f / (f + r + d)` and
    `(f + r) / (f + r + d)`. `d` is the dispersion of an identity link, `pi^2 / 3`, 1 or `pi^2 / 6` of binary responses,
    and of the latent one behind ordered classes, with a logit, probit or complementary log-log link; with a log link
    `log(1 + Var(y) / mean^2)` at the mean response, for Gamma the trigamma of the shape; NaN elsewhere.
    Raises `ValueError` for a fit without random effects.
    """
    if result.flat.effect_shares is None:
        raise ValueError("this fit has no random effects. Write them into its formula: y ~ x + (1 | group).")
    fixed, random, mean = result.shaped(result.flat.effect_shares).unbind(-1)
    rest = _of_observations(result, mean)
    whole = fixed + random + rest
    return {"icc": random / (random + rest), "r2_marginal": fixed / whole, "r2_conditional": (fixed + random) / whole}


def _of_observations(result: Fitted, mean: Tensor) -> Tensor:
    family, link, phi = result.family, result.link, result.dispersion
    if isinstance(family, Ordinal) and family.kind == "cumulative":
        return torch.full_like(mean, OF_LINKS.get(type(family.link), math.nan))
    if isinstance(family, VectorFamily):
        return torch.full_like(mean, math.nan)
    if isinstance(family, (Bernoulli, Binomial)):
        return torch.full_like(mean, OF_LINKS.get(type(link), math.nan))
    if type(link) is Identity and family.least_squares:
        return phi
    if type(link) is not Log:
        return torch.full_like(mean, math.nan)
    if isinstance(family, Gamma):
        return torch.special.polygamma(1, 1 / phi)
    if isinstance(family, NegativeBinomial):
        return torch.log1p(1 / mean + family.alpha.to(mean))
    return torch.log1p(phi * family.variance(mean) / mean.square())
