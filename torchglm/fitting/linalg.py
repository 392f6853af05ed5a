"""Small dense algebra of a step: solve, judge the condition, find the rank. All in float64, on scaled columns."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from torchglm.fitting.moments import Moments
from torchglm.rows import bordered
from torchglm.rows.products import triangle
from torchglm.rows.threads import all_cores

# Below this squared pivot of the scaled Gram (a multiple correlation of 1 - 1e-7) a QR factor takes its place.
GRAM_PIVOT = 1e-7
SINGLE_PIVOT = 1e-2  # and above this one of its seven digits in float32 do for a step
SINGLE_RANGE = (1e-12, 1e24)  # of its diagonal, whose terms and sums float32 holds
NOTHING = 1e-12  # a smaller squared pivot beside the levels of a factor is rounding


@dataclass(frozen=True)
class Inverse:
    """The inverse of an information matrix on the kept columns `keep` (B, p), by a factor of the scaled matrix.

    `upper' upper` (B, p, p) is the information of the columns divided by `scale` (B, p); dropped columns stand in it as
    unit columns. `pivot` (B,) is the smallest squared pivot, 1 for orthogonal columns and 0 (or NaN) for dependent
    ones; `positive` (B,) is False where the matrix was not positive definite.
    """

    upper: Tensor
    scale: Tensor
    keep: Tensor
    pivot: Tensor
    positive: Tensor

    @cached_property
    def root(self) -> Tensor:
        """(B, p, p) `root root'` is the inverse; zero where columns are dropped."""
        with all_cores(self.upper):
            eye = torch.eye(self.upper.shape[-1], dtype=self.upper.dtype, device=self.upper.device)
            root = torch.linalg.solve_triangular(self.upper, eye.expand_as(self.upper), upper=True)
        return torch.where(self.keep.unsqueeze(-1), root / self.scale.unsqueeze(-1), 0.0)

    def solve(self, score: Tensor) -> Tensor:
        """`information^-1 score`, shape `(B, p)`."""
        right = torch.where(self.keep, score / self.scale, 0.0).unsqueeze(-1)
        return torch.where(self.keep, torch.cholesky_solve(right, self.upper, upper=True).squeeze(-1) / self.scale, 0.0)


def allows_single(gram: Tensor, inverse: Inverted) -> Tensor:
    """(B,) True where a Gram of the same columns at a point near by may be summed in float32, for a step's sake.

    Its digits then are far more than the condition takes, and nothing overflows.
    """
    least, most = torch.aminmax(bordered.diagonal(gram), dim=-1)
    return inverse.positive & (inverse.pivot >= SINGLE_PIVOT) & (least > SINGLE_RANGE[0]) & (most < SINGLE_RANGE[1])


def newton_step(moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """The step `gram^-1 score` (B, p) on all columns, its decrement `score' gram^-1 score`, and whether it is sound.

    It is where the smallest squared pivot of the scaled Gram is at least `GRAM_PIVOT`. Without an inverse: half the
    time of `invert_gram`.
    """
    scale = moments.gram.diagonal(dim1=-2, dim2=-1).rsqrt()
    lower, info = torch.linalg.cholesky_ex(moments.gram * scale.unsqueeze(-1) * scale.unsqueeze(-2))
    sound = (info == 0) & (lower.diagonal(dim1=-2, dim2=-1).amin(-1) >= GRAM_PIVOT**0.5)
    delta = torch.cholesky_solve((moments.score * scale).unsqueeze(-1), lower).squeeze(-1) * scale
    return delta, torch.linalg.vecdot(moments.score, delta), sound


@dataclass(frozen=True)
class ArrowInverse:
    """The inverse of an information matrix kept as border and diagonal: `root` (B, p, q + 1), see `arrow`."""

    root: Tensor
    pivot: Tensor
    positive: Tensor

    def solve(self, score: Tensor) -> Tensor:
        """`information^-1 score`, shape `(B, p)`."""
        border = self.root[..., :-1]
        return (border @ (border.mT @ score.unsqueeze(-1))).squeeze(-1) + self.root[..., -1] * score


Inverted = Inverse | ArrowInverse


def inverse_of(gram: Tensor, keep: Tensor) -> Inverted:
    """The inverse of a Gram on the kept columns `(B, p)`, however it is kept."""
    return invert_arrow(gram, keep) if bordered.is_arrow(gram) else invert_gram(gram, keep)


def invert_arrow(gram: Tensor, keep: Tensor) -> ArrowInverse:
    """The inverse of a Gram that is kept as border and diagonal, on the kept columns `(B, p)`.

    The levels are eliminated, and the Schur complement of the other columns is inverted.
    """
    beside = bordered.others(gram)
    own, across, corner = gram[:, ~beside, -1], gram[:, ~beside, :-1], gram[:, beside, :-1]
    held = keep[:, ~beside]
    each = torch.where(held & (own > 0), 1 / own, 0.0)
    share = across * each.unsqueeze(-1)
    inner = invert_gram(corner - share.mT @ across, keep[:, beside], corner.diagonal(dim1=-2, dim2=-1))
    root = torch.zeros_like(gram)
    root[:, beside, :-1], root[:, ~beside, :-1], root[:, ~beside, -1] = inner.root, -(share @ inner.root), each
    positive = inner.positive & ((own > 0) | ~held).all(-1)
    return ArrowInverse(root, torch.where(positive, inner.pivot, 0.0), positive)


def invert_gram(gram: Tensor, keep: Tensor, size: Tensor | None = None) -> Inverse:
    """The inverse of a Gram `(B, p, p)` on the kept columns `(B, p)`, by Cholesky on scaled columns.

    `size` (B, p) are the squares of the lengths that pivots are shares of, those on the diagonal where None.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1) if size is None else size
    scale = torch.where(keep & (diagonal > 0), diagonal, 1.0).sqrt()
    own = torch.where(keep, 1 / scale, 0.0)
    scaled = (gram * own.unsqueeze(-1)).mul_(own.unsqueeze(-2))
    if not bool(keep.all()):
        both = keep.unsqueeze(-1) & keep.unsqueeze(-2)
        scaled = torch.where(both, scaled, torch.diag_embed((~keep).to(scaled.dtype)))
    with all_cores(scaled):
        lower, info = torch.linalg.cholesky_ex(scaled)
    pivot = lower.diagonal(dim1=-2, dim2=-1)
    positive = (info == 0) & torch.isfinite(pivot).all(-1)  # what is not finite reaches a pivot
    if not bool(positive.all()):
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        lower = torch.where(positive[:, None, None], lower, eye)
    least = pivot.square().amin(-1) if pivot.shape[-1] else diagonal.new_ones(pivot.shape[0])
    return Inverse(lower.mT, scale, keep, torch.where(positive, least, 0.0), positive)


