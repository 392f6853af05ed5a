"""Coefficients for which every linear predictor lies inside its range, where the link or family sets one."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.fitting.moments import Point
from torchglm.fitting.state import Ask, Passes

SHARES = (0.5, 0.1, 0.01, 0.001)  # of the distance of the mean response from the edge, asked of every row
STEPS = 50


def interior(lane: Tensor, coef: Tensor, keep: Tensor, room: Tensor) -> Passes[Tensor]:
    """(B, p) coefficients with `eta` inside its range in every row of positive weight, where they can be found.

    Least squares of what each row lacks to a distance from the edges, by Newton's method on the rows that lack
    some; `room` (B,) is the distance of the mean response, and smaller shares of it are asked in turn.
    """
    for share in SHARES:
        for _ in range(STEPS):
            lack = yield Ask(Point(coef, lack=share * room), lane)
            inside = lack.invalid == 0
            if bool(inside.all()):
                return coef
            step = lack.gram.invert(keep).solve(torch.where(keep, lack.score, 0.0))
            moving = ~inside & torch.isfinite(step).all(-1)
            if not bool((step.abs() > 1e-12 * coef.abs())[moving].any()):
                break
            coef = torch.where(moving.unsqueeze(-1), coef + step, coef)
    return coef
