"""The passes of small multinomial models: the response enters by sums that never change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from torchglm.families.several import Multinomial
from torchglm.fitting.moments import Moments
from torchglm.fitting.several import with_counts
from torchglm.fitting.small_passes import SeveralPasses
from torchglm.rows.grams import Dense, Layout
from torchglm.rows.packed import Packed, written_out
from torchglm.rows.products import product

LOST = 0.01  # least share of an objective in the terms it is the difference of


@dataclass(frozen=True)
class ClassPasses(SeveralPasses):
    """Of models whose K predictors have all columns each, `log(p_k / p_0) = x theta_k`.

    The first column is of ones. With the sums `total` (B, P) of the columns over the rows of each class the score is
    `total - sum w p_k x`, and the objective `sum w log(1 + sum_k e^eta_k) - theta' total`: a step looks at no response.
    What rounding takes from `p_k - p_k^2`, which the last pass does not make, is no matter for a step.
    """

    total: Tensor

    @staticmethod
    def serves(family: object, packed: Packed) -> bool:
        """Whether rows are of that kind."""
        known = isinstance(family, Multinomial) and family.base is not None and packed.offset is None
        plan = packed.plan
        return known and len(plan.blocks) == 1 and plan.blocks[0].is_unit and plan.blocks[0].columns[0] in plan.ones

    @staticmethod
    def summed(passes: SeveralPasses) -> ClassPasses:
        """The passes with the sums of the columns over the rows of each class."""
        family, packed, rows = passes.family, passes.packed, passes.rows
        assert isinstance(family, Multinomial)
        seen = torch.stack([rows.y == k for k in range(len(family.known)) if k != family.base], 1).to(torch.float64)
        seen = seen if packed.weight is None else seen.mul_(packed.weight.unsqueeze(1))
        total = product(seen, packed.columns[0].mT).flatten(1)
        return ClassPasses(rows, family, passes.problem, packed, total)

    def begin(self) -> Moments:
        """The sums at the shares of the classes, the same in every row."""
        packed, models = self.packed, self.rows.y.shape[0]
        sums = with_counts(self.rows, Moments.zero(models, Layout(0), self.rows.y.device))
        p = self._theta(self.total)[..., 0] / sums.weight.unsqueeze(-1)  # (B, K)
        base = self._base
        shares = torch.cat([p[:, :base], 1 - p.sum(1, keepdim=True), p[:, base:]], 1)
        constants = self.family.start(shares.mT).mT  # (B, K)
        information = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)  # (B, K, K)
        pairs = packed.pairs[0, 0]
        inner = pairs.sum(-1) if packed.weight is None else product(packed.weight.unsqueeze(1), pairs.mT).squeeze(1)
        inner = written_out(inner, self._columns).expand(models, -1, -1)
        gram = (information[:, :, None, :, None] * inner[:, None, :, None, :]).flatten(3).flatten(1, 2)
        applied = (information @ constants.unsqueeze(-1)).squeeze(-1) - p  # (B, K)
        score = self.total + (applied.unsqueeze(-1) * inner[:, :1]).flatten(1)
        return replace(sums, gram=Dense(gram), score=score)

    def step(self, coef: Tensor, turn: int, curved: bool = True) -> Moments:
        return self._at(coef, exact=False)[0]

    def last(self, coef: Tensor, before: Tensor, begin: Moments) -> Moments:
        sums, values, eta = self._at(coef, exact=True)
        change = product(self._theta(before), self.packed.columns[0]).sub_(eta).abs_()  # (B, K, n)
        change.div_(eta.abs() + 1)
        eta.square_()
        scale = torch.zeros_like(sums.objective)
        for place, (k, j) in enumerate(self._pairs(), self._width):
            if k == j:
                scale += torch.linalg.vecdot(values[:, place], eta[:, k])
        if self.packed.weight is not None:
            change = torch.where(self.packed.weight.unsqueeze(1) > 0, change, 0.0)
        # of a sum that is small beside its terms digits were lost: such models are left to the search
        told = sums.objective > LOST * torch.linalg.vecdot(coef, self.total).abs()
        largest = torch.where(told, change.amax((1, 2)), math.inf)
        sums = replace(sums, weight=begin.weight, count=begin.count, response=begin.response)
        return replace(sums, change=largest, scale=scale)

    def _at(self, coef: Tensor, exact: bool) -> tuple[Moments, Tensor, Tensor]:
        """The sums at coefficients, the numbers (B, K + pairs, n) that they are sums of, and the predictors (B, K, n).

        Unless `exact` the diagonal of the information is a difference of sums.
        """
        packed, width = self.packed, self._width
        values = coef.new_empty(coef.shape[0], width + width * (width + 1) // 2, self.rows.y.shape[-1])
        p = values[:, :width]
        eta = product(self._theta(coef), packed.columns[0])
        np.exp(eta.numpy(), out=p.numpy())
        total = p[:, 0] + 1  # (B, n)
        for k in range(1, width):
            total += p[:, k]
        p.mul_(total.reciprocal().unsqueeze(1))
        for place, (k, j) in enumerate(self._pairs(), width):
            torch.mul(p[:, k], 1 - p[:, k] if exact and k == j else p[:, j], out=values[:, place])
        logs = total.log_()
        if packed.weight is not None:
            values.mul_(packed.weight.unsqueeze(1))
            logs.mul_(packed.weight)
        sums = written_out(product(values, packed.pairs[0, 0].mT), self._columns)  # (B, K + pairs, m, m)
        gram = coef.new_empty(coef.shape[0], width, self._columns, width, self._columns)
        for place, (k, j) in enumerate(self._pairs(), width):
            own = sums[:, place] if exact and k == j else sums[:, k] - sums[:, place] if k == j else -sums[:, place]
            gram[:, k, :, j] = own
            gram[:, j, :, k] = own
        gram = gram.flatten(3).flatten(1, 2)
        objective = logs.sum(-1) - torch.linalg.vecdot(coef, self.total)
        scale = torch.linalg.vecdot(coef, (gram @ coef.unsqueeze(-1)).squeeze(-1))
        moments = Moments.of_step(Dense(gram), self.total - sums[:, :width, 0].flatten(1), objective, scale)
        return moments, values, eta

    def _theta(self, coef: Tensor) -> Tensor:
        """(B, K, m) the coefficients of every class."""
        return coef.unflatten(-1, (self._width, -1))

    def take(self, models: Tensor) -> ClassPasses:
        return ClassPasses(
            self.rows.take(models), self.family, self.problem, self.packed.take(models), self.total[models]
        )

    @property
    def _base(self) -> int:
        assert isinstance(self.family, Multinomial) and self.family.base is not None
        return self.family.base

    @property
    def _width(self) -> int:
        return self.packed.plan.predictors

    @property
    def _columns(self) -> int:
        return self.packed.columns[0].shape[1]

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return ((k, j) for k in range(self._width) for j in range(k, self._width))
