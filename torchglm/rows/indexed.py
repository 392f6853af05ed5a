"""Index columns: factors whose coefficients are looked up instead of multiplied.

A factor of `L` levels is `L` columns of zeros with at most one 1 in each row. Kept as the place of that 1 it takes four
bytes a row; `x coef` is then a look-up, `x' r` a sum by level and `x' W x` a table of sums by pairs of levels: work for
each row that does not grow with the levels. Columns of numbers whose rows are but a few different ones, such as a
spline of a covariate of few values, are the same with a `table` of these rows behind the levels.
Source: Wood, Li, Shaddick & Augustin (2017), JASA 112(519), 1199-1210; Li & Wood (2020), Stat. Comput. 30, 19-25.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from torchglm.rows.grams import Bordered, Dense, Gram, Layout
from torchglm.rows.index import Index, between, pairs

BLOCK = 1 << 15  # rows that are worked on at a time
TABLE_BLOCK = 1 << 17  # the same where there are tables
MANY = 256  # levels from which on, if they are most of the columns, the border is less work than all pairs


@dataclass(frozen=True)
class Indexed:
    """Where the columns of a design `(n, width)` are: `places` (q,) of those held as numbers, and index columns.

    The numbers `x` (n, q) themselves are an argument of every method; results are over all columns, in their order.
    """

    places: Tensor
    indices: tuple[Index, ...]
    width: int
    bordered: bool = True  # may the Gram be kept as border and diagonal ?

    @property
    def large(self) -> Index | None:
        """The factor whose levels are most of the columns, where it has very many and the Gram may be bordered."""
        if not self.bordered or not self.indices:
            return None
        most = max(self.indices, key=lambda index: 0 if index.table is not None else index.count)
        if most.table is not None:
            return None
        fits = most.count >= MANY and 2 * most.count >= self.width and (most.columns.step or 1) == 1
        return most if fits else None

    @property
    def layout(self) -> Layout:
        """How the Gram is kept."""
        large = self.large
        if large is None:
            return Layout(self.width)
        return Layout(self.width, slice(large.columns.start, large.columns.start + large.count))

    def at(self, rows: Tensor | slice) -> Indexed:
        """The design of some of the rows."""
        return replace(self, indices=tuple(index.at(rows) for index in self.indices))

    def to(self, device: torch.device, dtype: torch.dtype) -> Indexed:
        """The design on a device, its numbers in a dtype."""
        return replace(
            self, places=self.places.to(device), indices=tuple(index.to(device, dtype) for index in self.indices)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and values."""
        return sum(index.nbytes for index in self.indices)

    @property
    def block(self) -> int:
        """How many rows are best worked on at a time: sums by code have to be more than what is then made of them."""
        counts = sorted(index.count for index in self.indices if index.table is not None)
        if not counts:
            return BLOCK
        return max(TABLE_BLOCK, counts[-1] * counts[-2] // 4 if len(counts) > 1 else 0)

    def stacked(self, others: list[Indexed]) -> Indexed:
        """These rows with those of others of the same design below them."""
        parts = [self, *others]
        indices = []
        for k, index in enumerate(self.indices):
            values = [value for part in parts if (value := part.indices[k].value) is not None]
            indices.append(
                replace(
                    index,
                    codes=torch.cat([part.indices[k].codes for part in parts]),
                    value=torch.cat(values) if values else None,
                )
            )
        return replace(self, indices=tuple(indices))

    def behind(self, columns: int, before: Indexed | None) -> Indexed:
        """These columns behind the `columns` of another design, which are numbers alone where `before` is None."""
        moved = tuple(
            replace(
                index,
                columns=slice(index.columns.start + columns, index.columns.stop + columns, index.columns.step),
            )
            for index in self.indices
        )
        places = torch.arange(columns, device=self.places.device) if before is None else before.places
        indices = moved if before is None else (*before.indices, *moved)
        return Indexed(places, indices, columns + self.width, self.bordered)

    def before(self, columns: int) -> Indexed | None:
        """The first columns alone, behind which index columns lie; None where these are numbers."""
        indices = tuple(index for index in self.indices if index.columns.start < columns)
        return Indexed(self.places, indices, columns) if indices else None

    def select(self, x: Tensor, columns: Tensor) -> tuple[Tensor, Indexed | None]:
        """The design of some columns, in that order: index columns that are then not evenly spaced are written out."""
        new = columns.new_full((self.width,), -1)
        new[columns] = torch.arange(len(columns), device=columns.device)
        indices, own = [], [new[self.places]]
        parts = [x]
        for index in self.indices:
            places = new[index.columns]
            if not bool((places >= 0).any()):
                continue
            moved = index.some(places)
            if moved is not None:
                indices.append(moved)
                continue
            parts.append(index.written().to(x.dtype))
            own.append(places)
        place = torch.cat(own)
        held, place = torch.cat(parts, -1)[:, place >= 0], place[place >= 0]
        if indices:
            return held, Indexed(place, tuple(indices), len(columns))
        return held[:, place.argsort()], None

    def level_columns(self, columns: range) -> Indexed | None:
        """The index columns of one effect alone, some or all of those of an index; None where there is none such."""
        for index in self.indices:
            if (
                index.table is not None
                or (index.columns.step or 1) != 1
                or not index.columns.start <= columns.start < index.columns.stop
            ):
                continue
            first, count, codes = columns.start - index.columns.start, len(columns), index.codes
            if count < index.count:
                inside = (codes >= first) & (codes < first + count)
                codes = torch.where(inside, codes - first, count).to(torch.int32)
            own = replace(index, codes=codes, columns=slice(0, count), count=count)
            return Indexed(self.places[:0], (own,), count, False)
        return None

    def whole(self, x: Tensor) -> Tensor:
        """(n, width) all columns written out."""
        out = x.new_zeros(x.shape[0], self.width)
        out[:, self.places] = x
        for index in self.indices:
            if index.table is not None:
                out[:, index.columns] = index.written().to(x.dtype)
                continue
            columns = out[:, index.columns]
            rows = (index.codes < index.count).nonzero()[:, 0]
            columns[rows, index.codes[rows].long()] = x.new_ones(()) if index.value is None else index.value[rows].to(x)
        return out

    def terms(self, x: Tensor, coef: Tensor) -> Iterator[Tensor]:
        """The terms `(B, n)` that the product with `coef` (B, width) sums: a column or a look-up each."""
        for k, place in enumerate(self.places.tolist()):
            yield x[:, k].to(coef.dtype) * coef[:, place : place + 1]
        for index in self.indices:
            yield index.weighted(index.spread(coef[:, index.columns]))

    def times(self, x: Tensor, coef: Tensor) -> Tensor:
        """The design times `coef` (B, width): (B, n)."""
        total = coef[:, self.places] @ x.to(coef.dtype).mT
        for index in self.indices:
            total += index.weighted(index.spread(coef[:, index.columns]))
        return total

    def project(self, x: Tensor, values: Tensor) -> Tensor:
        """The transposed design times values `(B, n)`: (B, width)."""
        out = values.new_zeros(values.shape[0], self.width)
        out[:, self.places] = values @ x
        for index in self.indices:
            out[:, index.columns] = index.sums(index.weighted(values))
        return out

    def gram(self, x: Tensor, weight: Tensor) -> Gram:
        """The design's `x' diag(weight) x` for weights `(B, n)`, as its layout keeps it."""
        return Dense(self.all_pairs(x, weight)) if self.large is None else self._bordered(self.large, x, weight)

    def all_pairs(self, x: Tensor, weight: Tensor) -> Tensor:
        """The Gram (B, width, width) of all pairs of columns."""
        out = weight.new_zeros(weight.shape[0], self.width, self.width)
        across = x.mT.contiguous() * weight.unsqueeze(-2)  # (B, q, n)
        out[:, self.places.unsqueeze(-1), self.places] = across @ x
        for index in self.indices:
            if index.table is None:
                diagonal = out.diagonal(dim1=-2, dim2=-1)[:, index.columns]
                diagonal.copy_(index.sums(index.weighted(index.weighted(weight))))
            else:
                out[:, index.columns, index.columns] = index.own(weight)
            sides = index.sums(index.weighted(across))
            out[:, self.places, index.columns] = sides
            out[:, index.columns, self.places] = sides.mT
        for first, second in combinations(self.indices, 2):
            inner = pairs(first, second, weight)
            out[:, first.columns, second.columns] = inner
            out[:, second.columns, first.columns] = inner.mT
        return out

    def _bordered(self, large: Index, x: Tensor, weight: Tensor) -> Bordered:
        """The Gram with the levels of one factor on a diagonal of their own."""
        beside, values = self._without(large), large.weighted(weight)
        across = weight.new_zeros(weight.shape[0], large.count, beside.width)
        across[..., beside.places] = large.sums(x.mT.contiguous() * values.unsqueeze(-2)).mT
        for index in beside.indices:
            across[..., index.columns] = pairs(large, index, weight)
        own = large.sums(large.weighted(values))
        return Bordered(beside.all_pairs(x, weight), across, own, large.columns.start)

    def _without(self, large: Index) -> Indexed:
        """The design without the columns of one factor."""
        first, count = large.columns.start, large.count

        def moved(columns: slice) -> slice:
            back = count if columns.start > first else 0
            return slice(columns.start - back, columns.stop - back, columns.step)

        indices = tuple(replace(index, columns=moved(index.columns)) for index in self.indices if index is not large)
        places = self.places - count * (self.places > first)
        return Indexed(places, indices, self.width - count, False)

    def quadratic(self, x: Tensor, matrix: Tensor) -> Tensor:
        """`x' A x` of every row, (B, n), for symmetric matrices `(B, width, width)`."""
        total = ((x @ matrix[:, self.places.unsqueeze(-1), self.places]) * x).sum(-1)
        for index in self.indices:
            own = index.own_quadratic(matrix[:, index.columns, index.columns])
            sides = index.spread(matrix[:, self.places, index.columns])  # (B, q, n)
            total += index.weighted(index.weighted(own) + 2 * (sides * x.mT).sum(-2))
        for first, second in combinations(self.indices, 2):
            total += 2 * between(first, second, matrix[:, first.columns, second.columns])
        return total

    def length(self, x: Tensor, border: Tensor, own: Tensor) -> Tensor:
        """`x' V V' x + x' diag(e) x` of every row, (B, n), for `V` (B, width, q) and `e` (B, width)."""
        columns = border.mT.reshape(-1, self.width)
        total = self.times(x, columns).view(border.shape[0], border.shape[-1], -1).square().sum(1)
        for index in self.indices:
            total += index.weighted(index.weighted(index.own_squares(own[:, index.columns])))
        return total + own[:, self.places] @ x.square().mT
