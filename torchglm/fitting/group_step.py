"""The quadratic model of a step with lengths of groups in it: block descent finds these, Newton's method the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.fitting.faces import times
from torchglm.fitting.quadratic import damped_positive
from torchglm.rows.grams import Dense

SWEEPS = 5  # of block descent between Newton's steps
ROUNDS = 200
NEWTON = 8
HALVINGS = 30
EXACT = 1e-14  # of the terms of a slope that it may miss
EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Lengths:
    """Groups of columns `places`, the weights of their lengths (B, G) and of single absolute values `l1` (B, p)."""

    places: list[list[int]]
    weight: Tensor
    l1: Tensor

    def sizes(self, value: Tensor) -> Tensor:
        """(B, G) the lengths of the groups of `value` (B, p)."""
        return torch.stack([value[:, at].square().sum(-1).sqrt() for at in self.places], -1)

    def spread(self, each: Tensor) -> Tensor:
        """(B, p) what is of each group (B, G) for each of its columns, 0 for others."""
        out = torch.zeros_like(self.l1)
        for g, at in enumerate(self.places):
            out[:, at] = each[:, g, None]
        return out

    def value(self, coef: Tensor) -> Tensor:
        """(B,) the sum of lengths and absolute values."""
        return (self.weight * self.sizes(coef)).sum(-1) + (self.l1 * coef.abs()).sum(-1)

    def penalised(self) -> Tensor:
        """(B, p) the columns that they hold."""
        return (self.spread(self.weight) > 0) | (self.l1 > 0)

    def slope(self, coef: Tensor) -> Tensor:
        """(B, p) the slope of the lengths where they have one, 0 elsewhere."""
        return self.spread(self.weight * _inverse(self.sizes(coef))) * coef + self.l1 * coef.sign()

    def curvature(self, coef: Tensor) -> Tensor:
        """(B, p, p) that of the lengths that are not zero, on the columns that are not."""
        size, active = self.sizes(coef), coef != 0
        rate = self.weight * _inverse(size)
        out = torch.diag_embed(torch.where(active, self.spread(rate), 0.0))
        for g, at in enumerate(self.places):
            unit = coef[:, at] * _inverse(size[:, g, None])
            out[:, torch.tensor(at).unsqueeze(-1), at] -= (
                rate[:, g, None, None] * unit.unsqueeze(-1) * unit.unsqueeze(-2)
            )
        return out

    def excess(self, slope: Tensor, coef: Tensor) -> Tensor:
        """(B, p) by how much a slope of what is maximised misses what the lengths ask for at `coef`."""
        soft = slope.sign() * (slope.abs() - self.l1).clamp(min=0)
        beyond = (1 - self.weight * _inverse(self.sizes(soft))).clamp(min=0)
        at_zero = torch.where(self.spread((self.weight > 0).to(slope.dtype)) > 0, self.spread(beyond), 1.0) * soft
        away = torch.where(coef != 0, slope - self.slope(coef), soft)
        still = self.spread((self.sizes(coef) == 0).to(slope.dtype)) > 0
        return torch.where(still, at_zero, away).abs()


def group_step(curvature: Tensor, score: Tensor, coef: Tensor, lengths: Lengths, keep: Tensor) -> Tensor:
    """The step `d` (B, p) that minimises `d'Cd/2 - score'd` and the `lengths` of `coef + d`.

    Columns without a penalty are eliminated first. Source: Yuan & Lin (2006), J. R. Stat. Soc. B 68(1), 49-67; Simon,
    Friedman, Hastie & Tibshirani (2013), J. Comput. Graph. Stat. 22(2), 231-245.
    """
    bound = keep & lengths.penalised()
    free = keep & ~lengths.penalised()
    smooth = Dense(curvature).invert(free)
    across = curvature * free.unsqueeze(-1)
    inner = smooth.root.matrix @ (smooth.root.matrix.mT @ across)
    slope = torch.where(bound, score - times(inner.mT, torch.where(free, score, 0.0)), 0.0)
    both = bound.unsqueeze(-1) & bound.unsqueeze(-2)
    reduced = torch.where(both, curvature - across.mT @ inner, 0.0)
    size = curvature.diagonal(dim1=-2, dim2=-1).abs()
    scale = torch.where(bound & (size > 0), size, 1.0).sqrt()
    scaled = reduced / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    reduced = torch.where(both, damped_positive(scaled, bound) * scale.unsqueeze(-1) * scale.unsqueeze(-2), 0.0)
    value = torch.where(bound, coef, 0.0)
    best = _minimum(reduced, slope + times(reduced, value), value, lengths, bound)
    move = torch.where(bound, torch.where(best == 0, -coef, best - coef), 0.0)
    rest = torch.where(free, score - times(curvature, move), 0.0)
    return move + torch.where(free, smooth.solve(rest), 0.0)


def _minimum(matrix: Tensor, pull: Tensor, value: Tensor, lengths: Lengths, bound: Tensor) -> Tensor:
    """(B, p) the minimum of `v'Av/2 - pull'v` and the lengths, on the columns `bound`."""
    steep = torch.stack([_largest(matrix, at) for at in lengths.places], -1)  # (B, G)
    terms = pull.abs() + lengths.l1 + lengths.spread(lengths.weight)
    ended = ~(torch.isfinite(pull).all(-1) & torch.isfinite(matrix).all(-1).all(-1))
    for _ in range(ROUNDS):
        swept = value
        for _ in range(SWEEPS):
            swept = _sweep(matrix, pull, swept, lengths, steep, bound)
        value = torch.where(ended.unsqueeze(-1), value, swept)
        value = torch.where(ended.unsqueeze(-1), value, _newton(matrix, pull, value, lengths))
        size = terms + times(matrix.abs(), value.abs())
        left = torch.where(bound, lengths.excess(pull - times(matrix, value), value), 0.0)
        ended = ended | (left <= EXACT * size).all(-1)
        if bool(ended.all()):
            break
    return value


def _largest(matrix: Tensor, at: list[int]) -> Tensor:
    """(B,) the largest eigenvalue of the block of a group."""
    block = torch.nan_to_num(matrix[:, at][..., at])
    return torch.linalg.eigvalsh(block)[..., -1] if len(at) > 1 else block[:, 0, 0]


def _sweep(matrix: Tensor, pull: Tensor, value: Tensor, lengths: Lengths, steep: Tensor, bound: Tensor) -> Tensor:
    """One round over the groups: each moves to the minimum of a model that is nowhere less steep."""
    value = value.clone()
    left = pull - times(matrix, value)
    for g, at in enumerate(lengths.places):
        used = bound[:, at] & (steep[:, g, None] > 0)
        rate = torch.where(steep[:, g] > 0, steep[:, g], 1.0).unsqueeze(-1)
        target = value[:, at] + left[:, at] / rate
        soft = target.sign() * (target.abs() - lengths.l1[:, at] / rate).clamp(min=0)
        size = soft.square().sum(-1, keepdim=True).sqrt()
        shrunk = soft * (1 - lengths.weight[:, g, None] / rate * _inverse(size)).clamp(min=0)
        change = torch.where(used, shrunk - value[:, at], 0.0)
        left = left - times(matrix[:, :, at], change)
        value[:, at] += change
    return value


def _newton(matrix: Tensor, pull: Tensor, value: Tensor, lengths: Lengths) -> Tensor:
    """Newton's method on the columns that are not zero, as long as no sign changes and the objective falls."""
    active = value != 0
    both = active.unsqueeze(-1) & active.unsqueeze(-2)
    eye = torch.eye(value.shape[-1], dtype=value.dtype, device=value.device)
    for _ in range(NEWTON):
        slope = torch.where(active, pull - times(matrix, value) - lengths.slope(value), 0.0)
        bend = torch.where(both, matrix + lengths.curvature(value), eye)
        lower, info = torch.linalg.cholesky_ex(bend)
        step = torch.cholesky_solve(slope.unsqueeze(-1), lower).squeeze(-1)
        sound = (info == 0) & torch.isfinite(step).all(-1)
        step = torch.where(sound.unsqueeze(-1) & active, step, 0.0)
        before, share = _objective(matrix, pull, value, lengths), torch.ones_like(pull[:, 0])
        rounding = 8 * EPS * (before.abs() + (pull * value).abs().sum(-1))
        for _ in range(HALVINGS):
            trial = value + share.unsqueeze(-1) * step
            turned = ((trial.sign() != value.sign()) & (lengths.l1 > 0) & active).any(-1)
            worse = turned | (_objective(matrix, pull, trial, lengths) > before + rounding)
            if not bool(worse.any()):
                break
            share = torch.where(worse, share / 2, share)
        value = torch.where(worse.unsqueeze(-1), value, trial)
        if bool((step.abs() <= EPS * value.abs()).all()):
            break
    return value


def _objective(matrix: Tensor, pull: Tensor, value: Tensor, lengths: Lengths) -> Tensor:
    return (value * times(matrix, value)).sum(-1) / 2 - (pull * value).sum(-1) + lengths.value(value)


def _inverse(size: Tensor) -> Tensor:
    return torch.where(size > 0, 1 / torch.where(size > 0, size, 1.0), 0.0)
