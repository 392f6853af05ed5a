"""Paths of penalties of other shapes: fits at falling strengths, each from the last, on all rows and without folds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.folds import Without, averaged, left_out_deviance
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold
from torchglm.fitting.lanes import Terms
from torchglm.fitting.moments import Point
from torchglm.fitting.path import null_coefficients
from torchglm.fitting.penalties import ByColumn, Fused, GroupLasso, Penalty
from torchglm.fitting.state import Solution
from torchglm.inputs import Data
from torchglm.links import Link
from torchglm.model.path import Path
from torchglm.model.path_options import strengths_of
from torchglm.model.solved import placed_penalty
from torchglm.rows.rows import Rows

STEPS = 100  # of Newton at one strength
LARGER = 4.0  # times which a strength grows until all that it holds is held
GROWTHS = 60
HALVINGS = 60
BESIDE = 1e-6  # of the largest strength, by which the first is above it: what is held there is 0 to the last digit
ENTERS = 1e-9  # of the slopes: an excess below it is rounding
UNLIKE = {"l1_ratio": 1.0, "standardize": True, "factor": None, "lower": None, "upper": None}


def shape_of(penalty: Any, data: Data, given: tuple[Any, ...]) -> Penalty:
    """The penalty of a path on the columns of a call, at a strength of 1 of the path.

    `given` is what the call says of elastic nets alone, in the order of `UNLIKE`. Raises `TypeError` or `ValueError`
    beside that, for another penalty, and for strengths of its own for each model.
    """
    if not isinstance(penalty, (ByColumn, Fused, GroupLasso)) or penalty.smooth:
        raise TypeError(
            "penalty must be a GroupLasso, Fused, MCP or SCAD of strength 1, which the path multiplies; got "
            f"{penalty!r}."
        )
    pairs = zip(UNLIKE.items(), given, strict=True)
    wrong = [name for (name, usual), value in pairs if (value is not None if usual is None else value != usual)]
    if wrong:
        raise ValueError(f"{wrong[0]}= is of elastic nets, and penalty= is another shape. Leave one of them out.")
    if penalty.each:
        raise ValueError("penalty has a strength for each model. Give one number, and strength= for each model.")
    if "spec" in data.context:
        data.context["spec"].check_fixed("torchglm.path")
    placed = placed_penalty(penalty, data)
    assert isinstance(placed, Penalty)
    return placed


@dataclass(frozen=True)
class ShapedPath:
    """A path of a `penalty` on models of a source: `strength`, `n` and `smallest` as for `path`."""

    data: Data
    family: Family
    link: Link
    penalty: Penalty
    strength: Any
    n: int
    smallest: float | None

    def path(self, source: Iterable[Rows], codes: Tensor | None, labels: list[Any]) -> Path:
        """That of some rows, with the folds (n,) that they are in. Raises `ValueError` where no strength holds all."""
        data = self.data
        null = self._null(source)
        given = strengths_of(self.strength, self._largest(null), data.batch, self.n, self.smallest, source)
        found = self._follow(source, given)
        coef = torch.stack([one.coef for one in found], 1)  # (B, L, P)
        half = torch.stack([one.moments.objective / one.moments.weight for one in found], -1)
        kkt = torch.stack([one.kkt for one in found if one.kkt is not None], -1)
        shared = not data.batch or self.strength is not None and bool((given == given[:1]).all())
        validated = None if codes is None else self._validated(source, codes, labels, given)

        def shaped(value: Tensor) -> Tensor:
            return value.reshape(*data.batch, *value.shape[1:])

        fold_deviance, cv_mean, cv_se = (None,) * 3 if validated is None else map(shaped, validated)
        return Path(
            strength=given[0] if shared else shaped(given),
            coef=shaped(coef),
            df=shaped(self._df(coef)),
            dev_ratio=shaped(1 - half / self._intercepts(source, null).unsqueeze(-1)),
            kkt=shaped(kkt),
            names=data.names,
            l1_ratio=1.0,
            family=self.family,
            link=self.link,
            data=data,
            weights=self._weights(coef[:, 0]),
            fold_deviance=fold_deviance,
            cv_mean=cv_mean,
            cv_se=cv_se,
            shape=self.penalty,
        )

    def _at(self, source: Iterable[Rows], strength: Tensor, start: Tensor | None) -> Solution:
        penalty = self.penalty.scaled(strength)
        return irls(source, self.family, self.link, penalty=penalty, start=start, max_iter=STEPS)

    def _follow(self, source: Iterable[Rows], given: Tensor) -> list[Solution]:
        """The fits (L) of all models at strengths (B, L), each from the last."""
        found, start = list[Solution](), None
        for place in range(given.shape[1]):
            found.append(self._at(source, given[:, place], start))
            start = found[-1].coef
        return found

    def _null(self, source: Iterable[Rows]) -> Solution:
        """The fit at a strength that holds all that it can."""
        models = next(iter(source)).y.shape[0]
        strength = torch.ones(models, dtype=torch.float64, device=self.data.device)
        for _ in range(GROWTHS):
            found = self._at(source, strength, None)
            if not bool(self.penalty.scaled(strength).kink(found.coef, found.moments.weight).any()):
                return found
            strength = LARGER * strength
        raise ValueError("no strength has all penalised coefficients at zero. Give strength=, or look at the response.")

    def _largest(self, null: Solution) -> Tensor:
        """(B,) the least strength at which the null model is the optimum, by bisection on its slopes."""
        moments, coef, keep = null.moments, null.coef, null.keep
        total, curvature = moments.weight, moments.gram.written_out()
        score = torch.where(keep, moments.score, 0.0)
        size = ENTERS * (moments.gram.diagonal() * 2 * moments.objective.unsqueeze(-1)).sqrt()

        def holds(strength: Tensor) -> Tensor:
            excess = self.penalty.scaled(strength).excess(curvature, score, coef, total, keep)
            return (excess <= size).all(-1)

        high = torch.ones_like(total)
        for _ in range(GROWTHS):
            high = torch.where(holds(high), high, LARGER * high)
        low = torch.zeros_like(high)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            inside = holds(middle)
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        return (1 + BESIDE) * high

    def _validated(
        self, source: Iterable[Rows], codes: Tensor, labels: list[Any], given: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K, L) the mean deviance of every fold, its weighted mean (B, L), and the standard error of that."""
        count = len(labels)
        each = []
        for k in range(count):
            rest = Without(source, codes, [k]).at_hand()
            each.append(torch.stack([one.coef for one in self._follow(rest, given)], 1))
        deviance = left_out_deviance(source, codes, self.family, self.link, torch.stack(each, 1))
        return deviance, *averaged(source, codes, deviance)

    def _df(self, coef: Tensor) -> Tensor:
        """(B, L) the coefficients that are free, without the constants: of bands one for each but the first."""
        constants = len(self.data.constants)
        if not isinstance(self.penalty, Fused):
            return (coef != 0).sum(-1) - constants
        total = torch.ones_like(coef[..., 0]).reshape(-1)
        kinks = self.penalty.kinks(total)
        tied = kinks.beyond(coef.reshape(len(total), -1)) == 0
        rank = torch.linalg.matrix_rank(torch.where(tied.unsqueeze(-1), kinks.matrix, 0.0))
        return (coef.shape[-1] - constants - rank).reshape(coef.shape[:-1])

    def _weights(self, coef: Tensor) -> Terms:
        """What is penalised, as `Path` keeps it."""
        held = self.penalty.holds(coef[:1], torch.ones_like(coef[:1, 0])).to(coef.dtype)
        end = torch.full_like(held, torch.inf)
        return Terms(held, torch.zeros_like(held), -end, end)

    def _intercepts(self, source: Iterable[Rows], null: Solution) -> Tensor:
        """(B,) the mean half deviance of the constants alone."""
        ones = torch.zeros(null.coef.shape[-1], dtype=torch.bool, device=null.coef.device)
        ones[list(self.data.constants)] = True
        coef, *_ = null_coefficients(source, self.family, self.link, ones)
        return fold(source, Point(coef, curved=False), self.family, self.link).objective / null.moments.weight
