"""Information matrices with one factor of very many levels: a border and a diagonal in place of all pairs of columns.

No two levels of a factor meet in a row, so that their part of a Gram is diagonal. With `q` other columns the matrix is
kept as `(B, p, q + 1)`: its `q` columns of the others, and last each level's own entry on the diagonal; rows of the
other columns hold a negative number there instead, which tells them apart and stays negative in sums. Its inverse is
`V V' + diag(e)`, kept in the same shape as `[V, e]`. A matrix of all pairs `(B, p, p)` passes through every function
here as what it is, and a root of its inverse as `V` with `e = 0`.

Elimination of the levels (the Schur complement) leaves a system of `q` columns: 100,000 levels cost `100,000 q^2`
operations and not their cube. Source: Golub & Van Loan (2013), Matrix Computations, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

MANY = 256  # levels from which on, if they are most of the columns, the border is less work than all pairs
FULL = 1 << 28  # numbers of a matrix of all pairs that is still written out


class Unsuited(Exception):
    """The border does not suit: columns nearly depend on one another, or a penalty takes all pairs of them."""


def is_arrow(matrix: Tensor) -> bool:
    """True for a border and a diagonal, False for all pairs of columns."""
    return matrix.shape[-1] != matrix.shape[-2]


def others(gram: Tensor) -> Tensor:
    """(p,) True for the columns beside the factor, in a Gram that is kept as border and diagonal."""
    return gram[0, :, -1] < 0


def diagonal(gram: Tensor) -> Tensor:
    """(B, p) the diagonal of a Gram."""
    if not is_arrow(gram):
        return gram.diagonal(dim1=-2, dim2=-1)
    beside = others(gram)
    return gram[..., -1].masked_scatter(beside, gram[:, beside, :-1].diagonal(dim1=-2, dim2=-1))


def with_ridge(gram: Tensor, ridge: Tensor | None) -> Tensor:
    """A Gram with `ridge` (B, p) added to its diagonal."""
    if ridge is None:
        return gram
    if not is_arrow(gram):
        return gram + torch.diag_embed(ridge)
    beside = others(gram)
    out = gram.clone()
    out[..., -1] += torch.where(beside, 0.0, ridge)
    out[:, beside, :-1] += torch.diag_embed(ridge[:, beside])
    return out


def written_out(gram: Tensor) -> Tensor:
    """(B, p, p) all pairs of columns of a Gram. Raises `ValueError` where that is too much."""
    if not is_arrow(gram):
        return gram
    check_size(gram.shape[1])
    beside = others(gram)
    out = torch.diag_embed(torch.where(beside, 0.0, gram[..., -1]))
    out[:, :, beside] = gram[..., :-1]
    out[:, beside, :] = gram[..., :-1].mT
    return out


def inverse(root: Tensor) -> Tensor:
    """(B, p, p) the inverse whose root is given. Raises `ValueError` where it is too large to be written out."""
    if not is_arrow(root):
        return root @ root.mT
    check_size(root.shape[1])
    border = root[..., :-1]
    return border @ border.mT + torch.diag_embed(root[..., -1])


def inverse_diagonal(root: Tensor) -> Tensor:
    """(B, p) the diagonal of the inverse."""
    if not is_arrow(root):
        return root.square().sum(-1)
    return root[..., :-1].square().sum(-1) + root[..., -1]


def inverse_column(root: Tensor, column: Tensor) -> Tensor:
    """(B, p) a column of each inverse, `column` (B,)."""
    model = torch.arange(len(column), device=column.device)
    if not is_arrow(root):
        return (root @ root[model, column].unsqueeze(-1)).squeeze(-1)
    found = (root[..., :-1] @ root[model, column, :-1].unsqueeze(-1)).squeeze(-1)
    found[model, column] += root[model, column, -1]
    return found


def within(root: Tensor, vectors: Tensor) -> Tensor:
    """(B, k, k) the products `v' inverse v` of vectors `(B, p, k)`."""
    if not is_arrow(root):
        half = root.mT @ vectors
        return half.mT @ half
    half = root[..., :-1].mT @ vectors
    return half.mT @ half + vectors.mT @ (root[..., -1:] * vectors)


def check_size(columns: int) -> None:
    """Raise `ValueError` where all pairs of the columns are too many."""
    if columns**2 > FULL:
        size = f"{8e-9 * columns**2:,.0f} GB"
        raise ValueError(
            f"a matrix of all pairs of {columns:,} columns takes {size} and is not made. A fit, standard "
            "errors, predictions and leverages do without it where one factor has most of the columns and "
            "the others are independent of it; pool rare levels (rare=) for the rest."
        )
