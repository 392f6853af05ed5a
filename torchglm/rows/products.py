"""Products of rows with coefficients, with values per row, and with themselves: the algebra of a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from torchglm.rows.grams import Dense, Gram
from torchglm.rows.inverses import Root
from torchglm.rows.rows import Rows, is_all, whole
from torchglm.rows.threads import scratch

WIDE = 48  # columns from which on a product of pairs, written out for many models, costs more than it saves
NARROW = 24  # columns below which plain products of pieces that stay in a cache are faster than BLAS' syrk
FEW = 1 << 15  # numbers of such a piece
NEAR = 1 << 17  # numbers of the designs of models whose Grams are made at a time: half of the time of all at once
SLAB = 4096  # rows of a product on a GPU, one of many side by side


def linear_predictor(rows: Rows, coef: Tensor) -> Tensor:
    """`eta = x coef + offset`, shape `(B, n)`, for coefficients `(B, p)`, in their dtype."""
    eta = times(rows, coef)
    return eta if is_all(rows.offset, 0.0) else eta.add_(rows.offset)


def times(rows: Rows, coef: Tensor) -> Tensor:
    """`x coef`, shape `(B, n)`, for coefficients `(B, p)`, in their dtype."""
    if rows.indexed is not None:
        return rows.indexed.times(rows.x, coef)
    first = int(rows.intercept)
    x, slopes = rows.x.to(coef.dtype), coef[:, first:]
    if not rows.shared:
        eta = product(x, slopes.unsqueeze(-1)).squeeze(-1)
    elif coef.shape[0] == 1:
        eta = product(x, slopes[0]).unsqueeze(0)
    else:
        eta = in_groups(slopes, lambda part: part @ x.mT)
    return eta.add_(coef[:, :1]) if rows.intercept else eta


def terms(rows: Rows, coef: Tensor) -> Iterator[Tensor]:
    """The terms `(B, n)` whose sum is `x coef`: a column times its coefficient, or a look-up, each."""
    if rows.indexed is not None:
        yield from rows.indexed.terms(rows.x, coef)
        return
    if rows.intercept:
        yield coef[:, :1].expand(-1, rows.y.shape[-1])
    for j, slope in enumerate(coef[:, int(rows.intercept) :].unbind(-1)):
        yield rows.x[..., j] * slope.unsqueeze(-1)


def in_groups(models: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """A product over models `(B, ...)`, always for a multiple of 16 of them.

    A matrix product may sum in another order at its edges; this keeps what one model gets independent of how
    many others there are.
    """
    missing = -models.shape[0] % 16
    if not missing:
        return work(models)
    return work(torch.cat([models, models.new_zeros(missing, *models.shape[1:])]))[: models.shape[0]]


def project(rows: Rows, values: Tensor) -> Tensor:
    """`x' r`, shape `(B, p)`, for values `(B, n)` and the design of the rows."""
    if rows.indexed is not None:
        return rows.indexed.project(rows.x, values)
    if not rows.shared:
        out = product(values.unsqueeze(-2), rows.x).squeeze(-2)
    elif values.shape[0] == 1:
        out = _side_by_side(values.mT, rows.x) if rows.on_card else product(values[0], rows.x).unsqueeze(0)
    else:
        out = in_groups(values, lambda part: part @ rows.x)
    return torch.cat([values.sum(-1, keepdim=True), out], -1) if rows.intercept else out


def quadratic(rows: Rows, root: Root) -> Tensor:
    """(B, n) `x' root root' x` of every row."""
    return root.lengths(whole(rows) if rows.indexed is None else rows.x, rows.indexed)


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` for stacks of matrices; on a CPU by numpy, which hands small ones to BLAS one by one, fast and alike."""
    if a.device.type != "cpu":
        return a @ b
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


def gram(rows: Rows, weight: Tensor, single: bool = False) -> Gram:
    """`x' diag(weight) x`, as the layout of the rows keeps it, for the design of the rows and weights `(B, n)`.

    On a CPU numpy's `a.T @ a` calls BLAS' syrk, which torch has not: half the work of a product. One design for
    many models takes one product of the weights with all pairs of columns. A `single` syrk runs in float32, at twice
    the speed, where there is one.
    """
    if rows.indexed is not None:
        return rows.indexed.gram(rows.x, weight)
    if rows.shared and weight.shape[0] > 1:
        if rows.columns < WIDE or rows.on_card:
            return Dense(_gram_of_pairs(whole(rows), weight))
        return Dense(
            torch.cat(
                [gram(rows.take(slice(b, b + 1)), one, single).written_out() for b, one in enumerate(weight.split(1))]
            )
        )
    if rows.shared and rows.columns < NARROW and not rows.on_card:
        return Dense(_narrow_gram(rows.x.to(torch.float64), weight[0], rows.intercept).unsqueeze(0))
    root = _roots(rows, weight)
    if root is not None:
        half = _design(rows, root, torch.float32 if single else torch.float64)
        return Dense(product(half.mT, half).to(torch.float64))
    x = _design(rows, None)
    if rows.on_card:
        scaled = x * weight.unsqueeze(-1)
        return Dense(scaled.mT @ x if len(x) > 1 else _side_by_side(scaled[0], x[0]).unsqueeze(0))
    return Dense(_own_grams(x, weight))


