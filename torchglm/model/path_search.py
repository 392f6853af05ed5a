"""The searches of a call of `path`: on all rows, and on those without each fold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import Multinomial
from torchglm.fitting.folds import Without, averaged, fold_grams, left_out_deviance
from torchglm.fitting.kernel import fold
from torchglm.fitting.lanes import LeftOut, Terms
from torchglm.fitting.moments import Point
from torchglm.fitting.path import Found, WayDown, null_coefficients
from torchglm.fitting.standard import Standard
from torchglm.links import Link
from torchglm.rows.rows import Rows

FOLDS = 1e-8  # of the largest slope: what the models without a fold may leave


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

    def terms(self, source: Iterable[Rows], original: bool = False) -> Terms:
        """What a strength of 1 weighs each coefficient with: of the scaled columns, or of those as they came."""
        spread = self.standard.spread(source)
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

    def of(
        self,
        source: Iterable[Rows],
        without: Sequence[str] = (),
        tol: float | None = None,
        left_out: LeftOut | None = None,
    ) -> WayDown:
        """The way down on some rows. Raises `ValueError` where a null model has no regular maximum."""
        tol, lever = self.tol if tol is None else tol, self.standard.lever()
        way = WayDown(source, self.family, self.link, self.terms(source), self.ratio, tol, lever, left_out)
        bad = ~way.sound
        if bool(bad.any()):
            at, each = int(bad.nonzero()[0, 0]), max(len(without), 1)
            which = f" of model {at // each}" if len(bad) > each else ""
            fold = without[at % each] if without else ""
            raise ValueError(
                f"the null model{which}{fold} has no regular maximum: its response does not vary, or its means "
                "leave their range. Leave such responses out, or draw other folds (a label for each row)."
            )
        return way

    def without(self, codes: Tensor, labels: list[Any]) -> list[WayDown]:
        """The ways of the models without each fold: in one where they share a design, else a fold each."""
        source, count = self.standard.source, len(labels)
        shared = next(iter(source)).shared
        ways = []
        for some in [list(range(count))] if shared else [[k] for k in range(count)]:
            said = [f" without fold {labels[k]!r}" for k in some]
            left_out = partial(fold_grams, source, codes, some, self.family, self.link)
            ways.append(self.of(Without(source, codes, some).at_hand(), said, max(self.tol, FOLDS), left_out))
        return ways

    def validated(self, codes: Tensor, found: Sequence[Found]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K, L) the mean deviance of every fold, its weighted mean (B, L), and the standard error of that."""
        source = self.standard.source
        if next(iter(source)).shared:
            coef = found[0].coef.unflatten(0, (-1, len(found[0].coef) // self._models(source)))
        else:
            coef = torch.stack([one.coef for one in found], 1)
        deviance = left_out_deviance(source, codes, self.family, self.link, coef)
        return deviance, *averaged(source, codes, deviance)

    @staticmethod
    def _models(source: Iterable[Rows]) -> int:
        return next(iter(source)).y.shape[0]

    def explained(self, half: Tensor, total: Tensor) -> Tensor:
        """(B, L) the share of the deviance of the intercepts alone that is gone at mean half deviances (B, L)."""
        source = self.standard.source
        coef, _, _ = null_coefficients(source, self.family, self.link, self.standard.ones & ~self.pinned)
        null = fold(source, Point(coef, curved=False), self.family, self.link).objective / total
        return 1 - half / null.unsqueeze(-1)
