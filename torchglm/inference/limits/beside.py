"""Profile likelihood limits beside absorbed factors: each point a fit of the other columns and of all effects."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.fitting.absorb import absorb
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.status import Status
from torchglm.inference.fitted import Fitted
from torchglm.inference.limits.crossing import crossing

TOL = 1e-10  # of the refits


def limits_beside(result: Fitted, target: float) -> Tensor:
    """(1, p, 2) where the root of the scaled rise of the deviance reaches `target`; NaN for aliased columns."""
    flat, [rows] = result.flat, result.scored
    assert result.spec is not None
    counts = tuple(len(levels) for levels in result.spec.absorbed_levels.values())
    coef, deviance, phi = flat.coef[0], float(flat.deviance[0]), float(flat.dispersion[0])
    columns = flat.keep[0].nonzero()[:, 0]
    column = columns.repeat(2)
    side = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat_interleave(len(columns))
    error = (phi * flat.root.inverse_diagonal()[0]).sqrt()[column]

    def root(lanes: Tensor, distance: Tensor) -> Tensor:
        out = torch.full_like(distance, torch.nan)
        for k, (lane, far) in enumerate(zip(lanes.tolist(), distance.tolist(), strict=True)):
            j = int(column[lane])
            others = torch.arange(rows.x.shape[-1]) != j
            held = float(coef[j] + side[lane] * far) * rows.x[:, j].to(torch.float64)
            moved = rows._replace(x=rows.x[:, others], offset=rows.offset + held)
            found = absorb(moved, counts, result.family, result.link, tol=TOL)
            if found.status == Status.INVALID_START:
                continue
            at = found.coef.unsqueeze(0)
            sums = fold([found.rows], Point(at, before=at, curved=False), result.family, result.link)
            rise = (2 * float(sums.objective[0]) - deviance) / phi
            out[k] = max(rise, 0.0) ** 0.5
        return out

    distance = crossing(root, target * error, error, target)
    out = torch.full((1, len(coef), 2), torch.nan, dtype=torch.float64)
    out[0, columns] = (coef[column] + side * distance).reshape(2, -1).mT
    return out
