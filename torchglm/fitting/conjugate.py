"""Multinomial models of very many coefficients: Newton's method by conjugate gradients, without their information.

A step solves `H d = g` by products of the information with vectors, of two passes' work each, preconditioned by blocks
that share one factor: `H` is near `diag(v_k) x (x' W x)` with `v_k` the mean of `p_k (1 - p_k)`. Columns are
thereby free of their scales and of their correlations, and the classes of their frequencies. Source: Nash (2000), A
survey of truncated-Newton methods, J. Comput. Appl. Math. 124.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchglm.families import Gaussian
from torchglm.families.several import Multinomial
from torchglm.fitting import judge, linalg
from torchglm.fitting.class_sums import ClassMoments, class_sums, information_times
from torchglm.fitting.judge import DRIFT, GOING, ROUNDING, SHORTEST, STAGNANT, STEADY, Judged
from torchglm.fitting.kernel import design_triangle, fold
from torchglm.fitting.moments import Point
from torchglm.fitting.problem import ARRIVED, Problem
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.links import Identity
from torchglm.rows.grams import Layout, Unmade
from torchglm.rows.planned import plan_of
from torchglm.rows.ranks import members, own_rows, seen
from torchglm.rows.rows import Rows, in_pairs

DENSE = 4096  # coefficients up to which the information is made: 128 MB, whose factor takes seconds
PRODUCTS = 200  # with vectors, for a step at most
ROUGH, FINE = 0.1, 1e-4  # share of the score that a step may leave, and the last one


def serves(problem: Problem) -> bool:
    """Whether a problem is of this kind: many coefficients of all columns in all classes, with at most a ridge."""
    small = problem.p <= DENSE or not isinstance(problem.family, Multinomial) or problem.family.base is None
    return not small and (problem.penalty is None or (problem.penalty.smooth and problem.penalty.diagonal))


def fit_by_conjugate_gradients(
    problem: Problem, source: Iterable[Rows], start: Tensor | None, skip: Tensor | None, observe: Observer | None
) -> Solution:
    """The maxima of all models, one after another; their Grams are diagonals and their inverses unmade."""
    problem = replace(problem, layout=Layout(problem.p, made=False))
    out = Solution.blank(problem.models, problem.layout, problem.device)
    for model in range(problem.models):
        lane = torch.tensor([model], device=problem.device)
        if skip is not None and bool(skip[model]):
            out.status[lane] = int(Status.NOT_FINITE)
            for name in ("objective", "pearson", "weight", "count"):
                getattr(out.moments, name)[lane] = torch.nan
            continue
        own = source if problem.models == 1 else members(source, lane)
        _Truncated(problem.among(lane), own, out, lane, observe).fit(None if start is None else start[lane])
    return out


@dataclass(frozen=True)
class _Nearby:
    """The matrix `v x A` near the information, `v` (K,) of the classes and `A` of the columns; it solves."""

    inverse: Tensor  # (m, m) of A
    keep: Tensor  # (m,)
    length: float  # the sum of the weights, with which `A` is summed

    def solve(self, residual: Tensor, spread: Tensor) -> Tensor:
        """(1, P) of residuals (1, P)."""
        each = (spread / self.length).clamp(min=torch.finfo(spread.dtype).tiny)
        return ((residual.view(len(spread), -1) @ self.inverse) / each.unsqueeze(-1)).view(1, -1)


class _Truncated:
    """Newton's method on one model."""

    def __init__(
        self, problem: Problem, source: Iterable[Rows], out: Solution, lane: Tensor, observe: Observer | None
    ) -> None:
        assert isinstance(problem.family, Multinomial)
        self.problem, self.source, self.family = problem, source, problem.family
        self.out, self.lane, self.observe = out, lane, observe
        self.counts = fold(source, Point(), problem.family, problem.link)
        self.total = self.counts.weight
        self.near = self._near()
        self.keep = self.near.keep.repeat(len(problem.family.predictors)).unsqueeze(0)  # (1, P)

    def fit(self, start: Tensor | None) -> None:
        """Bring the model to its end and write it."""
        coef = self._constants() if start is None else torch.where(self.keep, start, 0.0)
        sums = class_sums(self.source, self.family, coef)
        if bool(sums.invalid.any()) or not bool(torch.isfinite(sums.objective)):
            coef = self._constants()
            sums = class_sums(self.source, self.family, coef)
        objective = self._objective(sums, coef)
        if not bool(torch.isfinite(objective)):
            self._write(coef, torch.zeros_like(coef), Status.INVALID_START, 0)
            return
        status, moved, steps, drift, stagnant, most = GOING, torch.zeros_like(coef), 0, 0, 0, None
        first = torch.minimum(objective, 1e8 * self.total)
        while status == GOING:
            score = self._score(sums, coef)
            size = float(torch.linalg.vecdot(score, self.near.solve(score, sums.spread)))
            most = size if most is None else max(most, size)
            delta = self._solved(sums, coef, score, min(ROUGH, (size / most) ** 0.25 if most > 0 else 0.0), None)
            decrement = torch.linalg.vecdot(score, delta)
            scale = self.problem.size(objective, self.total)
            closing = bool(judge.arrived(decrement, scale, first, 0 * first, ARRIVED[0] * self.problem.tol))
            if closing:
                delta = self._solved(sums, coef, score, FINE, delta)
                decrement = torch.linalg.vecdot(score, delta)
                closing = bool(judge.arrived(decrement, scale, first, 0 * first, ARRIVED[0] * self.problem.tol))
            small = bool(judge.arrived(decrement, scale, first, 0 * first, max(self.problem.tol, ROUNDING)))
            step, accepted, bound = 1.0, False, judge.bound(objective, scale, 0 * first)
            while status == GOING and not accepted:
                moved = step * delta
                told = closing or steps + 1 >= self.problem.max_iter
                trial = class_sums(self.source, self.family, coef + moved, moved if told else None)
                value = self._objective(trial, coef + moved)
                valid = bool(torch.isfinite(value)) and not bool(trial.invalid.any())
                accepted = valid and bool(value <= bound)
                steady = bool(trial.change <= STEADY)
                if accepted:
                    steps, flat = steps + 1, bool(objective - value <= 1e-14 * scale)
                    drift, stagnant = drift + (closing and not steady), stagnant + 1 if flat else 0
                    coef, sums, objective = coef + moved, trial, value
                judged = {
                    "accepted": accepted, "valid": valid, "closing": closing, "steady": steady,
                    "drifting": drift >= DRIFT, "small": small, "short": step < 0.1, "exhausted": step < SHORTEST,
                    "blocked": False, "stagnant": stagnant >= STAGNANT, "spent": steps >= self.problem.max_iter,
                    "moving": bool(trial.change > 10 * STEADY) and steps >= 20, "optimal": True,
                }  # fmt: skip
                status = int(judge.verdicts(Judged(**{name: torch.tensor([held]) for name, held in judged.items()})))
                step /= 2
            if self.observe is not None:
                self.observe(self._progress(coef, steps, objective))
        self._write(coef, moved, Status(status), steps)

    def _solved(self, sums: ClassMoments, coef: Tensor, score: Tensor, share: float, begin: Tensor | None) -> Tensor:
        """(1, P) a solution of `H d = g` by conjugate gradients, from where it `begin`s, to a share.

        It is one of the score, and of what a product still adds to the gain: where the information is flat a small rest
        of the score may be most of the way (Nash & Sofer 1990, Oper. Res. Lett. 9).
        """
        ridge = None if self.problem.penalty is None else self.problem.penalty.ridge(coef, self.total)

        def times(vector: Tensor) -> Tensor:
            product = information_times(self.source, self.family, coef, vector)
            return torch.where(self.keep, product if ridge is None else product + ridge * vector, 0.0)

        delta = torch.zeros_like(score) if begin is None else begin
        residual = score if begin is None else score - times(begin)
        ahead = self.near.solve(residual, sums.spread)
        direction, square = ahead, torch.linalg.vecdot(residual, ahead)
        enough = share**2 * torch.linalg.vecdot(score, self.near.solve(score, sums.spread))
        gain, whole = 0 * square, torch.linalg.vecdot(score, delta)
        for number in range(PRODUCTS):
            if bool(square <= enough) and bool(number * gain <= share * whole):
                break
            bent = times(direction)
            curvature = torch.linalg.vecdot(direction, bent)
            if not bool(curvature > 0):
                break
            length = square / curvature
            gain = length * square
            whole = whole + gain
            delta = delta + length * direction
            residual = residual - length * bent
            ahead = self.near.solve(residual, sums.spread)
            before, square = square, torch.linalg.vecdot(residual, ahead)
            direction = ahead + (square / before) * direction
        return delta

    def _near(self) -> _Nearby:
        """The matrix near the information; a column that depends on those before it is dropped, in all classes."""
        plan = plan_of(next(iter(own_rows(self.source))))
        columns = list(plan.blocks[0].columns)

        def plainly(rows: Rows) -> Rows:
            own = in_pairs(rows)._replace(plan=None, offset=torch.zeros_like(rows.y).double())
            return own

        plain = seen(self.source, plainly)
        zero = torch.zeros(1, max(columns) + 1, dtype=torch.float64, device=self.problem.device)
        gram = fold(plain, Point(zero), Gaussian(), Identity()).gram.written_out()[:, columns][:, :, columns]
        penalty, classes = self.problem.penalty, len(self.family.predictors)
        held = torch.zeros_like(gram[:, 0], dtype=torch.bool)
        if penalty is not None:
            ridge = penalty.ridge(zero.new_zeros(1, self.problem.p), self.total).view(classes, -1).mean(0)
            gram, held = gram + torch.diag(ridge * classes), (ridge > 0).unsqueeze(0)
        found = Layout(len(columns)).gram(1).of({"matrix": gram})
        keep, doubtful = found.independent(held)
        if bool(doubtful.any()):
            design = design_triangle(plain, torch.zeros(1, dtype=torch.int64, device=zero.device))[..., columns]
            keep = (
                linalg.independent_columns(torch.where(held.unsqueeze(-2), 0.0, design), self.problem.rank_tol) | held
            )
        inverse = found.invert(keep)
        each = torch.where(keep, 1 / gram.diagonal(dim1=-2, dim2=-1), 0.0)
        matrix = inverse.root.inverse()[0] if bool(inverse.positive) else torch.diag(each[0])
        return _Nearby(matrix, keep[0], float(self.total))

    def _constants(self) -> Tensor:
        """(1, P) the constants of the shares of the classes, no slopes; nothing without an intercept."""
        coef = torch.zeros_like(self.keep, dtype=torch.float64)
        plan = plan_of(next(iter(own_rows(self.source))))
        if plan.free:
            assert self.counts.statistics is not None
            coef[:, list(plan.free)] = self.family.start((self.counts.statistics / self.total.unsqueeze(-1)).mT).mT
        return coef

    def _score(self, sums: ClassMoments, coef: Tensor) -> Tensor:
        penalty = self.problem.penalty
        score = sums.score if penalty is None else sums.score - penalty.slope(coef, self.total)
        return torch.where(self.keep, score, 0.0)

    def _objective(self, sums: ClassMoments, coef: Tensor) -> Tensor:
        penalty = self.problem.penalty
        return sums.objective if penalty is None else sums.objective + penalty.value(coef, self.total)

    def _write(self, coef: Tensor, moved: Tensor, status: Status, steps: int) -> None:
        """The end of the model, with the sums that are kept of it."""
        last = class_sums(self.source, self.family, coef, moved, report=True)
        out, lane = self.out, self.lane
        out.coef[lane], out.keep[lane], out.status[lane], out.n_iter[lane] = coef, self.keep, int(status), steps
        kept = {name: getattr(last, name) for name in ("score", "objective", "scale", "change", "invalid")}
        counted = {name: getattr(self.counts, name) for name in ("weight", "count", "response")}
        for name, value in (kept | counted | {"gram": Unmade(last.diagonal)}).items():
            getattr(out.moments, name)[lane] = value

    def _progress(self, coef: Tensor, steps: int, objective: Tensor) -> Progress:
        """What an observer is told: the models before this one at their ends, those behind it where they begin."""
        whole = (self.out.coef, self.out.n_iter, 2 * self.out.moments.objective)
        own = (coef, torch.tensor([steps], device=coef.device), 2 * objective)
        return Progress(*(held.index_copy(0, self.lane, part) for held, part in zip(whole, own, strict=True)))
