"""Products of rows whose observations have several predictors: each is made of the products of plain rows.

The information `W` (K, K) of a row is held as its `Pairs`: those `(k, l)`, `k <= l`, that are not zero everywhere.
It is contracted with the matrices of the plan before it meets the rows, so that all products have scalar weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from torchglm.rows.grams import Dense
from torchglm.rows.plan import Plan, PlanBlock
from torchglm.rows.products import gram, in_groups, product, project, times
from torchglm.rows.rows import Rows, is_all, whole
from torchglm.rows.threads import scratch

Pairs: TypeAlias = dict[tuple[int, int], Tensor]

NEAREST = 1 << 16  # numbers of a design that, with what a product makes of them, fit the cache next to a core
UNPACKED = 1_000_000  # products up to which OpenBLAS takes matrices as they lie, in 0.6 of the time


def plan_of(rows: Rows) -> Plan:
    """The plan of rows that have one."""
    assert rows.plan is not None
    return rows.plan


def part(rows: Rows, block: PlanBlock) -> Rows:
    """The plain rows of the columns of a block."""
    plain = rows._replace(plan=None)
    columns = block.columns
    if rows.indexed is not None:
        levels = rows.indexed.level_columns(columns) if isinstance(columns, range) else None
        if levels is not None:
            return plain._replace(x=rows.x[:, :0], indexed=levels)
        x, indexed = rows.indexed.select(rows.x, torch.tensor(columns, device=rows.x.device))
        return plain._replace(x=x, indexed=indexed)
    first = rows.intercept and columns[:1] == (0,)
    own = [j - int(rows.intercept) for j in columns[int(first) :]]
    if own == list(range(own[0], own[0] + len(own))) if own else True:
        x = rows.x[..., own[0] : own[0] + len(own)] if own else rows.x[..., :0]
    else:
        x = rows.x[..., own]
    return plain._replace(x=x, intercept=first)


def predictors(rows: Rows, coef: Tensor) -> Tensor:
    """(K, B, n) the linear predictors for coefficients `(B, P)`, with the offset of the rows."""
    eta = contributions(rows, coef)
    return eta if is_all(rows.offset, 0.0) else eta.add_(rows.offset.movedim(-1, 0))


def contributions(rows: Rows, coef: Tensor) -> Tensor:
    """(K, B, n) the same without the offset."""
    plan = plan_of(rows)
    if len(plan.blocks) == 1 and plan.blocks[0].is_unit:
        block = plan.blocks[0]
        return _times_each(part(rows, block), coef.unflatten(-1, (block.width, len(block.columns))))
    eta = coef.new_zeros(plan.predictors, coef.shape[0], rows.y.shape[-1])
    for block, place in zip(plan.blocks, plan.slices, strict=True):
        theta = coef[:, place].unflatten(-1, (block.width, len(block.columns)))  # (B, r, m)
        inner = _times_each(part(rows, block), theta)
        for t, entries in enumerate(block.entries):
            for k, factor in entries:
                eta[k].add_(inner[t], alpha=factor)
    return eta


def project_each(rows: Rows, values: Tensor) -> Tensor:
    """(B, P) `sum Z' s` for values `s` (K, B, n)."""
    plan = plan_of(rows)
    out = []
    for block in plan.blocks:
        inner = contracted(values, block)  # (r, B, n)
        plain = part(rows, block)
        if plain.shared and plain.indexed is None and inner.shape[1] == 1 and len(inner) > 1 and not plain.on_card:
            own = product(inner[:, 0], plain.x)
            own = torch.cat([inner[:, 0].sum(-1, keepdim=True), own], -1) if plain.intercept else own
            out.append(own.reshape(1, -1))
        else:
            out.append(torch.stack([project(plain, one) for one in inner], 1).flatten(1))
    return torch.cat(out, -1) if out else values.new_zeros(values.shape[1], 0)


def gram_of(rows: Rows, information: Pairs, single: bool = False) -> Dense:
    """(B, P, P) `sum Z' W Z` for the information `W` of the rows; `single` products may be made in float32."""
    plan = plan_of(rows)
    example = next(iter(information.values()))
    out = example.new_zeros(example.shape[0], plan.columns, plan.columns)
    # a block of ones alone is None: what it multiplies is summed
    parts = [None if plan.is_constant(block) else part(rows, block) for block in plan.blocks]
    for b, (one, place) in enumerate(zip(plan.blocks, plan.slices, strict=True)):
        for c in range(b, len(plan.blocks)):
            other, beside = plan.blocks[c], plan.slices[c]
            weights = {
                (r, t): weight
                for r in range(one.width)
                for t in range(r if b == c else 0, other.width)
                if (weight := between(information, one.entries[r], other.entries[t])) is not None
            }
            for (r, t), product_of in _products(parts[b], parts[c], b == c, weights, single):
                m, k = len(one.columns), len(other.columns)
                at = slice(place.start + r * m, place.start + (r + 1) * m)
                to = slice(beside.start + t * k, beside.start + (t + 1) * k)
                out[:, at, to] = product_of
                out[:, to, at] = product_of.mT
    return Dense(out)


def row_scores(rows: Rows, values: Tensor) -> Tensor:
    """(B, n, P) `Z' s` of every row, for values `s` (K, B, n)."""
    plan = plan_of(rows)
    out = []
    for block in plan.blocks:
        x = whole(part(rows, block)).to(values.dtype)
        inner = contracted(values, block)
        out += [one.unsqueeze(-1) * x for one in inner]
    return torch.cat(out, -1)


def expanded(rows: Rows) -> Tensor:
    """(K, n, P) or (K, B, n, P) the design of the predictors, all columns written out."""
    plan = plan_of(rows)
    shape = (plan.predictors, *rows.x.shape[:-1], plan.columns)
    out = torch.zeros(shape, dtype=torch.float64, device=rows.x.device)
    for block, place in zip(plan.blocks, plan.slices, strict=True):
        x, m = whole(part(rows, block)).to(torch.float64), len(block.columns)
        for t, entries in enumerate(block.entries):
            for k, factor in entries:
                out[k, ..., place.start + t * m : place.start + (t + 1) * m] = factor * x
    return out


def full(information: Pairs, predictors: int) -> Tensor:
    """(B, n, K, K) the information of every row written out."""
    example = next(iter(information.values()))
    out = example.new_zeros(*example.shape, predictors, predictors)
    for (k, other), value in information.items():
        out[..., k, other] = out[..., other, k] = value
    return out


def applied(information: Pairs, values: Tensor) -> Tensor:
    """(K, B, n) `W v` for values `v` (K, B, n)."""
    out = torch.zeros_like(values)
    for (k, other), weight in information.items():
        out[k] += weight * values[other]
        if k != other:
            out[other] += weight * values[k]
    return out


def _times_each(rows: Rows, theta: Tensor) -> Tensor:
    """(r, B, n) `x theta'` for coefficients (B, r, m) of plain rows."""
    models, width, _ = theta.shape
    first = int(rows.intercept)
    if rows.indexed is not None or width == 1:
        return torch.stack([times(rows, theta[:, t]) for t in range(width)])
    x = rows.x.to(theta.dtype)
    if not rows.shared:
        eta = product(x, theta[..., first:].mT).movedim(-1, 0)
    elif models == 1:
        eta = product(theta[0, :, first:], x.mT).unsqueeze(1)
    else:
        eta = in_groups(theta[..., first:].reshape(models * width, -1), lambda some: some @ x.mT)
        eta = eta.unflatten(0, (models, width)).movedim(1, 0)
    return eta + theta[..., :1].movedim(1, 0) if first else eta


def contracted(values: Tensor, block: PlanBlock) -> Tensor:
    """(r, B, n) `C' s` for values (K, B, n)."""
    if block.is_unit:
        return values
    out = values.new_zeros(block.width, *values.shape[1:])
    for t, entries in enumerate(block.entries):
        for k, factor in entries:
            out[t].add_(values[k], alpha=factor)
    return out


def between(information: Pairs, one: list[tuple[int, float]], other: list[tuple[int, float]]) -> Tensor | None:
    """(B, n) `c' W d` for two columns of contrasts; None where it is zero everywhere."""
    total = None
    for k, factor in one:
        for j, beside in other:
            weight = information.get((min(k, j), max(k, j)))
            if weight is not None:
                own = weight if factor * beside == 1 else weight * (factor * beside)
                total = own if total is None else total + own
    return total


def _products(
    one: Rows | None, other: Rows | None, same: bool, weights: dict[tuple[int, int], Tensor], single: bool
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """(B, m, k) `x' diag(w) z` for every weight, `x` and `z` the same columns or not; None is a column of ones."""
    if not weights:
        return
    if one is None or other is None:
        yield from zip(weights, _sums(one or other, list(weights.values()), one is None), strict=True)
        return
    if same and one.shared and one.indexed is None and next(iter(weights.values())).shape[0] > 1:
        stacked = gram(one, torch.cat(list(weights.values()))).written_out()  # one product of all pairs of columns
        yield from zip(weights, stacked.chunk(len(weights)), strict=True)
        return
    if same and one.shared and one.indexed is None and not one.on_card:
        yield from _one_by_one(one, weights, single)
        return
    z = None if same else whole(other).to(torch.float64)
    for place, weight in weights.items():
        if z is None:
            yield place, gram(one, weight).written_out()
        elif one.indexed is not None:
            yield place, torch.stack([project(one, weight * column) for column in z.unbind(-1)], -1)
        else:
            x = whole(one).to(torch.float64)
            scaled = weight.unsqueeze(-1) * z
            yield place, product(x.mT.expand(scaled.shape[0], -1, -1), scaled)


def _one_by_one(
    rows: Rows, weights: dict[tuple[int, int], Tensor], single: bool
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """`_products` of the columns of one model with themselves, on so few rows at a time that they stay in a cache."""
    dtype = torch.float32 if single else torch.float64
    x, stacked = whole(rows).to(dtype), torch.cat(list(weights.values())).to(dtype)  # (n, m), (W, n)
    (n, m), step = x.shape, _step(x.shape[-1])
    out = stacked.new_zeros(len(stacked), m, m, dtype=torch.float64)
    sums = out.numpy()
    for start in range(0, n, step):
        own, values = x[start : start + step], stacked[:, start : start + step]
        scaled = scratch("scaled", *own.shape, dtype=dtype)
        for place, weight in enumerate(values):
            sums[place] += torch.mul(own, weight.unsqueeze(-1), out=scaled).numpy().T @ own.numpy()
    yield from zip(weights, out.unsqueeze(1), strict=True)


def _step(columns: int) -> int:
    """How many rows of so many columns are best multiplied with themselves at a time."""
    if columns == 0:
        return NEAREST
    near, unpacked = NEAREST // columns, UNPACKED // columns**2
    return max(256, (min(near, unpacked) if unpacked >= 256 else near) // 64 * 64)


def _sums(rows: Rows | None, weights: list[Tensor], first: bool) -> list[Tensor]:
    """The products of the columns of rows, or of ones, with a column of ones, which stands `first` or last."""
    if rows is None:
        return [weight.sum(-1)[:, None, None] for weight in weights]
    if rows.shared and rows.indexed is None and weights[0].shape[0] == 1 and not rows.on_card:
        stacked = torch.cat(weights)
        sums = product(stacked, rows.x)
        sums = torch.cat([stacked.sum(-1, keepdim=True), sums], -1) if rows.intercept else sums
        each = list(sums.unsqueeze(1))
    else:
        each = [project(rows, weight) for weight in weights]
    return [value.unsqueeze(1 if first else -1) for value in each]
