"""When a step is taken, when nothing is left to gain, and how a search ends."""

from __future__ import annotations

from dataclasses import dataclass, fields

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
LEFT = 1e-9  # standard errors that a search may leave
STILL = 1e-10  # root mean square step of eta from which on the information, and its standard errors, stay as they are
SLOW = 0.1  # share of a decrement: steps that leave more are not Newton's at rest
STAGNANT = 4  # as many accepted steps that gain nothing end a search
EPS = torch.finfo(torch.float64).eps
GOING = -1  # in the place of a status: not ended


def floor(moments: Moments) -> Tensor:
    """(B,) what rounding of the linear predictor alone adds to the deviance."""
    return (10 * EPS) ** 2 * moments.scale.abs()


def bound(objective: Tensor, size: Tensor, floor: Tensor) -> Tensor:
    """(B,) what the objective of a trial must not exceed, `objective` being where the step began, of such a size."""
    return objective + SLACK * size + floor


def arrived(decrement: Tensor, size: Tensor, first: Tensor, floor: Tensor, tol: Tensor | float) -> Tensor:
    """(B,) True where the Newton decrement says that nothing is left to gain of an objective of such a size.

    `first` is the first objective.
    """
    return decrement.abs() <= tol * (2 * size + 2e-3 * first.abs()) + floor


def leaves_little(decrement: Tensor, before: Tensor, unit: Tensor, floor: Tensor) -> Tensor:
    """(B,) True where the next step and the polish after it leave less than `LEFT` standard errors, or nothing helps.

    Off the canonical link: Newton's steps square their contraction `r`, so that after one from a distance `e` (the root
    of its decrement, in units of the dispersion `unit`) `e r^2` is left, and after a polish with the same information
    `e r^4`. `before` is the decrement of the step before, 0 where there was none. Steps that contract slowly are not
    waited for.
    """
    square, slow = _contraction(decrement, before, unit)
    return (decrement * square.pow(4) <= LEFT**2 * unit + floor) | slow


def leaves_still(
    decrement: Tensor, before: Tensor, total: Tensor, floor: Tensor, stale: Tensor | None = None
) -> Tensor:
    """(B,) True where what the next step leaves moves no information, or nothing helps: that at its end is reported.

    On the canonical link. `e r^2` is left as in `leaves_little`, and after a step with the information of the point
    before, where `stale`, `2 e r`; `total` are the weights, and `before` 0 or infinite where there was no step.
    """
    square, slow = _contraction(decrement, torch.where(torch.isfinite(before), before, 0.0), total)
    after = decrement * (square.square() if stale is None else torch.where(stale, 4 * square, square.square()))
    return (after <= STILL**2 * total + floor) | slow


def _contraction(decrement: Tensor, before: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) `r^2` of the last step, by its length in units `unit` where `before` knows of none, and where it is slow."""
    known = before > 0
    square = torch.where(known, decrement / torch.where(known, before, 1.0), (decrement / unit).sqrt())
    return square, known & (square > SLOW)


@dataclass(frozen=True)
class Judged:
    """What a pass told of the trial of each model, all (B,) bool.

    `accepted`, and where it is not, whether it was `valid`; `closing`: the step was to be the last; `steady`: it moved
    no linear predictor by much; `drifting`: such steps keep moving; `small`: nothing is left to gain; `short`: a tenth
    of the step has not been accepted; `exhausted`: no part of it; `blocked`: an edge cut one step after another;
    `stagnant`: accepted steps gain nothing; `spent`: it was the last step allowed; `moving`: after many; `optimal`:
    an l1 penalty stands where it says.
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
    optimal: Tensor


# How a search ends: the first line of which everything holds says it (of `Judged`; refused is not accepted).
ENDS: tuple[tuple[Status, str], ...] = (
    (Status.CONVERGED, "accepted closing steady optimal"),
    (Status.SEPARATED, "accepted closing drifting"),
    (Status.CONVERGED, "refused valid closing optimal steady"),
    (Status.CONVERGED, "refused valid small short optimal steady"),
    (Status.CONVERGED, "refused exhausted small optimal steady"),
    (Status.STALLED, "refused exhausted valid"),
    (Status.BOUNDARY, "refused exhausted"),
    (Status.BOUNDARY, "accepted blocked"),
    (Status.CONVERGED, "stagnant small optimal"),
    (Status.STALLED, "stagnant"),
    (Status.SEPARATED, "accepted spent moving"),
    (Status.ITERATION_LIMIT, "accepted spent"),
)
_KNOWN = ("refused", *(f.name for f in fields(Judged)))
_ASKED = torch.tensor([[float(name in said.split()) for name in _KNOWN] for _, said in ENDS] + [[0.0] * len(_KNOWN)])
_SAID = torch.tensor([*(int(status) for status, _ in ENDS), GOING])  # of which nothing is asked: the last line


def verdicts(trial: Judged) -> Tensor:
    """(B,) the status in which each model ends with this trial, or `GOING`."""
    device = trial.accepted.device
    holds = torch.stack([~trial.accepted, *(getattr(trial, f.name) for f in fields(trial))])
    missing = _ASKED.to(device) @ (~holds).to(_ASKED.dtype)  # (lines, B) how much of each line does not hold
    return _SAID.to(device)[(missing == 0).to(torch.int8).argmax(0)]
