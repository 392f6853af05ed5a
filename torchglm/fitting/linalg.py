"""Small dense algebra of a step: solve, judge the condition, find the rank. All in float64, on scaled columns."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.fitting.moments import Moments
from torchglm.rows.grams import GRAM_PIVOT, Gram
from torchglm.rows.inverses import DenseInverse, GramInverse
from torchglm.rows.products import triangle

SINGLE_PIVOT = 1e-2  # and above this one of its seven digits in float32 do for a step
FLATTEST = 1e-10  # curvature of a direction, of columns scaled to 1, below which a step takes it for this
RANGE = 1e-13  # share of the largest eigenvalue of a penalty below which one is rounding
SAME = 1e-6  # share of a squared length by which those of a Gram and of a factor of the same rows differ at most
SINGLE_RANGE = (1e-12, 1e24)  # of its diagonal, whose terms and sums float32 holds


def allows_single(gram: Gram, inverse: GramInverse) -> Tensor:
    """(B,) True where a Gram of the same columns at a point near by may be summed in float32, for a step's sake.

    Its digits then are far more than the condition takes, and nothing overflows.
    """
    least, most = torch.aminmax(gram.diagonal(), dim=-1)
    return inverse.positive & (inverse.pivot >= SINGLE_PIVOT) & (least > SINGLE_RANGE[0]) & (most < SINGLE_RANGE[1])


class Factored(NamedTuple):
    """The Cholesky factor `lower` (B, p, p) of Grams whose columns were multiplied by `scale` (B, p).

    It is `sound` (B,) where its smallest squared pivot is at least `GRAM_PIVOT`.
    """

    lower: Tensor
    scale: Tensor
    sound: Tensor

    @classmethod
    def of(cls, gram: Gram) -> Factored:
        """That of a Gram on all columns; without an inverse: half the time of `Gram.invert`."""
        scale = gram.diagonal().rsqrt()
        lower, info = torch.linalg.cholesky_ex(gram.written_out() * scale.unsqueeze(-1) * scale.unsqueeze(-2))
        return cls(lower, scale, (info == 0) & (lower.diagonal(dim1=-2, dim2=-1).amin(-1) >= GRAM_PIVOT**0.5))

    def step(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """The step `gram^-1 score` (B, p), and its decrement `score' gram^-1 score`."""
        right = (score * self.scale).unsqueeze(-1)
        delta = torch.cholesky_solve(right, self.lower).squeeze(-1) * self.scale
        return delta, torch.linalg.vecdot(score, delta)

    def beside(self, other: Factored, chosen: Tensor) -> Factored:
        """These, and of the models `chosen` (B,) the other ones."""
        if not bool(chosen.any()):
            return self
        pairs = zip(self, other, strict=True)
        return Factored(*(torch.where(chosen.view(-1, *[1] * (new.dim() - 1)), old, new) for new, old in pairs))

    def take(self, models: Tensor) -> Factored:
        """Those of some of the models."""
        return Factored(*(part[models] for part in self))


def newton_step(moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """The step on all columns, its decrement, and whether it is sound, see `Factored`."""
    factored = Factored.of(moments.gram)
    return *factored.step(moments.score), factored.sound


class Behind(NamedTuple):
    """Parameters behind the coefficients: their information `own` (B, S, S) and `score` (B, S)."""

    own: Tensor
    score: Tensor

    @classmethod
    def of(cls, moments: Moments, shapes: int) -> Behind | None:
        """Those of so many shapes, None of none."""
        if not shapes:
            return None
        return cls(moments.gram.written_out()[:, -shapes:, -shapes:], moments.score[:, -shapes:])

    def beside(self, upper: Tensor, right: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Factor, right side and (B,) whether their block is positive, on columns divided by `scale` (B, p).

        A block that is not is made so, for a step's sake.
        """
        shapes = self.score.shape[-1]
        p, own = upper.shape[-1] - shapes, scale[:, -shapes:]
        across, first = upper[:, :p, p:], right[:, :p]
        left = self.own / own.unsqueeze(-1) / own.unsqueeze(-2) - across.mT @ across
        positive = torch.linalg.cholesky_ex(left)[1] == 0
        sound = torch.where(positive[:, None, None], left, made_positive(left, torch.ones_like(own, dtype=torch.bool)))
        root = torch.linalg.cholesky_ex(sound, upper=True)[0]
        slope = (self.score / own).unsqueeze(-1) - across.mT @ first
        second = torch.linalg.solve_triangular(root.mT, slope, upper=False)
        below = torch.cat([torch.zeros_like(across.mT), root], -1)
        return torch.cat([upper[:, :p], below], -2), torch.cat([first, second], -2), positive


