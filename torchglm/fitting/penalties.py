"""Penalties: they see the quadratic model of a step, never the rows.

The penalised fit minimises `(1 / sum w) * negative log-likelihood (phi = 1) + sum_j l1_j |b_j| + l2_j b_j^2 / 2`,
glmnet's form. To add a penalty, write one class here.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Penalty:
    """A penalty as a step sees it: its value, a quadratic part, and absolute values.

    All methods take `coef` (B, p) and the total weight `(B,)` of the rows; the quadratic model of a step `d` is
    `d' gram d / 2 - score' d`.
    """

    diagonal = True  # its quadratic part has no products of two coefficients

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B,) the penalty times the total weight."""
        raise NotImplementedError

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B, p) the diagonal its quadratic part adds to the information, or (B, p, p) where it is no diagonal."""
        raise NotImplementedError

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B, p) the derivative of its quadratic part."""
        return self.ridge(coef, total) * coef

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        """(B, p) the weights of the absolute values, or None where there are none."""
        return None

    def expand(self, intercept: bool, p: int) -> Penalty:
        """The same penalty on a design of `p` columns, with an unpenalised intercept in front where there is one."""
        raise NotImplementedError


class ElasticNet(Penalty):
    """`sum_j l1_j |b_j| + l2_j b_j^2 / 2`, with one strength for all columns or one each (the intercept has none).

    In glmnet's terms `l1 = lambda alpha`, `l2 = lambda (1 - alpha)`; columns are not standardised here.
    Raises `ValueError` for negative or non-finite strengths, or a length that is not the number of columns.
    Source: Friedman, Hastie & Tibshirani (2010), J. Stat. Software 33(1).
    """

    def __init__(self, l1: float | Tensor = 0.0, l2: float | Tensor = 0.0) -> None:
        self.l1 = torch.as_tensor(l1, dtype=torch.float64)
        self.l2 = torch.as_tensor(l2, dtype=torch.float64)
        for name, value in (("l1", self.l1), ("l2", self.l2)):
            if value.dim() > 1 or not bool((torch.isfinite(value) & (value >= 0)).all()):
                raise ValueError(f"{name} must be one number >= 0, or one for each column, got {value.tolist()}.")

    def expand(self, intercept: bool, p: int) -> ElasticNet:
        def column(value: Tensor, name: str) -> Tensor:
            slopes = p - int(intercept)
            if value.dim() == 1 and value.numel() == p:
                return value  # the intercept, or the user's own column of ones, has a value too
            if value.dim() == 1 and value.numel() != slopes:
                raise ValueError(
                    f"{name} has {value.numel()} values for {slopes} columns. Give one for each column "
                    "(the intercept is never penalised), or a single number."
                )
            return torch.cat([value.new_zeros(int(intercept)), value.expand(slopes)])

        return ElasticNet(column(self.l1, "l1"), column(self.l2, "l2"))

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        l1, l2 = self.l1.to(coef.device), self.l2.to(coef.device)
        return total * (l1 * coef.abs() + l2 * coef.square() / 2).sum(-1)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return (total.unsqueeze(-1) * self.l2.to(coef.device)).expand_as(coef)

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        if not bool((self.l1 > 0).any()):
            return None
        return (total.unsqueeze(-1) * self.l1.to(coef.device)).expand_as(coef)

    def __repr__(self) -> str:
        return f"ElasticNet(l1={_text(self.l1)}, l2={_text(self.l2)})"


class Ridge(ElasticNet):
    """`sum_j l2_j b_j^2 / 2`, with one strength for all columns or one each (the intercept has none)."""

    def __init__(self, l2: float | Tensor) -> None:
        super().__init__(0.0, l2)

    def __repr__(self) -> str:
        return f"Ridge(l2={_text(self.l2)})"


class Around(Penalty):
    """`(b - centre)' curvature (b - centre) / 2`, whatever the weight of the rows: what is known of `b` beforehand.

    `centre` (B, p) or (p,), `curvature` (B, p, p) or (p, p), positive definite.
    """

    diagonal = False

    def __init__(self, centre: Tensor, curvature: Tensor) -> None:
        self.centre, self.curvature = centre, curvature

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return ((coef - self.centre) * self.slope(coef, total)).sum(-1) / 2

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.curvature.expand(*coef.shape, coef.shape[-1])

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return (self.curvature @ (coef - self.centre).unsqueeze(-1)).squeeze(-1)

    def expand(self, intercept: bool, p: int) -> Around:
        return self


class Along(Penalty):
    """Another penalty on the coefficients `b matrix` (B, p) of parameters `b` (B, q), `matrix` being (q, p)."""

    diagonal = False

    def __init__(self, penalty: Penalty, matrix: Tensor) -> None:
        self.penalty, self.matrix = penalty, matrix

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.penalty.value(coef @ self.matrix, total)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        own = self.penalty.ridge(coef @ self.matrix, total)
        return self.matrix @ (own.unsqueeze(-1) * self.matrix.mT if self.penalty.diagonal else own @ self.matrix.mT)

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.penalty.slope(coef @ self.matrix, total) @ self.matrix.mT

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        return self.penalty.nonsmooth(coef @ self.matrix, total)

    def expand(self, intercept: bool, p: int) -> Along:
        return self


def _text(value: Tensor) -> str:
    return f"{float(value):.6g}" if value.dim() == 0 else f"tensor({value.numel()})"
