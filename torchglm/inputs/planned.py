"""Plain rows with the plan of several predictors."""

from __future__ import annotations

import torch

from torchglm.families.several import VectorFamily
from torchglm.rows.plan import Plan
from torchglm.rows.rows import Rows, is_all


def planned(rows: Rows, plan: Plan, family: VectorFamily) -> Rows:
    """Plain rows with the plan of their predictors: offsets in their place, and prior weights where they belong."""
    zero, weight = torch.zeros((), dtype=torch.float64, device=rows.y.device), rows.weight
    offset = zero.expand(*rows.y.shape, plan.predictors)  # until a row has one of its own
    if rows.offset.requires_grad or bool((rows.offset != 0).any()):
        offset = rows.offset.unsqueeze(-1) * family.shifts().to(zero)
    if family.weighted is not None and not (rows.repeats is None and is_all(weight, 1.0)):
        times = torch.ones_like(weight) if rows.repeats is None else rows.repeats.to(weight.dtype)
        used = weight > 0
        prior = torch.where(used, weight / torch.where(used, times, 1.0), 1.0)
        offset = offset.clone()
        offset[..., family.predictors.index(family.weighted)] -= prior.log()
        weight = torch.where(used, times, 0.0)
    return rows._replace(offset=offset, weight=weight, plan=plan)
