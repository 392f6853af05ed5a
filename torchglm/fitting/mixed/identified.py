"""What rows can tell of random effects: groupings and effects that say what others say already.

All of it is seen in the information of the rows before the search: effects of a level that are sums of one another, a
grouping whose levels the fixed effects have already, two groupings of the same rows, and levels of one row each beside
residuals.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from torchglm.fitting.mixed.effects import Groupings
from torchglm.rows.meetings import CrossedGram, EffectGram

ALIKE = 1e-10  # a smaller eigenvalue of a correlation of effects is none
LEFT = 1e-9  # share of the information of effects that fixed effects leave, below which it is none


def unidentified(effects: Groupings, gram: EffectGram, fixed: Tensor, residuals: Tensor | None) -> dict[str, Tensor]:
    """Where rows cannot tell some random effects from others: what is said, and (B,) of which models.

    `fixed` (p, f) are the directions of the first columns that are not penalised; `residuals` (B,) the number of rows
    of each model where there is a dispersion to estimate. Raises `ValueError` where it holds of all models.
    """
    found = dict[str, Tensor]()
    blocks, borders = effects.blocks(gram), effects.borders(gram)
    for k, block in enumerate(blocks):
        found |= _of_effects(effects, k, block.mean(1))
        if residuals is not None:
            found |= _beside_residuals(effects, k, block, residuals)
        found |= _beside_fixed(effects, k, block, borders[k] @ fixed, gram.corner, fixed)
    for k, j in combinations(range(len(blocks)), 2):
        alike = blocks[k].shape[1] == blocks[j].shape[1] and set(effects.labels[k]) & set(effects.labels[j])
        if alike and _same_rows(effects, gram, k, j):
            said = (
                f"the groups {effects.names[k]!r} and {effects.names[j]!r} say the same: each level of one is a level "
                "of the other. Leave one of them out."
            )
            found[said] = torch.ones_like(gram.corner[:, 0, 0] if gram.corner.numel() else blocks[k][:, 0, 0, 0]).bool()
    for said, where in found.items():
        if bool(where.all()):
            raise ValueError(said)
    return {said: where for said, where in found.items() if bool(where.any())}


def _of_effects(effects: Groupings, k: int, mean: Tensor) -> dict[str, Tensor]:
    """Effects of grouping `k` of which rows tell nothing, or that are sums of one another."""
    size, name = mean.diagonal(dim1=-2, dim2=-1), effects.names[k]
    none, found = ~(torch.isfinite(size) & (size > 0)), dict[str, Tensor]()
    for r in none.any(0).nonzero()[:, 0].tolist():
        said = (
            f"of the effect {effects.labels[k][r]} of {name!r} no row tells: its column is 0 where there is weight, or "
            "so large or small that its square cannot be held. Leave it out, or rescale the column."
        )
        found[said] = none[:, r]
    if mean.shape[-1] == 1:
        return found
    scale = torch.where(none, 1.0, size).rsqrt()
    whole = torch.where(none.unsqueeze(-1) | none.unsqueeze(-2), 0.0, mean * scale.unsqueeze(-1) * scale.unsqueeze(-2))
    values, vectors = torch.linalg.eigh(whole + torch.diag_embed(none.to(whole.dtype)))
    alike = values[:, 0] < ALIKE
    if bool(alike.any()):
        among = (vectors[alike][:, :, 0].abs() > 1e-3).any(0).nonzero()[:, 0].tolist()
        said = ", ".join(effects.labels[k][r] for r in among)
        found[f"the effects {said} of {name!r} say the same: one is a sum of the others. Leave one out."] = alike
    return found


def _beside_residuals(effects: Groupings, k: int, block: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """As many effects of grouping `k` as rows (B,), or more."""
    q = block.shape[-1]
    levels = (block.diagonal(dim1=-2, dim2=-1) > 0).any(-1).sum(-1)
    said = (
        f"{effects.names[k]!r} has {int(levels.max()):,} levels with {q} effect{'s' * (q > 1)} each and the data "
        f"{int(rows.max()):,} rows: effects and residuals cannot be told apart. Take groups of several rows each."
    )
    return {said: levels * q >= rows}


def _beside_fixed(
    effects: Groupings, k: int, block: Tensor, border: Tensor, corner: Tensor, fixed: Tensor
) -> dict[str, Tensor]:
    """Effects of grouping `k` of which fixed effects leave no information; `border` is (B, L, q, f)."""
    p = effects.columns
    own = fixed.mT @ corner[:, :p, :p] @ fixed
    size = own.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(size > 0, size, 1.0).rsqrt()
    back = torch.linalg.pinv((own * scale.unsqueeze(-1) * scale.unsqueeze(-2)).nan_to_num(), rtol=1e-12, hermitian=True)
    scaled = (border * scale[:, None, None]).nan_to_num()
    taken = ((scaled @ back.unsqueeze(1)) * scaled).sum(-1).sum(1)  # (B, q)
    whole = block.diagonal(dim1=-2, dim2=-1).sum(1)
    gone, found = (whole - taken) < LEFT * whole, dict[str, Tensor]()
    for r in gone.any(0).nonzero()[:, 0].tolist():
        said = (
            f"the fixed effects say the same as the random effect {effects.labels[k][r]} of {effects.names[k]!r}: they "
            "have one for each of its levels. Leave one of them out."
        )
        found[said] = gone[:, r]
    return found


def _same_rows(effects: Groupings, gram: EffectGram, k: int, j: int) -> bool:
    """Whether each level of grouping `k` meets one of grouping `j`, another each."""
    many = effects.groupings[k].levels
    if isinstance(gram, CrossedGram):
        pairs = gram.meetings.pairs[k, j]
        return len(pairs) == many == len(pairs[:, 0].unique()) == len(pairs[:, 1].unique())
    first, second = (k, j) if j == effects.large else (j, k)
    at = effects.beside[first - (first > effects.large)]
    if second == effects.large:
        between = (
            gram.across[..., at].unflatten(-1, (effects.groupings[first].effects, many)).ne(0).any(0).any(1).any(1)
        )
    else:
        to = effects.beside[second - (second > effects.large)]
        shapes = [(effects.groupings[one].effects, many) for one in (first, second)]
        between = gram.corner[:, at, to].unflatten(2, shapes[1]).unflatten(1, shapes[0]).ne(0).any(0).any(0).any(1)
    return int(between.sum()) == many and bool((between.sum(0) == 1).all() and (between.sum(1) == 1).all())
