"""Grams of rows of several predictors whose groupings cross: of every two groupings the pairs of levels that meet.

Every coefficient belongs to a column of the design and to a contrast `c` (K), by which that column enters the
predictors. Between two contrasts `c` and `d` the Gram is that of plain rows with the weights `c' W d`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from torchglm.rows.arrow import Arrow
from torchglm.rows.meetings import CrossedGram, CrossedIndexed, CrossedLayout, EffectGram, Meetings
from torchglm.rows.plan import Plan
from torchglm.rows.planned import Pairs, between, plan_of
from torchglm.rows.planned_arrow import Contrast, contracted_lengths, in_the_design, planned_lengths, put_both
from torchglm.rows.products import product
from torchglm.rows.rows import Rows


class Members(NamedTuple):
    """The coefficients of a contrast: the places `first` (m,) among the first and their `columns` of the design, and of
    each grouping the `effects` (s,) with those of the `design`."""

    first: Tensor
    columns: Tensor
    effects: list[Tensor]
    design: list[Tensor]


class ByContrast:
    """The coefficients of a plan by contrast, where `known` are the meetings of groupings behind the first of them."""

    def __init__(self, plan: Plan, known: Meetings) -> None:
        groupings = tuple(in_the_design(plan, g) for g in known.groupings)
        self.known = known
        self.design = Meetings(min(g.start for g in groupings), groupings, known.pairs)
        self.contrasts = list[Contrast]()
        first, effects = list[tuple[int, int]](), [list[tuple[int, int]]() for _ in groupings]
        for block, place in zip(plan.blocks, plan.slices, strict=True):
            of = [k for k, g in enumerate(known.groupings) if g.columns.start <= place.start < g.columns.stop]
            for entries in block.entries:
                own = self._place(tuple(entries))
                if of:
                    design = groupings[of[0]]
                    effects[of[0]].append((own, (block.columns[0] - design.start) // design.levels))
                else:
                    first += [(own, column) for column in block.columns]
        self.members = [self._of(a, torch.tensor(first), effects) for a in range(len(self.contrasts))]

    def _place(self, contrast: Contrast) -> int:
        if contrast not in self.contrasts:
            self.contrasts.append(contrast)
        return self.contrasts.index(contrast)

    @staticmethod
    def _of(a: int, first: Tensor, effects: list[list[tuple[int, int]]]) -> Members:
        at = (first[:, 0] == a).nonzero()[:, 0]
        own = [[(r, design) for r, (b, design) in enumerate(each) if b == a] for each in effects]
        parts = [torch.tensor(pairs, dtype=torch.int64).view(-1, 2) for pairs in own]
        return Members(at, first[at, 1], [part[:, 0] for part in parts], [part[:, 1] for part in parts])

    def pairs(self) -> Iterator[tuple[tuple[int, int], Members, Members]]:
        """All pairs of contrasts, with their coefficients."""
        many = len(self.contrasts)
        return (((a, b), self.members[a], self.members[b]) for a in range(many) for b in range(a, many))

    def is_plain(self, own: Members, places: Tensor) -> bool:
        """Whether a contrast has columns of numbers alone, which stand at `places` of the design."""
        return not any(map(len, own.effects)) and bool(torch.isin(own.columns, places).all())


@final
@dataclass(frozen=True)
class PlannedCrossed(CrossedIndexed):
    """Index columns of rows of several predictors, and the coefficients of their plan."""

    way: ByContrast | None = None


def planned_crossed(rows: Rows, known: Meetings) -> Rows:
    """Rows of several predictors, their Gram a `CrossedGram` of the coefficients."""
    own = rows.indexed
    assert own is not None
    way = ByContrast(plan_of(rows), known)
    return rows._replace(indexed=PlannedCrossed(own.places, own.indices, own.width, False, way.design, way))


def crossed_gram(rows: Rows, information: Pairs) -> CrossedGram:
    """`sum Z' W Z` for the information `W` of rows whose index columns are those of a `PlannedCrossed`."""
    indexed = rows.indexed
    assert isinstance(indexed, PlannedCrossed) and indexed.way is not None
    way, example = indexed.way, next(iter(information.values()))
    out = CrossedLayout(way.known.width, meetings=way.known).gram(len(example), example.device)
    for (a, b), one, two in way.pairs():
        weight = between(information, list(way.contrasts[a]), list(way.contrasts[b]))
        if weight is None:
            continue
        if way.is_plain(one, indexed.places) and way.is_plain(two, indexed.places):
            left, right = (torch.searchsorted(indexed.places, own.columns) for own in (one, two))
            part = product(rows.x[:, left].mT * weight.unsqueeze(-2), rows.x[:, right])
            put_both(out.corner, one.first, two.first, part)
            continue
        gram = indexed.gram(rows.x, weight)
        assert isinstance(gram, CrossedGram)
        put_both(out.corner, one.first, two.first, gram.corner[:, one.columns.unsqueeze(-1), two.columns])
        for k, own in enumerate(gram.own):
            put_both(out.own[k], one.effects[k], two.effects[k], own[:, :, one.design[k].unsqueeze(-1), two.design[k]])
        for mine, other in ((one, two), (two, one)):
            for k, border in enumerate(gram.border):
                found = border[:, :, mine.design[k].unsqueeze(-1), other.columns]
                out.border[k][:, :, mine.effects[k].unsqueeze(-1), other.first] = found
            for (k, j), block in gram.cross.items():
                found = block[:, :, mine.design[k].unsqueeze(-1), other.design[j]]
                out.cross[k, j][:, :, mine.effects[k].unsqueeze(-1), other.effects[j]] = found
    return out


def lengths_of(rows: Rows, matrix: EffectGram) -> Pairs:
    """`z_k' A z_l` (B, n) of every row, for all pairs `k <= l` of predictors, `A` being of the kind of their Gram."""
    if isinstance(matrix, Arrow):
        return planned_lengths(rows, matrix)
    indexed = rows.indexed
    assert isinstance(indexed, PlannedCrossed) and indexed.way is not None
    each = ((pair, indexed.lengths(rows.x, part)) for pair, part in _parts(indexed.way, matrix))
    return contracted_lengths(each, indexed.way.contrasts, plan_of(rows).predictors)


def _parts(way: ByContrast, matrix: CrossedGram) -> Iterator[tuple[tuple[int, int], CrossedGram]]:
    """The blocks of a matrix between two contrasts, on the columns of the design; of unlike ones half of both."""
    for pair, one, two in way.pairs():
        part = CrossedLayout(way.design.width, meetings=way.design).gram(len(matrix.corner), matrix.corner.device)
        for mine, other in ((one, two), (two, one)):
            rows, columns = mine.columns.unsqueeze(-1), other.columns
            part.corner[:, rows, columns] += matrix.corner[:, mine.first.unsqueeze(-1), other.first] / 2
            for k, own in enumerate(matrix.own):
                at = mine.effects[k].unsqueeze(-1)
                to = mine.design[k].unsqueeze(-1)
                part.own[k][:, :, to, other.design[k]] += own[:, :, at, other.effects[k]] / 2
                part.border[k][:, :, to, columns] += matrix.border[k][:, :, at, other.first] / 2
            for (k, j), block in matrix.cross.items():
                found = block[:, :, mine.effects[k].unsqueeze(-1), other.effects[j]]
                part.cross[k, j][:, :, mine.design[k].unsqueeze(-1), other.design[j]] += found / 2
        yield pair, part
