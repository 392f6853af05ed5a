"""The search for the strengths where a criterion is least: Newton's steps with its exact derivatives, model by model.

A strength that the criterion sends to infinity or to zero stops where nothing more is to be seen of the move: that is a
limit, and no failure.
Source: Wood (2011), J. R. Stat. Soc. B 73(1), 3-36.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from torchglm.fitting.laplace import Criterion
from torchglm.fitting.marginal import Marginal
from torchglm.fitting.status import Status

LONGEST = 4.0  # step of a log strength
SETTLED = 1e-4  # a Newton step so short is the last: it leaves about its square
ROUGH = 1e-3  # decrement that the first fits may leave, which a search begins with
UNSURE = 0.1  # by which the criterion of such fits may be wrong
SHORT = 1e-3  # a last step so short leaves about its square
SLACK = 1e-12  # share of the criterion that rounding leaves unsaid
HALVINGS = 20
ROUNDS = 3  # of looks for a lower point elsewhere
NEAR = 2.0  # a rise of the criterion that a quadratic likelihood may be wrong by, or behind which a lower point may lie
LOWER = 1e-6  # a fall of it that makes another point the better one
HIGHER = 20.0  # a rise that a quadratic likelihood may be wrong by, from a limit to a strength inside
FAR = 1e2  # a strength so many times the information over the penalty is at its limit but for a little
ENDLESS = 1e8  # a strength so many times the information over the penalty is infinite; so many times below it, zero
TAIL = 0.5  # degrees of freedom of a penalised part below which the criterion may be all but linear in 1 / strength
FLAT = 1e-3  # degrees of freedom of a penalised part that are none
NONE = 1e-7  # and those that it has left where its strength counts as infinite
RISE = 1e-3  # a slope of the criterion that rises into a limit, as a share of the degrees of freedom there
LEVEL = 1e-5  # a slope of the criterion that is none, at a limit
ALPHAS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # that are looked at where the likelihood has said 0
REACHED = ("theta", "coef", "value", "phi", "status", "limit", "rising", "ends")


class StrengthSearch:
    """The search for the least criterion of each model, within `ends` (B, K, 2) of its parameters.

    What it has reached: `theta` (B, K), `coef` (B, p), the criterion's `value` and the dispersion `phi` (B,), and
    with the `status` (B,) of each model the `steps` that were made (B,) and which parameters stand at a `limit` (B, K)
    and where the criterion is `rising` (B, K) into it. No step is to where a penalised part has fewer than `least`
    degrees of freedom.
    """

    def __init__(
        self, criterion: Criterion, ends: Tensor, theta: Tensor, coef: Tensor, most: int, least: float = 0.0
    ) -> None:
        self.criterion, self.ends, self.most, self.least = criterion, ends.clone(), most, least
        self.widest, self.far = ends, ends[..., 1] - math.log(ENDLESS / FAR)
        self.theta, self.coef, self.limit = theta.clone(), coef.clone(), torch.zeros_like(theta, dtype=torch.bool)
        self.rising, self.leaps = self.limit.clone(), not least
        self.unsure = 0.0
        self.value = torch.full_like(theta[:, 0], torch.nan)
        self.phi, self.steps = self.value.clone(), torch.zeros(len(theta), dtype=torch.int64, device=theta.device)
        self.status = torch.full_like(self.steps, int(Status.ITERATION_LIMIT))

    def with_those_of(self, other: StrengthSearch, lane: Tensor) -> StrengthSearch:
        """This search with what another has reached of some models."""
        for name in (*REACHED, "steps") if lane.numel() else ():
            getattr(self, name)[lane] = getattr(other, name)[lane]
        return self

    def run(self, lane: Tensor, theta: Tensor, coef: Tensor, other: Tensor) -> None:
        """From a point (b, K) to the end, for models `lane`; `other` (B, K) is one that is looked at beside it."""
        self.ends[lane], self.limit[lane] = self.widest[lane], False
        at, self.unsure = self.criterion.roughly(lane, theta, coef, ROUGH), UNSURE
        lost = torch.isinf(at.value)
        self._end(lane[lost], at.take(lost), Status.STALLED)
        lane, at = lane[~lost], at.take(~lost)
        lane, at = self.descend(lane, at)
        for _ in range(ROUNDS):
            lane, at = self._elsewhere(lane, at, other)
            if not lane.numel():
                return
            lane, at = self._from(lane, at)

    def _from(self, lane: Tensor, at: Marginal) -> tuple[Tensor, Marginal]:
        """To the end from another point; models that do not end lower there stay where they were."""
        before = {name: getattr(self, name)[lane] for name in REACHED}
        self.ends[lane], self.limit[lane] = self.widest[lane], False
        self.leaps = False
        found, at = self.descend(lane, at)
        self.leaps = True
        better = (self.status[lane] == int(Status.CONVERGED)) & (self.value[lane] < before["value"] - LOWER)
        for name, value in before.items():
            getattr(self, name)[lane[~better]] = value[~better]
        kept = torch.isin(found, lane[better])
        return found[kept], at.take(kept)

    def descend(self, lane: Tensor, at: Marginal, settled: float = SETTLED) -> tuple[Tensor, Marginal]:
        """To the end from a first point; which models came to a minimum, and where."""
        self._found: list[tuple[Tensor, Marginal]] = []
        for _ in range(self.most):
            if not lane.numel():
                break
            lane, at = self._advance(lane, at, settled)
            self.unsure = 0.0
        self._end(lane, at, Status.ITERATION_LIMIT)
        lanes, parts = zip(*self._found, strict=True) if self._found else ((lane[:0],), (at.take(lane[:0]),))
        return torch.cat(lanes), Marginal.cat(parts)

    def _elsewhere(self, lane: Tensor, at: Marginal, other: Tensor) -> tuple[Tensor, Marginal]:
        """Models of which another point is lower, and that point: a strength at its limit, or one there as in `other`.

        From a limit the way leads over higher points at times, which are therefore given as well; where the criterion
        rises into the limit they are near. Where a quadratic likelihood would be clearly higher nothing is evaluated.
        """
        best, where = at.value.clone(), at
        for j in range(self.criterion.many if lane.numel() else 0):
            limit = self.limit[lane, j] & (at.theta[:, j] >= self.ends[lane, j, 1])
            theta = at.theta.clone()
            inside = torch.where(self.rising[lane, j], at.theta[:, j] - math.log(TAIL / 2 / NONE), other[lane, j])
            theta[:, j] = torch.where(limit, inside, self.far[lane, j])
            rise = self.criterion.guess(lane, at, theta) - at.value
            index = (rise < torch.where(limit, HIGHER, NEAR)).nonzero()[:, 0]
            if not index.numel():
                continue
            new = self.criterion.at(lane[index], theta[index], at.coef[index])
            below = best[index] - torch.where(limit[index] & (best[index] == at.value[index]), -NEAR, LOWER)
            index, new = index[chosen := new.value < below], new.take(chosen)
            where, best = where.place(index, new), best.index_copy(0, index, new.value)
        best, where = self._with_alpha(lane, at, best, where)
        index = (best != at.value).nonzero()[:, 0]
        return lane[index], where.take(index)

    def _with_alpha(self, lane: Tensor, at: Marginal, best: Tensor, where: Marginal) -> tuple[Tensor, Marginal]:
        """Lower points of models whose alpha is 0: there the criterion is flat by its logarithm, whatever its slope."""
        many, zero = self.criterion.many, lane[:0]
        if self.ends.shape[1] > many and lane.numel():
            zero = (self.limit[lane, many] & (at.theta[:, many] <= self.ends[lane, many, 0])).nonzero()[:, 0]
        for alpha in ALPHAS if zero.numel() else ():
            theta = at.theta[zero].clone()
            theta[:, many] = math.log(alpha)
            new = self.criterion.at(lane[zero], theta, at.coef[zero])
            lower = new.value < best[zero] - LOWER
            index, new = zero[lower], new.take(lower)
            where, best = where.place(index, new), best.index_copy(0, index, new.value)
        return best, where

    def _inside(self, lane: Tensor, theta: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(theta, self.ends[lane, :, 1]), self.ends[lane, :, 0])

    def _advance(self, lane: Tensor, at: Marginal, settled: float) -> tuple[Tensor, Marginal]:
        """One Newton step of every model, halved until the criterion falls; what has ended is written."""
        gradient, hessian, moves = self.criterion.slopes(lane, at)
        step, held, decrement = self._step(lane, at, gradient, hessian)
        done = (step.abs() <= settled).all(-1) | (decrement <= SLACK * at.value.abs())
        done &= self.unsure == 0
        index = done.nonzero()[:, 0]
        self.limit[lane[index]] = held[index]
        many = self.criterion.many
        self.rising[lane[index], :many] = (gradient[:, :many] > RISE * (at.own - at.traces))[index]
        last = self._last(lane[index], at.take(index), step[index], decrement[index], moves[index], max(settled, SHORT))
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
            down = trial.value <= old + SLACK * old.abs() + self.unsure
            at = at.place(left[down], trial.take(down))
            left, step = left[~down], step / 2
        stuck = torch.zeros_like(lane, dtype=torch.bool).index_fill(0, left, True)
        self._end(lane[stuck], at.take(stuck), Status.STALLED)
        return lane[~stuck], at.take(~stuck)

    def _moved(self, lane: Tensor, at: Marginal, step: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """The end of a step, and coefficients near by: along it by the derivatives `moves` (b, <= K, p)."""
        theta = self._inside(lane, at.theta + step)
        moved = (theta - at.theta).clamp(-1, 1)[:, : moves.shape[1]]
        return theta, at.coef + torch.einsum("bk,bkp->bp", moved, moves)

    def _trial(self, lane: Tensor, at: Marginal, step: Tensor, moves: Tensor) -> Marginal:
        """The criterion at the end of a step."""
        return self.criterion.at(lane, *self._moved(lane, at, step, moves))

    def _last(
        self, lane: Tensor, at: Marginal, step: Tensor, decrement: Tensor, moves: Tensor, short: float
    ) -> Marginal:
        """The end of a step that is too short to be judged, where the criterion is known there.

        At a known dispersion the derivatives say of a `short` one all that a pass would.
        """
        if not lane.numel():
            return at
        theta, coef = self._moved(lane, at, step, moves)
        near = torch.isinf(at.bend) & (step.abs() <= short).all(-1)
        found = replace(at, theta=theta, coef=coef, value=at.value - decrement / 2)
        index = (~near).nonzero()[:, 0]
        if not index.numel():
            return found
        old, new = at.take(index), self.criterion.at(lane[index], theta[index], coef[index])
        known = (new.value <= old.value + SLACK * old.value.abs()).nonzero()[:, 0]
        return found.place(index, old.place(known, new.take(known)))

    def _step(self, lane: Tensor, at: Marginal, gradient: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The step (b, K), the parameters (b, K) that stay at a limit, and the decrement (b,).

        Where a part has no degrees of freedom left and its strength still grows, the step is to the limit at once; so
        it is where few are left and a criterion that is quadratic in `u = 1 / strength` falls down to `u = 0`: by the
        derivatives `g` and `h` by the logarithm its minimum is at `u (h + 2 g) / (h + g)`.
        """
        many = self.criterion.many
        freedom, slope, bend = at.own - at.traces, gradient[:, :many], hessian.diagonal(dim1=-2, dim2=-1)[:, :many]
        few = (freedom < FLAT) | ((freedom < TAIL) & (bend + 2 * slope <= 0) & self.leaps)
        far = (at.theta[:, :many] + (freedom / NONE).clamp(min=1.0).log()).clamp(max=self.ends[lane, :many, 1])
        flat = torch.zeros_like(gradient, dtype=torch.bool)
        if not self.least:
            flat[:, :many] = few & (slope < 0) & (at.theta[:, :many] < self.ends[lane, :many, 1])
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
        if self.least:
            step[:, :many] = torch.minimum(step[:, :many], (freedom / self.least).log().clamp(min=0.0))
        return step, held, torch.where(flat.any(-1), torch.inf, decrement)

    def _end(self, lane: Tensor, at: Marginal, status: Status) -> None:
        self.theta[lane], self.coef[lane] = at.theta, at.coef
        self.value[lane], self.phi[lane], self.status[lane] = at.value, at.phi, int(status)
