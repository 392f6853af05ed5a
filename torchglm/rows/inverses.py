"""Inverses of information matrices, as a step solves with them and as a fit keeps them.

A `GramInverse` belongs to a step: it solves, and says by its pivot how far the columns are independent. The `Root` of
it is what a fit keeps, `root root'` being the inverse. Each is dense, with all pairs of columns, or bordered: beside a
factor of very many levels the inverse is `V V' + diag(e)` with `V` of as many columns as there are others, and is
written out only where someone asks for all of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from torchglm.rows.threads import all_cores

if TYPE_CHECKING:
    from typing_extensions import Self

HALVED = 8  # columns of a half from which on two products are faster than one
FULL = 1 << 28  # numbers of a matrix of all pairs that is still written out


def check_size(columns: int) -> None:
    """Raise `ValueError` where all pairs of the columns are too many."""
    if columns**2 > FULL:
        size = f"{8e-9 * columns**2:,.0f} GB"
        raise ValueError(
            f"a matrix of all pairs of {columns:,} columns takes {size} and is not made. A fit, standard "
            "errors, predictions and leverages do without it where one factor has most of the columns and "
            "the others are independent of it; pool rare levels (rare=) for the rest."
        )


def unmade(columns: int) -> ValueError:
    """The error of a question that needs the information matrix of a fit that was made without it."""
    size = f"{8e-9 * columns**2:,.1f} GB"
    return ValueError(
        f"this fit of {columns:,} coefficients was made by conjugate gradients, without their information matrix of "
        f"all pairs ({size}): it has no standard errors, and none of what rests on them. Coefficients, probabilities "
        "and deviance are those of any fit, and AIC without a penalty. Where the matrix fits (16,384 "
        "coefficients), covariance('model') makes it; else pool rare classes, or leave columns out."
    )


class Stacked(ABC):
    """Tensors with the models in front, taken and written together as one tensor would be."""

    @property
    @abstractmethod
    def parts(self) -> dict[str, Tensor]:
        """The tensors `(B, ...)` by name."""

    @abstractmethod
    def of(self, parts: dict[str, Tensor]) -> Self:
        """One of the same kind with other tensors."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """One of the same kind with every tensor changed."""
        return self.of({name: change(part) for name, part in self.parts.items()})

    def zip(self, change: Callable[[Tensor, Tensor], Tensor], other: Self) -> Self:
        """One of the same kind, every tensor made of those of both."""
        theirs = other.parts
        return self.of({name: change(part, theirs[name]) for name, part in self.parts.items()})

    def cat(self, others: Sequence[Self]) -> Self:
        """The models of several, one after another."""
        several = [self.parts, *(other.parts for other in others)]
        return self.of({name: torch.cat([each[name] for each in several]) for name in several[0]})

    def __getitem__(self, models: Tensor | slice) -> Self:
        return self.map(lambda part: part[models])

    def __setitem__(self, models: Tensor | slice, value: Self) -> None:
        theirs = value.parts
        for name, part in self.parts.items():
            part[models] = theirs[name]

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return self.map(lambda part: part.to(device))

    def only(self, models: Tensor) -> Self:
        """The same with NaN for the models where `models` (B,) is False."""
        return self.map(lambda part: torch.where(models.view(-1, *[1] * (part.dim() - 1)), part, torch.nan))


Piled = TypeVar("Piled", Tensor, Stacked)


def placed(value: Piled, models: Tensor, new: Piled) -> Piled:
    """`value` (B, ...) with some models, in ascending order, replaced by those of `new`."""
    if isinstance(value, Stacked):
        return value.zip(lambda old, own: old.index_copy(0, models, own), new)
    return value.index_copy(0, models, new)


class Lookups(Protocol):
    """A design whose products with numbers `x` (n, q) and looked-up columns are made without writing them out."""

    def quadratic(self, x: Tensor, matrix: Tensor) -> Tensor:
        """(B, n) `x' A x` of every row, for matrices `(B, p, p)`."""

    def length(self, x: Tensor, border: Tensor, own: Tensor) -> Tensor:
        """(B, n) `x' V V' x + x' diag(e) x` of every row."""


class Root(Stacked):
    """What a fit keeps of the inverse of its information, for `B` models; zero where columns are dropped."""

    @abstractmethod
    def inverse(self) -> Tensor:
        """(B, p, p) the inverse. Raises `ValueError` where it is too large to be written out."""

    @abstractmethod
    def inverse_diagonal(self) -> Tensor:
        """(B, p) the diagonal of the inverse."""

    @abstractmethod
    def inverse_column(self, column: Tensor) -> Tensor:
        """(B, p) a column of each inverse, `column` (B,)."""

    @abstractmethod
    def within(self, vectors: Tensor) -> Tensor:
        """(B, k, k) the products `v' inverse v` of vectors `(B, p, k)`."""

    @abstractmethod
    def lengths(self, x: Tensor, indexed: Lookups | None = None) -> Tensor:
        """(B, n) `x' inverse x` of every row of a design `(n, p)` or `(B, n, p)`, or of `x` with looked-up columns."""

    @abstractmethod
    def spectrum(self, length: Tensor, keep: Tensor) -> Tensor:
        """(B, p) the falling singular values of the root, its rows times `length` (B, p); 0 for columns not kept."""


@final
@dataclass(frozen=True)
class DenseRoot(Root):
    """`matrix` (B, p, p), the inverse being `matrix matrix'`."""

    matrix: Tensor

    @property
    def parts(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}

    def of(self, parts: dict[str, Tensor]) -> DenseRoot:
        return DenseRoot(**parts)

    def inverse(self) -> Tensor:
        return self.matrix @ self.matrix.mT

    def inverse_diagonal(self) -> Tensor:
        return self.matrix.square().sum(-1)

    def inverse_column(self, column: Tensor) -> Tensor:
        model = torch.arange(len(column), device=column.device)
        return (self.matrix @ self.matrix[model, column].unsqueeze(-1)).squeeze(-1)

    def within(self, vectors: Tensor) -> Tensor:
        half = self.matrix.mT @ vectors
        return half.mT @ half

    def lengths(self, x: Tensor, indexed: Lookups | None = None) -> Tensor:
        if indexed is not None:
            return indexed.quadratic(x, self.inverse())
        if x.device.type != "cpu" or x.requires_grad or x.dtype != self.matrix.dtype:
            return (x @ self.matrix).square().sum(-1)
        return torch.from_numpy(_squared_lengths(x.detach().numpy(), self.matrix.detach().numpy()))

    def spectrum(self, length: Tensor, keep: Tensor) -> Tensor:
        return torch.linalg.svdvals(torch.nan_to_num(length.unsqueeze(-1) * self.matrix))


def _squared_lengths(x: np.ndarray, root: np.ndarray) -> np.ndarray:
    """(B, n) the squared lengths of the rows of `x root`, for `x` (n, p) or (B, n, p).

    A root is mostly upper triangular; then its first columns take half of the depth.
    """
    half = root.shape[-1] // 2
    upper = x.ndim == 2 and len(root) == 1 and half >= HALVED and not np.tril(root[0], -1).any()
    turned = np.empty((len(root), x.shape[-2], root.shape[-1]))
    with np.errstate(all="ignore"):
        if upper:
            np.matmul(x[:, :half], root[0, :half, :half], out=turned[0, :, :half])
            np.matmul(x, root[0, :, half:], out=turned[0, :, half:])
        else:
            np.matmul(x, root, out=turned)
        return np.einsum("bnp,bnp->bn", turned, turned)


@final
@dataclass(frozen=True)
class BorderedRoot(Root):
    """`border` (B, p, q) and `own` (B, p), the inverse being `border border' + diag(own)`."""

    border: Tensor
    own: Tensor

    @property
    def parts(self) -> dict[str, Tensor]:
        return {"border": self.border, "own": self.own}

    def of(self, parts: dict[str, Tensor]) -> BorderedRoot:
        return BorderedRoot(**parts)

    def inverse(self) -> Tensor:
        check_size(self.border.shape[1])
        return self.border @ self.border.mT + torch.diag_embed(self.own)

    def inverse_diagonal(self) -> Tensor:
        return self.border.square().sum(-1) + self.own

    def inverse_column(self, column: Tensor) -> Tensor:
        model = torch.arange(len(column), device=column.device)
        found = (self.border @ self.border[model, column].unsqueeze(-1)).squeeze(-1)
        found[model, column] += self.own[model, column]
        return found

    def within(self, vectors: Tensor) -> Tensor:
        half = self.border.mT @ vectors
        return half.mT @ half + vectors.mT @ (self.own.unsqueeze(-1) * vectors)

    def lengths(self, x: Tensor, indexed: Lookups | None = None) -> Tensor:
        if indexed is not None:
            return indexed.length(x, self.border, self.own)
        return (x @ self.border).square().sum(-1) + (x.square() @ self.own.unsqueeze(-1)).squeeze(-1)

    def spectrum(self, length: Tensor, keep: Tensor) -> Tensor:
        kept = keep.all(0)
        scaled = (length.unsqueeze(-1) * self.inverse() * length.unsqueeze(-2))[:, kept][..., kept]
        values = torch.linalg.eigvalsh(torch.nan_to_num(scaled)).clamp(min=0).sqrt().flip(-1)
        return torch.nn.functional.pad(values, (0, int((~kept).sum())))

    def solve(self, score: Tensor) -> Tensor:
        """`inverse score`, shape `(B, p)`."""
        return (self.border @ (self.border.mT @ score.unsqueeze(-1))).squeeze(-1) + self.own * score


@final
@dataclass(frozen=True)
class UnmadeRoot(Root):
    """Of an information matrix that was not made: `alone` (B, p) holds no number. Questions raise `ValueError`."""

    alone: Tensor

    @property
    def parts(self) -> dict[str, Tensor]:
        return {"alone": self.alone}

    def of(self, parts: dict[str, Tensor]) -> UnmadeRoot:
        return UnmadeRoot(**parts)

    def inverse(self) -> Tensor:
        raise unmade(self.alone.shape[-1])

    def inverse_diagonal(self) -> Tensor:
        """NaN: nothing is known of any."""
        return torch.full_like(self.alone, torch.nan)

    def inverse_column(self, column: Tensor) -> Tensor:
        raise unmade(self.alone.shape[-1])

    def within(self, vectors: Tensor) -> Tensor:
        raise unmade(self.alone.shape[-1])

    def lengths(self, x: Tensor, indexed: Lookups | None = None) -> Tensor:
        raise unmade(self.alone.shape[-1])

    def spectrum(self, length: Tensor, keep: Tensor) -> Tensor:
        raise unmade(self.alone.shape[-1])


class GramInverse(ABC):
    """The inverse of an information matrix on its kept columns, for `B` models.

    `pivot` (B,) is the smallest squared pivot of the scaled matrix, 1 for orthogonal columns and 0 (or NaN) for
    dependent ones; `positive` (B,) is False where the matrix was not positive definite.
    """

    pivot: Tensor
    positive: Tensor

    @property
    @abstractmethod
    def root(self) -> Root:
        """The root that a fit keeps."""

    @abstractmethod
    def solve(self, score: Tensor) -> Tensor:
        """`information^-1 score`, shape `(B, p)`."""


@final
@dataclass(frozen=True)
class DenseInverse(GramInverse):
    """By a factor of the matrix of all pairs, scaled: on the kept columns `keep` (B, p).

    `upper' upper` (B, p, p) is the information of the columns divided by `scale` (B, p); dropped columns stand in it as
    unit columns.
    """

    upper: Tensor
    scale: Tensor
    keep: Tensor
    pivot: Tensor
    positive: Tensor

    @cached_property
    def root(self) -> DenseRoot:
        with all_cores(self.upper):
            eye = torch.eye(self.upper.shape[-1], dtype=self.upper.dtype, device=self.upper.device)
            root = torch.linalg.solve_triangular(self.upper, eye.expand_as(self.upper), upper=True)
        return DenseRoot(torch.where(self.keep.unsqueeze(-1), root / self.scale.unsqueeze(-1), 0.0))

    def solve(self, score: Tensor) -> Tensor:
        right = torch.where(self.keep, score / self.scale, 0.0).unsqueeze(-1)
        return torch.where(self.keep, torch.cholesky_solve(right, self.upper, upper=True).squeeze(-1) / self.scale, 0.0)


@final
@dataclass(frozen=True)
class BorderedInverse(GramInverse):
    """By elimination of the levels of one factor; the pivot is that of the other columns."""

    eliminated: BorderedRoot
    pivot: Tensor
    positive: Tensor

    @property
    def root(self) -> BorderedRoot:
        return self.eliminated

    def solve(self, score: Tensor) -> Tensor:
        return self.root.solve(score)
