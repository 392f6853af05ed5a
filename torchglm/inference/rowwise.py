"""What a fit says row by row: everything that needs the rows beside the coefficients, one chunk at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.moments import linear_predictor
from torchglm.fitting.rows import Rows, wide
from torchglm.links import Link


@dataclass(frozen=True)
class RowValues:
    """Values of a chunk at the fitted coefficients, each `(B, n)`; `score` and `information` with their weights."""

    rows: Rows
    eta: Tensor
    mu: Tensor
    score: Tensor
    information: Tensor

    @property
    def used(self) -> Tensor:
        """True for the rows of positive weight."""
        return self.rows.weight > 0


def row_values(source: Iterable[Rows], family: Family, link: Link, coef: Tensor,
               observed: bool = False) -> Iterator[RowValues]:
    """The values of every chunk at coefficients `(B, p)`."""
    for chunk in source:
        rows = wide(chunk)
        eta = linear_predictor(rows, coef)
        mu = link(eta)
        score, information = family.score_and_weight(rows.y, eta, mu, link, observed)
        used = rows.weight > 0
        yield RowValues(rows, eta, mu, torch.where(used, score * rows.weight, 0.0),
                        torch.where(used, information * rows.weight, 0.0))


def leverage(values: RowValues, root: Tensor) -> Tensor:
    """(B, n) the diagonal of the hat matrix, `w W x' (root root') x`; 0 for rows without weight."""
    x = values.rows.x
    return values.information * (x @ root).square().sum(-1)


def residuals(values: RowValues, family: Family, link: Link, kind: str) -> Tensor:
    """(B, n) residuals: response `y - mu`, pearson, deviance, working or score-based, by the usual formulas.

    Raises `ValueError` for an unknown kind. Source: McCullagh & Nelder (1989), section 2.4.
    """
    rows, mu = values.rows, values.mu
    y = rows.y.abs() if family.signed else rows.y
    if kind == "response":
        return y - mu
    if kind == "pearson":
        return (y - mu) * (rows.weight / family.variance(mu)).sqrt()
    if kind == "deviance":
        half = family.half_deviance(rows.y, values.eta, mu, link)
        return torch.sign(y - mu) * (2 * half.clamp(min=0) * rows.weight).sqrt()
    if kind == "working":
        return (y - mu) / link.inverse_deriv(values.eta)
    raise ValueError(f"unknown residuals {kind!r}. Known: response, pearson, deviance, working.")
