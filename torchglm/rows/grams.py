"""Information matrices `x' W x` as they are kept: with all pairs of columns, or with a border and a diagonal.

No two levels of a factor meet in a row, so that their part of a Gram is diagonal. Where a factor has very many levels
that diagonal is all that is kept of them beside the border, their sums with the `q` other columns. Elimination of the
levels (the Schur complement) leaves a system of `q` columns: 100,000 levels cost `100,000 q^2` operations and not their
cube. The design of the rows says by its `Layout` which kind it is. Source: Golub & Van Loan (2013), Matrix
Computations, section 3.2.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from torchglm.rows.inverses import (
    BorderedInverse,
    BorderedRoot,
    DenseInverse,
    DenseRoot,
    GramInverse,
    Root,
    Stacked,
    UnmadeRoot,
    check_size,
    unmade,
)
from torchglm.rows.threads import all_cores

if TYPE_CHECKING:
    from typing_extensions import Self

# Below this squared pivot of the scaled Gram (a multiple correlation of 1 - 1e-7) a QR factor takes its place.
GRAM_PIVOT = 1e-7
NOTHING = 1e-12  # a smaller squared pivot beside the levels of a factor is rounding


@dataclass(frozen=True)
class Layout:
    """How a design of so many `columns` keeps its Grams: `levels` are those that a diagonal is kept of, if any.

    A Gram that is not `made` is its diagonal alone.
    """

    columns: int
    levels: slice | None = None
    made: bool = True

    @property
    def numbers(self) -> int:
        """The numbers of a Gram of one model, about: those of the border or of all pairs."""
        beside = self.columns if self.levels is None else self.columns - (self.levels.stop - self.levels.start) + 1
        return self.columns * beside

    def with_columns(self, more: int) -> Layout:
        """The layout with so many columns behind."""
        return Layout(self.columns + more, self.levels)

    def check(self) -> None:
        """Raise `ValueError` where a Gram has too many numbers."""
        if self.levels is None:
            check_size(self.columns)

    def gram(self, models: int, device: torch.device | str = "cpu") -> Gram:
        """The Gram of no rows."""
        if not self.made:
            return Unmade(_zeros(device, models, self.columns))
        if self.levels is None:
            return Dense(_zeros(device, models, self.columns, self.columns))
        count = self.levels.stop - self.levels.start
        beside = self.columns - count
        corner, across = _zeros(device, models, beside, beside), _zeros(device, models, count, beside)
        return Bordered(corner, across, _zeros(device, models, count), self.levels.start)

    def root(self, models: int, device: torch.device | str = "cpu") -> Root:
        """Room for the root of an inverse, zero."""
        if not self.made:
            return UnmadeRoot(_zeros(device, models, self.columns))
        if self.levels is None:
            return DenseRoot(_zeros(device, models, self.columns, self.columns))
        beside = self.columns - (self.levels.stop - self.levels.start)
        return BorderedRoot(_zeros(device, models, self.columns, beside), _zeros(device, models, self.columns))


class Gram(Stacked):
    """`x' W x` of `B` models; Grams of the same design add."""

    def __add__(self, other: Self) -> Self:
        return self.zip(torch.add, other)

    def scaled(self, factor: Tensor) -> Self:
        """The Gram times a number for each model `(B,)`."""
        return self.map(lambda part: part * factor.view(-1, *[1] * (part.dim() - 1)))

    def finite(self) -> Tensor:
        """(B,) True where every sum is a finite number."""
        known = [torch.isfinite(part).flatten(1).all(-1) for part in self.parts.values()]
        return torch.stack(known).all(0)

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """The layout of its kind."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """(B, p) the diagonal."""

    @abstractmethod
    def with_ridge(self, ridge: Tensor | None) -> Self:
        """The Gram with `ridge` (B, p) added to its diagonal; to a dense one (B, p, p) to all pairs."""

    @abstractmethod
    def with_columns(self, across: Tensor, corner: Tensor) -> Self:
        """The Gram with columns behind, whose products with these are `across` (B, p, s), their own `corner`."""

    @abstractmethod
    def written_out(self) -> Tensor:
        """(B, p, p) all pairs of columns. Raises `ValueError` where that is too much."""

    @abstractmethod
    def invert(self, keep: Tensor) -> GramInverse:
        """The inverse on the kept columns `(B, p)`."""

    @abstractmethod
    def independent(self, held: Tensor) -> tuple[Tensor, Tensor]:
        """(B, p) the columns that do not depend on those before them, and (B,) where it takes the rows to tell.

        `held` (B, p) marks columns that a penalty keeps.
        """


@final
@dataclass(frozen=True)
class Dense(Gram):
    """`matrix` (B, p, p), all pairs of columns."""

    matrix: Tensor

    @property
    def parts(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}

    def of(self, parts: dict[str, Tensor]) -> Dense:
        return Dense(**parts)

    @property
    def layout(self) -> Layout:
        return Layout(self.matrix.shape[-1])

    def __add__(self, other: Dense) -> Dense:
        return Dense(self.matrix + other.matrix)

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal(dim1=-2, dim2=-1)

    def with_columns(self, across: Tensor, corner: Tensor) -> Dense:
        return Dense(torch.cat([torch.cat([self.matrix, across], -1), torch.cat([across.mT, corner], -1)], -2))

    def with_ridge(self, ridge: Tensor | None) -> Dense:
        return self if ridge is None else Dense(self.matrix + (ridge if ridge.dim() == 3 else torch.diag_embed(ridge)))

    def written_out(self) -> Tensor:
        return self.matrix

    def invert(self, keep: Tensor) -> DenseInverse:
        return invert_scaled(self.matrix, keep, self.diagonal())

    def independent(self, held: Tensor) -> tuple[Tensor, Tensor]:
        keep = torch.ones_like(held)
        inverse = self.invert(keep)
        return keep, ~inverse.positive | ~(inverse.pivot >= GRAM_PIVOT)


@final
@dataclass(frozen=True)
class Bordered(Gram):
    """`corner` (B, q, q) of the other columns, `across` (B, L, q) of the levels with them, `own` (B, L) of the levels.

    The levels are the columns `first` to `first + L`.
    """

    corner: Tensor
    across: Tensor
    own: Tensor
    first: int

    @property
    def parts(self) -> dict[str, Tensor]:
        return {"corner": self.corner, "across": self.across, "own": self.own}

    def of(self, parts: dict[str, Tensor]) -> Bordered:
        return Bordered(**parts, first=self.first)

    @property
    def layout(self) -> Layout:
        return Layout(self.corner.shape[-1] + self.own.shape[-1], self.levels)

    @property
    def levels(self) -> slice:
        """The columns of the factor."""
        return slice(self.first, self.first + self.own.shape[-1])

    def others(self, values: Tensor) -> Tensor:
        """(B, q, ...) those of values `(B, p, ...)` that belong to the other columns."""
        return torch.cat([values[:, : self.first], values[:, self.levels.stop :]], 1)

    def whole(self, others: Tensor, levels: Tensor) -> Tensor:
        """(B, p, ...) values of the other columns and of the levels in the order of the columns."""
        return torch.cat([others[:, : self.first], levels, others[:, self.first :]], 1)

    def diagonal(self) -> Tensor:
        return self.whole(self.corner.diagonal(dim1=-2, dim2=-1), self.own)

    def with_columns(self, across: Tensor, corner: Tensor) -> Bordered:
        own = Dense(self.corner).with_columns(self.others(across), corner).matrix
        return Bordered(own, torch.cat([self.across, across[:, self.levels]], -1), self.own, self.first)

    def with_ridge(self, ridge: Tensor | None) -> Bordered:
        if ridge is None:
            return self
        corner = self.corner + torch.diag_embed(self.others(ridge))
        return Bordered(corner, self.across, self.own + ridge[:, self.levels], self.first)

    def written_out(self) -> Tensor:
        check_size(self.corner.shape[-1] + self.own.shape[-1])
        border = self.whole(self.corner, self.across)  # (B, p, q)
        levels = self.whole(self.across.mT, torch.diag_embed(self.own))  # (B, p, L)
        return torch.cat([border[..., : self.first], levels, border[..., self.first :]], -1)

    def invert(self, keep: Tensor) -> BorderedInverse:
        """The inverse: the levels are eliminated, and the Schur complement of the other columns is inverted."""
        held = keep[:, self.levels]
        each = torch.where(held & (self.own > 0), 1 / self.own, 0.0)
        share = self.across * each.unsqueeze(-1)
        length = self.corner.diagonal(dim1=-2, dim2=-1)
        inner = invert_scaled(self.corner - share.mT @ self.across, self.others(keep), length)
        border = self.whole(inner.root.matrix, -(share @ inner.root.matrix))
        own = self.whole(torch.zeros_like(length), each)
        positive = inner.positive & ((self.own > 0) | ~held).all(-1)
        return BorderedInverse(BorderedRoot(border, own), torch.where(positive, inner.pivot, 0.0), positive)

    def independent(self, held: Tensor) -> tuple[Tensor, Tensor]:
        """Levels without rows depend, and columns behind them of which levels and earlier columns leave nothing."""
        share = self._own_shares()
        behind = torch.arange(share.shape[-1], device=share.device) >= self.first
        clear = (share > GRAM_PIVOT) | ((share < NOTHING) & behind & ~self.others(held))
        return self.whole(share > GRAM_PIVOT, self.own > 0), ~clear.all(-1)

    def _own_shares(self) -> Tensor:
        """(B, q) what the levels and the kept columns before it leave of each column's squared length."""
        weighted = self.across * torch.where(self.own > 0, 1 / self.own, 0.0).unsqueeze(-1)
        left = self.corner - weighted.mT @ self.across
        length = self.corner.diagonal(dim1=-2, dim2=-1)
        share = torch.zeros_like(length)
        for j in range(length.shape[-1]):
            pivot = left[:, j, j].clone()
            share[:, j] = torch.where(length[:, j] > 0, pivot / length[:, j], 0.0)
            used = (share[:, j] > GRAM_PIVOT).unsqueeze(-1)
            row = torch.where(used, left[:, j] / torch.where(used[:, 0], pivot, 1.0).unsqueeze(-1), 0.0)
            left = left - left[:, :, j : j + 1] * row.unsqueeze(-2)
        return share


