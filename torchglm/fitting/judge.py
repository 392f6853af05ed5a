"""When a step is taken, when nothing is left to gain, and how a search ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.fitting.moments import Moments
from torchglm.fitting.status import Status

SLACK = 1e-10  # a rise of the objective below this share of itself is rounding
STEADY = 1e-3  # a converged step moves no linear predictor by more than this share of 1 + |eta|
DRIFT = 5  # as many steps that gain nothing while eta keeps moving are separation
SHORTEST = 2.0**-40
BLOCKED = 2.0**-12  # a step cut below this by an edge of the mean's range is the business of a barrier
ROUNDING = 1e-8  # a search that can go no further has converged if its decrement is below this share
STAGNANT = 4  # as many accepted steps that gain nothing end a search
EPS = torch.finfo(torch.float64).eps
GOING = -1  # in the place of a status: not ended


def floor(moments: Moments) -> Tensor:
    """(B,) what rounding of the linear predictor alone adds to the deviance."""
    return (10 * EPS) ** 2 * moments.scale.abs()


def bound(objective: Tensor, floor: Tensor) -> Tensor:
    """(B,) what the objective of a trial must not exceed, `objective` being where the step began."""
    return objective + SLACK * objective.abs() + floor


def arrived(decrement: Tensor, objective: Tensor, first: Tensor, floor: Tensor, tol: Tensor | float) -> Tensor:
    """(B,) True where the Newton decrement says that nothing is left to gain; `first` is the first objective."""
    return decrement.abs() <= tol * (2 * objective.abs() + 2e-3 * first.abs()) + floor


@dataclass(frozen=True)
class Judged:
    """What a pass told of the trial of each model, all (B,) bool.

    `accepted`, and where it is not, whether it was `valid`; `closing`: the step was to be the last; `steady`: it moved
    no linear predictor by much; `drifting`: such steps keep moving; `small`: nothing is left to gain; `short`: a tenth
    of the step has not been accepted; `exhausted`: no part of it; `blocked`: an edge cut one step after another;
    `stagnant`: accepted steps gain nothing; `spent`: it was the last step allowed; `moving`: after many.
    """

    accepted: Tensor
    valid: Tensor
    closing: Tensor
    steady: Tensor
    drifting: Tensor
    small: Tensor
    short: Tensor
    exhausted: Tensor
    blocked: Tensor
    stagnant: Tensor
    spent: Tensor
    moving: Tensor

    @property
    def refused(self) -> Tensor:
        """(B,) the trial was not accepted."""
        return ~self.accepted


# How a search ends: the first line that holds of a model says it.
ENDS: tuple[tuple[Status, Callable[[Judged], Tensor]], ...] = (
    (Status.CONVERGED, lambda t: t.accepted & t.closing & t.steady),
    (Status.SEPARATED, lambda t: t.accepted & t.closing & t.drifting),
    (Status.CONVERGED, lambda t: t.refused & t.valid & (t.closing | t.small & t.short)),
    (Status.CONVERGED, lambda t: t.refused & t.exhausted & t.small),
    (Status.STALLED, lambda t: t.refused & t.exhausted & t.valid),
    (Status.BOUNDARY, lambda t: t.refused & t.exhausted),
    (Status.BOUNDARY, lambda t: t.accepted & t.blocked),
    (Status.CONVERGED, lambda t: t.stagnant & t.small),
    (Status.STALLED, lambda t: t.stagnant),
    (Status.SEPARATED, lambda t: t.accepted & t.spent & t.moving),
    (Status.ITERATION_LIMIT, lambda t: t.accepted & t.spent),
)


def verdicts(trial: Judged) -> Tensor:
    """(B,) the status in which each model ends with this trial, or `GOING`."""
    ended = torch.full_like(trial.accepted, GOING, dtype=torch.int64)
    for status, holds in reversed(ENDS):
        ended = torch.where(holds(trial), int(status), ended)
    return ended