def invert_factor(factor: Tensor, keep: Tensor) -> tuple[Inverse, Tensor]:
    """The inverse from a QR factor `(B, p + 1, p + 1)` of `[sqrt(W) x, s / sqrt(W)]`, and the step.

    The step comes from the orthogonal transform of the working residual, not from normal equations, so that
    it is good to the condition of `x` and not of its square.
    """
    p = keep.shape[-1]
    kept = torch.cat([keep, keep.new_ones(keep.shape[0], 1)], -1)
    masked = torch.where(kept.unsqueeze(-2), factor, 0.0)
    scale = masked[..., :p].square().sum(-2).sqrt()
    scale = torch.where(keep & (scale > 0), scale, 1.0)
    masked = torch.cat([masked[..., :p] / scale.unsqueeze(-2), masked[..., p:]], -1)
    unit = torch.diag_embed((~keep).to(factor.dtype))
    unit = torch.cat([unit, unit.new_zeros(*unit.shape[:-1], 1)], -1)
    whole = triangle(torch.cat([masked, unit], -2))
    upper, right = whole[..., :p, :p], whole[..., :p, p:]
    pivot = upper.diagonal(dim1=-2, dim2=-1).square()
    pivot = pivot.amin(-1) if p else pivot.new_ones(pivot.shape[0])
    step = torch.linalg.solve_triangular(upper, right, upper=True).squeeze(-1) / scale
    return Inverse(upper, scale, keep, pivot, pivot > 0), torch.where(keep, step, 0.0)


def independent_columns(design: Tensor, tolerance: float) -> Tensor:
    """(B, p) True for the columns that do not depend on those before them.

    Judged on scaled columns of a triangular factor `(B, p, p)` of the design by Gram-Schmidt with
    re-orthogonalisation: a column is dropped where less than `tolerance` of its length is its own.
    """
    models, _, p = design.shape
    length = design.square().sum(-2).sqrt()
    unit = design / torch.where(length > 0, length, 1.0).unsqueeze(-2)
    basis = torch.zeros_like(design)
    keep = torch.zeros(models, p, dtype=torch.bool, device=design.device)
    for j in range(p):
        own = unit[..., j]
        for _ in range(2):
            own = own - (basis @ (basis.mT @ own.unsqueeze(-1))).squeeze(-1)
        size = own.square().sum(-1).sqrt()
        keep[:, j] = (size > tolerance) & (length[:, j] > 0)
        basis[..., j] = torch.where(keep[:, j, None], own / torch.where(size > 0, size, 1.0).unsqueeze(-1), 0.0)
    return keep


