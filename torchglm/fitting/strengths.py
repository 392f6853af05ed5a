"""Strengths of quadratic penalties by the marginal likelihood: Fellner-Schall steps, then Newton's, model by model.

A strength that the criterion sends to infinity or to zero stops where nothing more is to be seen of the move: that is a
limit, and no failure.
Source: Wood (2011), J. R. Stat. Soc. B 73(1), 3-36; Wood & Fasiolo (2017), Biometrics 73(4), 1071-1081.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.laplace import Criterion
from torchglm.fitting.marginal import Marginal
from torchglm.fitting.moments import Point
from torchglm.fitting.parts import Told, together
from torchglm.fitting.penalties import Quadratic
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.ranges import EMPTY
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.solve import solve
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status, converged
from torchglm.links import Link
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import own_rows, seen
from torchglm.rows.rows import Rows, in_pairs
from torchglm.rows.threads import small_operators

WARM = 3  # Fellner-Schall steps before Newton's
COARSE = 1e-5  # tolerance of the first fit, and the decrement that theirs may leave
LONGEST = 4.0  # step of a log strength
SETTLED = 1e-6  # a Newton step so short is the last
SLACK = 1e-12  # share of the criterion that rounding leaves unsaid
HALVINGS = 20
ROUNDS = 3  # of looks for a lower point elsewhere
NEAR = 2.0  # a rise of the criterion that a quadratic likelihood may be wrong by
LOWER = 1e-6  # a fall of it that makes another point the better one
FAR = 1e2  # a strength so many times the information over the penalty is at its limit but for a little
ENDLESS = 1e8  # a strength so many times the information over the penalty is infinite; so many times below it, zero
FLAT = 1e-3  # degrees of freedom of a penalised part that are none
NONE = 1e-7  # and those that it has left where its strength counts as infinite
LEVEL = 1e-5  # a slope of the criterion that is none, at a limit
ALPHA = (-25.0, 12.0)  # limits of the logarithm of a negative binomial alpha


@dataclass(frozen=True)
class Estimated:
    """What was estimated of `B` models: `strength` (B, J), infinite where that is the limit, and at the last point the
    `criterion` and the `dispersion` (B,); `penalty` has the strengths of the fit, large ones for infinite ones.
    """

    penalty: Quadratic
    strength: Tensor
    criterion: Tensor
    dispersion: Tensor


@torch.no_grad()
@small_operators()
def solve_with_strengths(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    penalty: Quadratic,
    start: Tensor | None,
    options: dict[str, Any],
    phi: float | None = None,
    observe: Observer | None = None,
) -> tuple[Family, Solution, Estimated]:
    """The fit at the strengths, the dispersion and the alpha where the criterion of `penalty.method` is least.

    `options` are those of `irls` but for the penalty; a dispersion `phi` is held; `observe` is told of the steps of the
    first fit and of the last, between which are those over the strengths. A model with a strength at its limit
    has the status STRENGTH_LIMIT. Raises `ValueError` for families whose criterion is not known.
    """
    _check(family)
    if isinstance(source, Ragged):
        return part_by_part(solve_with_strengths, source, family, link, penalty, start, options, phi, observe)
    if next(iter(own_rows(source))).layout.levels is not None:
        source = seen(source, in_pairs)
    ends, theta = scales_of(source, family, link, penalty)
    family, first = solve(
        source,
        family,
        link,
        start,
        options | {"penalty": penalty.with_strength(theta.exp()), "tol": max(COARSE, options["tol"])},
        observe,
    )
    name = "log_alpha" if family.estimates_shape else ""
    if name:
        alpha = family.shapes[name].expand(len(theta)).clamp(*ALPHA)
        theta = torch.cat([theta, alpha.unsqueeze(-1)], -1)
        ends = torch.cat([ends, alpha.new_tensor(ALPHA).expand(len(theta), 1, 2)], 1)
    search = _Search(Criterion(source, family, link, penalty, first, options, phi, name), ends, options["max_iter"])
    search.run(theta, first)
    return search.result(family, first, options, observe)


class _Search:
    """The search for the least criterion of each model, within `ends` (B, K, 2) of its parameters."""

    def __init__(self, criterion: Criterion, ends: Tensor, most: int) -> None:
        self.criterion, self.ends, self.most = criterion, ends, most
        self.widest, self.far = ends.clone(), ends[..., 1] - math.log(ENDLESS / FAR)

    def run(self, theta: Tensor, first: Solution) -> None:
        """From a first point to the end, for the models whose `first` fit has one."""
        every = torch.arange(len(theta), device=theta.device)
        lane = every[converged(first.status)]
        self.theta, self.limit = theta.clone(), torch.zeros_like(theta, dtype=torch.bool)
        self.coef, self.value = first.coef.clone(), torch.full_like(theta[:, 0], torch.nan)
        self.phi, self.steps = self.value.clone(), torch.zeros_like(first.n_iter)
        self.status = first.status.clone()
        if not lane.numel():
            return
        at = self._warmed(lane, self.criterion.at(lane, theta[lane], first.coef[lane], COARSE))
        lost = torch.isinf(at.value)
        self._end(lane[lost], at.take(lost), Status.STALLED)
        lane, at = lane[~lost], at.take(~lost)
        for _ in range(ROUNDS):
            ended = self._descend(lane, at)
            lane, at = self._elsewhere(*ended, theta)
            if not lane.numel():
                return
        self._descend(lane, at)

    def _descend(self, lane: Tensor, at: Marginal) -> tuple[Tensor, Marginal]:
        """To the end from a first point; which models came to a minimum, and where."""
        self._found: list[tuple[Tensor, Marginal]] = []
        for _ in range(self.most):
            if not lane.numel():
                break
            lane, at = self._advance(lane, at)
        self._end(lane, at, Status.ITERATION_LIMIT)
        lanes, parts = zip(*self._found, strict=True) if self._found else ((lane[:0],), (at.take(lane[:0]),))
        return torch.cat(lanes), Marginal.cat(parts)

    def _elsewhere(self, lane: Tensor, at: Marginal, first: Tensor) -> tuple[Tensor, Marginal]:
        """Models of which another point is lower, and that point: a strength at its limit, or one there where it began.

        Where a quadratic likelihood would be clearly higher there nothing is evaluated.
        """
        best, where = at.value, at
        for j in range(self.criterion.many if lane.numel() else 0):
            limit = self.limit[lane, j] & (at.theta[:, j] >= self.ends[lane, j, 1])
            theta = at.theta.clone()
            theta[:, j] = torch.where(limit, first[lane, j], self.far[lane, j])
            index = (self.criterion.guess(lane, at, theta) < at.value + NEAR).nonzero()[:, 0]
            if not index.numel():
                continue
            new = self.criterion.at(lane[index], theta[index], at.coef[index])
            index, new = index[lower := new.value < best[index] - LOWER], new.take(lower)
            where, best = where.place(index, new), best.index_copy(0, index, new.value)
        index = (best < at.value).nonzero()[:, 0]
        self.ends[lane[index]] = self.widest[lane[index]]
        self.limit[lane[index]] = False
        return lane[index], where.take(index)

    def _warmed(self, lane: Tensor, at: Marginal) -> Marginal:
        """A few Fellner-Schall steps, while each is one down."""
        for _ in range(WARM):
            ratio = at.phi.unsqueeze(-1) * (at.own - at.traces).clamp(min=1e-10) / at.squares.clamp(min=1e-300)
            step = torch.zeros_like(at.theta)
            step[:, : self.criterion.many] = ratio.log().clamp(-LONGEST, LONGEST)
            new = self._trial(lane, at, step, self.criterion.moves(lane, at), COARSE)
            index = (new.value < at.value).nonzero()[:, 0]
            at = at.place(index, new.take(index))
        rough = (~at.close).nonzero()[:, 0]
        if not rough.numel():
            return at
        return at.place(rough, self.criterion.at(lane[rough], at.theta[rough], at.coef[rough]))

    def _inside(self, lane: Tensor, theta: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(theta, self.ends[lane, :, 1]), self.ends[lane, :, 0])

    def _advance(self, lane: Tensor, at: Marginal) -> tuple[Tensor, Marginal]:
        """One Newton step of every model, halved until the criterion falls; what has ended is written."""
        gradient, hessian, moves = self.criterion.slopes(lane, at)
        step, held, decrement = self._step(lane, at, gradient, hessian)
        done = (step.abs() <= SETTLED).all(-1) | (decrement <= SLACK * at.value.abs())
        index = done.nonzero()[:, 0]
        self.limit[lane[index]] = held[index]
        last = self._last(lane[index], at.take(index), step[index], moves[index])
        self._end(lane[index], last, Status.CONVERGED)
        self._found.append((lane[index], last))
        going = (~done).nonzero()[:, 0]
        lane, at, step, moves = lane[going], at.take(going), step[going], moves[going]
        self.steps[lane] += 1
        left = torch.arange(len(lane), device=lane.device)
        for _ in range(HALVINGS):
            if not left.numel():
                return lane, at
            trial = self._trial(lane[left], at.take(left), step[left], moves[left])
            old = at.value[left]
            down = trial.value <= old + SLACK * old.abs()
            at = at.place(left[down], trial.take(down))
            left, step = left[~down], step / 2
        stuck = torch.zeros_like(lane, dtype=torch.bool).index_fill(0, left, True)
        self._end(lane[stuck], at.take(stuck), Status.STALLED)
        return lane[~stuck], at.take(~stuck)

    def _trial(self, lane: Tensor, at: Marginal, step: Tensor, moves: Tensor, tol: float = 0.0) -> Marginal:
        """The criterion at the end of a step, from coefficients along it by the derivatives `moves` (b, <= K, p)."""
        theta = self._inside(lane, at.theta + step)
        moved = (theta - at.theta).clamp(-1, 1)[:, : moves.shape[1]]
        return self.criterion.at(lane, theta, at.coef + torch.einsum("bk,bkp->bp", moved, moves), tol)

    def _last(self, lane: Tensor, at: Marginal, step: Tensor, moves: Tensor) -> Marginal:
        """The end of a step that is too short to be judged, where the criterion is known there."""
        if not lane.numel():
            return at
        new = self._trial(lane, at, step, moves)
        index = (new.value <= at.value + SLACK * at.value.abs()).nonzero()[:, 0]
        return at.place(index, new.take(index))

    def _step(self, lane: Tensor, at: Marginal, gradient: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The step (b, K), the parameters (b, K) that stay at a limit, and the decrement (b,).

        Where a part has no degrees of freedom left and its strength still grows, the step is to the limit at once.
        """
        many = self.criterion.many
        freedom = at.own - at.traces  # of each penalised part
        far = (at.theta[:, :many] + (freedom / NONE).clamp(min=1.0).log()).clamp(max=self.ends[lane, :many, 1])
        flat = torch.zeros_like(gradient, dtype=torch.bool)
        flat[:, :many] = (freedom < FLAT) & (gradient[:, :many] < 0) & (at.theta[:, :many] < self.ends[lane, :many, 1])
        self.ends[lane, :many, 1] = torch.where(flat[:, :many], far, self.ends[lane, :many, 1])
        low, high = self.ends[lane].unbind(-1)
        held = ((at.theta <= low) & (gradient >= -LEVEL)) | ((at.theta >= high) & (gradient <= LEVEL))
        slope = torch.where(held, 0.0, gradient)
        both = held.unsqueeze(-1) | held.unsqueeze(-2)
        bend = torch.where(both, torch.diag_embed(held.to(hessian.dtype)), hessian)
        values, vectors = torch.linalg.eigh(bend)
        turned = (vectors.mT @ slope.unsqueeze(-1)).squeeze(-1)
        along = (-turned / values.abs().clamp(min=1e-10)).clamp(-LONGEST, LONGEST)
        step = (vectors @ along.unsqueeze(-1)).squeeze(-1)
        flat &= ~held
        decrement = -(turned * along).sum(-1)
        step = torch.where(held, 0.0, torch.where(flat, high - at.theta, step))
        return step, held, torch.where(flat.any(-1), torch.inf, decrement)

    def _end(self, lane: Tensor, at: Marginal, status: Status) -> None:
        self.theta[lane], self.coef[lane] = at.theta, at.coef
        self.value[lane], self.phi[lane], self.status[lane] = at.value, at.phi, int(status)

    def result(
        self, family: Family, first: Solution, options: dict[str, Any], observe: Observer | None
    ) -> tuple[Family, Solution, Estimated]:
        """The fit at the point that was reached."""
        criterion, many = self.criterion, self.criterion.many
        penalty = criterion.penalty.with_strength(self.theta[:, :many].exp())
        zero = torch.zeros_like(self.phi, dtype=torch.bool)
        if criterion.name:
            zero = self.limit[:, -1] & (self.theta[:, -1] <= ALPHA[0])
            raw = torch.where(zero, -torch.inf, self.theta[:, -1])
            family = family.with_parameters({criterion.name: raw[0] if raw.numel() == 1 else raw})
        steps, tell = first.n_iter + self.steps, None
        if observe is not None:
            tell = partial(_told, observe, steps)
        last = options | {"penalty": penalty, "observe": tell}
        solution = irls(criterion.source, family, criterion.link, start=self.coef, **last)
        solution = criterion.refined(solution, self.theta, family)
        regular, limit = solution.status == int(Status.CONVERGED), self.limit[:, :many]
        solution.status[regular] = self.status[regular].to(solution.status.dtype)
        regular = solution.status == int(Status.CONVERGED)
        solution.status[regular & limit.any(-1)] = int(Status.STRENGTH_LIMIT)
        solution.status[regular & zero] = int(Status.SHAPE_LIMIT)
        ends = torch.where(self.theta[:, :many] >= self.ends[:, :many, 1], torch.inf, 0.0)
        strength = torch.where(limit, ends, penalty.strength)
        strength[solution.status == int(Status.NOT_FINITE)] = torch.nan
        found = Estimated(penalty, strength, self.value, self.phi)
        return family, replace(solution, n_iter=steps), found


