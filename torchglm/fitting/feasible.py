"""Whether constraints leave any coefficients at all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchglm.fitting.kinks import Kinks, kinked_step

MOST = 1e6  # the multiplier at which a constraint gives way
MISSED = 1e-7  # of its length: a constraint that is missed by more does not hold
SHARE = 1e-3  # of the largest multiplier: rows that pull as much stand against one another


def excluding(kinks: Kinks) -> list[int]:
    """The constraints that exclude one another in some model, in the order of the rows; none where all can hold.

    Each may be missed at a price; those that still are, or that pull against these, are a certificate (Farkas).
    """
    length = kinks.matrix.square().sum(-1).sqrt().clamp(min=1e-300)
    models, p = kinks.centre.shape[0], kinks.matrix.shape[1]
    centre = kinks.centre / length
    unit = 1 + centre.abs().amax(-1, keepdim=True)  # of the coefficients
    limit = MOST * torch.ones_like(centre)
    priced = replace(
        kinks,
        matrix=kinks.matrix / length.unsqueeze(-1),
        centre=centre / unit,
        lower=torch.where(torch.isinf(kinks.lower), -limit, kinks.lower),
        upper=torch.where(torch.isinf(kinks.upper), limit, kinks.upper),
    )
    zero = centre.new_zeros(models, p)
    eye = torch.eye(p, dtype=zero.dtype, device=zero.device).expand(models, p, p)
    coef, pulls, *_ = kinked_step(eye, zero, zero, priced, torch.ones_like(zero, dtype=torch.bool))
    beyond = coef @ priced.matrix.mT - priced.centre
    missed = (priced.upper > 0) & (beyond > MISSED) | (priced.lower < 0) & (beyond < -MISSED)
    wrong = missed.any(-1)
    if not bool(wrong.any()):
        return []
    model = int(wrong.nonzero()[0, 0])
    strong = pulls[model].abs() > SHARE * pulls[model].abs().max()
    found: Tensor = (strong | missed[model]).nonzero()[:, 0]
    return [int(row) for row in found]
