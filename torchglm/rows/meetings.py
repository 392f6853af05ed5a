"""Grams of designs whose groupings cross: of every two groupings the pairs of levels that meet in a row, and no others.

73,000 ratings by 2,972 students of 1,128 teachers are 73,000 pairs of levels at most, of 3,352,416 that there might be.
The columns are the first `p`, then those of each grouping, see `Grouping`.
Source: Bates, Maechler, Bolker & Walker (2015), J. Stat. Software 67(1), section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TypeAlias, final

import torch
from torch import Tensor

from torchglm.rows.arrow import Arrow, Grouping, arrow_of, effects_in, row_lengths
from torchglm.rows.grams import Gram, Layout
from torchglm.rows.index import Index, between, pairs, tally
from torchglm.rows.indexed import Indexed
from torchglm.rows.inverses import GramInverse
from torchglm.rows.planned_arrow import in_the_design
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows


@final
@dataclass(frozen=True, eq=False)
class Meetings:
    """The `groupings` behind the first `columns`, and of each two the `pairs` (N, 2) of levels that meet, ascending."""

    columns: int
    groupings: tuple[Grouping, ...]
    pairs: dict[tuple[int, int], Tensor]

    @property
    def width(self) -> int:
        """The number of all columns."""
        return self.columns + sum(g.levels * g.effects for g in self.groupings)

    def place(self, k: int, j: int, one: Tensor, two: Tensor) -> Tensor:
        """(n,) which pair levels (n,) of groupings `k < j` are; `N` where one of them is none."""
        count = self.groupings[j].levels
        pairs = self.pairs[k, j].to(one.device)
        keys = pairs[:, 0] * count + pairs[:, 1]
        known = (one < self.groupings[k].levels) & (two < count)
        return torch.where(known, torch.searchsorted(keys, one * count + two), len(keys))


def meetings(source: Iterable[Rows], columns: int, groupings: tuple[Grouping, ...]) -> Meetings | None:
    """The pairs that meet in rows of one model, by one pass; None where groupings are not index columns."""
    ranks = ranks_of(source)
    names = list(combinations(range(len(groupings)), 2))
    found: dict[tuple[int, int], list[Tensor]] = {name: [] for name in names}
    known = True
    with ranks.together():
        for rows in own_rows(source):
            if rows.indexed is None:
                known = False
                break
            own = groupings if rows.plan is None else [in_the_design(rows.plan, g) for g in groupings]
            levels = [_levels(effects_in(rows.indexed, g), g) for g in own]
            for k, j in names:
                one, two = levels[k], levels[j]
                inside = (one < groupings[k].levels) & (two < groupings[j].levels)
                found[k, j].append((one * groupings[j].levels + two)[inside].unique().cpu())
    if not all(ranks.gather(known)):
        return None
    everyone = ranks.gather({name: torch.cat(keys).unique() for name, keys in found.items()})
    pairs = dict[tuple[int, int], Tensor]()
    for k, j in names:
        keys = torch.cat([own[k, j] for own in everyone]).unique()
        pairs[k, j] = torch.stack([keys // groupings[j].levels, keys % groupings[j].levels], -1)
    return Meetings(columns, groupings, pairs)


def _levels(effects: Sequence[Index], grouping: Grouping) -> Tensor:
    """(n,) the level of each row; `levels` where it has none."""
    codes = torch.full_like(effects[0].codes, grouping.levels)
    for effect in effects:
        codes = torch.minimum(codes, effect.codes)
    return codes.long()


@final
@dataclass(frozen=True)
class CrossedGram(Gram):
    """`corner` (B, p, p) of the first columns, and by grouping `k` and pair of groupings `k, j`, blocks of levels.

    `own[k]` (B, L, q, q), `border[k]` (B, L, q, p) with the first columns, `cross[k, j]` (B, N, q_k, q_j) of each pair.
    """

    corner: Tensor
    own: list[Tensor]
    border: list[Tensor]
    cross: dict[tuple[int, int], Tensor]
    meetings: Meetings

    @property
    def parts(self) -> dict[str, Tensor]:
        levels = {f"own {k}": part for k, part in enumerate(self.own)}
        levels |= {f"border {k}": part for k, part in enumerate(self.border)}
        return {"corner": self.corner} | levels | {f"{k} {j}": part for (k, j), part in self.cross.items()}

    def of(self, parts: dict[str, Tensor]) -> CrossedGram:
        every = range(len(self.own))
        return CrossedGram(
            parts["corner"],
            [parts[f"own {k}"] for k in every],
            [parts[f"border {k}"] for k in every],
            {(k, j): parts[f"{k} {j}"] for k, j in self.cross},
            self.meetings,
        )

    @property
    def layout(self) -> Layout:
        return CrossedLayout(self.meetings.width, meetings=self.meetings)

    def split(self, values: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Values (B, P) of the first columns (B, p), and of each grouping by level and effect (B, L, q)."""
        levels = [values[:, g.columns].unflatten(1, (g.effects, g.levels)).mT for g in self.meetings.groupings]
        return values[:, : self.meetings.columns], levels

    def joined(self, first: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """(B, P) from those."""
        return torch.cat([first, *(part.mT.flatten(1) for part in levels)], 1)

    def diagonal(self) -> Tensor:
        own = [part.diagonal(dim1=-2, dim2=-1) for part in self.own]
        return self.joined(self.corner.diagonal(dim1=-2, dim2=-1), own)

    def times(self, values: Tensor) -> Tensor:
        """(B, P) the Gram times a vector (B, P)."""
        first, levels = self.split(values)
        top = (self.corner @ first.unsqueeze(-1)).squeeze(-1)
        found = list[Tensor]()
        for own, border, part in zip(self.own, self.border, levels, strict=True):
            found.append((own @ part.unsqueeze(-1)).squeeze(-1) + torch.einsum("blqp,bp->blq", border, first))
            top = top + torch.einsum("blqp,blq->bp", border, part)
        for (k, j), block in self.cross.items():
            one, two = self.meetings.pairs[k, j].to(block.device).unbind(-1)
            right = (block @ levels[j].index_select(1, two).unsqueeze(-1)).squeeze(-1)
            left = (block.mT @ levels[k].index_select(1, one).unsqueeze(-1)).squeeze(-1)
            found[k] = found[k] + tally(one, right.mT, found[k].shape[1]).mT
            found[j] = found[j] + tally(two, left.mT, found[j].shape[1]).mT
        return self.joined(top, found)

    def of_columns(self, keep: Tensor) -> CrossedGram:
        """The same with unit columns for those of the first (B, p) that are not kept."""
        known = keep.to(self.corner.dtype)
        corner = self.corner * known.unsqueeze(-1) * known.unsqueeze(-2) + torch.diag_embed(1 - known)
        border = [part * known[:, None, None] for part in self.border]
        return replace(self, corner=corner, border=border)

    def with_ridge(self, ridge: Tensor | None) -> CrossedGram:
        if ridge is None:
            return self
        first, levels = self.split(ridge)
        own = [part + torch.diag_embed(more) for part, more in zip(self.own, levels, strict=True)]
        return replace(self, corner=self.corner + torch.diag_embed(first), own=own)

    def with_columns(self, across: Tensor, corner: Tensor) -> CrossedGram:
        raise NotImplementedError("nothing stands behind the columns of random effects")

    def written_out(self) -> Tensor:
        eye = torch.eye(self.meetings.width, dtype=self.corner.dtype, device=self.corner.device)
        return torch.stack([self.times(one.expand(len(self.corner), -1)) for one in eye], -1)

    def invert(self, keep: Tensor) -> GramInverse:
        raise NotImplementedError("the Gram of random effects is inverted with their covariance, see fitting.mixed")

    def independent(self, held: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(
            "the columns of random effects depend on the others; their covariance tells them apart"
        )


@final
@dataclass(frozen=True)
class CrossedLayout(Layout):
    """The layout of a `CrossedGram`."""

    meetings: Meetings = field(default_factory=lambda: Meetings(0, (), {}))

    @property
    def numbers(self) -> int:
        known, p = self.meetings, self.meetings.columns
        pairs = [
            len(pairs) * known.groupings[k].effects * known.groupings[j].effects
            for (k, j), pairs in known.pairs.items()
        ]
        return p * p + sum(g.levels * g.effects * (g.effects + p) for g in known.groupings) + sum(pairs)

    def gram(self, models: int, device: torch.device | str = "cpu") -> CrossedGram:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(models, *shape, dtype=torch.float64, device=device)

        known, p = self.meetings, self.meetings.columns
        sizes = [g.effects for g in known.groupings]
        return CrossedGram(
            zeros(p, p),
            [zeros(g.levels, g.effects, g.effects) for g in known.groupings],
            [zeros(g.levels, g.effects, p) for g in known.groupings],
            {(k, j): zeros(len(pairs), sizes[k], sizes[j]) for (k, j), pairs in known.pairs.items()},
            known,
        )


@dataclass(frozen=True)
class CrossedIndexed(Indexed):
    """A design with index columns whose Gram is a `CrossedGram`."""

    meetings: Meetings = field(default_factory=lambda: Meetings(0, (), {}))

    @property
    def large(self) -> None:
        return None

    @property
    def layout(self) -> Layout:
        return CrossedLayout(self.width, meetings=self.meetings)

    @property
    def first(self) -> Indexed:
        """The first columns alone."""
        p = self.meetings.columns
        return Indexed(self.places, tuple(one for one in self.indices if one.columns.start < p), p, False)

    @property
    def effects(self) -> list[list[Index]]:
        """The index columns of the effects of each grouping."""
        return [effects_in(self, g) for g in self.meetings.groupings]

    def gram(self, x: Tensor, weight: Tensor) -> Gram:
        out, first, effects = self.layout.gram(len(weight), weight.device), self.first, self.effects
        assert isinstance(out, CrossedGram)
        numbers = x.mT.contiguous()
        for k, own in enumerate(effects):
            for r, effect in enumerate(own):
                values = effect.weighted(weight)
                if len(numbers):
                    out.border[k][:, :, r, first.places] = effect.sums(numbers * values.unsqueeze(-2)).mT
                for index in first.indices:
                    out.border[k][:, :, r, index.columns] = pairs(effect, index, weight)
                for s, other in enumerate(own[: r + 1]):
                    both = effect if s == r else replace(effect, codes=torch.maximum(effect.codes, other.codes))
                    out.own[k][..., r, s] = out.own[k][..., s, r] = both.sums(other.weighted(values))
        for (k, j), block in out.cross.items():
            for r, s, one, two, place in self._pairs(effects, k, j):
                block[:, :, r, s] = tally(place, two.weighted(one.weighted(weight)), block.shape[1] + 1)[:, :-1]
        return replace(out, corner=first.all_pairs(x, weight))

    def _pairs(self, effects: list[list[Index]], k: int, j: int) -> Iterator[tuple[int, int, Index, Index, Tensor]]:
        """Effects `r` and `s` of groupings `k < j`, and (n,) which pair of levels a row is, `N` where it has none."""
        known = self.meetings
        count, last = len(known.pairs[k, j]), known.groupings
        whole = known.place(k, j, _levels(effects[k], last[k]), _levels(effects[j], last[j]))
        for r, one in enumerate(effects[k]):
            for s, two in enumerate(effects[j]):
                inside = (one.codes < one.count) & (two.codes < two.count)
                yield r, s, one, two, torch.where(inside, whole, count)

    def lengths(self, x: Tensor, matrix: CrossedGram) -> Tensor:
        """(B, n) `x' A x` of every row."""
        first, effects = self.first, self.effects
        total = first.quadratic(x, matrix.corner)
        for k, own in enumerate(effects):
            for r, effect in enumerate(own):
                part, unit = torch.zeros_like(total), replace(effect, value=None)
                for at, place in enumerate(first.places.tolist()):
                    part += 2 * effect.spread(matrix.border[k][:, :, r, place]) * x[:, at]
                for index in first.indices:
                    part += 2 * between(unit, index, matrix.border[k][:, :, r, index.columns])
                for s, other in enumerate(own):
                    part += other.weighted(effect.spread(matrix.own[k][..., r, s]) * (other.codes < other.count))
                total += effect.weighted(part)
        for (k, j), block in matrix.cross.items():
            padded = torch.nn.functional.pad(block, (0, 0, 0, 0, 0, 1))
            for r, s, one, two, place in self._pairs(effects, k, j):
                total += 2 * two.weighted(one.weighted(padded[..., r, s].index_select(1, place)))
        return total


def crossed(rows: Rows, known: Meetings) -> Rows:
    """The same rows, their Gram a `CrossedGram`."""
    own = rows.indexed
    assert own is not None
    return rows._replace(indexed=CrossedIndexed(own.places, own.indices, own.width, False, known))


EffectGram: TypeAlias = Arrow | CrossedGram


def effect_gram(gram: Gram, grouping: Grouping) -> EffectGram:
    """A Gram of the rows as its levels are eliminated."""
    return gram if isinstance(gram, CrossedGram) else arrow_of(gram, grouping)


def same(one: CrossedGram, two: CrossedGram) -> bool:
    """Whether two Grams of the same rows have the same values."""
    theirs = two.parts
    return one is two or all(torch.equal(part, theirs[name]) for name, part in one.parts.items())


def lengths(rows: Rows, matrix: EffectGram) -> Tensor:
    """(B, n) `x' A x` of every row, for a matrix of the kind of the Gram of the rows."""
    if isinstance(matrix, Arrow):
        return row_lengths(rows, matrix)
    assert isinstance(rows.indexed, CrossedIndexed)
    return rows.indexed.lengths(rows.x, matrix)