def _told(observe: Observer, before: Tensor, now: Progress) -> None:
    """Tell of the last fit, with the steps before it."""
    observe(replace(now, n_iter=now.n_iter + before))


def _check(family: Family) -> None:
    if family.estimates_shape and not has_alpha(family):
        raise ValueError("strengths and a Tweedie power are not estimated at once. Give it: Tweedie(power=1.5).")


def scales_of(source: Iterable[Rows], family: Family, link: Link, penalty: Quadratic) -> tuple[Tensor, Tensor]:
    """(B, J, 2) the log strengths that are as good as zero and as infinity, and (B, J) some in between."""
    first = fold(source, Point(), family, link)
    if isinstance(family, VectorFamily):
        assert first.statistics is not None
        first = fold(source, Point(averages=first.statistics / first.weight.unsqueeze(-1)), family, link)
    if not bool(first.valid.all()):
        level = fold(source, Point(constant=first.response / first.weight), family, link)
        bad = (~first.valid).nonzero()[:, 0]
        first = first.place(bad, level.take(bad))
    gram, found = first.gram.written_out(), []
    for columns, matrix in penalty.blocks:
        at = torch.tensor(columns, device=gram.device)
        size = gram[:, at.unsqueeze(-1), at].diagonal(dim1=-2, dim2=-1)
        values = torch.linalg.eigvalsh(matrix)
        held = values[values > EMPTY * values[-1]]
        least, most = size.mean(-1) / float(held[-1]), size.sum(-1) / float(held[0])
        found.append(torch.stack([least / ENDLESS, most * ENDLESS, size.sum(-1) / float(values.sum())], -1))
    logs = torch.stack(found, 1).nan_to_num(1.0).clamp(1e-200, 1e200).log()
    return logs[..., :2], logs[..., 2]


