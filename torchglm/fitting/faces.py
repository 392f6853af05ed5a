"""Quadratic models with absolute values and limits, for many models at once: the face they end on, then algebra.

A coefficient stands inside a piece of its range, between two of the points `lower`, 0 and `upper`, or on one of them.
Those inside make the face, on which the minimum is a linear solve.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 100  # and as many more as there are columns: each leaves a face for good
TINY = 1e-13  # of a diagonal, added to it: the next round takes what it leaves
FIRM = 1e-8  # where the face is singular


def excess(coef: Tensor, pull: Tensor, l1: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """(..., p) by how much the objective falls along each coefficient, per unit: 0 for all at the minimum.

    `pull` is the slope of what is maximised, without the absolute values `l1`; a coefficient moves within its limits.
    """
    rise = pull - torch.where(coef >= 0, l1, -l1)
    fall = torch.where(coef > 0, l1, -l1) - pull
    return torch.maximum(torch.where(coef < upper, rise, 0.0), torch.where(coef > lower, fall, 0.0)).clamp(min=0)


def minimise(
    hessian: Tensor, pull: Tensor, start: Tensor, l1: Tensor, lower: Tensor, upper: Tensor, tol: Tensor
) -> Tensor:
    """(B, p) the minimum of `v' hessian v / 2 - pull' v + sum_j l1_j |v_j|` with `lower <= v <= upper`, from `start`.

    `hessian` (B, p, p) is not negative, and no slope of a singular direction is left without a penalty or limits. Every
    round solves on the face, and moves there as far as the pieces reach; where it stands at the minimum of its face the
    coefficients that want to leave their points join it. It ends where `excess` is below `tol` (B,).
    Source: Osborne, Presnell & Turlach (2000), IMA J. Numer. Anal. 20, 389-403; Nocedal & Wright (2006), section 16.5.
    """
    value = start.clamp(lower, upper)
    at = _Faces(hessian, pull, value, l1, lower, upper, tol)
    lane = torch.arange(len(value), device=value.device)
    for _ in range(ROUNDS + value.shape[-1]):
        going = at.going()
        if not bool(going.all()):
            value[lane[~going]] = at.value[~going]
            lane = lane[going]
            if not lane.numel():
                return value
            at.keep(going)
        at.round()
    value[lane] = at.value
    return value


class _Faces:
    """Models on their way to their minima: where they stand, on which face, and in which piece of each range."""

    def __init__(
        self, hessian: Tensor, pull: Tensor, value: Tensor, l1: Tensor, lower: Tensor, upper: Tensor, tol: Tensor
    ):
        self.hessian, self.pull, self.value, self.l1, self.tol = hessian, pull, value, l1, tol
        self.lower, self.upper = lower, upper
        self.face = (value > lower) & (value < upper) & ((value != 0) | (l1 == 0))
        self.sign = torch.sign(value)
        self.left = pull - times(hessian, value)
        self.wants = torch.zeros_like(value)
        self.solved = torch.ones_like(tol, dtype=torch.bool)  # they stand at the minimum of the face, or begin

    def keep(self, models: Tensor) -> None:
        """Keep some of the models."""
        for name, held in vars(self).items():
            setattr(self, name, held[models])

    def going(self) -> Tensor:
        """(B,) those not at their minimum yet."""
        self.wants = excess(self.value, self.left, self.l1, self.lower, self.upper)
        return self.wants.amax(-1) > self.tol

    def round(self) -> None:
        """One solve on every face."""
        value, left, l1, face, sign = self.value, self.left, self.l1, self.face, self.sign
        joins = ~face & (self.wants > self.tol.unsqueeze(-1)) & self.solved.unsqueeze(-1)
        rises = left - torch.where(value >= 0, l1, -l1) > 0
        way = torch.where(rises, torch.where(value >= 0, 1.0, -1.0), torch.where(value <= 0, -1.0, 1.0))
        sign, face = torch.where(joins, way, sign), face | joins
        bottom = torch.where((l1 > 0) & (sign > 0), self.lower.clamp(min=0), self.lower)
        top = torch.where((l1 > 0) & (sign < 0), self.upper.clamp(max=0), self.upper)
        slope = torch.where(face, left - l1 * sign, 0.0)
        step = _on_the_face(self.hessian, slope, face)
        stuck = face & ((value <= bottom) & (step < 0) | (value >= top) & (step > 0))
        free = ~stuck.any(-1)  # a face with coefficients that would leave their piece at once loses them first
        step = torch.where(free.unsqueeze(-1), step, 0.0)
        value, whole = _moved(self.hessian, slope, value, step, face, bottom, top)
        inside = (value > bottom) & (value < top) | ~free.unsqueeze(-1)
        self.value, self.face, self.sign, self.solved = value, face & ~stuck & inside, sign, free & whole
        self.left = self.pull - times(self.hessian, value)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """(B, m) the product of each matrix (B, m, p) with its vector (B, p)."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _on_the_face(hessian: Tensor, slope: Tensor, face: Tensor) -> Tensor:
    """(B, p) the step to the minimum of the face, zero outside it."""
    most = int(face.sum(-1).max())
    if most == 0:
        return torch.zeros_like(slope)
    order = face.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, :most]  # (B, k)
    used = face.gather(-1, order)
    inner = hessian.gather(-2, order.unsqueeze(-1).expand(-1, -1, hessian.shape[-1]))
    inner = inner.gather(-1, order.unsqueeze(-2).expand(-1, most, -1))
    if not bool(used.all()):
        inner = torch.where(used.unsqueeze(-1) & used.unsqueeze(-2), inner, 0.0)
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    floor = torch.where(used, diagonal, 0.0).amax(-1, keepdim=True)
    diagonal += torch.where(used, TINY * floor, 1.0)
    lower, info = torch.linalg.cholesky_ex(inner)
    singular = info > 0
    if bool(singular.any()):
        diagonal += torch.where(used & singular.unsqueeze(-1), FIRM * floor, 0.0)
        lower = torch.linalg.cholesky_ex(inner).L
    own = torch.cholesky_solve(slope.gather(-1, order).unsqueeze(-1), lower).squeeze(-1)
    return torch.zeros_like(slope).scatter(-1, order, torch.where(used, own, 0.0))


def _moved(
    hessian: Tensor, slope: Tensor, value: Tensor, step: Tensor, face: Tensor, bottom: Tensor, top: Tensor
) -> tuple[Tensor, Tensor]:
    """The values after a step, and whether it was taken whole.

    Where it leads out of a piece, what leaves stops at its end if the objective falls so; else all stop where the first
    leaves.
    """
    target = value + step
    inside = ~face | (target >= bottom) & (target <= top)
    whole = inside.all(-1)
    if bool(whole.all()):
        return target, whole
    clipped = torch.where(face, target.clamp(bottom, top), value)
    short = clipped - value
    change = (short * times(hessian, short)).sum(-1) / 2 - (slope * short).sum(-1)
    end = torch.where(step > 0, top, bottom)
    share = torch.where(inside, torch.inf, (end - value) / torch.where(step == 0, 1.0, step))
    least = share.amin(-1, keepdim=True).clamp(max=1.0)
    first = torch.where(share <= least, end, value + least * step).clamp(bottom, top)
    first = torch.where(face, first, value)
    other = torch.where((change < 0).unsqueeze(-1), clipped, first)
    return torch.where(whole.unsqueeze(-1), target, other), whole
