"""The quadratic model of a step with absolute values in it: coordinate descent finds the signs, algebra the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.rows.grams import Dense

SWEEPS = 5  # of coordinate descent before an exact solve
CYCLES = 20  # such rounds; then zeros enter one at a time, which ends in few rounds more
ENTRIES = 4  # of those rounds for each column
SLACK = 1e-10  # relative excess of a slope over its threshold that is rounding
DAMPING = (1e-14, 1e-12, 1e-10, 1e-7, 1e-4, 1e-1)  # share of its diagonal that makes a matrix positive definite


def soft_step(gram: Tensor, score: Tensor, coef: Tensor, l1: Tensor, keep: Tensor) -> Tensor:
    """The step `d` (B, p) that minimises `d' gram d / 2 - score' d + sum_j l1_j |coef_j + d_j|`.

    `gram` (B, p, p) holds the quadratic part of the penalty already. Columns without a threshold are eliminated
    first, the others scaled; on these sweeps of coordinate descent (soft thresholds) alternate with an exact solve on
    the signs they leave, which ends the search where the signs hold and no zero wants to move. Where columns are
    collinear, or the curvature is not positive, the step is damped: it is 0 at an optimum alone.
    Source: Friedman, Hastie & Tibshirani (2010), J. Stat. Software 33(1); Osborne, Presnell & Turlach (2000),
    IMA J. Numer. Anal. 20, 389-403.
    """
    free = (l1 == 0) & keep
    smooth = Dense(gram).invert(free)
    across = gram * free.unsqueeze(-1)  # rows of the free columns
    inner = smooth.root.matrix @ (smooth.root.matrix.mT @ across)  # free columns regressed on all
    bound = keep & ~free
    slope = torch.where(bound, score - (inner.mT @ torch.where(free, score, 0.0).unsqueeze(-1)).squeeze(-1), 0.0)
    # coef is where the free columns stand: their own score moves them, whatever the others do
    curvature = gram.diagonal(dim1=-2, dim2=-1).abs()
    bound = bound & (curvature > 0) & torch.isfinite(curvature)
    scale = torch.where(bound, curvature, 1.0).rsqrt()
    reduced = (gram - across.mT @ inner) * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    reduced = damped_positive(torch.where(bound.unsqueeze(-1) & bound.unsqueeze(-2), reduced, 0.0), bound)
    own = torch.where(bound, coef / scale, 0.0)
    best = _bound_values(reduced, slope * scale, own, l1 * scale, bound)
    move = torch.where(bound, torch.where(best == 0, -coef, scale * (best - own)), 0.0)
    rest = torch.where(free, score - (gram @ move.unsqueeze(-1)).squeeze(-1), 0.0)
    return move + torch.where(free, smooth.solve(rest), 0.0)


def damped_positive(gram: Tensor, keep: Tensor) -> Tensor:
    """A scaled matrix (B, p, p), 1 for the columns that are not kept, with the least damping that makes it positive."""
    whole = gram + torch.diag_embed((~keep).to(gram.dtype))
    rest = torch.full_like(gram[:, 0, 0], DAMPING[0])
    for share in (*DAMPING[1:], gram.shape[-1] + 1.0):
        failed = torch.linalg.cholesky_ex(_damped(whole, rest)).info != 0
        if not bool(failed.any()):
            break
        rest = torch.where(failed, share, rest)
    return _damped(whole, rest)


def _damped(gram: Tensor, share: Tensor) -> Tensor:
    return gram + torch.diag_embed(share.unsqueeze(-1).expand(gram.shape[:-1]))


def _bound_values(gram: Tensor, score: Tensor, coef: Tensor, l1: Tensor, keep: Tensor) -> Tensor:
    """(B, p) the minimising coefficients of the columns with thresholds, zero elsewhere; `gram` positive definite."""
    value, zero = coef.clone(), torch.zeros_like(coef)
    ended = ~(torch.isfinite(gram).all(-1).all(-1) & torch.isfinite(score).all(-1))
    entering, moves = zero, keep.any(0).nonzero()[:, 0].tolist()
    for turn in range(CYCLES + ENTRIES * len(moves)):
        if turn < CYCLES:
            swept = _sweeps(gram, score, coef, value, l1, keep, moves)
            value = torch.where(ended.unsqueeze(-1), value, swept)
        sign = torch.sign(value) + entering
        active = keep & (sign != 0)
        exact = torch.where(active, coef + _solve(gram, score - l1 * sign, coef, active), 0.0)
        step = exact - coef
        pulled = (gram @ step.unsqueeze(-1)).squeeze(-1)
        left = score - pulled
        size = score.abs() + l1 + (gram.abs() @ step.abs().unsqueeze(-1)).squeeze(-1)
        holds = (torch.sign(exact) == sign) | ~active
        beyond = torch.where(active | ~keep, zero, (left.abs() - l1 - SLACK * size).clamp(min=0))
        fits = holds.all(-1) & ~ended
        moved = torch.where(fits.unsqueeze(-1), exact, _towards(value, exact, holds))
        value = torch.where(ended.unsqueeze(-1), value, moved)
        ended = ended | fits & (beyond == 0).all(-1)
        if bool(ended.all()):
            break
        if turn >= CYCLES - 1:
            first = torch.nn.functional.one_hot(beyond.argmax(-1), beyond.shape[-1]).bool()
            entering = torch.where(first & (beyond > 0) & fits.unsqueeze(-1), torch.sign(left), zero)
    return value


def _solve(gram: Tensor, slope: Tensor, coef: Tensor, active: Tensor) -> Tensor:
    """(B, p) the steps of active columns to slope 0, where those of the others take them to zero."""
    others = torch.where(active, 0.0, -coef)
    right = torch.where(active, slope - (gram @ others.unsqueeze(-1)).squeeze(-1), 0.0)
    both = active.unsqueeze(-1) & active.unsqueeze(-2)
    own = torch.where(both, gram, torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
    lower = torch.linalg.cholesky_ex(own).L
    return torch.cholesky_solve(right.unsqueeze(-1), lower).squeeze(-1)


def _sweeps(
    gram: Tensor, score: Tensor, coef: Tensor, value: Tensor, l1: Tensor, keep: Tensor, moves: list[int]
) -> Tensor:
    """`SWEEPS` rounds of cyclic coordinate descent over the columns `moves`."""
    diagonal, value = gram.diagonal(dim1=-2, dim2=-1), value.clone()
    left = score - (gram @ (value - coef).unsqueeze(-1)).squeeze(-1)
    for _ in range(SWEEPS):
        for j in moves:
            target = left[:, j] + diagonal[:, j] * value[:, j]
            shrunk = torch.sign(target) * (target.abs() - l1[:, j]).clamp(min=0) / diagonal[:, j]
            change = torch.where(keep[:, j], shrunk - value[:, j], 0.0)
            left -= change.unsqueeze(-1) * gram[..., j]
            value[:, j] += change
    return value


def _towards(value: Tensor, exact: Tensor, holds: Tensor) -> Tensor:
    """As far from `value` to `exact` as no sign changes; the first to reach zero is set to it."""
    gap = value - exact
    share = torch.where(holds, 1.0, value / torch.where(gap == 0, 1.0, gap))
    least = share.amin(-1, keepdim=True)
    return torch.where((share <= least) & ~holds, 0.0, value - least * gap)