def part_by_part(
    solver: Callable[..., tuple[Family, Solution, Estimated]],
    source: Ragged,
    family: Family,
    link: Link,
    penalty: Quadratic,
    start: Tensor | None,
    options: dict[str, Any],
    phi: float | None,
    observe: Observer | None,
) -> tuple[Family, Solution, Estimated]:
    """What `solver`, such as `solve_with_strengths`, finds of models of like size together."""
    shapes: dict[str, Tensor] = {}
    told = None if observe is None else Told(source, source.parts[0][1].columns, observe, None)
    blank = torch.full((source.models, 2 * len(penalty.blocks) + 2), torch.nan, dtype=torch.float64)

    def part(models: Tensor, rows: Rows) -> Solution:
        first, skip = None if start is None else start[models], options.get("skip")
        own = options | {"skip": None if skip is None else skip[models]}
        member, tell = take_family(family, models), None if told is None else told.of(models)
        member, solution, found = solver([rows], member, link, penalty.take(models), first, own, phi, tell)
        single = torch.stack([found.criterion, found.dispersion], -1)
        blank[models.cpu()] = torch.cat([found.penalty.strength, found.strength, single], -1).cpu()
        for name, value in member.named_parameters() if family.estimates_shape else ():
            shapes.setdefault(name, value.new_empty(source.models))[models] = value
        return solution

    solution = together(source, part)
    used, strength, rest = blank.to(solution.coef.device).tensor_split(
        (len(penalty.blocks), 2 * len(penalty.blocks)), -1
    )
    found = Estimated(penalty.with_strength(used), strength, *rest.unbind(-1))
    return family.with_parameters(shapes) if shapes else family, solution, found
