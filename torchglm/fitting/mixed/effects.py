"""Random effects as columns of a design, and the root of their covariance.

The coefficients of a model with random effects are `c = Lambda u`. The first `p` columns are those of the fixed effects
and of smooths, in a basis where what is penalised stands apart; then come the groupings. Of a grouping the effects of
each level are `T u_l` with `u_l ~ N(0, phi I)` and `T` (q, q) lower triangular, so that their covariance is
`phi T T'`. A singular `T` is a point as any other: nothing is divided by a variance.
Source: Bates, Maechler, Bolker & Walker (2015), J. Stat. Software 67(1), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchglm.rows.arrow import Arrow, Grouping, largest
from torchglm.rows.meetings import CrossedGram, EffectGram

PAIRS = 1 << 27  # numbers of the pairs between levels of crossed groupings, and these with themselves


@dataclass(frozen=True)
class Groupings:
    """The groupings of a design behind its first `columns`, each with its sets of effects that are correlated.

    `correlated[k]` partitions the effects of grouping `k`: those of one set have a covariance of their own. `names` are
    those of the groupings, `labels[k]` those of their effects.
    """

    columns: int
    groupings: tuple[Grouping, ...]
    correlated: tuple[tuple[tuple[int, ...], ...], ...]
    names: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]

    @property
    def width(self) -> int:
        """The number of all columns."""
        return self.columns + sum(g.levels * g.effects for g in self.groupings)

    @property
    def large(self) -> int:
        """The grouping that is eliminated."""
        return largest(self.groupings)

    def small(self, many: int) -> bool:
        """Whether fewer than so many effects are left beside the grouping that is eliminated."""
        return self.width - self.columns - max(g.levels * g.effects for g in self.groupings) < many

    def check(self, models: int) -> None:
        """Raise `ValueError` where the levels of crossed groupings have too many pairs, all of which are kept."""
        sizes = sorted((g.levels * g.effects for g in self.groupings), reverse=True)
        beside = self.width - sizes[0]
        if len(sizes) == 1 or models * beside * self.width <= PAIRS:
            return
        said, gigabytes = " and ".join(f"{size:,}" for size in sizes), 8e-9 * models * beside * self.width
        each = f", for each of {models:,} models" if models > 1 else ""
        raise ValueError(
            f"the groupings of random effects have {said} effects. The largest is eliminated, and of the {beside:,} "
            f"other columns all pairs are kept, with one another and with those{each}: {gigabytes:,.1f} GB, more than "
            f"the {8e-9 * PAIRS:,.1f} GB that are made. Pool rare levels of the smaller groupings, or absorb them, "
            "y ~ x | a + b."
        )

    @property
    def beside(self) -> list[slice]:
        """Where the columns of the groupings that are not the largest lie among all others, in their order."""
        start, found = self.columns, list[slice]()
        for k, g in enumerate(self.groupings):
            if k != self.large:
                found.append(slice(start, start + g.levels * g.effects))
                start += g.levels * g.effects
        return found

    def blocks(self, matrix: EffectGram) -> list[Tensor]:
        """(B, L, q, q) of each grouping the blocks of its levels on the diagonal."""
        if isinstance(matrix, CrossedGram):
            return matrix.own
        found, beside = list[Tensor](), iter(self.beside)
        for k, g in enumerate(self.groupings):
            if k == self.large:
                found.append(matrix.own)
                continue
            at, shape = next(beside), (g.effects, g.levels)
            block = matrix.corner[:, at, at].unflatten(2, shape).unflatten(1, shape)
            found.append(block.diagonal(dim1=2, dim2=4).permute(0, 3, 1, 2))
        return found

    def borders(self, matrix: EffectGram) -> list[Tensor]:
        """(B, L, q, p) of each grouping what stands between its levels and the first columns."""
        p = self.columns
        if isinstance(matrix, CrossedGram):
            return matrix.border
        found, beside = list[Tensor](), iter(self.beside)
        for k, g in enumerate(self.groupings):
            if k == self.large:
                found.append(matrix.across[..., :p])
                continue
            part = matrix.corner[:, next(beside), :p].unflatten(1, (g.effects, g.levels))
            found.append(part.transpose(1, 2))
        return found

    @property
    def entries(self) -> list[tuple[int, int, int]]:
        """Grouping, row and column of every parameter of the roots `T`: lower triangles, column by column."""
        return [
            (k, row, column)
            for k, sets in enumerate(self.correlated)
            for inside in sets
            for place, column in enumerate(inside)
            for row in inside[place:]
        ]

    def triangles(self, theta: Tensor) -> list[Tensor]:
        """The lower triangular matrices (B, q, q) of each grouping that parameters (B, E) fill."""
        found = [theta.new_zeros(len(theta), g.effects, g.effects) for g in self.groupings]
        for e, (k, row, column) in enumerate(self.entries):
            found[k][:, row, column] = theta[:, e]
        return found

    def roots(self, theta: Tensor, units: Sequence[Tensor]) -> list[Tensor]:
        """The roots `T` (B, q, q) of each grouping, for parameters (B, E) in `units` (B, q, q) of the effects."""
        return [unit @ own for unit, own in zip(units, self.triangles(theta), strict=True)]

    def theta(self, covariances: Sequence[Tensor], units: Sequence[Tensor]) -> Tensor:
        """(B, E) the parameters of covariances (B, q, q) in `units`; NaN where one is not positive definite."""
        found = [torch.full_like(whole, torch.nan) for whole in covariances]
        for out, whole, unit, sets in zip(found, covariances, units, self.correlated, strict=True):
            back = torch.linalg.inv(unit)
            own = (back @ (whole * self.mask(sets, whole)) @ back.mT).nan_to_num()
            for inside in sets:
                at = torch.tensor(inside, device=whole.device)
                lower, info = torch.linalg.cholesky_ex(own[:, at.unsqueeze(-1), at])
                out[:, at.unsqueeze(-1), at] = torch.where((info == 0)[:, None, None], lower, torch.nan)
        return torch.stack([found[k][:, row, column] for k, row, column in self.entries], -1)

    @staticmethod
    def mask(sets: Sequence[Sequence[int]], like: Tensor) -> Tensor:
        """(q, q) 1 for pairs of effects that are correlated, and on the diagonal."""
        out = torch.zeros(like.shape[-2:], dtype=like.dtype, device=like.device)
        for inside in sets:
            at = torch.tensor(inside, device=like.device)
            out[at.unsqueeze(-1), at] = 1.0
        return out


def unit_of(information: Tensor) -> Tensor:
    """(B, q, q) units in which the mean information (B, q, q) of the effects of a level is the identity.

    Neither the scale nor the origin of a slope's column is then seen by the search.
    """
    size = information.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(size > 0, size, 1.0).rsqrt()
    eye = torch.eye(information.shape[-1], dtype=information.dtype, device=information.device)
    whole = information * scale.unsqueeze(-1) * scale.unsqueeze(-2) + 1e-8 * eye
    lower, info = torch.linalg.cholesky_ex(whole)
    lower = torch.where((info == 0)[:, None, None], lower, eye)
    return scale.unsqueeze(-1) * torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False).mT


class Lambda:
    """The map `c = Lambda u` for `B` models: a rotation (p, p) of the first columns, and the roots of the groupings.

    Without a rotation the first columns are as they are.
    """

    def __init__(self, effects: Groupings, rotation: Tensor | None, roots: Sequence[Tensor]) -> None:
        self.effects, self.rotation, self.roots = effects, rotation, list(roots)
        self.large = effects.large
        self.root = self.roots[self.large]  # (B, q, q) of the grouping that is eliminated
        others = [k for k in range(len(roots)) if k != self.large]
        self.beside = [(at, effects.groupings[k], self.roots[k]) for at, k in zip(effects.beside, others, strict=True)]

    def times(self, u: Tensor) -> Tensor:
        """(B, P) `Lambda u`."""
        return self._all(u, False)

    def transposed(self, c: Tensor) -> Tensor:
        """(B, P) `Lambda' c`."""
        return self._all(c, True)

    def _all(self, value: Tensor, transpose: bool) -> Tensor:
        out, p = value.clone(), self.effects.columns
        if self.rotation is not None:
            out[:, :p] = value[:, :p] @ (self.rotation if transpose else self.rotation.mT)
        for grouping, root in zip(self.effects.groupings, self.roots, strict=True):
            part = value[:, grouping.columns].unflatten(1, (grouping.effects, grouping.levels))
            out[:, grouping.columns] = ((root.mT if transpose else root) @ part).flatten(1)
        return out

    def crossed(self, gram: CrossedGram, both: bool = False, transpose: bool = False) -> CrossedGram:
        """A Gram whose border is in the rotated first columns; with `both` `Lambda' G Lambda`, or the transpose."""

        def turned(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
            return left @ matrix @ right.mT if transpose else left.mT @ matrix @ right

        p, like = self.effects.columns, gram.corner
        first = torch.eye(p, dtype=like.dtype, device=like.device) if self.rotation is None else self.rotation
        if not both:
            return replace(gram, border=[part @ first for part in gram.border])
        roots = [root.unsqueeze(1) for root in self.roots]
        return replace(
            gram,
            corner=turned(gram.corner, first, first),
            own=[turned(part, root, root) for part, root in zip(gram.own, roots, strict=True)],
            border=[turned(part, root, first) for part, root in zip(gram.border, roots, strict=True)],
            cross={(k, j): turned(part, roots[k], roots[j]) for (k, j), part in gram.cross.items()},
        )

    def spread(self, like: EffectGram) -> EffectGram:
        """`Lambda Lambda'` of the random effects: their covariance over `phi`, as a matrix of the kind of another."""
        if isinstance(like, CrossedGram):
            none = like.map(torch.zeros_like)
            each = zip(self.roots, none.own, strict=True)
            own = [(root @ root.mT).unsqueeze(1).expand_as(part) for root, part in each]
            return replace(none, own=own)
        return self._spread()

    def _spread(self) -> Arrow:
        grouping = self.effects.groupings[self.large]
        models, levels, q = len(self.root), grouping.levels, grouping.effects
        own = (self.root @ self.root.mT).unsqueeze(1).expand(-1, levels, -1, -1)
        m = self.effects.width - levels * q
        corner = own.new_zeros(models, m, m)
        for at, g, root in self.beside:
            for r in range(g.effects):
                for c in range(g.effects):
                    block = corner[:, at, at].unflatten(2, (g.effects, g.levels)).unflatten(1, (g.effects, g.levels))
                    block[:, r, :, c].diagonal(dim1=-2, dim2=-1).copy_((root @ root.mT)[:, r, c : c + 1])
        return Arrow(corner, own.new_zeros(models, levels, q, m), own, grouping)

    def right(self, matrix: Tensor, transpose: bool = False) -> Tensor:
        """A matrix (B, *, m) over the columns that are not eliminated, times `Lambda` of these, or its transpose."""
        if self.rotation is None and not self.beside:
            return matrix
        out, p = matrix.clone(), self.effects.columns
        if self.rotation is not None:
            out[..., :p] = matrix[..., :p] @ (self.rotation.mT if transpose else self.rotation)
        for at, grouping, root in self.beside:
            part = matrix[..., at].unflatten(-1, (grouping.effects, grouping.levels))
            turn = (root if transpose else root.mT).view(len(root), *[1] * (matrix.dim() - 2), *root.shape[1:])
            out[..., at] = (turn @ part).flatten(-2)
        return out

    def both(self, matrix: Tensor) -> Tensor:
        """`Lambda' A Lambda` of a matrix (B, m, m) over the columns that are not eliminated."""
        return self.right(self.right(matrix).mT).mT
