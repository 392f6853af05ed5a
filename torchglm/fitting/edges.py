"""Where a link or family ends the range of the linear predictor: how far its rows are from there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.links import Link

Ends = tuple[float, float]


def edges(family: Family, link: Link) -> Ends:
    """The ends of the values of `eta` for which the mean lies in the family's range; infinite where none is."""
    if family.mean_lower == -math.inf:
        return link.lower, math.inf
    ends = link.link(torch.tensor([family.mean_lower, family.mean_upper], dtype=torch.float64)).tolist()
    finite = sorted(end for end in ends if math.isfinite(end))
    lower, upper = -math.inf, math.inf
    if len(finite) == 2:
        lower, upper = finite
    elif finite:  # on which side of the one end the means lie
        inside = link.link(torch.tensor(family.inner_mean, dtype=torch.float64)).item()
        lower, upper = (finite[0], math.inf) if inside > finite[0] else (-math.inf, finite[0])
    return max(lower, link.lower), upper


def room(mean: Tensor, family: Family, link: Link, ends: Ends) -> Tensor:
    """(B,) how far the linear predictor of a mean lies from the nearer edge; a usual one where it lies on it."""
    both = link.link(torch.stack([mean, torch.full_like(mean, family.inner_mean)]))
    own, usual = torch.minimum(both - ends[0], ends[1] - both)
    return torch.where(own > 0, own, usual)


def margin(eta: Tensor, weight: Tensor, ends: Ends) -> Tensor:
    """(B,) how near the linear predictor (B, n) of a row of positive weight comes to an edge."""
    near = torch.minimum(eta - ends[0], ends[1] - eta)
    near = torch.where(weight > 0, near, torch.inf)
    return near.amin(-1) if eta.shape[-1] else eta.new_full(eta.shape[:1], torch.inf)


def fenced(
    half: Tensor, score: Tensor, information: Tensor, eta: Tensor, strength: float, ends: Ends
) -> tuple[Tensor, Tensor, Tensor]:
    """The terms of rows with `-strength log(distance of eta to an edge)` added to the objective."""
    for sign, end in zip((1.0, -1.0), ends, strict=True):
        if math.isfinite(end):
            distance = sign * (eta - end)
            half = half - strength * distance.log()
            score = score + sign * strength / distance
            information = information + strength / distance.square()
    return half, score, information


def lacking(eta: Tensor, weight: Tensor, ends: Ends, lack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, n) what each row lacks to the distance `lack` (B,) from the edges.

    As objective, score and information of least squares. A row that lacks nothing has a little information, so that
    the design keeps its rank.
    """
    asked = lack.unsqueeze(-1)
    low, high = (ends[0] + asked - eta).clamp(min=0), (eta - ends[1] + asked).clamp(min=0)
    low, high = (torch.where(weight > 0, part, 0.0) for part in (low, high))
    total = low + high
    return total.square() / 2, low - high, (total > 0).to(eta.dtype) + 1e-8
