"""In which order the levels of crossed and nested groupings are eliminated.

The levels of the largest grouping come first: no two of them meet. Of what is left, levels that meet few others and not
one another are eliminated at once, and again, until that saves nothing; the rest is the core, a dense matrix. Levels of
nested groupings are all gone by then; where two groupings cross at random the core is the smaller of them.
Source: Davis (2006), Direct Methods for Sparse Linear Systems, chapter 7 (minimum degree, independent sets of nodes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchglm.fitting.mixed.effects import Groupings
from torchglm.rows.meetings import Meetings, meetings
from torchglm.rows.ranks import own_rows
from torchglm.rows.rows import Rows

MANY = 128  # levels beside the largest grouping from which on pairs that do not meet are left out
SMALL = 256  # columns that are left, from which on nothing is saved
SAVES = 8  # a level is eliminated that meets less than this share of all that is left
LITTLE = 0.02  # share of what is left that a round has to eliminate
DENSE = 0.3  # share of all pairs that meet, from which on the rest is dense
AT_ONCE = 1 << 22  # numbers of the pairs of neighbours that are made at once
WIDE = 12  # levels that meet more than this share of the core are eliminated as rows of a matrix
CORE = 1 << 27  # numbers of the core
KEPT = 1 << 25  # places of pairs in the core that are kept


@dataclass(frozen=True)
class Front:
    """Levels of `q` effects each that are eliminated at once, with the columns that they meet then.

    `columns` (n, q) are theirs and `beside` (n, d) the others', padded with the number of all columns. The places of
    pairs in the values of a matrix are `own` (n, q, q), `across` (n, q, d) and, where it is kept, `inner` (n, d, d).
    Where all that is met is in the core `core` (n, d) are the places there, padded with their number.
    """

    columns: Tensor
    beside: Tensor
    own: Tensor
    across: Tensor
    inner: Tensor | None
    core: Tensor | None
    wide: bool


class Order:
    """The elimination of the levels of `meetings`, the grouping `large` first.

    A column is the effect of a level, `base[k] + level q + effect`. A symmetric matrix over them is a list of values,
    one for each of its `keys` and then those of the `core` (c,), row by row; at the end is room for what is padded.
    Raises `ValueError` where the core has too many numbers.
    """

    def __init__(self, meetings: Meetings, large: int) -> None:
        self.meetings = meetings
        sizes = [g.effects for g in meetings.groupings]
        counts = [g.levels for g in meetings.groupings]
        self.size = torch.cat([torch.full((n,), q) for n, q in zip(counts, sizes, strict=True)])  # of each level
        self.first = self.size.cumsum(0) - self.size  # its first column
        self.total = int(self.size.sum())
        starts = torch.tensor([0, *counts]).cumsum(0)
        self.starts = starts
        rounds, left = self._rounds(torch.arange(int(starts[large]), int(starts[large + 1])))
        self.core = self._columns_of(left)[1]
        if len(self.core) ** 2 > CORE:
            raise self._too_many(len(self.core), large)
        self.place = torch.full((self.total + 1,), -1)
        self.place[self.core] = torch.arange(len(self.core))
        self.keys = self._keys(rounds)
        self.values = len(self.keys) + len(self.core) ** 2  # and one more
        self.kept = 0
        self.fronts = [front for levels, edges in rounds for front in self._fronts(levels, edges)]
        every = range(len(sizes))
        self.columns = [self._level_columns(k) for k in every]  # (L, q) of each grouping
        self.own = [self.places(*every_pair(self.columns[k], self.columns[k])) for k in every]  # (L, q, q)
        self.cross = {
            (k, j): self.places(*every_pair(self.columns[k][pairs[:, 0]], self.columns[j][pairs[:, 1]]))
            for (k, j), pairs in meetings.pairs.items()
        }  # (N, q_k, q_j)

    # what meets what ----------------------------------------------------------------------------------------

    def _rounds(self, levels: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """The levels of each round with what they meet then (2, E), and those that are left."""
        found, left = list[tuple[Tensor, Tensor]](), torch.ones(len(self.size), dtype=torch.bool)
        edges = self._first_edges()
        while levels.numel():
            chosen = torch.zeros_like(left).index_fill(0, levels, True)
            left &= ~chosen
            met = edges[:, chosen[edges[0]]]
            found.append((levels, met))
            if int(self.size[left].sum()) <= SMALL:
                break
            edges = edges[:, ~chosen[edges[0]] & ~chosen[edges[1]]]
            edges = self._joined(edges, met, left)
            levels = self._chosen(edges, left)
        return found, left.nonzero()[:, 0]

    def _first_edges(self) -> Tensor:
        """(2, E) the levels that meet in a row, both ways, in ascending order."""
        parts = []
        for (k, j), pairs in self.meetings.pairs.items():
            one, two = pairs[:, 0] + self.starts[k], pairs[:, 1] + self.starts[j]
            parts += [torch.stack([one, two]), torch.stack([two, one])]
        return self._sorted(torch.cat(parts, 1))

    def _sorted(self, edges: Tensor) -> Tensor:
        many = len(self.size)
        keys = (edges[0] * many + edges[1]).unique()
        return torch.stack([keys // many, keys % many])

    def _joined(self, edges: Tensor, met: Tensor, left: Tensor) -> Tensor:
        """The edges with those between all that one eliminated level meets."""
        many, count = len(self.size), int(left.sum())
        number = torch.cumsum(left, 0) - 1
        keys = number[edges[0]] * count + number[edges[1]]
        if count**2 <= CORE:
            table = torch.zeros(count**2, dtype=torch.bool)
            table[keys] = True
            for at, around in neighbours(met, many):
                own = number[around]
                table[(own.unsqueeze(-1) * count + own.unsqueeze(-2)).flatten()] = True
                del at
            table.view(count, count).fill_diagonal_(False)
            keys = table.nonzero()[:, 0]
        else:
            for _, around in neighbours(met, many):
                own = number[around]
                more = (own.unsqueeze(-1) * count + own.unsqueeze(-2)).flatten().unique()
                keys = torch.cat([keys, more[more // count != more % count]])
                if len(keys) > CORE:
                    keys = keys.unique()
            keys = keys.unique()
        back = left.nonzero()[:, 0]
        return torch.stack([back[keys // count], back[keys % count]])

    def _chosen(self, edges: Tensor, left: Tensor) -> Tensor:
        """Levels that meet few others and not one another; none where that saves nothing."""
        nothing, columns = edges.new_empty(0), int(self.size[left].sum())
        degree = torch.zeros_like(self.size).index_add(0, edges[0], self.size[edges[1]])
        most = degree[left].double().median().clamp(min=16.0).clamp(max=columns / SAVES)
        if edges.shape[1] > DENSE * int(left.sum()) ** 2:
            return nothing
        rank = torch.empty_like(degree)  # by degree, equal ones in an order that has nothing to do with their own
        mixed = (torch.arange(len(degree)) * 2654435761) % (1 << 32)
        rank[torch.argsort(degree * (1 << 32) + mixed)] = torch.arange(len(degree))
        least = torch.full_like(rank, len(rank)).scatter_reduce(0, edges[0], rank[edges[1]], "amin")
        chosen = left & (degree <= most) & (rank < least)
        few = int(self.size[chosen].sum()) < LITTLE * columns
        return nothing if few and columns**2 <= CORE else chosen.nonzero()[:, 0]

    # columns and their places -------------------------------------------------------------------------------

    def _columns_of(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """(C,) which of the levels (L,) the columns of these belong to, and the columns."""
        size = self.size[levels]
        owner = torch.repeat_interleave(torch.arange(len(levels)), size)
        inside = torch.arange(len(owner)) - (size.cumsum(0) - size)[owner]
        return owner, self.first[levels][owner] + inside

    def _level_columns(self, k: int) -> Tensor:
        grouping, start = self.meetings.groupings[k], int(self.starts[k])
        return self.first[start : start + grouping.levels].unsqueeze(-1) + torch.arange(grouping.effects)

    def _keys(self, rounds: list[tuple[Tensor, Tensor]]) -> Tensor:
        """(K,) the pairs of columns of which one is not in the core, the larger column times all plus the smaller."""
        parts = []
        for levels, met in rounds:
            everyone = torch.cat([met, torch.stack([levels, levels])], 1)
            left, one = self._columns_of(everyone[0])
            right, two = self._columns_of(everyone[1])
            # all pairs of the columns of both ends
            size = self.size[everyone[1]]
            starts = (size.cumsum(0) - size)[left]
            for r in range(int(size.max())):
                has = r < size[left]
                other = two[(starts + r)[has]]
                parts.append(self._key(one[has], other))
            del right
        return torch.cat(parts).unique()

    def _key(self, one: Tensor, two: Tensor) -> Tensor:
        return torch.maximum(one, two) * self.total + torch.minimum(one, two)

    def places(self, one: Tensor, two: Tensor) -> Tensor:
        """Where the pairs of columns lie in the values; the last place for pairs with a column that is padded."""
        at, other = self.place[one], self.place[two]
        key = self._key(one, two)
        found = torch.searchsorted(self.keys, key).clamp(max=max(0, len(self.keys) - 1))
        core = len(self.keys) + torch.maximum(at, other) * len(self.core) + torch.minimum(at, other)
        padded = (one == self.total) | (two == self.total)
        return torch.where(padded, self.values, torch.where((at >= 0) & (other >= 0), core, found))

    def _fronts(self, levels: Tensor, met: Tensor) -> Iterator[Front]:
        """The levels of a round, with others of as many effects that meet about as many columns."""
        owner, column = self._columns_of(met[1])  # edges, and the columns at their ends
        source = met[0][owner]
        count = torch.zeros_like(self.size).index_add(0, source, torch.ones_like(source))
        starts = count.cumsum(0) - count
        by = torch.argsort(source, stable=True)
        column, kinds = column[by], list[tuple[Tensor, int]]()
        for q in self.size[levels].unique().tolist():
            own = levels[self.size[levels] == q]
            for low, high in steps(int(count[own].max()) if len(own) else 0):
                some = own[(count[own] > low) & (count[own] <= high)]
                if len(some):
                    kinds.append((some, min(high, int(count[some].max()))))
        for some, width in kinds:
            for part in some.split(max(1, AT_ONCE // max(1, width) ** 2)):
                inside = torch.arange(width)
                known = inside < count[part].unsqueeze(-1)
                at = (starts[part].unsqueeze(-1) + inside).clamp(max=max(0, len(column) - 1))
                beside = torch.where(known, column[at], self.total) if width else at.new_empty(len(part), 0)
                yield self._front(part, beside)

    def _front(self, levels: Tensor, beside: Tensor) -> Front:
        q = int(self.size[levels[0]])
        columns = self.first[levels].unsqueeze(-1) + torch.arange(q)
        own, across = self.places(*every_pair(columns, columns)), self.places(*every_pair(columns, beside))
        core = torch.where(beside == self.total, len(self.core), self.place[beside])
        if not bool((core >= 0).all()):
            return Front(columns, beside, own, across, self.places(*every_pair(beside, beside)), None, False)
        found = Front(columns, beside, own, across, None, core, WIDE * beside.shape[1] > len(self.core))
        if found.wide or self.kept + beside.shape[1] * beside.numel() > KEPT:
            return found
        self.kept += beside.shape[1] * beside.numel()
        return replace(found, inner=self.inner(found))

    def inner(self, front: Front) -> Tensor:
        """(n, d, d) the places of all pairs that a front meets; made each time where they are too many to be kept."""
        if front.inner is not None:
            return front.inner
        assert front.core is not None
        c = len(self.core)
        one, two = every_pair(front.core, front.core)
        larger = torch.maximum(one, two)
        return torch.where(larger == c, self.values, larger * c + torch.minimum(one, two) + len(self.keys))

    def _too_many(self, core: int, large: int) -> ValueError:
        sizes = [g.levels * g.effects for g in self.meetings.groupings]
        said = " and ".join(f"{size:,}" for size in sizes)
        return ValueError(
            f"the groupings of random effects have {said} effects. When the largest is eliminated, and of the others "
            f"what meets little, {core:,} effects are left that nearly all depend on one another: "
            f"{8e-9 * core**2:,.1f} GB, more than the {8e-9 * CORE:,.1f} GB that are made. Pool rare levels of the "
            "smaller groupings, or absorb them, y ~ x | a + b."
        )


def neighbours(met: Tensor, many: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Of edges (2, E) in ascending order the levels (n,) that meet as many others, and these (n, d), part by part."""
    count = torch.zeros(many, dtype=torch.int64).index_add(0, met[0], torch.ones_like(met[0]))
    starts = count.cumsum(0) - count
    for degree in count[count > 0].unique().tolist():
        for own in (count == degree).nonzero()[:, 0].split(max(1, AT_ONCE // degree**2)):
            yield own, met[1][starts[own].unsqueeze(-1) + torch.arange(degree)]


def every_pair(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs (n, a, b) of columns (n, a) and (n, b)."""
    both = torch.broadcast_tensors(one.unsqueeze(-1), two.unsqueeze(-2))
    return both[0], both[1]


def steps(most: int) -> Iterator[tuple[int, int]]:
    """Ranges of numbers up to `most`, each about a quarter longer than the one before; the first is 0 alone."""
    low, high = -1, 0
    while low < most:
        yield low, high
        low, high = high, max(high + 1, (5 * high) // 4)


def order_of(source: Iterable[Rows], effects: Groupings, models: int) -> Order | None:
    """The order of one model on a processor whose groupings cross or nest and have many levels; None for others."""
    if models > 1 or effects.small(MANY):
        return None
    head = next(iter(own_rows(source)))
    if head.y.device.type != "cpu":
        return None
    known = meetings(source, effects.columns, effects.groupings)
    return None if known is None else Order(known, effects.large)
