"""The part of the leverages of rows that crossed factors have, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.rows.crossed import EXACT, NOTHING, Crossed

ROOM = 1 << 26  # numbers of a table of the levels of the largest factor by those of the others
BLOCK = 1 << 14  # rows


class TooManyLevels(ValueError):
    """The levels beside those of the largest factor are too many for a matrix of them."""


def crossed_root(crossed: Crossed, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The parts of a root of the generalised inverse of `D'WD`: `each` (L_main,), `across` (L_main, r), `own` (L_o, r).

    With `u_i` a row's levels of the other factors less what its level of the largest says of them, `d_i' (D'WD)^- d_i`
    is `each + |u_i' own|^2`, `across` being the part of the largest factor in `u_i' own`. Raises `TooManyLevels` where
    the others have more than 3,000 levels.
    """
    levels, main = crossed.weighted(weight), crossed.main
    each = crossed.of(levels.each, main)
    size = crossed.levels - crossed.counts[main]
    if size > EXACT or size * crossed.counts[main] > ROOM:
        raise TooManyLevels(f"{size:,} levels beside the {crossed.counts[main]:,} of the largest factor")
    if not size:
        return each, each.new_zeros(len(each), 0), each.new_zeros(0, 0)
    own = torch.cat([crossed.of(levels.own, f) for f in crossed.others])
    scale = torch.where(own > 0, own, 1.0).rsqrt().unsqueeze(-1)
    matrix = levels.complement(torch.eye(size, dtype=torch.float64)) * scale * scale.mT
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    kept = values > NOTHING
    root = scale * vectors[:, kept] * values[kept].rsqrt()
    return each, each.unsqueeze(-1) * levels.across(root), root


def crossed_lengths(crossed: Crossed, weight: Tensor) -> Tensor:
    """(n,) `d_i' (D'WD)^- d_i` of every row, for weights (n,). Raises `TooManyLevels`."""
    each, across, own = crossed_root(crossed, weight)
    main = crossed.codes[crossed.main].long()
    starts, out = {}, each[main]
    first = 0
    for f in crossed.others:
        starts[f], first = first, first + crossed.counts[f]
    for start in range(0, len(main) if crossed.others else 0, BLOCK):
        rows = slice(start, start + BLOCK)
        total = -across[main[rows]]
        for f, begin in starts.items():
            total += own[begin + crossed.codes[f][rows].long()]
        out[rows] += total.square().sum(-1)
    return out