def invert_factor(factor: Tensor, keep: Tensor, behind: Behind | None = None) -> tuple[DenseInverse, Tensor]:
    """The inverse from a QR factor `(B, p + 1, p + 1)` of `[sqrt(W) x, s / sqrt(W)]`, and the step.

    The step comes from the orthogonal transform of the working residual, not from normal equations, so that
    it is good to the condition of `x` and not of its square. Of parameters `behind` the coefficients the factor has
    `v / sqrt(W)` for columns: their own block is the Schur complement `D - r'r`, `r` what the factor has of them in the
    rows of the coefficients.
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
    positive = torch.ones_like(keep[:, 0]) if p else torch.ones(keep.shape[0], dtype=torch.bool, device=keep.device)
    if behind is not None:
        upper, right, positive = behind.beside(upper, right, scale)
    pivot = upper.diagonal(dim1=-2, dim2=-1).square()
    pivot = pivot.amin(-1) if p else pivot.new_ones(pivot.shape[0])
    step = torch.linalg.solve_triangular(upper, right, upper=True).squeeze(-1) / scale
    return DenseInverse(upper, scale, keep, pivot, positive & (pivot > 0)), torch.where(keep, step, 0.0)


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


def invert(
    moments: Moments, keep: Tensor, factored: Tensor, ridge: Tensor | None = None, shapes: int = 0
) -> GramInverse:
    """The inverse of the information of every model, by the factor where `factored` (B,) says so.

    With `shapes` behind the coefficients only where no row bends the other way, which a factor does not hold.
    """
    inverse = moments.gram.with_ridge(ridge).invert(keep)
    if moments.factor is None or not bool(factored.any()):
        return inverse
    exact, _ = invert_factor(_with_ridge(moments.factor, ridge, None), keep, Behind.of(moments, shapes))
    if shapes:
        p = keep.shape[-1] - shapes
        own, length = moments.gram.diagonal()[:, :p], moments.factor[..., :p].square().sum(-2)
        factored = factored & ((length - own).abs() <= SAME * length).all(-1)
    parts = ((getattr(exact, f.name), getattr(inverse, f.name)) for f in fields(DenseInverse))
    return DenseInverse(*(torch.where(factored.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in parts))


def made_positive(matrix: Tensor, keep: Tensor) -> Tensor:
    """Symmetric matrices (B, p, p) with the absolute values of their eigenvalues, on columns scaled to one diagonal.

    Where a likelihood bends up a step with these leads down, as far as it would where it bent down as much.
    Source: Gill, Murray & Wright (1981), Practical Optimization, section 4.4.2.
    """
    both = keep.unsqueeze(-1) & keep.unsqueeze(-2)
    own = torch.where(both, torch.nan_to_num(matrix, nan=0.0, posinf=0.0, neginf=0.0), 0.0)
    size = own.square().sum(-1).pow(0.25)  # of the rows: a diagonal may be 0 or negative
    scale = torch.where(size > 0, size, 1.0)
    values, vectors = torch.linalg.eigh(own / scale.unsqueeze(-1) / scale.unsqueeze(-2))
    most = values.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    kept = (vectors * torch.maximum(values.abs(), FLATTEST * most).unsqueeze(-2)) @ vectors.mT
    return torch.where(both, kept * scale.unsqueeze(-1) * scale.unsqueeze(-2), matrix)


def factor_step(moments: Moments, keep: Tensor, ridge: Tensor | None, slope: Tensor | None, shapes: int = 0) -> Tensor:
    """The least squares step `(B, p)` from a QR factor of the working rows, a quadratic penalty as p more rows."""
    assert moments.factor is not None
    return invert_factor(_with_ridge(moments.factor, ridge, slope), keep, Behind.of(moments, shapes))[1]


def _with_ridge(factor: Tensor, ridge: Tensor | None, slope: Tensor | None) -> Tensor:
    """The factor with rows of a penalty whose curvature `ridge` is (B, p), a diagonal, or (B, p, p)."""
    if ridge is None:
        return factor
    if ridge.dim() == 2:
        root = ridge.sqrt()
        pull = torch.zeros_like(root) if slope is None else -slope / torch.where(root > 0, root, 1.0)
        extra = torch.cat([torch.diag_embed(root), pull.unsqueeze(-1)], -1)
    else:
        root, back = _semidefinite_root(ridge)
        right = torch.zeros_like(ridge[..., :1]) if slope is None else -slope.unsqueeze(-1)
        extra = torch.cat([root.mT, back.mT @ right], -1)
    return triangle(torch.cat([factor, extra], -2))


def _semidefinite_root(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A root `R` (B, p, p) with `R R' = matrix`, and `R` of its pseudo-inverse, on scaled columns."""
    size = matrix.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = torch.where(size > 0, 1 / torch.where(size > 0, size, 1.0), 0.0)
    values, vectors = torch.linalg.eigh(matrix * scale.unsqueeze(-1) * scale.unsqueeze(-2))
    held = values > RANGE * values.amax(-1, keepdim=True).clamp(min=1e-300)
    root = torch.where(held, values, 0.0).sqrt().unsqueeze(-2)
    inverse = torch.where(held, 1 / torch.where(held, values, 1.0), 0.0).sqrt().unsqueeze(-2)
    return size.unsqueeze(-1) * vectors * root, scale.unsqueeze(-1) * vectors * inverse


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
