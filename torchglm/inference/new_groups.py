"""What rows of groups that a fit has not seen add to the variance of a linear predictor: their random effects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchglm.design import Design
from torchglm.design.any_group import effect_values, multiplied_columns
from torchglm.families.several import VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.inference.mixed import random


def variance_between(result: Fitted, x: Any, rows: int, unseen: str | None = None) -> Tensor | None:
    """(B, m, K, K) the covariance `z' S z` of the K predictors of new rows between groups; None without effects.

    `z` are the columns of the effects and `S` their covariance, summed over groupings; K is 1 of one predictor. Raises
    `ValueError` where the effects have columns and `x`, of so many `rows`, is no table.
    """
    spec, family = result.spec, result.family
    if result.flat.modes is None or spec is None:
        return None
    if isinstance(x, Tensor) and multiplied_columns(spec):
        raise ValueError(
            "a response of a group that is new needs the columns of its random effects, and x is a tensor of those of "
            "the fixed ones. Pass a table."
        )
    z = effect_values(spec, x.table if isinstance(x, Design) else x, rows, unseen).to(result.flat.coef)
    found = z.new_zeros(1)
    start = 0
    for group, effects in zip(spec.groupings, random(result).values(), strict=True):
        columns = list[Tensor]()
        for own, predictor in zip(group.sets, group.predictors, strict=True):
            shares = family.effects(predictor).values() if isinstance(family, VectorFamily) else [[1.0]]
            for share in shares:
                columns += [z[:, start + j, None] * z.new_tensor(share) for j in range(len(own))]  # (m, K)
            start += len(own)
        into = torch.stack(columns, -1)  # (m, K, q)
        found = found + into @ effects.covariance.reshape(-1, 1, *effects.covariance.shape[-2:]) @ into.mT
    return found
