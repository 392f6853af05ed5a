"""Index: columns of a design that a code of each row names, and their products."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

CELLS = 32  # of a table of pairs of codes for each row, up to which it is less work than sums for each column


@dataclass(frozen=True)
class Index:
    """Columns `columns` of a design with one entry in each row, `value` (n,), or 1 where None, or none.

    `codes` (n,) int32 says in which of the `count` columns; `count` itself is a row without an entry. With a `table`
    (m, q) a row holds the row of that which its code names, times its value; of `count = g m` codes each m have q
    columns of their own.
    """

    codes: Tensor
    columns: slice
    count: int
    value: Tensor | None = None
    table: Tensor | None = None

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.count if self.table is None else self.count // self.table.shape[0] * self.table.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and values of the rows."""
        return self.codes.nbytes + (0 if self.value is None else self.value.nbytes)

    def at(self, rows: Tensor | slice) -> Index:
        """The columns on some of the rows."""
        return replace(self, codes=self.codes[rows], value=None if self.value is None else self.value[rows])

    def to(self, device: torch.device, dtype: torch.dtype) -> Index:
        """The columns on a device, the values in a dtype; a table keeps its own."""
        value = None if self.value is None else self.value.to(device, dtype)
        table = None if self.table is None else self.table.to(device)
        return replace(self, codes=self.codes.to(device), value=value, table=table)

    def weighted(self, values: Tensor) -> Tensor:
        """Values `(*K, n)` times the entries of the rows."""
        return values if self.value is None else values * self.value.to(values.dtype)

    def by_code(self, table: Tensor) -> Tensor:
        """(*K, count) for coefficients `(*K, width)` what they are for each code."""
        if self.table is None:
            return table
        inner = table.unflatten(-1, (-1, self.table.shape[1])) @ self.table.to(table.dtype).mT
        return inner.flatten(-2)

    def by_column(self, sums: Tensor) -> Tensor:
        """(*K, width) from sums `(*K, count)` by code those by column."""
        if self.table is None:
            return sums
        parts = sums.unflatten(-1, (-1, self.table.shape[0]))
        found = parts.reshape(-1, self.table.shape[0]) @ self.table.to(sums.dtype)  # one product, not one for each
        return found.view(*parts.shape[:-1], -1).flatten(-2)

    def tallied(self, values: Tensor) -> Tensor:
        """(*K, count) the sums of values `(*K, n)` over the rows of each code."""
        return tally(self.codes.long(), values, self.count + 1)[..., :-1]

    def sums(self, values: Tensor) -> Tensor:
        """(*K, width) the transposed columns, with 1 for every value, times values `(*K, n)`."""
        return self.by_column(self.tallied(values))

    def spread(self, table: Tensor) -> Tensor:
        """(*K, n) for each row its columns, with 1 for its value, times `table` (*K, width)."""
        return looked_up(pad(self.by_code(table), (0, 1)), self.codes)

    def own(self, values: Tensor) -> Tensor:
        """(*K, width, width) the product of the columns with themselves, rows weighted by `values` (*K, n)."""
        sums = self.tallied(self.weighted(self.weighted(values)))
        if self.table is None:
            return torch.diag_embed(sums)
        (m, q), table = self.table.shape, self.table.to(values.dtype)
        blocks = (table.mT * sums.unflatten(-1, (-1, 1, m))) @ table  # (*K, g, q, q)
        out = sums.new_zeros(*sums.shape[:-1], self.width, self.width)
        for k, block in enumerate(blocks.unbind(-3)):
            out[..., k * q : (k + 1) * q, k * q : (k + 1) * q] = block
        return out

    def own_quadratic(self, matrix: Tensor) -> Tensor:
        """(*K, n) for each row its columns, with 1 for its value, in the quadratic form `matrix` (*K, width, width)."""
        if self.table is None:
            return self.spread(matrix.diagonal(dim1=-2, dim2=-1))
        (_, q), table = self.table.shape, self.table.to(matrix.dtype)
        blocks = [matrix[..., k : k + q, k : k + q] for k in range(0, self.width, q)]
        each = torch.cat([((table @ block) * table).sum(-1) for block in blocks], -1)  # (*K, count)
        return looked_up(pad(each, (0, 1)), self.codes)

    def own_squares(self, own: Tensor) -> Tensor:
        """(*K, n) the same for a diagonal form `own` (*K, width)."""
        squared = self if self.table is None else replace(self, table=self.table.square())
        return squared.spread(own)

    def written(self) -> Tensor:
        """(n, width) the columns, with their values."""
        dtype = torch.float64 if self.table is None else self.table.dtype
        one = self.by_code(torch.eye(self.width, dtype=dtype, device=self.codes.device)).mT  # (count, width)
        rows = pad(one, (0, 0, 0, 1))[self.codes]
        return rows if self.value is None else rows * self.value.to(dtype).unsqueeze(-1)

    def some(self, places: Tensor) -> Index | None:
        """The columns that move to `places` (width,), -1 where one goes; None where they are not evenly spaced then."""
        kept, index = places[places >= 0], self
        if len(kept) < self.width:
            if self.table is None or self.count != self.table.shape[0] or not len(kept):
                return None
            index = replace(self, table=self.table[:, places >= 0])
        steps = kept.diff().unique()
        if len(steps) > 1 or not bool((steps > 0).all()):
            return None
        step = int(steps[0]) if len(steps) else 1
        return replace(index, columns=slice(int(kept[0]), int(kept[-1]) + 1, step))


