"""Crossed factors of many levels: `D'WD` as diagonals and tables of the pairs of levels that meet, and its solutions.

Each row has one level of every factor. No two levels of a factor meet, so its part of `D'WD` is diagonal; of two
factors only the pairs of levels that occur are kept, at most one for each row. The factor of most levels is eliminated
exactly, and conjugate gradients with the diagonal as preconditioner solve the Schur complement of the others: for two
factors its eigenvalues are `1 - r^2`, `r` the canonical correlations of the factors, where sweeps (alternating
projections) converge by `r^2` each. Source: Golub & Van Loan (2013), Matrix Computations, section 11.5; Correia (2016),
A feasible estimator for linear models with multi-way fixed effects.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

MOST = 20_000  # iterations of conjugate gradients
EXACT = 3_000  # levels beside those of the largest factor up to which the rank of three factors is found exactly
ROUNDING = 1e-13  # share of a right side's scale that is rounding
NOTHING = 1e-9  # a smaller eigenvalue of the scaled Schur complement is rounding


@dataclass(frozen=True)
class _Pairs:
    """The pairs of levels of two factors that occur: where each row's pair is, and both orders of the table."""

    shape: tuple[int, int]
    place: Tensor  # (n,) int32
    rows: tuple[Tensor, Tensor]  # starts of the rows of the table, and the column of each entry
    columns: tuple[Tensor, Tensor]  # the same of the transposed table
    order: Tensor  # entries in the order of the transposed table

    @staticmethod
    def of(first: Tensor, second: Tensor, shape: tuple[int, int]) -> _Pairs:
        key = first.long() * shape[1] + second
        found, place = torch.unique(key, return_inverse=True)
        place = place.int()
        left, right = (found // shape[1]).int(), (found % shape[1]).int()
        order = torch.argsort(right, stable=True)
        return _Pairs(shape, place, (_starts(left, shape[0]), right), (_starts(right, shape[1]), left[order]), order)

    def table(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of weights `(n,)` over the rows of each pair, as a sparse table and its transpose."""
        values = weight.new_zeros(self.rows[1].numel()).index_add_(0, self.place, weight)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls sparse tables beta
            return (
                torch.sparse_csr_tensor(*self.rows, values, size=self.shape),
                torch.sparse_csr_tensor(*self.columns, values[self.order], size=self.shape[::-1]),
            )


def _starts(sorted_codes: Tensor, count: int) -> Tensor:
    return torch.cat([sorted_codes.new_zeros(1), torch.bincount(sorted_codes, minlength=count).cumsum(0).int()])


class Crossed:
    """Factors whose levels of the rows are `codes` (F, n) int32, of `counts` levels each.

    Tables over all levels, `(L, k)`, hold the levels of one factor after the other.
    """

    def __init__(self, codes: Tensor, counts: tuple[int, ...]) -> None:
        self.codes, self.counts = codes, counts
        self.starts = [sum(counts[:f]) for f in range(len(counts) + 1)]
        self.main = max(range(len(counts)), key=lambda f: counts[f])
        self.others = [f for f in range(len(counts)) if f != self.main]
        self.pairs = {
            (f, g): _Pairs.of(codes[f], codes[g], (counts[f], counts[g]))
            for f, g in combinations([self.main, *self.others], 2)
        }

    @property
    def levels(self) -> int:
        """The levels of all factors."""
        return self.starts[-1]

    def of(self, table: Tensor, f: int) -> Tensor:
        """The part of a table over all levels that belongs to one factor."""
        return table[self.starts[f] : self.starts[f + 1]]

    def sums(self, values: Tensor) -> Tensor:
        """(L, k) the sums of values `(k, n)` over the rows of each level."""
        out = values.new_zeros(values.shape[0], self.levels)
        for f, codes in enumerate(self.codes):
            for k, row in enumerate(values):
                out[k, self.starts[f] : self.starts[f + 1]].index_add_(0, codes, row)
        return out.mT.contiguous()

    def spread(self, table: Tensor, rows: slice = slice(None)) -> Tensor:
        """(k, m) for each of some rows the sum of the entries of a table `(L, k)` under its levels."""
        columns = table.mT.contiguous()
        total = None
        for f, codes in enumerate(self.codes):
            own = columns[:, self.starts[f] : self.starts[f + 1]].index_select(1, codes[rows])
            total = own if total is None else total.add_(own)
        assert total is not None  # there is a factor
        return total

    def weighted(self, weight: Tensor) -> Levels:
        """`D'WD` for weights `(n,)`."""
        tables = {pair: found.table(weight) for pair, found in self.pairs.items()}
        return Levels(self, self.sums(weight.unsqueeze(0))[:, 0], tables)

    def components(self, used: Tensor) -> Tensor:
        """(F, L) int64 the connected component of every level in the graph of the largest factor and each other one.

        Row `f` is of the factor `f` with the largest, all others being -1 there; levels without used rows are -1. That
        of the largest factor itself holds its number of components nowhere and is -1.
        """
        out = torch.full((len(self.counts), self.levels), -1, dtype=torch.int64)
        for f in self.others:
            first, second = self.codes[self.main][used].long(), self.codes[f][used].long()
            left, right = _connected(first, second, self.counts[self.main], self.counts[f])
            self.of(out[f], self.main).copy_(left)
            self.of(out[f], f).copy_(right)
        return out

    def rank(self, used: Tensor) -> tuple[int, bool]:
        """The independent columns of `D` on the used rows, and whether the number is exact.

        Of two factors the levels less the connected components. Of more it is counted where the levels are few; else
        each further factor loses as many levels as it has components with one before it, which is at most what it
        repeats, so that the number is not too small.
        """
        present = [int(torch.unique(codes[used]).numel()) for codes in self.codes]
        if len(self.counts) == 1:
            return present[0], True
        if len(self.counts) > 2 and self.levels - self.counts[self.main] <= EXACT:
            return self._counted(used), True
        order, total = [self.main, *self.others], present[self.main]
        for i, f in enumerate(order[1:], 1):
            lost = max(
                int(
                    _connected(self.codes[g][used].long(), self.codes[f][used].long(), self.counts[g], self.counts[f])[
                        1
                    ].max()
                )
                + 1
                for g in order[:i]
            )
            total += present[f] - lost
        return total, len(self.counts) == 2

    def _pieces(self, first: int, second: int, used: Tensor) -> int:
        """The connected components of two factors."""
        left, right = (self.codes[f][used].long() for f in (first, second))
        return int(_connected(left, right, self.counts[first], self.counts[second])[1].max()) + 1

    def _counted(self, used: Tensor) -> int:
        levels = self.weighted(used.to(torch.float64))
        size = self.levels - self.counts[self.main]
        matrix = levels.complement(torch.eye(size, dtype=torch.float64))
        own = torch.cat([self.of(levels.own, f) for f in self.others])
        scale = torch.where(own > 0, own, 1.0).rsqrt()
        values = torch.linalg.eigvalsh(matrix * scale.unsqueeze(-1) * scale)
        return int((self.of(levels.own, self.main) > 0).sum()) + int((values > NOTHING).sum())


class Levels:
    """`D'WD` of crossed factors: `own` (L,) its diagonal, and the tables of pairs of levels."""

    def __init__(self, crossed: Crossed, own: Tensor, tables: dict[tuple[int, int], tuple[Tensor, Tensor]]) -> None:
        self.crossed, self.own, self.tables = crossed, own, tables
        self.each = torch.where(own > 0, 1 / own, 0.0)

    def _times(self, f: int, g: int, values: Tensor) -> Tensor:
        """(L_f, k) the table of the pairs of two factors times values (L_g, k)."""
        straight = (f, g) in self.tables
        table = self.tables[(f, g) if straight else (g, f)]
        return table[0 if straight else 1] @ values

    def across(self, values: Tensor) -> Tensor:
        """(L_main, k) the tables of the largest factor with the others times values `(L - L_main, k)`."""
        crossed, main = self.crossed, self.crossed.main
        parts = values.split([crossed.counts[f] for f in crossed.others])
        first, *rest = (self._times(main, f, part) for f, part in zip(crossed.others, parts, strict=True))
        return sum(rest, first)

    def complement(self, values: Tensor) -> Tensor:
        """The Schur complement of the other factors times values `(L - L_main, k)`."""
        crossed, main = self.crossed, self.crossed.main
        parts = values.split([crossed.counts[f] for f in crossed.others])
        across = self.across(values) * crossed.of(self.each, main).unsqueeze(-1)
        out = []
        for f, part in zip(crossed.others, parts, strict=True):
            value = crossed.of(self.own, f).unsqueeze(-1) * part - self._times(f, main, across)
            for g, other in zip(crossed.others, parts, strict=True):
                value = value + self._times(f, g, other) if g != f else value
            out.append(value)
        return torch.cat(out)

    def solve(self, right: Tensor, tolerance: float, scale: Tensor, start: Tensor | None = None) -> tuple[Tensor, bool]:
        """(L, k) a solution of `D'WD a = right` (L, k) to a relative tolerance, and whether it was reached.

        `scale` (k,) is the length of the rows that `right` sums, weighted, of which 1e-13 is rounding. Levels without
        weight get 0. Where levels repeat one another any of the solutions.
        """
        crossed, main = self.crossed, self.crossed.main
        each = crossed.of(self.each, main).unsqueeze(-1)
        first = crossed.of(right, main) * each
        out = torch.zeros_like(right)
        reached = True
        if crossed.others:
            inner = torch.cat([crossed.of(right, f) - self._times(f, main, first) for f in crossed.others])
            begin = None if start is None else torch.cat([crossed.of(start, f) for f in crossed.others])
            inverse = torch.cat([crossed.of(self.each, f) for f in crossed.others]).unsqueeze(-1)
            limit = torch.maximum(tolerance * self._size(right), ROUNDING * scale)
            found, reached = self._conjugate(inner, inverse, limit, begin)
            for f, part in zip(crossed.others, found.split([crossed.counts[f] for f in crossed.others]), strict=True):
                crossed.of(out, f).copy_(part)
                first = first - each * self._times(main, f, part)
        crossed.of(out, main).copy_(first)
        return out, reached

    def _size(self, right: Tensor) -> Tensor:
        """(k,) the length of a right side in the scale of the diagonal."""
        return (right.square() * self.each.unsqueeze(-1)).sum(0).sqrt()

    def _conjugate(self, right: Tensor, scale: Tensor, limit: Tensor, start: Tensor | None) -> tuple[Tensor, bool]:
        """Conjugate gradients on the Schur complement, each column with its own steps."""
        x = torch.zeros_like(right) if start is None else start * (scale > 0)
        residual = right if start is None else right - self.complement(x)
        residual = residual * (scale > 0)
        z = scale * residual
        p, rz = z, (residual * z).sum(0)
        limit = limit.square()
        for _ in range(MOST):
            open_ = rz > limit
            if not bool(open_.any()):
                return x, True
            ap = self.complement(p)
            curve = (p * ap).sum(0)
            step = torch.where(open_ & (curve > 0), rz / torch.where(curve > 0, curve, 1.0), 0.0)
            x = x + step * p
            residual = residual - step * ap
            z = scale * residual
            new = (residual * z).sum(0)
            p = z + torch.where(open_ & (rz > 0), new / torch.where(rz > 0, rz, 1.0), 0.0) * p
            rz = torch.where(open_, torch.where(curve > 0, new, 0.0), rz)
        return x, False


def _connected(first: Tensor, second: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
    """The components, 0, 1, ..., of the levels of two factors joined by the rows `(m,)`; -1 without rows."""
    label = torch.arange(left + right)
    there = second + left
    while True:
        least = torch.minimum(label[first], label[there])
        new = label.scatter_reduce(0, first, least, "amin").scatter_reduce(0, there, least, "amin")
        new = new.scatter_reduce(0, label, new, "amin")  # a whole tree follows its root
        new = new[new]
        if torch.equal(new, label):
            break
        label = new
    present = torch.zeros(left + right, dtype=torch.bool)
    present[first] = True
    present[there] = True
    found = torch.full_like(label, -1)
    found[present] = torch.unique(label[present], return_inverse=True)[1]
    return found[:left], found[left:]