def _own_grams(x: Tensor, weight: Tensor) -> Tensor:
    """(B, p, p) `x' diag(weight) x` of designs (B, n, p) on a CPU, of as many models at a time as stay in a cache."""
    models, n, p = x.shape
    step = max(1, NEAR // max(1, n * p))
    out, scaled = np.empty((models, p, p)), scratch("scaled", min(models, step), n, p)
    for start in range(0, models, step):
        piece = x[start : start + step]
        own = torch.mul(piece, weight[start : start + step].unsqueeze(-1), out=scaled[: piece.shape[0]])
        np.matmul(own.numpy().transpose(0, 2, 1), piece.numpy(), out=out[start : start + step])
    return torch.from_numpy(out)


def _narrow_gram(x: Tensor, weight: Tensor, intercept: bool) -> Tensor:
    """(p, p) `x' diag(weight) x` of one design (n, p) of few columns on a CPU, with a column of ones in front if so."""
    first, (n, p) = int(intercept), x.shape
    step = max(256, FEW // max(1, p))
    scaled, beside, total = scratch("design", min(n, step), first + p), weight.unsqueeze(-1), 0.0
    for start in range(0, max(n, 1), step):
        piece = x[start : start + step]
        own = scaled[: piece.shape[0]]
        if intercept:
            own[:, 0] = weight[start : start + step]
        torch.mul(piece, beside[start : start + step], out=own[:, first:])
        total = total + np.matmul(own.numpy().T, piece.numpy())  # (first + p, p)
    found = torch.from_numpy(total)
    if not intercept:
        return found
    return torch.cat([torch.cat([weight.sum().view(1, 1), found[:1]], 1), torch.cat([found[:1].mT, found[1:]], 1)])


def _side_by_side(a: Tensor, b: Tensor) -> Tensor:
    """`a' b` on a GPU, for `a` (n, k) and `b` (n, m) of few columns and very many rows.

    One product of so small a result keeps a few of the processors busy; slabs of rows, summed after, keep all.
    """
    count = a.shape[0] // SLAB
    whole = count * SLAB
    slabs = a[:whole].unflatten(0, (count, SLAB)).mT @ b[:whole].unflatten(0, (count, SLAB))
    return slabs.sum(0) + a[whole:].mT @ b[whole:]


def _roots(rows: Rows, weight: Tensor) -> Tensor | None:
    """The roots of the weights where a syrk is worth them: many columns, and no weight is negative."""
    narrow = not rows.shared and rows.columns < 32
    return None if weight.device.type != "cpu" or narrow or bool((weight < 0).any()) else weight.sqrt()


def _design(rows: Rows, scale: Tensor | None, dtype: torch.dtype = torch.float64) -> Tensor:
    """(B, n, p) the design with its intercept, its rows multiplied by `scale` (B, n) where given."""
    x = rows.x.unsqueeze(0) if rows.shared else rows.x
    first = int(rows.intercept)
    if scale is None and not first:
        return x
    shape = (*x.shape[:-1], rows.columns)
    out = scratch("design", *shape, dtype=dtype) if x.device.type == "cpu" else x.new_empty(shape)
    out[..., :first] = 1.0 if scale is None else scale.unsqueeze(-1)
    if scale is None:
        out[..., first:] = x
    else:
        torch.mul(x, scale.unsqueeze(-1), out=out[..., first:])
    return out


def _gram_of_pairs(x: Tensor, weight: Tensor) -> Tensor:
    p = x.shape[-1]
    place = torch.empty(p, p, dtype=torch.int64, device=weight.device)
    row, column = torch.triu_indices(p, p, device=weight.device)
    products = x[:, row] * x[:, column]
    place[row, column] = place[column, row] = torch.arange(row.numel(), device=weight.device)
    pairs = in_groups(weight, lambda part: part @ products)
    return pairs.index_select(-1, place.view(-1)).view(-1, p, p)


def triangle(a: Tensor) -> Tensor:
    """The square upper triangular factor of a QR decomposition, padded with rows of zeros where `a` is wide."""
    r = torch.linalg.qr(torch.nan_to_num(a, nan=0.0, posinf=0.0, neginf=0.0), mode="r").R
    missing = a.shape[-1] - r.shape[-2]
    return r if missing <= 0 else torch.cat([r, r.new_zeros(*r.shape[:-2], missing, r.shape[-1])], -2)


def stack_factors(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """The factor of the rows of both: triangular factors stack as Grams add."""
    if first is None or second is None:
        return first if second is None else second
    return triangle(torch.cat([first, second], -2))
