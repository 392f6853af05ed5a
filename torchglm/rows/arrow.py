"""Grams of designs with random effects: the levels of one grouping factor are blocks of their own, to be eliminated.

A grouping factor of `L` levels with `q` effects each is `q L` columns, effect by effect. No two levels meet in a row,
so that their part of a Gram is `L` blocks (q, q). What is kept beside them is the border: the products with the `m`
other columns, those of other grouping factors among them. Elimination costs `L q m^2` operations.
Source: Bates, Maechler, Bolker & Walker (2015), J. Stat. Software 67(1), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from torchglm.rows.grams import Dense, Gram, Layout
from torchglm.rows.index import Index, between, pairs
from torchglm.rows.indexed import Indexed
from torchglm.rows.inverses import GramInverse
from torchglm.rows.rows import Rows, whole


@dataclass(frozen=True)
class Grouping:
    """The columns of the random effects of one grouping factor: effect `r` of level `l` is `start + r levels + l`."""

    start: int
    levels: int
    effects: int

    @property
    def columns(self) -> slice:
        """All its columns."""
        return slice(self.start, self.start + self.levels * self.effects)

    def places(self, device: torch.device | str = "cpu") -> Tensor:
        """(L, q) the columns by level and effect."""
        return self.start + torch.arange(self.levels * self.effects, device=device).view(self.effects, self.levels).mT


@final
@dataclass(frozen=True)
class Arrow(Gram):
    """`corner` (B, m, m) of the other columns, `across` (B, L, q, m) of the levels with them, `own` (B, L, q, q).

    The other columns keep their order; those of the `grouping` are left out of it.
    """

    corner: Tensor
    across: Tensor
    own: Tensor
    grouping: Grouping

    @property
    def parts(self) -> dict[str, Tensor]:
        return {"corner": self.corner, "across": self.across, "own": self.own}

    def of(self, parts: dict[str, Tensor]) -> Arrow:
        return Arrow(**parts, grouping=self.grouping)

    @staticmethod
    def of_pairs(matrix: Tensor, grouping: Grouping) -> Arrow:
        """From a Gram (B, P, P) of all pairs."""
        at = grouping.places(matrix.device)
        other = _others(matrix.shape[-1], grouping, matrix.device)
        return Arrow(
            matrix[:, other.unsqueeze(-1), other],
            matrix[:, at.unsqueeze(-1), other],
            matrix[:, at.unsqueeze(-1), at.unsqueeze(-2)],
            grouping,
        )

    @property
    def width(self) -> int:
        """The number of all columns."""
        return self.corner.shape[-1] + self.grouping.levels * self.grouping.effects

    @property
    def layout(self) -> Layout:
        return ArrowLayout(self.width, grouping=self.grouping)

    def split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values (B, P) of the other columns (B, m), and by level and effect (B, L, q)."""
        return split(values, self.grouping)

    def joined(self, others: Tensor, levels: Tensor) -> Tensor:
        """(B, P) from values of the other columns (B, m) and by level and effect (B, L, q)."""
        first = self.grouping.start
        return torch.cat([others[:, :first], levels.mT.flatten(1), others[:, first:]], 1)

    def diagonal(self) -> Tensor:
        return self.joined(self.corner.diagonal(dim1=-2, dim2=-1), self.own.diagonal(dim1=-2, dim2=-1))

    def times(self, values: Tensor) -> Tensor:
        """(B, P) the Gram times a vector (B, P)."""
        others, levels = self.split(values)
        across = self.across.flatten(1, 2)  # (B, L q, m)
        one = (self.corner @ others.unsqueeze(-1)).squeeze(-1) + (across.mT @ levels.flatten(1).unsqueeze(-1)).squeeze(
            -1
        )
        two = (across @ others.unsqueeze(-1)).squeeze(-1).view_as(levels)
        own = (self.own * levels.unsqueeze(-2)).sum(-1)
        return self.joined(one, two + own)

    def of_columns(self, keep: Tensor) -> Arrow:
        """The same with unit columns for those of the first (B, p) that are not kept."""
        beside = keep.new_ones(len(keep), self.corner.shape[-1] - keep.shape[1])
        known = torch.cat([keep, beside], 1).to(self.corner.dtype)
        corner = self.corner * known.unsqueeze(-1) * known.unsqueeze(-2) + torch.diag_embed(1 - known)
        return replace(self, corner=corner, across=self.across * known[:, None, None])

    def with_ridge(self, ridge: Tensor | None) -> Arrow:
        if ridge is None:
            return self
        others, levels = self.split(ridge)
        corner, own = self.corner + torch.diag_embed(others), self.own + torch.diag_embed(levels)
        return Arrow(corner, self.across, own, self.grouping)

    def with_columns(self, across: Tensor, corner: Tensor) -> Arrow:
        parts = [self.split(one) for one in across.unbind(-1)]
        others, levels = (torch.stack(part, -1) for part in zip(*parts, strict=True))
        own = Dense(self.corner).with_columns(others, corner).matrix
        return Arrow(own, torch.cat([self.across, levels], -1), self.own, self.grouping)

    def written_out(self) -> Tensor:
        out = self.corner.new_zeros(self.corner.shape[0], self.width, self.width)
        at, other = self.grouping.places(out.device), _others(self.width, self.grouping, out.device)
        out[:, other.unsqueeze(-1), other] = self.corner
        out[:, at.unsqueeze(-1), other] = self.across
        out[:, other.unsqueeze(-1), at.flatten()] = self.across.flatten(1, 2).mT
        out[:, at.unsqueeze(-1), at.unsqueeze(-2)] = self.own
        return out

    def invert(self, keep: Tensor) -> GramInverse:
        raise NotImplementedError("the Gram of random effects is inverted with their covariance, see fitting.mixed")

    def independent(self, held: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(
            "the columns of random effects depend on the others; their covariance tells them apart"
        )


def _others(columns: int, grouping: Grouping, device: torch.device) -> Tensor:
    """(m,) the columns that are not those of the grouping."""
    return torch.cat([torch.arange(grouping.start), torch.arange(grouping.columns.stop, columns)]).to(device)


def split(values: Tensor, grouping: Grouping) -> tuple[Tensor, Tensor]:
    """Values (B, P) of the other columns (B, m), and of a grouping by level and effect (B, L, q)."""
    first, last = grouping.columns.start, grouping.columns.stop
    levels = values[:, first:last].unflatten(1, (grouping.effects, grouping.levels)).mT
    return torch.cat([values[:, :first], values[:, last:]], 1), levels


@dataclass(frozen=True)
class ArrowLayout(Layout):
    """The layout of an `Arrow`."""

    grouping: Grouping = Grouping(0, 0, 1)

    @property
    def numbers(self) -> int:
        return self.columns * (self.columns - self.grouping.levels * self.grouping.effects + 1)

    def gram(self, models: int, device: torch.device | str = "cpu") -> Arrow:
        g = self.grouping
        beside = self.columns - g.levels * g.effects

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(models, *shape, dtype=torch.float64, device=device)

        return Arrow(
            zeros(beside, beside), zeros(g.levels, g.effects, beside), zeros(g.levels, g.effects, g.effects), g
        )


def effects_in(design: Indexed, grouping: Grouping) -> list[Index]:
    """The index columns of the effects of a grouping, in order, all over its levels."""
    found: list[Index] = []
    inside, levels = grouping.columns, grouping.levels
    for index in sorted(design.indices, key=lambda one: one.columns.start):
        if not inside.start <= index.columns.start < inside.stop:
            continue
        for k in range(index.count // levels):  # effects of the levels of another factor share their codes
            own = (index.codes >= k * levels) & (index.codes < (k + 1) * levels)
            codes = index.codes if index.count == levels else torch.where(own, index.codes - k * levels, levels)
            first = index.columns.start + k * levels
            found.append(
                replace(index, codes=codes.to(torch.int32), columns=slice(first, first + levels), count=levels)
            )
    return found


@dataclass(frozen=True)
class ArrowIndexed(Indexed):
    """A design with index columns whose Gram is an `Arrow`, the levels of `grouping` in blocks."""

    grouping: Grouping = Grouping(0, 0, 1)

    @property
    def large(self) -> None:
        return None

    @property
    def layout(self) -> Layout:
        return ArrowLayout(self.width, grouping=self.grouping)

    @property
    def effects(self) -> list[Index]:
        """The index columns of the effects of the grouping, in order, all over its levels."""
        return effects_in(self, self.grouping)

    @property
    def beside(self) -> Indexed:
        """The design without the columns of the grouping."""
        inside, count = self.grouping.columns, self.grouping.levels * self.grouping.effects

        def moved(columns: slice) -> slice:
            back = count if columns.start >= inside.stop else 0
            return slice(columns.start - back, columns.stop - back, columns.step)

        indices = tuple(
            replace(index, columns=moved(index.columns))
            for index in self.indices
            if not inside.start <= index.columns.start < inside.stop
        )
        return Indexed(self.places - count * (self.places >= inside.stop), indices, self.width - count, False)

    def gram(self, x: Tensor, weight: Tensor) -> Gram:
        beside, effects, levels = self.beside, self.effects, self.grouping.levels
        models, q = weight.shape[0], len(effects)
        across = weight.new_zeros(models, q, levels, beside.width)
        own = weight.new_zeros(models, levels, q, q)
        numbers = x.mT.contiguous()
        for r, effect in enumerate(effects):
            values = effect.weighted(weight)
            if len(numbers):
                across[:, r, :, beside.places] = effect.sums(numbers * values.unsqueeze(-2)).mT
            for index in beside.indices:
                across[:, r, :, index.columns] = pairs(effect, index, weight)
            for s, other in enumerate(effects[: r + 1]):
                both = effect if s == r else replace(effect, codes=torch.maximum(effect.codes, other.codes))
                own[..., r, s] = own[..., s, r] = both.sums(other.weighted(values))
        return Arrow(beside.all_pairs(x, weight), across.transpose(1, 2), own, self.grouping)


def arrowed(rows: Rows, grouping: Grouping) -> Rows:
    """The same rows, their Gram an `Arrow` where they have index columns."""
    if rows.indexed is None:
        return rows
    own = rows.indexed
    return rows._replace(indexed=ArrowIndexed(own.places, own.indices, own.width, False, grouping))


def arrow_of(gram: Gram, grouping: Grouping) -> Arrow:
    """A Gram of the rows as an `Arrow`."""
    return gram if isinstance(gram, Arrow) else Arrow.of_pairs(gram.written_out(), grouping)


def row_lengths(rows: Rows, matrix: Arrow) -> Tensor:
    """(B, n) `x' A x` of every row, the levels of `A` being blocks."""
    design = rows.indexed
    if not isinstance(design, ArrowIndexed):
        x = whole(rows)
        return ((x @ matrix.written_out()) * x).sum(-1)
    beside, effects, x = design.beside, design.effects, rows.x
    total = beside.quadratic(x, matrix.corner)
    for r, effect in enumerate(effects):
        part, unit = torch.zeros_like(total), replace(effect, value=None)
        for k, place in enumerate(beside.places.tolist()):
            part += 2 * effect.spread(matrix.across[:, :, r, place]) * x[:, k]
        for index in beside.indices:
            part += 2 * between(unit, index, matrix.across[:, :, r, index.columns])
        for s, other in enumerate(effects):
            part += other.weighted(effect.spread(matrix.own[..., r, s]) * (other.codes < other.count))
        total += effect.weighted(part)
    return total


def largest(groupings: Sequence[Grouping]) -> int:
    """The grouping whose columns are the most: the one to eliminate."""
    return max(range(len(groupings)), key=lambda k: groupings[k].levels * groupings[k].effects)