def independent_of_levels(gram: Tensor, held: Tensor) -> Tensor:
    """(B, p) True for the columns that do not depend on those before them, of a Gram kept as border and diagonal.

    Levels without rows are dropped, and columns behind the factor of which the levels and the columns before them leave
    nothing; `held` (B, p) marks columns that a penalty keeps. Raises `Unsuited` where it takes the rows to tell.
    """
    beside = bordered.others(gram)
    keep = torch.ones_like(held)
    keep[:, ~beside] = gram[:, ~beside, -1] > 0
    places = beside.nonzero()[:, 0]
    behind = places > int((~beside).nonzero()[0])
    share = _own_shares(gram, beside)
    clear = (share > GRAM_PIVOT) | ((share < NOTHING) & behind & ~held[:, beside])
    if not bool(clear.all()):
        raise bordered.Unsuited
    keep[:, beside] = share > GRAM_PIVOT
    return keep


def _own_shares(gram: Tensor, beside: Tensor) -> Tensor:
    """(B, q) what the levels and the kept columns before it leave of each column's squared length."""
    own, across, corner = gram[:, ~beside, -1], gram[:, ~beside, :-1], gram[:, beside, :-1]
    weighted = across * torch.where(own > 0, 1 / own, 0.0).unsqueeze(-1)
    left = corner - weighted.mT @ across
    length = corner.diagonal(dim1=-2, dim2=-1)
    share = torch.zeros_like(length)
    for j in range(length.shape[-1]):
        pivot = left[:, j, j].clone()
        share[:, j] = torch.where(length[:, j] > 0, pivot / length[:, j], 0.0)
        used = (share[:, j] > GRAM_PIVOT).unsqueeze(-1)
        row = torch.where(used, left[:, j] / torch.where(used[:, 0], pivot, 1.0).unsqueeze(-1), 0.0)
        left = left - left[:, :, j : j + 1] * row.unsqueeze(-2)
    return share


def invert(moments: Moments, keep: Tensor, factored: Tensor, ridge: Tensor | None = None) -> Inverted:
    """The inverse of the information of every model, by the factor where `factored` (B,) says so."""
    gram = bordered.with_ridge(moments.gram, ridge)
    if bordered.is_arrow(gram):
        return invert_arrow(gram, keep)
    inverse = invert_gram(gram, keep)
    if moments.factor is None or not bool(factored.any()):
        return inverse
    exact, _ = invert_factor(_with_ridge(moments.factor, ridge, None), keep)
    parts = ((getattr(exact, f.name), getattr(inverse, f.name)) for f in fields(Inverse))
    return Inverse(*(torch.where(factored.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in parts))


def factor_step(factor: Tensor, keep: Tensor, ridge: Tensor | None, coef: Tensor) -> Tensor:
    """The least squares step `(B, p)` from a QR factor of the working rows, the ridge as p more rows."""
    return invert_factor(_with_ridge(factor, ridge, coef), keep)[1]


def _with_ridge(factor: Tensor, ridge: Tensor | None, coef: Tensor | None) -> Tensor:
    if ridge is None:
        return factor
    root = ridge.sqrt()
    pull = torch.zeros_like(root) if coef is None else -root * coef
    extra = torch.cat([torch.diag_embed(root), pull.unsqueeze(-1)], -1)
    return triangle(torch.cat([factor, extra], -2))


def null_space_free(coef: Tensor, design: Tensor, tolerance: float) -> Tensor:
    """The coefficients of least length among those with the same fitted values; `design` (B, p, p)."""
    length = design.square().sum(-2).sqrt()
    size = torch.where(length > 0, length, 1.0)
    _, values, right = torch.linalg.svd(design / size.unsqueeze(-2))
    row_space = right * (values > tolerance * values.amax(-1, keepdim=True)).unsqueeze(-1)
    null = right - row_space
    # null vectors of the scaled design, in the units of the coefficients, made orthonormal
    directions = (null / size.unsqueeze(-2)).mT
    left, strength, _ = torch.linalg.svd(directions, full_matrices=False)
    left = left * (strength > 1e-12 * strength.amax(-1, keepdim=True).clamp(min=1e-300)).unsqueeze(-2)
    return coef - (left @ (left.mT @ coef.unsqueeze(-1))).squeeze(-1)
