"""What a penalty with kinks leaves of the slopes at the end of a search: the certificate of a fit, and its freedom."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchglm.fitting.kinks import base_of, firm, lengths_of
from torchglm.fitting.penalties import Constrained, Penalty, RowWise
from torchglm.fitting.problem import Problem
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.rows.inverses import DenseRoot

CERTIFIED = 1e-9  # what a fit may leave
CANCELS = 1e-10  # of the terms of eta, whose rounding is in every slope
FLAT = 1e-10  # of a squared length: a direction without information
STEEP = 1e-9  # of its size: a smaller multiplier is rounding


def certified(solution: Solution, problem: Problem) -> Solution:
    """A solution with its certificate; one that says CONVERGED without it is STALLED.

    `kkt` (B,) is the largest correlation that a column still has with what is left over: the slope that its kinks do
    not account for, over the length of the column (`x'Wx`) and that of the residuals (twice the objective).
    `multiplier` (B, c) are those of constraints. The root of the inverse information is that along the coefficients
    that the kinks leave free.
    """
    penalty = problem.penalty
    if penalty is None or penalty.smooth or not solution.coef.shape[-1]:
        return solution
    moments, coef, keep, total = solution.moments, solution.coef, solution.keep, solution.moments.weight
    curvature, score = problem.curvature(moments, coef, total), problem.slope(moments, coef, keep, total)
    length = curvature.diagonal(dim1=-2, dim2=-1).abs()
    size = 2 * problem.size(moments.objective, total) + CANCELS * moments.scale.abs()
    excess = torch.where(keep, penalty.excess(curvature, score, coef, total, keep), 0.0)
    unit = (length * size.unsqueeze(-1)).sqrt()
    kkt = torch.where(excess > 0, excess / torch.where(unit > 0, unit, 1.0), 0.0).amax(-1)
    own = replace(solution, kkt=kkt)
    if isinstance(penalty, RowWise):
        own, missed = _along_rows(own, penalty, curvature, score, size)
    else:
        own, missed = _beside_kinks(own, penalty, curvature, total), torch.zeros_like(kkt, dtype=torch.bool)
    own.status[(missed | ~(kkt <= CERTIFIED)) & (own.status == int(Status.CONVERGED))] = int(Status.STALLED)
    return own


def _along_rows(
    solution: Solution, penalty: RowWise, curvature: Tensor, score: Tensor, size: Tensor
) -> tuple[Solution, Tensor]:
    """With the multipliers, and the root of the inverse information along what the rows on their kinks leave free.

    And (B,) where a constraint does not hold; `size` (B,) is twice the objective.
    """
    coef, keep, total = solution.coef, solution.keep, solution.moments.weight
    kinks = penalty.kinks(total)
    pulls = penalty.multipliers(curvature, score, coef, total, keep)
    made = firm(curvature, kinks, keep, coef)
    half, error = lengths_of(made, kinks, keep)
    spread = error * (size / total).sqrt().unsqueeze(-1)
    # what a row pulls with, beside what all pull with: a constraint that holds by chance does not bind
    weight = pulls.abs() * error
    binding = weight > STEEP * (weight.amax(-1, keepdim=True) + size.sqrt().unsqueeze(-1))
    on = (kinks.beyond(coef, spread) == 0) & (kinks.lower != kinks.upper)
    held = on & (binding | ~kinks.hard | kinks.equations)
    taken = base_of(half, error, held)
    eye = torch.eye(coef.shape[-1], dtype=coef.dtype, device=coef.device)
    root = made.scale.unsqueeze(-1) * torch.linalg.solve_triangular(made.lower.mT, eye - taken.mT @ taken, upper=True)
    root = torch.where(keep.unsqueeze(-1), root, 0.0)
    exact = root.square().sum(-1) * curvature.diagonal(dim1=-2, dim2=-1).abs()
    root = torch.where((exact > FLAT).unsqueeze(-1), root, 0.0)
    count = len(penalty.sides) if isinstance(penalty, Constrained) else 0
    multiplier = torch.where(binding & on, pulls, 0.0)[:, :count] if count else None
    return replace(solution, root=DenseRoot(root), multiplier=multiplier), ~kinks.allowed(coef, spread)


def _beside_kinks(solution: Solution, penalty: Penalty, curvature: Tensor, total: Tensor) -> Solution:
    """With the root of the inverse of the information and the curvature that the kinks have beside them."""
    curved = penalty.curved(solution.coef, total)
    if curved is None:
        return solution
    free = solution.keep & penalty.free(solution.coef, total)
    both = free.unsqueeze(-1) & free.unsqueeze(-2)
    whole = torch.where(both, curvature + curved, 0.0) + torch.diag_embed((~free).to(curvature.dtype))
    size = whole.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = torch.where(size > 0, 1 / torch.where(size > 0, size, 1.0), 1.0)
    lower, info = torch.linalg.cholesky_ex(whole * scale.unsqueeze(-1) * scale.unsqueeze(-2))
    eye = torch.eye(whole.shape[-1], dtype=whole.dtype, device=whole.device).expand_as(whole)
    root = scale.unsqueeze(-1) * torch.linalg.solve_triangular(lower.mT, eye, upper=True)
    root = torch.where(free.unsqueeze(-1) & (info == 0).view(-1, 1, 1), root, 0.0)
    return replace(solution, root=DenseRoot(root))