@final
@dataclass(frozen=True)
class Unmade(Gram):
    """Of very many columns: `alone` (B, p) is the diagonal, all that is kept. Other questions raise `ValueError`."""

    alone: Tensor

    @property
    def parts(self) -> dict[str, Tensor]:
        return {"alone": self.alone}

    def of(self, parts: dict[str, Tensor]) -> Unmade:
        return Unmade(**parts)

    @property
    def layout(self) -> Layout:
        return Layout(self.alone.shape[-1], made=False)

    def diagonal(self) -> Tensor:
        return self.alone

    def with_ridge(self, ridge: Tensor | None) -> Unmade:
        return self if ridge is None else Unmade(self.alone + ridge)

    def with_columns(self, across: Tensor, corner: Tensor) -> Unmade:
        raise unmade(self.alone.shape[-1])

    def written_out(self) -> Tensor:
        raise unmade(self.alone.shape[-1])

    def invert(self, keep: Tensor) -> GramInverse:
        raise unmade(self.alone.shape[-1])

    def independent(self, held: Tensor) -> tuple[Tensor, Tensor]:
        raise unmade(self.alone.shape[-1])


def invert_scaled(matrix: Tensor, keep: Tensor, size: Tensor) -> DenseInverse:
    """The inverse of a matrix `(B, p, p)` on the kept columns `(B, p)`, by Cholesky on scaled columns.

    `size` (B, p) are the squares of the lengths that pivots are shares of.
    """
    scale = torch.where(keep & (size > 0), size, 1.0).sqrt()
    own = torch.where(keep, 1 / scale, 0.0)
    scaled = (matrix * own.unsqueeze(-1)).mul_(own.unsqueeze(-2))
    if not bool(keep.all()):
        both = keep.unsqueeze(-1) & keep.unsqueeze(-2)
        scaled = torch.where(both, scaled, torch.diag_embed((~keep).to(scaled.dtype)))
    with all_cores(scaled):
        lower, info = torch.linalg.cholesky_ex(scaled)
    pivot = lower.diagonal(dim1=-2, dim2=-1)
    positive = (info == 0) & torch.isfinite(pivot).all(-1)  # what is not finite reaches a pivot
    if not bool(positive.all()):
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        lower = torch.where(positive[:, None, None], lower, eye)
    least = pivot.square().amin(-1) if pivot.shape[-1] else size.new_ones(pivot.shape[0])
    return DenseInverse(lower.mT, scale, keep, torch.where(positive, least, 0.0), positive)


def _zeros(device: torch.device | str, *shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64, device=device)
