"""Absolute values and squares of single coefficients."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from torchglm.fitting.penalties.base import ONE, Penalty, numbers, slope_places
from torchglm.fitting.penalties.centres import Centre, away_from, by_place, centre_of, in_words, of_models, on_all
from torchglm.fitting.penalties.quadratic import Quadratic, method_of

LISTED = 6  # strengths that are written out


class ByColumn(Penalty):
    """Absolute values and squares of single coefficients with a strength each, `l1` and `l2`.

    Strengths are one number, one for each column (the intercept has none), `(*B, p)` those of each model of a batch, or
    `(*B, 1)` one for all columns of each. Raises `ValueError` for negative or non-finite strengths, or a shape that is
    not that of the columns and models, `TypeError` for what are no numbers.
    """

    names = ("l1", "l2")  # of the strengths, as they are given

    def __init__(self, l1: float | Tensor = 0.0, l2: float | Tensor = 0.0) -> None:
        one = "a number, or one for each column (and model)"
        self.l1, self.l2 = numbers(l1, self.names[0], one), numbers(l2, self.names[1], one)
        for name, value in zip(self.names, (self.l1, self.l2), strict=True):
            if not bool((torch.isfinite(value) & (value >= 0)).all()):
                raise ValueError(
                    f"{name} must be one number >= 0, or one for each column (and model), got {value.tolist()}."
                )

    def _like(self, l1: Tensor, l2: Tensor) -> ByColumn:
        """The same penalty with other strengths."""
        other = copy.copy(self)
        other.l1, other.l2 = l1, l2
        return other

    @property
    def each(self) -> bool:  # type: ignore[override]
        return self.l1.dim() > 1 or self.l2.dim() > 1

    @property
    def smooth(self) -> bool:
        return not bool((self.l1 > 0).any())

    @property
    def selects(self) -> bool:  # type: ignore[override]
        return not self.smooth

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Penalty:
        kept = slope_places(constants, p)
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

        return self._like(column(self.l1, self.names[0]), column(self.l2, self.names[1]))

    def scaled(self, strength: Tensor) -> Penalty:
        each = strength.unsqueeze(-1).to(self.l1.device)
        return self._like(each * self.l1, each * self.l2)

    def take(self, models: Tensor) -> Penalty:
        l1, l2 = (value[models.to(value.device)] if value.dim() > 1 else value for value in (self.l1, self.l2))
        return self._like(l1, l2)

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        l1, l2 = self.l1.to(coef.device), self.l2.to(coef.device)
        return total * (l1 * coef.abs() + l2 * coef.square() / 2).sum(-1)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return (total.unsqueeze(-1) * self.l2.to(coef.device)).expand_as(coef)

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        if self.smooth:
            return None
        return (total.unsqueeze(-1) * self.l1.to(coef.device)).expand_as(coef)


class ElasticNet(ByColumn):
    """`sum_j l1_j |b_j| + l2_j b_j^2 / 2`, with one strength for all columns or one each (the intercept has none).

    Strengths `(*B, p)` are those of each model of a batch, `(*B, 1)` one for all columns of each. In glmnet's terms
    `l1 = lambda alpha`, `l2 = lambda (1 - alpha)`; columns are not standardised here.
    Raises `ValueError` for negative or non-finite strengths, or a shape that is not that of the columns and models.
    Source: Friedman, Hastie & Tibshirani (2010), J. Stat. Software 33(1).
    """

    def __repr__(self) -> str:
        if not bool(self.l1.any()):
            return f"Ridge(l2={listed(self.l2)})"
        return f"ElasticNet(l1={listed(self.l1)}, l2={listed(self.l2)})"


class Ridge(ElasticNet):
    """`sum_j l2_j (b_j - centre_j)^2 / 2`, with one strength for all columns or one each (the intercept has none).

    `centre` is what coefficients are drawn to, 0 where it is None: one number for each column, the coefficients of
    another model (credibility to it), or numbers by name, the others 0. `"reml"` or `"ml"` estimates one strength for
    all columns: they are a `Quadratic` with the identity, on whose scale the result has its `strength`, `l2` times the
    total weight. Raises `ValueError` for another text, and for a centre that is not finite or of another shape.
    """

    def __init__(self, l2: float | Tensor | Literal["reml", "ml"], centre: Centre = None) -> None:
        self.method = method_of(l2) if isinstance(l2, str) else None
        super().__init__(0.0, 0.0 if isinstance(l2, str) else l2)
        self.centre = centre_of(centre)

    @property
    def each(self) -> bool:  # type: ignore[override]
        return super().each or isinstance(self.centre, Tensor) and self.centre.dim() > 1

    def _around(self, penalty: Penalty, centre: Tensor | dict[str, float] | None) -> Ridge:
        """The strengths of another such penalty around a centre."""
        other = copy.copy(self)
        assert isinstance(penalty, Ridge)
        other.l1, other.l2, other.centre = penalty.l1, penalty.l2, centre
        return other

    def named(self, names: Sequence[str]) -> Ridge:
        return self._around(self, by_place(self.centre, names))

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Penalty:
        centre = on_all(self.centre, constants, p, batch)
        if self.method is None:
            return self._around(super().expand(constants, p, batch), centre)
        kept = slope_places(constants, p)
        block = (kept, torch.eye(len(kept), dtype=torch.float64))
        return Quadratic([block], self.method, centre=centre).expand(constants, p, batch)

    def take(self, models: Tensor) -> Ridge:
        return self._around(super().take(models), of_models(self.centre, models))

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return super().value(away_from(coef, self.centre), total)

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.ridge(coef, total) * away_from(coef, self.centre)

    def __repr__(self) -> str:
        own = super().__repr__() if self.method is None else f"Ridge({self.method!r})"
        return own if self.centre is None else f"{own[:-1]}, centre={in_words(self.centre)})"


def listed(value: Tensor) -> str:
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
