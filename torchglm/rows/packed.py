"""Designs of many narrow models with several predictors, laid out for the passes of a fit.

The columns of a model lie one after another, (B, m, n), and the products of all pairs of them are made once. The score
and the whole information of a block are then one product of the rows' numbers with these pairs, where `planned` makes
one for each pair of predictors at every pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from torchglm.rows.plan import Plan, PlanBlock
from torchglm.rows.planned import Pairs, between, contracted, part, plan_of
from torchglm.rows.products import product
from torchglm.rows.rows import Rows, is_all, to_float64

Key = tuple[int, int]  # a pair of blocks


def pair_count(plan: Plan) -> int:
    """How many products of columns the pairs of blocks have for each row."""
    sizes = [len(block.columns) for block in plan.blocks]
    return sum(
        m * (m + 1) // 2 if b == c else m * k for b, m in enumerate(sizes) for c, k in enumerate(sizes) if c >= b
    )


@dataclass(frozen=True, eq=False)
class Packed:
    """The columns (B, m, n) of every block of a plan, and the products (B, q, n) of every pair of blocks.

    Of a block with itself these are the pairs `i <= j` of its columns, row by row; B is 1 where one design serves all.
    `weight` and `offset` are those of the rows, None where they are 1 and 0.
    """

    plan: Plan
    columns: tuple[Tensor, ...]
    pairs: dict[Key, Tensor]
    weight: Tensor | None
    offset: Tensor | None

    @staticmethod
    def of(rows: Rows) -> Packed:
        """The packed design of rows in memory, without index columns."""
        plan, columns, pairs = plan_of(rows), list[Tensor](), dict[Key, Tensor]()
        for b, block in enumerate(plan.blocks):
            own, pairs[b, b] = _pairs(part(to_float64(rows), block))
            columns.append(own)
        for b, one in enumerate(columns):
            for c in range(b + 1, len(columns)):
                if plan.is_constant(plan.blocks[b]) or plan.is_constant(plan.blocks[c]):
                    pairs[b, c] = columns[c] if plan.is_constant(plan.blocks[b]) else one
                else:
                    pairs[b, c] = (one.unsqueeze(2) * columns[c].unsqueeze(1)).flatten(1, 2)
        plain = is_all(rows.weight, 1.0)
        none = is_all(rows.offset, 0.0)
        offset = None if none else rows.offset.movedim(-1, 0).to(torch.float64)
        return Packed(plan, tuple(columns), pairs, None if plain else rows.weight.to(torch.float64), offset)

    def take(self, models: Tensor) -> Packed:
        """The design of some of the models."""
        if self.columns[0].shape[0] == 1:
            columns, pairs = self.columns, self.pairs
        else:
            columns = tuple(value[models] for value in self.columns)
            pairs = {key: value[models] for key, value in self.pairs.items()}
        weight = None if self.weight is None else self.weight[models]
        return Packed(self.plan, columns, pairs, weight, None if self.offset is None else self.offset[:, models])

    def predictors(self, coef: Tensor) -> Tensor:
        """(K, B, n) the linear predictors for coefficients `(B, P)`, with the offset of the rows."""
        plan, total = self.plan, None
        for block, place, x in zip(plan.blocks, plan.slices, self.columns, strict=True):
            theta = coef[:, place].unflatten(-1, (block.width, len(block.columns)))  # (B, r, m)
            inner = theta if plan.is_constant(block) else product(theta.contiguous(), x)
            own = _spread(inner.movedim(1, 0), block)
            total = own if total is None else total + own
        assert total is not None
        total = total.expand(plan.predictors, coef.shape[0], self.columns[0].shape[-1])
        return total if self.offset is None else total + self.offset

    def sums(self, score: Tensor, information: Pairs) -> tuple[Tensor, Tensor]:
        """`sum Z' s` (B, P) and `sum Z' W Z` (B, P, P), for the score (K, B, n) and the information of the rows."""
        plan, models = self.plan, score.shape[1]
        out = score.new_zeros(models, plan.columns, plan.columns)
        scores = []
        for b, one in enumerate(plan.blocks):
            own = contracted(score, one).movedim(0, 1)  # (B, r, n)
            own = own if self.weight is None else own * self.weight.unsqueeze(1)
            constant = plan.is_constant(one)
            scores.append((own.sum(-1) if constant else product(own, self.columns[b].mT)).flatten(1))
            for c in range(b, len(plan.blocks)):
                weights = dict(self._weights(information, b, c))
                if not weights:
                    continue
                stacked = torch.stack(list(weights.values()), 1)  # (B, w, n)
                stacked = stacked if self.weight is None else stacked.mul_(self.weight.unsqueeze(1))
                constant = plan.is_constant(one) and plan.is_constant(plan.blocks[c])
                sums = stacked.sum(-1, keepdim=True) if constant else product(stacked, self.pairs[b, c].mT)
                self._place(out, sums, list(weights), b, c)
        return torch.cat(scores, -1), out

    def _weights(self, information: Pairs, b: int, c: int) -> Iterator[tuple[Key, Tensor]]:
        one, other = self.plan.blocks[b], self.plan.blocks[c]
        for r in range(one.width):
            for t in range(r if b == c else 0, other.width):
                weight = between(information, one.entries[r], other.entries[t])
                if weight is not None:
                    yield (r, t), weight

    def _place(self, out: Tensor, products: Tensor, at: list[Key], b: int, c: int) -> None:
        """Write the products (B, w, q) of blocks `b` and `c` into the information, in both its halves."""
        m, k = len(self.plan.blocks[b].columns), len(self.plan.blocks[c].columns)
        first, beside = self.plan.slices[b].start, self.plan.slices[c].start
        products = written_out(products, m) if b == c else products.unflatten(-1, (m, k))
        for (r, t), value in zip(at, products.unbind(1), strict=True):
            rows, columns = slice(first + r * m, first + (r + 1) * m), slice(beside + t * k, beside + (t + 1) * k)
            out[:, rows, columns] = value
            out[:, columns, rows] = value.mT


def _pairs(rows: Rows) -> tuple[Tensor, Tensor]:
    """The columns (B, m, n) of plain rows, and the products (B, q, n) of all pairs of them."""
    x = (rows.x.unsqueeze(0) if rows.shared else rows.x).mT
    models, own, n = x.shape
    first, m = int(rows.intercept), own + int(rows.intercept)
    pairs = x.new_empty(models, m * (m + 1) // 2, n)
    if not first:
        columns = x.contiguous()
    else:  # the products with ones are the columns
        columns = pairs[:, :m]
        columns[:, 0] = 1.0
        columns[:, 1:] = x
    start = first * m
    for i in range(first, m):
        torch.mul(columns[:, i : i + 1], columns[:, i:], out=pairs[:, start : start + m - i])
        start += m - i
    return columns, pairs


def _spread(inner: Tensor, block: PlanBlock) -> Tensor:
    """(K, B, n) `C v` for values (r, B, n); (1, B, n) where all predictors have the same."""
    if block.is_unit:
        return inner
    contrast = block.contrast
    if block.width == 1 and bool((contrast == contrast[0]).all()):
        return inner * float(contrast[0])
    return torch.einsum("kr,r...->k...", contrast, inner)


def written_out(pairs: Tensor, columns: int) -> Tensor:
    """(..., m, m) symmetric matrices of their pairs `i <= j` (..., q), row by row."""
    return pairs[..., _places(columns)].unflatten(-1, (columns, columns))


@cache
def _places(columns: int) -> Tensor:
    place = torch.empty(columns, columns, dtype=torch.int64)
    row, column = torch.triu_indices(columns, columns)
    place[row, column] = place[column, row] = torch.arange(row.numel())
    return place.view(-1)
