"""Columns so large or so small that their squares leave float64, of which no fit can tell anything."""

from __future__ import annotations

import torch

from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.inputs import Data
from torchglm.rows.ranks import own_rows, ranks_of

FARTHEST = 1e150  # of a value whose square is still a number
LOST = (int(Status.INVALID_START), int(Status.NOT_FINITE))


def check_scales(solution: Solution, data: Data) -> None:
    """Raise `ValueError` where columns were dropped, or no start was found, because their squares leave float64.

    Only such a solution is looked into, in one pass over rows that all models share.
    """
    failed = sum((solution.status == one).any() for one in LOST)
    if not bool(failed) and not _lost(solution):
        return
    ranks, largest, named, first = ranks_of(data.source), torch.zeros(()), data.plan is None, 0
    with ranks.together():
        for rows in own_rows(data.source):
            if rows.x.dim() != 2 or not rows.x.shape[1]:
                return
            named, first = named and rows.indexed is None, int(rows.intercept)
            own = rows.x.abs().amax(0) if len(rows.x) else rows.x.new_zeros(rows.x.shape[1])
            largest = torch.maximum(largest.to(own), own)
    [largest] = ranks.largest(largest)
    far = (largest > FARTHEST) | (largest > 0) & (largest < 1 / FARTHEST)
    if not bool(far.any()):
        return
    place = int(far.nonzero()[0, 0])
    name = data.names[place + first] if named else f"{place}, counted from 0,"
    raise ValueError(
        f"the column {name} has values up to {float(largest[place]):g} in size, whose squares are beyond float64. Give "
        "it another unit."
    )


def _lost(solution: Solution) -> bool:
    """Whether columns were dropped whose sums of squares are far from those of other numbers."""
    if bool(solution.keep.all()):
        return False
    squares = solution.moments.gram.diagonal()
    ordinary = (squares > 1 / FARTHEST**1.8) & (squares < FARTHEST**1.8)
    return bool((~solution.keep & ~ordinary).any())
