"""The searches of a call of `path`: on all rows, and on those without each fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import Multinomial
from torchglm.fitting.folds import held_out, mean_deviance, training
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.path import Terms, WayDown, null_coefficients
from torchglm.fitting.standard import Standard
from torchglm.links import Link
from torchglm.rows.rows import Rows


@dataclass(frozen=True)
class Searches:
    """How the models of a call are penalised, whichever rows they have."""

    standard: Standard
    slopes: Terms  # (1, P): the factors as they are given, twice, and the limits
    family: Family
    link: Link
    ratio: float
    standardize: bool
    tol: float

    def terms(self, rows: Rows, original: bool = False) -> Terms:
        """What a strength of 1 weighs each coefficient with: of the scaled columns, or of those as they came."""
        spread = self.standard.spread(rows.weight)
        scale = self.standard.scales().expand_as(spread)
        held = spread == 0
        unit = scale if original else torch.ones_like(scale)
        size = spread if self.standardize else torch.where(self.standard.ones, 1.0, 1 / scale)
        size, own = size * unit, self.slopes
        held = held | self.pinned
        lower, upper = (torch.where(held, 0.0, value * scale / unit) for value in (own.lower, own.upper))
        return Terms(own.absolute * size, own.square * size.square(), lower, upper)

    @property
    def symmetric(self) -> bool:
        """Whether every class has a vector of coefficients."""
        return isinstance(self.family, Multinomial) and self.family.baseline is None

    @property
    def pinned(self) -> Tensor:
        """(P,) free coefficients that are held at zero, as those of the other classes make up for them."""
        free = (self.slopes.absolute == 0)[0]
        if not self.symmetric:
            return torch.zeros_like(free)
        return free & (torch.arange(free.numel(), device=free.device) < free.numel() // self.standard.contrast.shape[1])

    def of(self, rows: Rows, without: str) -> WayDown:
        """The way down on some rows. Raises `ValueError` where a null model has no regular maximum."""
        way = WayDown(rows, self.family, self.link, self.terms(rows), self.ratio, self.tol, self.standard.lever())
        bad = way.failed | ~way.here.valid
        if bool(bad.any()):
            which = f" of model {int(bad.nonzero()[0, 0])}" if len(bad) > 1 and not without else ""
            raise ValueError(
                f"the null model{which}{without} has no regular maximum: its response does not vary, or its means "
                "leave their range. Leave such responses out, or draw other folds (a label for each row)."
            )
        return way

    def validated(self, codes: Tensor, labels: list[Any], strength: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K, L) the mean deviance of every fold, its weighted mean (B, L), and the standard error of that."""
        deviance, weight = self._left_out(codes, labels, strength)
        share = (weight / weight.sum(-1, keepdim=True)).unsqueeze(-1)  # (B, K, 1)
        mean = (share * deviance).sum(1)
        square = (share * (deviance - mean.unsqueeze(1)).square()).sum(1)
        return deviance, mean, (square / (len(labels) - 1)).sqrt()

    def _left_out(self, codes: Tensor, labels: list[Any], strength: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, L) the mean deviance of every fold, by the models without it, and the weights (B, K) of the folds."""
        rows, count = self.standard.rows, len(labels)
        together = [list(range(count))] if rows.shared else [[k] for k in range(count)]
        deviance = strength.new_empty(rows.y.shape[0], count, strength.shape[-1])
        weight = strength.new_empty(rows.y.shape[0], count)
        for some in together:
            index = torch.tensor(some, device=codes.device)
            own = torch.where((codes.unsqueeze(-1) == index).any(-1), codes - some[0], -2)
            train = training(rows, own, len(some))
            first = torch.arange(train.y.shape[0], device=codes.device) % (1 + len(some)) == 0
            train = train.take((~first).nonzero()[:, 0])
            without = f" without fold {labels[some[0]]!r}" if len(some) == 1 else " without one of the folds"
            found = self.of(train, without).follow(strength.repeat_interleave(len(some), 0))
            coef = found.coef.unflatten(0, (-1, len(some)))
            for place, held in held_out(rows, own, len(some)):
                k = some[place]
                deviance[:, k], weight[:, k] = mean_deviance(held, self.family, self.link, coef[:, place])
        return deviance, weight

    def explained(self, half: Tensor) -> Tensor:
        """(B, L) the share of the deviance of the intercepts alone that is gone at mean half deviances (B, L)."""
        rows = self.standard.rows
        coef, _, _ = null_coefficients(rows, self.family, self.link, self.standard.ones & ~self.pinned)
        null = fold([rows], Point(coef, curved=False), self.family, self.link).objective / rows.weight.sum(-1)
        return 1 - half / null.unsqueeze(-1)
