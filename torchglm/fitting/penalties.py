"""Penalties: they see the quadratic model of a step, never the rows.

The penalised fit minimises `(1 / sum w) * negative log-likelihood (phi = 1) + sum_j l1_j |b_j| + l2_j b_j^2 / 2`,
glmnet's form. To add a penalty, write one class here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ONE = torch.Size()  # of one model
LISTED = 6  # strengths that are written out


class Penalty:
    """A penalty as a step sees it: its value, a quadratic part, and absolute values.

    All methods take `coef` (B, p) and the total weight `(B,)` of the rows; the quadratic model of a step `d` is
    `d' gram d / 2 - score' d`.
    """

    diagonal = True  # its quadratic part has no products of two coefficients
    each = False  # every model of a batch has its own

    @property
    def smooth(self) -> bool:
        """Whether it has no absolute values."""
        return type(self).nonsmooth is Penalty.nonsmooth

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

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Penalty:
        """The same penalty on a design of `p` columns, of which `constants` are intercepts and are not penalised.

        `batch` are the batch dimensions of the models that it is for.
        """
        raise NotImplementedError

    def take(self, models: Tensor) -> Penalty:
        """That of some of the models."""
        return self


class ElasticNet(Penalty):
    """`sum_j l1_j |b_j| + l2_j b_j^2 / 2`, with one strength for all columns or one each (the intercept has none).

    Strengths `(*B, p)` are those of each model of a batch, `(*B, 1)` one for all columns of each. In glmnet's terms
    `l1 = lambda alpha`, `l2 = lambda (1 - alpha)`; columns are not standardised here.
    Raises `ValueError` for negative or non-finite strengths, or a shape that is not that of the columns and models.
    Source: Friedman, Hastie & Tibshirani (2010), J. Stat. Software 33(1).
    """

    def __init__(self, l1: float | Tensor = 0.0, l2: float | Tensor = 0.0) -> None:
        self.l1 = torch.as_tensor(l1, dtype=torch.float64)
        self.l2 = torch.as_tensor(l2, dtype=torch.float64)
        for name, value in (("l1", self.l1), ("l2", self.l2)):
            if not bool((torch.isfinite(value) & (value >= 0)).all()):
                raise ValueError(
                    f"{name} must be one number >= 0, or one for each column (and model), got {value.tolist()}."
                )

    @property
    def each(self) -> bool:  # type: ignore[override]
        return self.l1.dim() > 1 or self.l2.dim() > 1

    @property
    def smooth(self) -> bool:
        return not bool((self.l1 > 0).any())

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> ElasticNet:
        kept = [j for j in range(p) if j not in set(constants)]
        slopes = len(kept)

        def column(value: Tensor, name: str) -> Tensor:
            models, columns = value.shape[:-1], value.shape[-1] if value.dim() else 1
            if value.dim() > 1 and models != batch:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)} and the models are {tuple(batch)}. Give (*B, p) strengths, "
                    "a row for each model, or one for each column, or a single number."
                )
            if value.dim() and columns == p:
                return value.reshape(-1, p) if models else value  # the intercept, or a user's own, has a value too
            if value.dim() and columns != slopes and not (models and columns == 1):
                raise ValueError(
                    f"{name} has {columns} values for {slopes} columns. Give one for each column "
                    "(the intercept is never penalised), or a single number."
                )
            whole = value.new_zeros(*models, p)
            whole[..., kept] = value.expand(*models, slopes)
            return whole.reshape(-1, p) if models else whole

        return ElasticNet(column(self.l1, "l1"), column(self.l2, "l2"))

    def take(self, models: Tensor) -> ElasticNet:
        l1, l2 = (value[models.to(value.device)] if value.dim() > 1 else value for value in (self.l1, self.l2))
        return ElasticNet(l1, l2)

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        l1, l2 = self.l1.to(coef.device), self.l2.to(coef.device)
        return total * (l1 * coef.abs() + l2 * coef.square() / 2).sum(-1)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return (total.unsqueeze(-1) * self.l2.to(coef.device)).expand_as(coef)

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        if self.smooth:
            return None
        return (total.unsqueeze(-1) * self.l1.to(coef.device)).expand_as(coef)

    def __repr__(self) -> str:
        if not bool(self.l1.any()):
            return f"Ridge(l2={_text(self.l2)})"
        return f"ElasticNet(l1={_text(self.l1)}, l2={_text(self.l2)})"


class Ridge(ElasticNet):
    """`sum_j l2_j b_j^2 / 2`, with one strength for all columns or one each (the intercept has none)."""

    def __init__(self, l2: float | Tensor) -> None:
        super().__init__(0.0, l2)


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

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Around:
        return self


class Along(Penalty):
    """Another penalty on the coefficients `b matrix` (B, p) of parameters `b` (B, q), `matrix` being (q, p)."""

    diagonal = False

    def __init__(self, penalty: Penalty, matrix: Tensor) -> None:
        self.penalty, self.matrix = penalty, matrix

    @property
    def smooth(self) -> bool:
        return self.penalty.smooth

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.penalty.value(coef @ self.matrix, total)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        own = self.penalty.ridge(coef @ self.matrix, total)
        return self.matrix @ (own.unsqueeze(-1) * self.matrix.mT if self.penalty.diagonal else own @ self.matrix.mT)

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.penalty.slope(coef @ self.matrix, total) @ self.matrix.mT

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        return self.penalty.nonsmooth(coef @ self.matrix, total)

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Along:
        return self


def _text(value: Tensor) -> str:
    """The strength of all columns; where they differ each, or from the least to the largest of many."""
    found = value.reshape(-1).tolist() if value.dim() else [float(value)]
    own = found[1:] if value.dim() and value.shape[-1] > 1 and not bool(value[..., 0].any()) else found
    if value.dim() > 1 and value.shape[0] > 1:
        own = value[..., int(not bool(value[..., 0].any())) :].reshape(-1).tolist()
    if len(set(own)) <= 1:
        return f"{(own or found)[0]:.6g}"
    if len(found) <= LISTED:
        return "[" + ", ".join(f"{one:.6g}" for one in found) + "]"
    return f"{min(own):.6g} to {max(own):.6g}"
