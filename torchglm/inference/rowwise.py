"""What a fit says row by row: everything that needs the rows beside the coefficients, one chunk at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.links import Link
from torchglm.rows.inverses import Root
from torchglm.rows.products import linear_predictor, quadratic
from torchglm.rows.rows import Rows, to_float64, whole
from torchglm.writing.nearest import unknown

KINDS = ("response", "pearson", "deviance", "working", "anscombe", "studentized", "quantile")
NODES, SPACING = 53, 0.08  # of the double exponential rule: ends within 1e-50 of the interval's


@dataclass(frozen=True)
class ChunkValues:
    """Values of a chunk, with what its rows count."""

    rows: Rows

    @property
    def used(self) -> Tensor:
        """True for the rows of positive weight."""
        return self.rows.weight > 0

    @property
    def repeats(self) -> Tensor:
        """How many times each row was seen, `freq`; 1 for rows without weight."""
        if self.rows.repeats is None:
            return torch.ones_like(self.rows.weight)
        return torch.where(self.used, self.rows.repeats.to(self.rows.weight.dtype), 1.0)


@dataclass(frozen=True)
class RowValues(ChunkValues):
    """Values of a chunk at the fitted coefficients, each `(B, n)`; `score` and `information` with their weights."""

    eta: Tensor
    mu: Tensor
    score: Tensor
    information: Tensor
    beside: Tensor | None = None  # (B, n) the quadratic form of absorbed factors, which the columns are free of
    length: Tensor | None = None  # (B, n) `x' (root root') x`, where it is known already

    @property
    def x(self) -> Tensor:
        """The design of the chunk, (n, p) or (B, n, p), every column written out."""
        return whole(self.rows)

    @property
    def prior(self) -> Tensor:
        """The part of the weight that divides the dispersion (or counts trials): the weight of one repeat."""
        return self.rows.weight / self.repeats


def row_values(
    source: Iterable[Rows], family: Family, link: Link, coef: Tensor, observed: bool = False
) -> Iterator[RowValues]:
    """The values of every chunk, or of pieces of it, at coefficients `(B, p)`."""
    for rows in (piece for chunk in source for piece in to_float64(chunk).pieces()):
        eta = linear_predictor(rows, coef)
        mu = link(eta)
        score, information = family.score_and_weight(rows.response, eta, mu, link, observed)
        used = rows.weight > 0
        yield RowValues(
            rows,
            eta,
            mu,
            torch.where(used, score * rows.weight, 0.0),
            torch.where(used, information * rows.weight, 0.0),
        )


def leverage(values: RowValues, root: Root) -> Tensor:
    """(B, n) the diagonal of the hat matrix, `w W x' (root root') x`, of a row with its repeats; 0 without weight."""
    return values.information * spread(values, root)


def spread(values: RowValues, root: Root) -> Tensor:
    """(B, n) `x' (root root') x` of every row, with the part of absorbed factors."""
    own = quadratic(values.rows, root) if values.length is None else values.length
    return own if values.beside is None else own + values.beside


def residuals(values: RowValues, family: Family, link: Link, kind: str) -> Tensor:
    """(B, n) residuals of one repeat: response `y - mu`, pearson, deviance, working or anscombe, by the usual formulas.

    Raises `ValueError` for an unknown kind. Source: McCullagh & Nelder (1989), section 2.4.
    """
    rows, mu = values.rows, values.mu
    y = rows.y
    if kind == "response":
        return y - mu
    if kind == "pearson":
        return (y - mu) * (values.prior / family.variance(mu)).sqrt()
    if kind == "deviance":
        half = family.half_deviance(rows.response, values.eta, mu, link)
        return torch.sign(y - mu) * (2 * half.clamp(min=0) * values.prior).sqrt()
    if kind == "working":
        return (y - mu) / link.inverse_deriv(values.eta)
    if kind == "anscombe":
        return anscombe(y, mu, family) * values.prior.sqrt()
    raise ValueError(unknown("residuals", kind, KINDS))


def anscombe(y: Tensor, mu: Tensor, family: Family) -> Tensor:
    """`(A(y) - A(mu)) / V(mu)^(1/6)`, `A' = V^(-1/3)`: the transform that makes the residual nearly normal.

    The integral from `mu` to `y` is taken by the double exponential rule, whose nodes crowd where `V` vanishes at
    an end, so that every family is right to 1e-8 without a formula of its own and nothing cancels at `y = mu`.
    Source: McCullagh & Nelder (1989), section 2.4.2; Takahasi & Mori (1974), Publ. RIMS 9.
    """
    total = torch.zeros_like(mu)
    for k in range(-NODES, NODES + 1):
        t = k * SPACING
        near = 1 / (1 + math.exp(math.pi * math.sinh(t)))  # share of the way, from mu to y, without rounding at 0
        far = 1 / (1 + math.exp(-math.pi * math.sinh(t)))
        variance = family.variance(y * near + mu * far)
        weight = SPACING * math.pi * math.cosh(t) * near * far
        total = total + torch.where(variance > 0, weight * variance.pow(-1 / 3), 0.0)
    return (y - mu) * total / family.variance(mu).pow(1 / 6)
