"""The last digits of fits under penalties far stronger than the data: steps in a basis where there is room for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from torchglm.families import Family
from torchglm.fitting.kernel import fold
from torchglm.fitting.laplace import Criterion
from torchglm.fitting.moments import Point
from torchglm.fitting.penalties import Quadratic
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status, converged
from torchglm.links import Link
from torchglm.rows.rows import Rows

FIRM = 1e6  # times the information on its columns from which a penalty takes digits from what it leaves free
STEPS = 50
NEAR = 1e-12  # share of the largest coefficient that is rounding


@torch.no_grad()
def firmly(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    penalty: Quadratic,
    solution: Solution,
    options: dict[str, Any],
) -> Solution:
    """A fit at strengths that are numbers, with the digits that large ones have taken from it.

    In the columns as given `X'WX + S` has those digits of `X'WX` alone that `S` leaves; in a basis of the range and the
    null space of the penalty it has all. A model that such a step no longer moves has converged.
    """
    if not _strong(penalty, solution):
        return solution
    strength = penalty.strength.to(solution.coef).expand(len(solution.coef), len(penalty.blocks))
    criterion = Criterion(source, family, link, penalty, solution, options, None, "")
    ended = torch.isin(solution.status, solution.status.new_tensor([int(Status.NOT_FINITE), int(Status.INVALID_START)]))
    for _ in range(STEPS):
        new = criterion.refined(solution, strength.log(), family)
        size = solution.coef.abs().amax(-1).clamp(min=1e-300)
        small = (new.coef - solution.coef).abs().amax(-1) <= NEAR * size
        coef = torch.where(ended.unsqueeze(-1), solution.coef, new.coef)
        solution = replace(solution, coef=coef, root=new.root)
        if bool((small | ended).all()):
            break
    here = fold(source, Point(solution.coef, False, before=solution.coef, census=True), family, link)
    fine = small & ~ended & ~converged(solution.status)
    solution.status[fine] = int(Status.CONVERGED)
    return replace(solution, moments=here)


def _strong(penalty: Quadratic, solution: Solution) -> bool:
    """Whether a block is so much stronger than the data that digits are lost."""
    gram = solution.moments.gram.written_out()
    for j, (columns, matrix) in enumerate(penalty.blocks):
        at = torch.tensor(columns, device=gram.device)
        size = gram.diagonal(dim1=-2, dim2=-1)[:, at].amax(-1)
        strength = penalty.strength[..., j].to(gram) * float(matrix.abs().max())
        if bool((strength > FIRM * size).any()):
            return True
    return False
