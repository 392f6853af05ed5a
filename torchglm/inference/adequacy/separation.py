"""Separation: along which direction the likelihood rises for ever, and which rows it tells apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.inference.by_plan import of_one_predictor
from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues
from torchglm.rows.products import gram, project, times

MOVED = 0.05  # a row is told apart where a step along the direction, of largest move 1, moves it by more
AGAINST = 1e-3  # no row may be moved the wrong way by more than this share
NAMED = 0.02  # a column takes part where it moves the predictor by more than this share of the largest move


@dataclass(frozen=True)
class Separation:
    """What is known of the separation of each model `(*B)`.

    `found`: no row's likelihood falls along `direction` (*B, p) and some rise for ever; `direction` is scaled so that
    the largest move of a linear predictor is one, zero where nothing was found. `rows` (*B) are told apart,
    of `nobs` (*B): all of them in complete separation. `moves` (*B, p) is the largest move by each column alone.
    """

    names: list[str]
    found: Tensor
    direction: Tensor
    moves: Tensor
    rows: Tensor
    nobs: Tensor

    def columns(self, model: int | None = None) -> list[str]:
        """The columns of the direction, the strongest first, each with the infinity it runs to."""
        pick = (lambda t: t) if model is None else (lambda t: t[model])
        strength, sign = pick(self.moves), pick(self.direction)
        order = strength.argsort(descending=True).tolist()
        return [
            f"{self.names[j]} to {'+' if float(sign[j]) > 0 else '-'}infinity"
            for j in order
            if bool(pick(self.found)) and float(strength[j]) > NAMED
        ]


@of_one_predictor("Its status says whether it is separated.")
@torch.no_grad()
def separation(result: Fitted) -> Separation:
    """Look for separation along the next Newton step of each model, three passes over the rows.

    Where the likelihood has no maximum the steps settle on a direction of recession: each adds one to the predictors
    of the rows told apart, leaving the others where they are. Such a direction is proof when no row's likelihood falls
    along it. Source: Albert & Anderson (1984), Biometrika 71; Correia, Guimaraes & Zylkin (2019), Verifying the
    existence of maximum likelihood estimates for generalized linear models.
    """
    flat = result.flat
    score, information = torch.zeros_like(flat.coef), None
    for values in result.row_values():
        score += project(values.rows, values.score)
        own = gram(values.rows, values.information)
        information = own if information is None else information + own
    assert information is not None
    step = information.invert(flat.keep).solve(torch.where(flat.keep, score, 0.0))
    largest = torch.zeros_like(flat.deviance)
    for values in result.row_values():
        largest = torch.maximum(largest, _along(values, step).abs().amax(-1))
    direction = step / torch.where(largest > 0, largest, 1.0).unsqueeze(-1)
    worst, rows = torch.zeros_like(largest), torch.zeros_like(largest)
    moves = torch.zeros_like(step)
    for values in result.row_values():
        move = _along(values, direction)
        rise = torch.sign(values.score) * move
        worst = torch.maximum(worst, (-rise).amax(-1))
        rows += ((move.abs() > MOVED) * values.repeats).sum(-1)
        moves = torch.maximum(
            moves, (torch.where(values.used.unsqueeze(-1), values.x, 0.0).abs().amax(-2) * direction.abs())
        )
    # a step of the regular kind is nearly zero where the fit converged
    found = (largest > 0.3) & (worst < AGAINST)
    return Separation(
        result.names,
        result.shaped(found),
        result.shaped(torch.where(found.unsqueeze(-1), direction, 0.0)),
        result.shaped(moves),
        result.shaped(torch.where(found, rows, 0.0)),
        result.nobs,
    )


def _along(values: RowValues, direction: Tensor) -> Tensor:
    """(B, n) the move of the linear predictors along a direction (B, p)."""
    return torch.where(values.used, times(values.rows, direction), 0.0)