def tally(codes: Tensor, values: Tensor, bins: int) -> Tensor:
    """(*K, bins) the sums of `values` (*K, n) over equal codes `(n,)`."""
    total = values.new_zeros(*values.shape[:-1], bins)
    return total.scatter_add_(-1, codes.expand_as(values), values)


def looked_up(table: Tensor, codes: Tensor) -> Tensor:
    """(*K, n) the entries of `table` (*K, m) under codes `(n,)`."""
    if table.numel() == table.shape[-1]:  # one row is looked up in a quarter of the time
        return table.reshape(-1).index_select(0, codes).view(*table.shape[:-1], -1)
    return table.index_select(-1, codes)


def pairs(first: Index, second: Index, weight: Tensor) -> Tensor:
    """(B, width, width') the product of two sets of index columns, rows weighted by `weight` (B, n)."""
    values = second.weighted(first.weighted(weight))
    if not _in_cells(first, second, weight.shape[-1]):
        if first.width > second.width:
            return pairs(second, first, weight).mT
        columns = replace(first, value=None).written().mT.to(values.dtype)  # (width, n)
        return second.sums(columns * values.unsqueeze(-2))
    table = tally(_places(first, second), values, (first.count + 1) * (second.count + 1))
    inner = table.view(-1, first.count + 1, second.count + 1)[:, :-1, :-1]
    return first.by_column(second.by_column(inner).mT).mT


def between(first: Index, second: Index, matrix: Tensor) -> Tensor:
    """(B, n) `x' A z` of every row for its two sets of index columns `x` and `z`, `A` (B, width, width')."""
    if not _in_cells(first, second, len(first.codes)):
        if first.width > second.width:
            return between(second, first, matrix.mT)
        columns = replace(first, value=None).written().mT.to(matrix.dtype)  # (width, n)
        found = (columns * second.spread(matrix)).sum(-2)
    else:
        inner = first.by_code(second.by_code(matrix).mT).mT
        found = looked_up(pad(inner, (0, 1, 0, 1)).flatten(1), _places(first, second))
    return second.weighted(first.weighted(found))


def _in_cells(first: Index, second: Index, rows: int) -> bool:
    """Whether two sets of index columns go by a table of the pairs of their codes; those without a table always do."""
    return (first.table is None and second.table is None) or first.count * second.count <= CELLS * rows


def _places(first: Index, second: Index) -> Tensor:
    """(n,) the places of the rows in the table of all pairs of their columns."""
    return first.codes.long() * (second.count + 1) + second.codes
