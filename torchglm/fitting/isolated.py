"""Rows that say nothing of the coefficients beside absorbed factors: singletons, and levels at an end of the response.

A level of one row fits it exactly. A level whose responses all lie at an end of their range that its effect reaches
only at infinity (no event, or nothing else) is separated. Both are taken out in turn until nothing changes, as taking
one out may leave another. Source: Correia, Guimaraes & Zylkin (2020), Fast Poisson estimation with high-dimensional
fixed effects, Stata J. 20.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.links import Link
from torchglm.rows.crossed import Crossed
from torchglm.rows.rows import Rows


@dataclass(frozen=True)
class Isolated:
    """Which rows `(n,)` were taken out as singletons and as separated; `limits` (L,) of levels: infinite, or 0."""

    singletons: Tensor
    separated: Tensor
    limits: Tensor


def ends(rows: Rows, family: Family, link: Link) -> Tensor:
    """(n,) the sign of infinity at which the predictor of a row fits it exactly; 0 where there is none."""
    if rows.event is not None:
        return torch.where(rows.event[0] == 0, 1.0, 0.0).to(torch.float64)
    found = torch.zeros_like(rows.y[0], dtype=torch.float64)
    for end in (family.mean_lower, family.mean_upper):
        if math.isfinite(end):
            limit = float(link.link(torch.tensor(end, dtype=torch.float64)))
            if math.isinf(limit):
                found = torch.where(rows.y[0] == end, math.copysign(1.0, limit), found)
    return found


def isolated(rows: Rows, used: Tensor, crossed: Crossed, at: Tensor, before: Isolated | None = None) -> Isolated:
    """What can be taken out of the `used` rows (n,); `at` (n,) are their `ends`, and `before` was taken out already."""
    none = torch.zeros_like(used)
    single, apart = (none, none) if before is None else (before.singletons, before.separated)
    limits = torch.zeros(crossed.levels, dtype=torch.float64) if before is None else before.limits.clone()
    repeats = torch.ones_like(at) if rows.repeats is None else rows.repeats[0].to(at.dtype)
    left = used & ~single & ~apart
    while True:
        size = left.sum()
        for f, codes in enumerate(crossed.codes):
            count = at.new_zeros(crossed.counts[f])

            def total(values: Tensor, codes: Tensor = codes, count: Tensor = count) -> Tensor:
                return torch.zeros_like(count).index_add_(0, codes, values)

            each = left.to(at.dtype)
            held, low, high = total(each), total(each * (at < 0)), total(each * (at > 0))
            ended = (held > 0) & ((low == held) | (high == held))
            crossed.of(limits, f)[ended] = torch.where(high[ended] > 0, math.inf, -math.inf).to(at.dtype)
            new = left & ended[codes.long()]
            apart, left = apart | new, left & ~new
            alone = total(left * repeats) == 1
            new = left & alone[codes.long()]
            single, left = single | new, left & ~new
        if bool(left.sum() == size):
            return Isolated(single, apart, limits)
