"""Columns so large or so small that their squares leave float64, of which no fit can tell anything."""

from __future__ import annotations

import torch

from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.inputs import Data

FARTHEST = 1e150  # of a value whose square, times some rows, is still a number
LOST = (int(Status.INVALID_START), int(Status.NOT_FINITE))


def check_scales(solution: Solution, data: Data) -> None:
    """Raise `ValueError` where columns were dropped, or no start was found, because their squares leave float64.

    Only such a solution is looked into, in one pass over rows that all models share.
    """
    status = solution.status
    failed = sum((status == one).any() for one in LOST)
    if not bool(failed) and bool(solution.keep.all()):
        return
    largest, named, first = torch.zeros(()), data.plan is None, 0
    for rows in data.source:
        if rows.x.dim() != 2 or not rows.x.numel():
            return
        named, first = named and rows.indexed is None, int(rows.intercept)
        largest = torch.maximum(largest.to(rows.x.device), rows.x.abs().amax(0))
    far = (largest > FARTHEST) | (largest > 0) & (largest < 1 / FARTHEST)
    if not bool(far.any()):
        return
    place = int(far.nonzero()[0, 0])
    name = data.names[place + first] if named else f"{place}, counted from 0,"
    raise ValueError(
        f"the column {name} has values up to {float(largest[place]):g} in size, whose squares are beyond float64. Give "
        "it another unit."
    )
