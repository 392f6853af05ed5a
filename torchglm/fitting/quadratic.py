"""The quadratic model of a step with absolute values in it: coordinate descent finds the signs, algebra the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.rows.grams import Dense

SWEEPS = 5  # of coordinate descent between two exact solves
ROUNDS = 400
SLACK = 1e-10  # relative excess of a slope over its threshold that is rounding


def soft_step(gram: Tensor, score: Tensor, coef: Tensor, l1: Tensor, keep: Tensor) -> Tensor:
    """The step `d` (B, p) that minimises `d' gram d / 2 - score' d + sum_j l1_j |coef_j + d_j|`.

    `gram` (B, p, p) holds the quadratic part of the penalty already. Columns without a threshold are eliminated
    first; on the others sweeps of coordinate descent (soft thresholds) alternate with an exact solve on the signs
    they leave, which ends the search where the signs hold and no zero wants to move.
    Source: Friedman, Hastie & Tibshirani (2010), J. Stat. Software 33(1); Osborne, Presnell & Turlach (2000),
    IMA J. Numer. Anal. 20, 389-403.
    """
    free = (l1 == 0) & keep
    smooth = Dense(gram).invert(free)
    across = gram * free.unsqueeze(-1)  # rows of the free columns
    inner = smooth.root.matrix @ (smooth.root.matrix.mT @ across)  # free columns regressed on all
    bound = keep & ~free
    both = bound.unsqueeze(-1) & bound.unsqueeze(-2)
    reduced = torch.where(both, gram - across.mT @ inner, 0.0)
    slope = torch.where(bound, score - (inner.mT @ torch.where(free, score, 0.0).unsqueeze(-1)).squeeze(-1), 0.0)
    # coef is where the free columns stand: their own score moves them, whatever the others do
    best = _bound_values(reduced, slope, coef, l1, bound)
    move = torch.where(bound, best - coef, 0.0)
    rest = torch.where(free, score - (gram @ move.unsqueeze(-1)).squeeze(-1), 0.0)
    return move + torch.where(free, smooth.solve(rest), 0.0)


def _bound_values(gram: Tensor, score: Tensor, coef: Tensor, l1: Tensor, keep: Tensor) -> Tensor:
    """(B, p) the minimising coefficients of the columns with thresholds, zero elsewhere."""
    start = torch.where(keep, coef, 0.0)
    pull = score + (gram @ start.unsqueeze(-1)).squeeze(-1)  # the model is b' gram b / 2 - pull' b + l1 |b|
    value, ended = start.clone(), torch.zeros_like(keep[:, 0])
    size = pull.abs() + l1
    for _ in range(ROUNDS):
        value = torch.where(ended.unsqueeze(-1), value, _sweeps(gram, pull, value, l1, keep))
        sign = torch.sign(value)
        active = keep & (sign != 0)
        exact = Dense(gram).invert(active).solve(torch.where(active, pull - l1 * sign, 0.0))
        left = pull - (gram @ exact.unsqueeze(-1)).squeeze(-1)
        holds = (torch.sign(exact) == sign) | ~active
        still = active | ~keep | (left.abs() <= l1 + SLACK * size)
        done = (holds & still).all(-1) & ~ended
        value = torch.where(
            (done | ended).unsqueeze(-1), torch.where(done.unsqueeze(-1), exact, value), _towards(value, exact, holds)
        )
        ended = ended | done
        if bool(ended.all()):
            break
    return value


def _sweeps(gram: Tensor, pull: Tensor, value: Tensor, l1: Tensor, keep: Tensor) -> Tensor:
    """`SWEEPS` rounds of cyclic coordinate descent."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    moves = keep & (diagonal > 0)
    safe, value = torch.where(moves, diagonal, 1.0), value.clone()
    left = pull - (gram @ value.unsqueeze(-1)).squeeze(-1)
    for _ in range(SWEEPS):
        for j in moves.any(0).nonzero()[:, 0].tolist():
            target = left[:, j] + diagonal[:, j] * value[:, j]
            shrunk = torch.sign(target) * (target.abs() - l1[:, j]).clamp(min=0) / safe[:, j]
            change = torch.where(moves[:, j], shrunk - value[:, j], 0.0)
            left -= change.unsqueeze(-1) * gram[..., j]
            value[:, j] += change
    return value


def _towards(value: Tensor, exact: Tensor, holds: Tensor) -> Tensor:
    """As far from `value` to `exact` as no sign changes; the first to reach zero is set to it."""
    gap = value - exact
    share = torch.where(holds, 1.0, value / torch.where(gap == 0, 1.0, gap))
    least = share.amin(-1, keepdim=True)
    return torch.where((share <= least) & ~holds, 0.0, value - least * gap)
