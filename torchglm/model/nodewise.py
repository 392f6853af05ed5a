"""Approximate inverses of information matrices that have none: a lasso of every column on the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchglm.fitting.faces import minimise

ROOM = 1 << 24  # numbers of the Grams of columns that are worked on at once
SHARE = 0.2  # of the universal threshold: less bias for more variance
DIGITS = 1e-9


def nodewise(gram: Tensor, rows: float, constant: bool) -> Tensor:
    """(p, p) an approximate inverse `theta` of `gram` (p, p), the mean of `w x x'` over so many `rows`.

    Row j is `(e_j - gamma_j) / tau_j^2` with `gamma_j` the lasso of column j on the others, each in units of its
    spread, at a fifth of `sqrt(2 log p / rows)`, and `tau_j^2 = gram_jj - gamma_j' gram_j`. A `constant` first
    column is not penalised. A column that the others make up for entirely has an infinite row.
    Source: van de Geer, Buehlmann, Ritov & Dezeure (2014), Ann. Statist. 42, 1166-1202, section 2.1.1.
    """
    p, first = len(gram), int(constant)
    spread = gram.diagonal() - (gram[0].square() / gram[0, 0] if constant else 0.0)
    size = spread.clamp(min=0).sqrt()
    scale = size.clone()
    if constant:  # its own row is in units of its weight
        size[0], scale[0] = gram[0, 0].sqrt(), 0.0
    level = SHARE * math.sqrt(2 * math.log(max(p - first, 2)) / rows)
    theta = torch.zeros_like(gram)
    for places in torch.arange(p, device=gram.device).split(max(1, ROOM // p**2)):
        count = len(places)
        own = torch.arange(count, device=gram.device)
        l1 = level * size[places].unsqueeze(-1) * scale
        limit = torch.full((count, p), torch.inf, dtype=gram.dtype, device=gram.device)
        limit[own, places] = 0.0
        tol = DIGITS * gram[places, places]
        start = torch.zeros_like(limit)
        coef = minimise(gram.expand(count, -1, -1), gram[places], start, l1, -limit, limit, tol)
        tau = gram[places, places] - (coef * gram[places]).sum(-1)
        row = -coef
        row[own, places] = 1.0
        theta[places] = row / tau.unsqueeze(-1)
    return theta
