"""The passes of Newton's method on a group of small models: of one predictor for each row, and of several."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.kernel import block_moments, row_values, take_family
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.problem import Problem
from torchglm.fitting.several import counted, evaluated
from torchglm.fitting.start import FAR, SCORING
from torchglm.rows.grams import Dense, Layout
from torchglm.rows.packed import Packed, pair_count
from torchglm.rows.planned import Pairs
from torchglm.rows.products import gram, linear_predictor, project
from torchglm.rows.responses import filled
from torchglm.rows.rows import Rows, is_all

WIDEST = 64  # pairs of columns that are kept for each row at most
HELD = 6  # numbers that a pass keeps of a row for each of its predictors, about


class SmallPasses(ABC):
    """The passes over a group of models in memory."""

    problem: Problem

    @property
    @abstractmethod
    def shared(self) -> bool:
        """Whether one design serves all models."""

    @abstractmethod
    def begin(self) -> Moments:
        """The sums whose step from zero leads to the first coefficients."""

    @property
    def chords(self) -> bool:
        """Whether a pass can go without its information, which is the same for steps and inference."""
        return False

    @abstractmethod
    def step(self, coef: Tensor, turn: int, curved: bool = True) -> Moments:
        """The sums at coefficients (B, p), with the information that step number `turn` takes, if `curved`."""

    @abstractmethod
    def last(self, coef: Tensor, before: Tensor, begin: Moments) -> Moments:
        """The sums at the end, with the information that inference takes, and the change since `before`."""

    @abstractmethod
    def take(self, models: Tensor) -> SmallPasses:
        """Those over some of the models."""

    @abstractmethod
    def saturated(self) -> Tensor:
        """(B,) what `step` leaves in the objective that belongs to y alone."""

    @abstractmethod
    def scale(self, objective: Tensor, total: Tensor) -> Tensor:
        """(B,) the scale of a fit that the objective at the first point is."""


@dataclass(frozen=True)
class PlainPasses(SmallPasses):
    """Of models of one predictor."""

    rows: Rows
    family: Family
    problem: Problem

    @property
    def shared(self) -> bool:
        return self.rows.shared

    def begin(self) -> Moments:
        return block_moments(self.rows, Point(relative=True), self.family, self.problem.link)

    @property
    def chords(self) -> bool:
        return self.problem.canonical

    def step(self, coef: Tensor, turn: int, curved: bool = True) -> Moments:
        rows, family, link = self.rows, self.family, self.problem.link
        point = Point(coef, not self.problem.canonical, relative=True)
        values = row_values(rows, linear_predictor(rows, coef), point.observed, point, family, link)
        if curved:
            own = gram(rows, values.information)
            scale = torch.linalg.vecdot(coef, (own.written_out() @ coef.unsqueeze(-1)).squeeze(-1))
        else:
            own = Dense(coef.new_zeros(coef.shape[0], 0, 0))
            scale = torch.linalg.vecdot(values.information, values.eta.square())
        return Moments.of_step(own, project(rows, values.score), values.half.sum(-1), scale, values.outside)

    def last(self, coef: Tensor, before: Tensor, begin: Moments) -> Moments:
        return block_moments(self.rows, Point(coef, before=before), self.family, self.problem.link)

    def take(self, models: Tensor) -> PlainPasses:
        return PlainPasses(self.rows.take(models), take_family(self.family, models), self.problem)

    def saturated(self) -> Tensor:
        return (self.family.nll_saturated(self.rows.response) * self.rows.weight).sum(-1)

    def scale(self, objective: Tensor, total: Tensor) -> Tensor:
        return objective


@dataclass(frozen=True)
class SeveralPasses(SmallPasses):
    """Of models of several predictors, on their packed design.

    A row without weight has columns, offset and response that any coefficients have a law for.
    """

    rows: Rows
    family: VectorFamily
    problem: Problem
    packed: Packed

    @staticmethod
    def of(rows: Rows, family: Family, problem: Problem) -> SeveralPasses:
        """Those over rows in float64."""
        assert isinstance(family, VectorFamily)
        rows = rows if is_all(rows.weight, 1.0) else _cleaned(rows, family)
        return SeveralPasses(rows, family, problem, Packed.of(rows))

    @property
    def shared(self) -> bool:
        return False  # one model is summed as many are

    def begin(self) -> Moments:
        rows, family = self.rows, self.family
        nothing = Moments.zero(rows.y.shape[0], Layout(0), rows.y.device)
        sums = counted(rows, nothing, family)
        assert sums.statistics is not None
        averages = (sums.statistics / sums.weight.unsqueeze(-1)).mT
        constants = family.start(averages).unsqueeze(-1)
        eta = family.row_start(rows.response, constants.expand(*constants.shape[:-1], rows.y.shape[-1]).contiguous())
        _, score, information = evaluated(family, rows.response, eta, Point(averages=averages))
        own = eta if self.packed.offset is None else eta - self.packed.offset
        score = score.clone()
        for (k, j), weight in information.items():
            score[k] += weight * own[j]
            if k != j:
                score[j] += weight * own[k]
        slope, gram = self.packed.sums(score, information)
        return replace(sums, gram=Dense(gram), score=slope)

    def step(self, coef: Tensor, turn: int, curved: bool = True) -> Moments:
        return self._sums_at(coef, self.problem.canonical or turn > SCORING)[0]

    def last(self, coef: Tensor, before: Tensor, begin: Moments) -> Moments:
        sums, eta, information = self._sums_at(coef, True)
        weight = self.packed.weight
        change = (eta - self.packed.predictors(before)).abs_().div_(eta.abs().add_(1))
        if weight is not None:
            change = torch.where(weight > 0, change, 0.0)
        scale = torch.zeros_like(sums.objective)
        for k, one in enumerate(eta):
            own = information[k, k] if weight is None else information[k, k] * weight
            scale += torch.linalg.vecdot(own, one.square())
        sums = replace(sums, weight=begin.weight, count=begin.count, response=begin.response)
        return replace(sums, change=torch.nan_to_num(change, nan=math.inf).amax((0, -1)), scale=scale)

    def _sums_at(self, coef: Tensor, observed: bool) -> tuple[Moments, Tensor, Pairs]:
        """The sums at coefficients, with the predictors and the information of the rows."""
        family, packed = self.family, self.packed
        eta = packed.predictors(coef)
        half, score, information = evaluated(family, self.rows.response, eta, Point(coef, observed))
        slope, gram = packed.sums(score, information)
        objective = half.sum(-1) if packed.weight is None else torch.linalg.vecdot(half, packed.weight)
        scale = torch.linalg.vecdot(coef, (gram @ coef.unsqueeze(-1)).squeeze(-1))
        invalid = None if family.all_valid(eta) else (~family.valid(eta)).sum(-1).to(eta.dtype)
        sums = Moments.of_step(Dense(gram), slope, objective, scale, invalid)
        return sums, eta, information

    def take(self, models: Tensor) -> SeveralPasses:
        return SeveralPasses(self.rows.take(models), self.family, self.problem, self.packed.take(models))

    def saturated(self) -> Tensor:
        return self.rows.y.new_zeros(self.rows.y.shape[0])

    def scale(self, objective: Tensor, total: Tensor) -> Tensor:
        return torch.minimum(objective, FAR * total)


def numbers_of(rows: Rows) -> int:
    """The numbers that a model of several predictors has to itself; far too many where the columns are not few."""
    assert rows.plan is not None
    pairs = pair_count(rows.plan)
    own = 0 if rows.shared and rows.y.shape[0] > 1 else pairs + rows.columns
    return rows.y.shape[-1] * (own + HELD * rows.plan.predictors) if pairs <= WIDEST else sys.maxsize


def _cleaned(rows: Rows, family: VectorFamily) -> Rows:
    """The rows with columns, offset and response that any coefficients have a law for where they have no weight."""
    used = rows.weight > 0
    if bool(used.all()):
        return rows
    y, second = filled(rows.response, used, family.inner_mean), rows.second
    y = y if second is None else y.size
    offset = torch.where(used.unsqueeze(-1), rows.offset, 0.0)
    x = rows.x if rows.shared else torch.where(used.unsqueeze(-1), rows.x, 0.0)
    return rows._replace(x=x, y=y, offset=offset)
