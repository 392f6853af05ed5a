"""IRLS for those who make the passes: it says where to evaluate next, and takes what the pass has summed.

descent = Descent(family, link, columns, intercept)
while descent.status is None:
    descent.take(fold(source, descent.point, family, link))
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting import linalg
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.search import DRIFT, ROUNDING, SHORTEST, SLACK, STEADY, Solver
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.grams import GRAM_PIVOT
from torchglm.rows.inverses import Inverse
from torchglm.rows.rows import Rows

LINEAR = 1e-4  # share of the tolerance that a step by expected information, which gains digits one by one, may show


class Descent:
    """Newton's method with step control for one model, driven from outside: one pass over the rows is one trial.

    `point` is where the next pass evaluates, `take` judges its moments: the step is accepted, or halved where the
    objective rises or a mean leaves its range. `coef` (1, p) are the last accepted coefficients (None before), in
    float64 with the intercept first, `moments` those of their pass, `status` None until the end. Without `start`
    the first pass begins at a mean per row.
    """

    def __init__(
        self,
        family: Family,
        link: Link,
        columns: int,
        intercept: bool,
        penalty: Penalty | None = None,
        start: Tensor | None = None,
        tol: float = 1e-8,
        device: torch.device | str = "cpu",
    ) -> None:
        self.columns = p = columns + intercept
        blank = torch.zeros(1, 0, dtype=torch.float64, device=device)
        rows = Rows(blank.new_zeros(0, columns), blank, blank, blank, None, intercept)
        penalty = None if penalty is None else penalty.expand(intercept, p)
        self.solver = Solver([], rows, family, link, penalty, tol, 1, 1e-12)
        self.keep = torch.ones(1, p, dtype=torch.bool, device=device)
        self.factored, self.fisher, self.closing = False, 0, False
        self.constant: Tensor | None = None
        self.trial = None if start is None else start.to(device, torch.float64).reshape(1, p)
        self.coef: Tensor | None = None
        self.moments = Moments.zero(1, rows.layout, blank.device)
        self.value = self.first = self.moments.objective
        self.delta, self.length = torch.zeros(1, p, dtype=torch.float64, device=device), 1.0
        self.decrement = self.value
        self.drift = 0
        self.status: Status | None = None

    @property
    def point(self) -> Point:
        """Where the next pass evaluates."""
        if self.trial is None:
            return Point(constant=self.constant, factor=self.factored, census=True)
        newton = not (self.solver.canonical or self.closing or self.factored or self.fisher)
        before = self.trial if self.coef is None else self.coef
        return Point(self.trial, newton, self.factored, before, census=True)

    @property
    def inverse(self) -> Tensor:
        """`H^-1 G H^-1` (p, p), `G` the information of the last accepted pass, `H` the same with the penalty's."""
        assert self.coef is not None
        _, _, inverse = self._direction(self.moments, self.coef)
        half = inverse.root.inverse()[0]
        return half if self.solver.penalty is None else half @ self.moments.gram.written_out()[0] @ half

    def take(self, moments: Moments) -> None:
        """Judge the pass at `point`. Raises `ValueError` where no valid mean is found to start from."""
        if not bool(moments.weight > 0):
            raise ValueError("There is no row of positive weight to fit.")
        if self.trial is None:
            self._begin(moments)
        elif self.coef is None:
            self._arrive(moments)
        else:
            self._judge(moments)

    def _begin(self, moments: Moments) -> None:
        """The first coefficients, from a pass at a mean per row, or at one mean for all."""
        if not bool(moments.valid.all()):
            self._level(moments)
            return
        if not self.factored and not bool(self._inverse_of(moments).pivot > GRAM_PIVOT):
            self.factored = True  # the same pass again, with a factor to judge the columns by
            return
        if moments.factor is not None:
            own = linalg.independent_columns(moments.factor[..., : self.columns, : self.columns], self.solver.rank_tol)
            self.keep = own | (self._ridge(moments) > 0)
        self.trial, _, _ = self._direction(moments, torch.zeros_like(moments.score))

    def _level(self, moments: Moments) -> None:
        """Begin again at one mean for all rows."""
        if self.constant is not None:
            self.status = Status.INVALID_START
            raise ValueError(f"{Status.INVALID_START}: {Status.INVALID_START.explanation}")
        self.constant, self.trial = moments.response / moments.weight, None

    def _arrive(self, moments: Moments) -> None:
        if not bool(moments.valid.all()):
            self._level(moments)
            return
        self.first = moments.objective
        self._move(moments)

    def _judge(self, moments: Moments) -> None:
        assert self.trial is not None and self.coef is not None
        new = self.solver.objective(moments, self.trial, moments.weight)
        noise = SLACK * self.value.abs() + self.solver.floor(self.moments)
        if not bool(moments.valid.all() & (new <= self.value + noise)):
            self._shorten(bool(moments.valid.all()))
            return
        steady = bool((moments.change <= STEADY).all())
        closing = self.closing
        self._move(moments)
        if closing and steady:
            self.status = Status.CONVERGED
        elif closing:
            self.drift += 1
            self.status = Status.SEPARATED if self.drift >= DRIFT else None

    def _shorten(self, valid: bool) -> None:
        """Halve the step, or go back to the last coefficients for good where nothing is left to gain."""
        small = bool(self.decrement.abs() <= self._least(max(self.solver.tol, ROUNDING)))
        self.length /= 2
        if self.length < SHORTEST and not small:
            self.status = Status.STALLED if valid else Status.BOUNDARY
        elif valid and (self.closing or small and self.length < 0.1):
            self.length, self.closing = 0.0, True
        self._aim()

    def _move(self, moments: Moments) -> None:
        """Take the trial as the coefficients, and aim from there."""
        assert self.trial is not None
        newton = self.solver.canonical or self.point.observed is True
        moved = self.coef is None or bool((self.trial != self.coef).any())
        self.coef, self.moments = self.trial, moments
        self.value = self.solver.objective(moments, self.trial, moments.weight)
        self.fisher = max(0, self.fisher - 1) if moved else self.fisher
        delta, self.decrement, inverse = self._direction(moments, self.coef)
        self.length, self.delta, self.closing = 1.0, delta, False
        poor = not bool(inverse.pivot > GRAM_PIVOT)
        if poor and not self.factored and self.drift == 0:  # this point again, by other curvature
            canonical = self.solver.canonical or self.fisher > 0
            self.fisher, self.factored = (0, True) if canonical or bool(inverse.positive.all()) else (3, False)
            self.delta = torch.zeros_like(delta)
        else:
            self.closing = bool(self.decrement.abs() <= self._least(self.solver.tol * (1.0 if newton else LINEAR)))
        self._aim()

    def _aim(self) -> None:
        assert self.coef is not None
        self.trial = self.coef + self.length * self.delta

    def _least(self, tol: float) -> Tensor:
        """The Newton decrement below which nothing is left to gain."""
        deviance = 2 * self.value.abs() + 2e-3 * self.first.abs()
        return tol * deviance + self.solver.floor(self.moments)

    def _direction(self, moments: Moments, coef: Tensor) -> tuple[Tensor, Tensor, Inverse]:
        factored = torch.full_like(self.keep[:, 0], moments.factor is not None)
        return self.solver.direction(moments, coef, self.keep, factored, moments.weight)

    def _ridge(self, moments: Moments) -> Tensor:
        penalty = self.solver.penalty
        if penalty is None:
            return torch.zeros_like(moments.score)
        ridge = penalty.ridge(moments.score, moments.weight)
        l1 = penalty.nonsmooth(moments.score, moments.weight)
        return ridge if l1 is None else ridge + l1

    def _inverse_of(self, moments: Moments) -> Inverse:
        return moments.gram.with_ridge(self._ridge(moments)).invert(self.keep)
