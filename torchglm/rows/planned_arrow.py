"""Grams of rows of several predictors with random effects: the levels of one grouping are blocks, to be eliminated.

Every coefficient belongs to a column of the design and to a contrast `c` (K), by which that column enters the
predictors. Between two contrasts `c` and `d` the Gram is that of plain rows with the weights `c' W d`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from torchglm.rows.arrow import Arrow, ArrowIndexed, Grouping, row_lengths
from torchglm.rows.plan import Plan
from torchglm.rows.planned import Pairs, between, expanded, plan_of
from torchglm.rows.products import product
from torchglm.rows.rows import Rows

Contrast: TypeAlias = tuple[tuple[int, float], ...]  # predictors, each with its factor


class Unfolded:
    """The coefficients of a plan beside those of the levels of `grouping`, by contrast and column of the design.

    `design` are the columns of the levels there.
    """

    def __init__(self, plan: Plan, design: Grouping) -> None:
        self.plan, self.design = plan, design
        inside = design.columns
        self.contrasts = list[Contrast]()
        others, effects = list[tuple[int, int]](), list[tuple[int, int]]()  # contrast and column, or effect
        start: int | None = None
        for block, place in zip(plan.blocks, plan.slices, strict=True):
            large = isinstance(block.columns, range) and inside.start <= block.columns[0] < inside.stop
            if large and start is None:
                start = place.start
            for entries in block.entries:
                own = self._place(tuple(entries))
                if large:
                    effects.append((own, (block.columns[0] - inside.start) // design.levels))
                else:
                    others += [(own, column) for column in block.columns]
        assert start is not None  # the rows have this grouping
        self.grouping = Grouping(start, design.levels, len(effects))
        self.others, self.effects = torch.tensor(others), torch.tensor(effects)

    def _place(self, contrast: Contrast) -> int:
        if contrast not in self.contrasts:
            self.contrasts.append(contrast)
        return self.contrasts.index(contrast)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """All pairs of contrasts."""
        many = len(self.contrasts)
        return [(a, b) for a in range(many) for b in range(a, many)]

    def members(self, a: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The coefficients of a contrast beside the levels, and their places in the design; its effects, and theirs."""
        others, effects = self.others.to(device), self.effects.to(device)
        at, levels = (others[:, 0] == a).nonzero()[:, 0], (effects[:, 0] == a).nonzero()[:, 0]
        column, inside = others[at, 1], self.design.columns
        return at, column - (inside.stop - inside.start) * (column >= inside.stop), levels, effects[levels, 1]

    def is_plain(self, a: int, rows: Rows) -> bool:
        """Whether a contrast has columns of numbers alone."""
        assert rows.indexed is not None
        if bool((self.effects[:, 0] == a).any()):
            return False
        columns = self.others[self.others[:, 0] == a, 1]
        return bool(torch.isin(columns, rows.indexed.places.cpu()).all())


def unfolded(rows: Rows) -> Unfolded:
    """The coefficients of rows whose Gram is an `Arrow`."""
    assert isinstance(rows.indexed, ArrowIndexed)
    return Unfolded(plan_of(rows), rows.indexed.grouping)


def arrow_gram(rows: Rows, information: Pairs) -> Arrow:
    """`sum Z' W Z` for the information `W` of rows whose index columns are those of an `ArrowIndexed`."""
    way, indexed = unfolded(rows), rows.indexed
    assert isinstance(indexed, ArrowIndexed)
    example = next(iter(information.values()))
    models, device = len(example), example.device
    m, q, levels = len(way.others), way.grouping.effects, way.grouping.levels
    corner = example.new_zeros(models, m, m)
    across, own = example.new_zeros(models, levels, q, m), example.new_zeros(models, levels, q, q)
    for a, b in way.pairs:
        weight = between(information, list(way.contrasts[a]), list(way.contrasts[b]))
        if weight is None:
            continue
        one, two = way.members(a, device), way.members(b, device)
        if way.is_plain(a, rows) and way.is_plain(b, rows):
            place = {column: k for k, column in enumerate(indexed.places.tolist())}
            left, right = ([place[c] for c in _columns(way, part[0])] for part in (one, two))
            part = product(rows.x[:, left].mT * weight.unsqueeze(-2), rows.x[:, right])
            put_both(corner, one[0], two[0], part)
            continue
        gram = indexed.gram(rows.x, weight)
        assert isinstance(gram, Arrow)
        put_both(corner, one[0], two[0], gram.corner[:, one[1].unsqueeze(-1), two[1]])
        put_both(own, one[2], two[2], gram.own[:, :, one[3].unsqueeze(-1), two[3]])
        for effects, columns in ((one, two), (two, one)):
            across[:, :, effects[2].unsqueeze(-1), columns[0]] = gram.across[:, :, effects[3].unsqueeze(-1), columns[1]]
    return Arrow(corner, across, own, way.grouping)


