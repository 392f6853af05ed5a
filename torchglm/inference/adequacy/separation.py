"""Separation: along which direction the likelihood rises for ever, and which rows it tells apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.inference.apart import of_like_size
from torchglm.inference.by_plan import answered_by
from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues
from torchglm.inference.several import family_of, vector_values
from torchglm.inference.vector.score import pieces
from torchglm.rows.planned import contributions, gram_of, plan_of, predictors, project_each
from torchglm.rows.products import gram, project, times
from torchglm.rows.rows import Rows, whole

MOVED = 0.05  # a row is told apart where a step along the direction, of largest move 1, moves it by more
AGAINST = 1e-3  # no row may be moved the wrong way by more than this share
FAR = 30.0  # largest moves along a direction at which a law of several predictors is looked at again
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


@torch.no_grad()
def _separation_several(result: Fitted) -> Separation:
    """`separation` of several predictors: no row's law loses along the direction, by 1 and by 30 of its moves."""
    flat, family = result.flat, family_of(result)
    score, total = torch.zeros_like(flat.coef), None
    for values in vector_values(result.source, family, flat.coef):
        score += project_each(values.rows, values.score)
        own = gram_of(values.rows, values.information)
        total = own if total is None else total + own
    assert total is not None
    step = total.invert(flat.keep).solve(torch.where(flat.keep, score, 0.0)).nan_to_num()
    largest = torch.zeros_like(flat.deviance)
    for rows in pieces(result):
        largest = torch.maximum(largest, _moves(rows, step).abs().amax((0, -1)))
    direction = step / torch.where(largest > 0, largest, 1.0).unsqueeze(-1)
    worst, told, moves = torch.zeros_like(largest), torch.zeros_like(largest), torch.zeros_like(step)
    for rows in pieces(result):
        used, move, eta = rows.weight > 0, _moves(rows, direction), predictors(rows, flat.coef)
        here = family.nll(rows.response, eta)
        for far in (1.0, FAR):
            rise = (family.nll(rows.response, eta + far * move) - here) / far
            worst = torch.maximum(worst, torch.where(used, rise.nan_to_num(torch.inf), 0.0).amax(-1))
        repeats = torch.ones_like(rows.weight) if rows.repeats is None else rows.repeats.to(rows.weight)
        told += torch.where(used, (move.abs().amax(0) > MOVED) * repeats, 0.0).sum(-1)
        moves = torch.maximum(moves, _by_column(rows, direction))
    return _found(result, largest, worst, direction, moves, told)


@of_like_size
@answered_by(_separation_several)
@torch.no_grad()
def separation(result: Fitted) -> Separation:
    """Look for separation along the next Newton step of each model, three passes over the rows.

    Of several predictors the direction has a number for each coefficient, `"Medium:age"`, the thresholds last, and
    moves all predictors of a row: no law of a row may lose by it.

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
    return _found(result, largest, worst, direction, moves, rows)


def _found(
    result: Fitted, largest: Tensor, worst: Tensor, direction: Tensor, moves: Tensor, rows: Tensor
) -> Separation:
    # a step of the regular kind is nearly zero where the fit converged
    found = (largest > 0.3) & (worst < AGAINST)
    return Separation(
        result.all_names,
        result.shaped(found),
        result.shaped(torch.where(found.unsqueeze(-1), direction, 0.0)),
        result.shaped(moves),
        result.shaped(torch.where(found, rows, 0.0)),
        result.nobs,
    )


def _along(values: RowValues, direction: Tensor) -> Tensor:
    """(B, n) the move of the linear predictors along a direction (B, p)."""
    return torch.where(values.used, times(values.rows, direction), 0.0)


def _moves(rows: Rows, direction: Tensor) -> Tensor:
    """(K, B, n) the moves of the predictors along a direction (B, P); 0 of rows without weight."""
    return torch.where(rows.weight > 0, contributions(rows, direction), 0.0)


def _by_column(rows: Rows, direction: Tensor) -> Tensor:
    """(B, P) the largest move of a predictor by each coefficient alone."""
    plan, used = plan_of(rows), (rows.weight > 0).unsqueeze(-1)
    design = torch.where(used, whole(rows), 0.0).abs().amax(-2)  # (B, columns)
    factors = [
        design[:, list(block.columns)] * block.contrast[:, t].abs().max()
        for block in plan.blocks
        for t in range(block.width)
    ]
    return torch.cat(factors, -1) * direction.abs()
