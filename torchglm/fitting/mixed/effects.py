"""Random effects as columns of a design, and the root of their covariance.

The coefficients of a model with random effects are `c = Lambda u`. The first `p` columns are those of the fixed effects
and of smooths, in a basis where what is penalised stands apart; then come the groupings. Of a grouping the effects of
each level are `T u_l` with `u_l ~ N(0, phi I)` and `T` (q, q) lower triangular, so that their covariance is
`phi T T'`. A singular `T` is a point as any other: nothing is divided by a variance.
Source: Bates, Maechler, Bolker & Walker (2015), J. Stat. Software 67(1), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.rows.arrow import Grouping, largest


@dataclass(frozen=True)
class Groupings:
    """The groupings of a design behind its first `columns`, each with its sets of effects that are correlated.

    `correlated[k]` partitions the effects of grouping `k`: those of one set have a covariance of their own.
    """

    columns: int
    groupings: tuple[Grouping, ...]
    correlated: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def width(self) -> int:
        """The number of all columns."""
        return self.columns + sum(g.levels * g.effects for g in self.groupings)

    @property
    def large(self) -> int:
        """The grouping that is eliminated."""
        return largest(self.groupings)

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

    def roots(self, theta: Tensor, scale: Sequence[Tensor]) -> list[Tensor]:
        """The roots `T` (B, q, q) of each grouping, for parameters (B, E) in units `scale` (B, q) of the effects."""
        found = [theta.new_zeros(len(theta), g.effects, g.effects) for g in self.groupings]
        for e, (k, row, column) in enumerate(self.entries):
            found[k][:, row, column] = theta[:, e] * scale[k][:, row]
        return found

    def theta(self, roots: Sequence[Tensor], scale: Sequence[Tensor]) -> Tensor:
        """The inverse of `roots`."""
        return torch.stack([roots[k][:, row, column] / scale[k][:, row] for k, row, column in self.entries], -1)


class Lambda:
    """The map `c = Lambda u` for `B` models: a rotation (p, p) of the first columns, and the roots of the groupings."""

    def __init__(self, effects: Groupings, rotation: Tensor, roots: Sequence[Tensor]) -> None:
        self.effects, self.rotation, self.roots = effects, rotation, list(roots)
        self.large = effects.large
        self.root = self.roots[self.large]  # (B, q, q) of the grouping that is eliminated
        start, self.beside = effects.columns, list[tuple[slice, Grouping, Tensor]]()
        for k, grouping in enumerate(effects.groupings):
            if k != self.large:
                size = grouping.levels * grouping.effects
                self.beside.append((slice(start, start + size), grouping, self.roots[k]))
                start += size

    def times(self, u: Tensor) -> Tensor:
        """(B, P) `Lambda u`."""
        return self._all(u, False)

    def transposed(self, c: Tensor) -> Tensor:
        """(B, P) `Lambda' c`."""
        return self._all(c, True)

    def _all(self, value: Tensor, transpose: bool) -> Tensor:
        out, p = value.clone(), self.effects.columns
        out[:, :p] = value[:, :p] @ (self.rotation if transpose else self.rotation.mT)
        for grouping, root in zip(self.effects.groupings, self.roots, strict=True):
            part = value[:, grouping.columns].unflatten(1, (grouping.effects, grouping.levels))
            out[:, grouping.columns] = ((root.mT if transpose else root) @ part).flatten(1)
        return out

    def right(self, matrix: Tensor, transpose: bool = False) -> Tensor:
        """A matrix (B, *, m) over the columns that are not eliminated, times `Lambda` of these, or its transpose."""
        out, p = matrix.clone(), self.effects.columns
        out[..., :p] = matrix[..., :p] @ (self.rotation.mT if transpose else self.rotation)
        for at, grouping, root in self.beside:
            part = matrix[..., at].unflatten(-1, (grouping.effects, grouping.levels))
            turn = (root if transpose else root.mT).view(len(root), *[1] * (matrix.dim() - 2), *root.shape[1:])
            out[..., at] = (turn @ part).flatten(-2)
        return out

    def both(self, matrix: Tensor) -> Tensor:
        """`Lambda' A Lambda` of a matrix (B, m, m) over the columns that are not eliminated."""
        return self.right(self.right(matrix).mT).mT
