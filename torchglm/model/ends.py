"""What it means where a parameter of a law runs to its end: the law is then a simpler one."""

from __future__ import annotations

import torch

from torchglm.families.several import VectorFamily
from torchglm.families.several.base import START
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.inputs import Data

FAR = 4.0  # of a logit or logarithm, from which a constant that runs on is told of


def ends(solution: Solution, data: Data) -> list[str]:
    """A sentence for each parameter whose constant ran far up or down in models without a regular maximum."""
    family, plan = data.family, data.plan
    if not isinstance(family, VectorFamily) or plan is None:
        return []
    irregular = (solution.status != int(Status.CONVERGED)) & (solution.status != int(Status.NOT_FINITE))
    unstarted = bool((solution.status == int(Status.INVALID_START)).any())
    said = [family.ends[START]] if unstarted and START in family.ends else []
    for block, place in zip(plan.blocks, plan.slices, strict=True):
        for column in set(plan.ones) & set(block.columns):
            constant = torch.where(irregular, solution.coef[:, place.start + block.columns.index(column)], 0.0)
            names = [family.predictors[k] for k, _ in block.entries[0]]
            found = [(name, sign) for name in names for sign in (-1, 1) if bool((sign * constant > FAR).any())]
            said += [family.ends[end] for end in found if end in family.ends]
    return said