def _columns(way: Unfolded, at: Tensor) -> list[int]:
    found: list[int] = way.others[at.cpu(), 1].tolist()
    return found


def put_both(out: Tensor, rows: Tensor, columns: Tensor, part: Tensor) -> None:
    """A block of symmetric matrices (*, m, m), and its transpose."""
    out[..., rows.unsqueeze(-1), columns] = part
    out[..., columns.unsqueeze(-1), rows] = part.mT


def planned_lengths(rows: Rows, matrix: Arrow) -> Pairs:
    """`z_k' A z_l` (B, n) of every row, for all pairs `k <= l` of predictors, the levels of `A` being blocks."""
    if not isinstance(rows.indexed, ArrowIndexed):
        return _dense_lengths(rows, matrix.written_out())
    way, plain = unfolded(rows), rows._replace(plan=None)
    each = ((pair, row_lengths(plain, part)) for pair, part in _parts(way, matrix, rows.indexed.width))
    return contracted_lengths(each, way.contrasts, plan_of(rows).predictors)


def contracted_lengths(
    each: Iterable[tuple[tuple[int, int], Tensor]], contrasts: Sequence[Contrast], predictors: int
) -> Pairs:
    """(B, n) the lengths between every two predictors, from those between every two contrasts."""
    found: Pairs = {}
    for (a, b), length in each:
        for first, one in contrasts[a]:
            for second, other in contrasts[b]:
                factor = one * other
                if first == second and a != b:
                    factor *= 2.0
                pair = (min(first, second), max(first, second))
                if a == b and first > second:
                    continue  # the same product as that of the other order
                found[pair] = found[pair] + factor * length if pair in found else factor * length
    none = next(iter(found.values()))
    return {(i, j): found.get((i, j), torch.zeros_like(none)) for i in range(predictors) for j in range(i, predictors)}


def _parts(way: Unfolded, matrix: Arrow, width: int) -> Iterator[tuple[tuple[int, int], Arrow]]:
    """The blocks of a matrix between two contrasts, on `width` columns of the design; of unlike ones half of both."""
    corner, design = matrix.corner, way.design
    effects, beside = design.effects, width - design.levels * design.effects
    for a, b in way.pairs:
        one, two = way.members(a, corner.device), way.members(b, corner.device)
        whole = corner.new_zeros(len(corner), beside, beside)
        whole[:, one[1].unsqueeze(-1), two[1]] = corner[:, one[0].unsqueeze(-1), two[0]]
        own = corner.new_zeros(len(corner), design.levels, effects, effects)
        own[:, :, one[3].unsqueeze(-1), two[3]] = matrix.own[:, :, one[2].unsqueeze(-1), two[2]]
        across = corner.new_zeros(len(corner), design.levels, effects, beside)
        across[:, :, one[3].unsqueeze(-1), two[1]] = matrix.across[:, :, one[2].unsqueeze(-1), two[0]]
        if a == b:
            yield (a, b), Arrow(whole, across, own, design)
            continue
        across[:, :, two[3].unsqueeze(-1), one[1]] += matrix.across[:, :, two[2].unsqueeze(-1), one[0]]
        yield (a, b), Arrow((whole + whole.mT) / 2, across / 2, (own + own.mT) / 2, design)


def _dense_lengths(rows: Rows, matrix: Tensor) -> Pairs:
    design = expanded(rows)  # (K, n, P) or (K, B, n, P)
    design = design.unsqueeze(1) if rows.shared else design
    half = design @ matrix
    return {(k, j): (half[k] * design[j]).sum(-1) for k in range(len(design)) for j in range(k, len(design))}


def in_the_design(plan: Plan, grouping: Grouping) -> Grouping:
    """The columns of the design behind the coefficients of a grouping."""
    starts = {
        block.columns[0]
        for block, place in zip(plan.blocks, plan.slices, strict=True)
        if grouping.columns.start <= place.start < grouping.columns.stop
    }
    return Grouping(min(starts), grouping.levels, len(starts))


def planned_arrowed(rows: Rows, grouping: Grouping) -> Rows:
    """Rows of several predictors, their Gram an `Arrow` with the coefficients of `grouping` in blocks."""
    own = rows.indexed
    if own is None:
        return rows
    design = in_the_design(plan_of(rows), grouping)
    return rows._replace(indexed=ArrowIndexed(own.places, own.indices, own.width, False, design))
