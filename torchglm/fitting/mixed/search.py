"""The search for the least criterion of models with random effects: EM steps, then Newton's, model by model.

Hessians are differences of exact gradients. Between the fixed effects they are those of the penalised likelihood until
the end is near, where all of it is taken once: it is also the information of all parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchglm.fitting.mixed.criterion import MixedCriterion
from torchglm.fitting.mixed.crossed import AnyInner
from torchglm.fitting.mixed.extrapolation import ahead, guess
from torchglm.fitting.mixed.freedom import variances
from torchglm.fitting.mixed.mark import Mark
from torchglm.fitting.ranges import scaled_root
from torchglm.fitting.status import Status
from torchglm.fitting.strength_search import ALPHAS

WARM = 4  # EM steps before Newton's
COARSE = 1e-2  # decrement of their modes, of no more than 100,000 rows
NEAR = 2.0  # a rise of the criterion that a quadratic likelihood may be wrong by
STEP = 1e-4  # of the differences, as a share of the unit of a parameter
LEAST = 0.1  # unit of a root that is nearly zero
LONGEST = 4.0  # step of a log strength; of a root in units of its size or 1
CLOSE = 1e-8  # a decrement from which on the Hessian is known well enough
SLACK = 1e-12  # share of the criterion that rounding leaves unsaid
HALVINGS = 25
ROUNDS = 3  # of looks for a lower point elsewhere
LOWER = 1e-6  # a fall of the criterion that makes another point the better one
ELSEWHERE = (0.0, 0.3, 3.0, 30.0)  # sizes of a root at which a look is taken
LEVEL = 1e-5  # a slope of the criterion that is none, at a limit
ZERO = 1e-5  # a smaller singular value of a root is none
TOGETHER = 1 << 21  # rows of all models that are gone over at once


class MixedSearch:
    """From first parameters `psi` (B, K) and modes `u` (B, P) to the end: `mark`, `hessian`, `status` and `steps`.

    `slopes` (B, F, p) are the derivatives of the variances of the fixed effects by the first `F` parameters, those that
    are no fixed effects; there are none beside smooths.
    Parameters that are `held` (B, K) stay where they are; there is then no look for a good start, and the end is known
    to the digits of the criterion alone.
    """

    def __init__(
        self, criterion: MixedCriterion, psi: Tensor, u: Tensor, most: int, held: Tensor | None = None
    ) -> None:
        self.criterion, self.most = criterion, most
        self.every = torch.arange(len(psi), device=psi.device)
        self.steps = torch.zeros_like(self.every)
        self.status = torch.full_like(self.every, int(Status.ITERATION_LIMIT))
        self.rough = held is not None
        self.kept = torch.zeros_like(psi, dtype=torch.bool) if held is None else held
        psi, u = self._warmed(psi, u) if held is None else (psi, u)
        self.mark = criterion.at(self.every, psi, u)
        self.hessian = psi.new_zeros(*psi.shape, psi.shape[-1])
        self.slopes = psi.new_zeros(len(psi), sum(criterion.counts[:3]), criterion.effects.columns)

    def run(self, rounds: int = ROUNDS) -> None:
        """To the end of all models, with so many looks for a lower point elsewhere."""
        lane = self.every[torch.isfinite(self.mark.value)]
        self.status[~torch.isfinite(self.mark.value)] = int(Status.STALLED)
        for turn in range(rounds + 1):
            self._descend(lane)
            if turn == rounds:
                return
            lane = self._elsewhere(lane[self.status[lane] == int(Status.CONVERGED)])
            if not lane.numel():
                return

    # a good start -------------------------------------------------------------------------------------------

    def _warmed(self, psi: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """A few EM steps of the covariances, the fixed effects following the modes."""
        criterion, lane = self.criterion, self.every
        least = COARSE * max(1.0, 1e-5 * float(criterion.count.max()))
        for turn in range(WARM + 1):
            u, half, score, gram, penalty, _ = criterion.modes(lane, psi, u, True, least)
            if criterion.apart:
                psi = torch.cat([*criterion.parts(psi)[:3], u[:, criterion.fixed]], -1)
            if turn == WARM:
                break
            here = Mark(psi, u, half, torch.ones_like(half), score, gram)
            law = criterion.law(lane, psi)
            phi = torch.ones_like(half)
            if law.has_dispersion and criterion.phi is None:
                phi = 2 * (half + penalty) / (criterion.count - criterion.free).clamp(min=1)
            inner = criterion.eliminated(lane, gram, criterion.turn(lane, psi), psi).on(criterion.integrated)
            psi = torch.cat([self._expected(psi, u, inner, phi), *criterion.parts(psi)[1:]], -1)
            u = ahead(criterion, lane, here, psi)
        return psi, u

    def _expected(self, psi: Tensor, u: Tensor, inner: AnyInner, phi: Tensor) -> Tensor:
        """(B, E) the roots of the mean square of the effects, given the data."""
        criterion, effects = self.criterion, self.criterion.effects
        turn = criterion.turn(self.every, psi)
        c, blocks, roots = turn.times(u), effects.blocks(inner.covariance()), list[Tensor]()
        for g, own in zip(effects.groupings, blocks, strict=True):
            modes = c[:, g.columns].unflatten(1, (g.effects, g.levels))
            whole = (modes @ modes.mT / phi[:, None, None] + own.sum(1)) / g.levels
            size = whole.diagonal(dim1=-2, dim2=-1).clamp(min=1e-300)
            roots.append(whole + torch.diag_embed(1e-6 * size))
        found = effects.theta(roots, criterion.units_of(self.every))
        old = criterion.parts(psi)[0]
        return torch.where(torch.isfinite(found).all(-1, keepdim=True), found, old)

    # Newton's steps -----------------------------------------------------------------------------------------

    def _descend(self, lane: Tensor) -> None:
        self.status[lane] = int(Status.ITERATION_LIMIT)
        for _ in range(self.most):
            if not lane.numel():
                return
            mark = self.mark.take(lane)
            gradient = self.criterion.gradient(lane, mark)
            hessian, _ = self.hessians(lane, mark, gradient)
            step, decrement = self._step(lane, mark, gradient, hessian)
            close = decrement <= CLOSE
            if bool(close.any()):
                if self.rough:
                    self.status[lane[close]] = int(Status.CONVERGED)
                else:
                    self._polish(lane[close], mark.take(close), gradient[close])
                lane, mark, step, decrement = lane[~close], mark.take(~close), step[~close], decrement[~close]
            if not lane.numel():
                return
            self.steps[lane] += 1
            lane = self._moved(lane, mark, step, decrement)

    def _moved(self, lane: Tensor, mark: Mark, step: Tensor, decrement: Tensor) -> Tensor:
        """Every step halved until the criterion falls; the models that go on."""
        left = torch.arange(len(lane), device=lane.device)
        for _ in range(HALVINGS):
            psi = self._inside(lane[left], mark.psi[left] + step)
            trial = self._at(lane[left], psi, mark.take(left))
            old = mark.value[left]
            down = (
                trial.value <= old - 1e-4 * torch.minimum(decrement[left], decrement.new_ones(())) + SLACK * old.abs()
            )
            if bool(down.any()):
                mark = mark.place(left[down], trial.take(down))
            left, step = left[~down], step[~down] / 2
            if not left.numel():
                break
        stuck = torch.zeros_like(lane, dtype=torch.bool).index_fill(0, left, True)
        self.mark = self.mark.place(lane, mark)
        self.status[lane[stuck]] = int(Status.STALLED)
        return lane[~stuck]

    def _polish(self, lane: Tensor, mark: Mark, gradient: Tensor) -> None:
        """The last steps, with the Hessian of all parameters."""
        hessian, slopes = self.hessians(lane, mark)
        for _ in range(3):
            step, decrement = self._step(lane, mark, gradient, hessian)
            new = self._at(lane, self._inside(lane, mark.psi + step), mark)
            down = new.value <= mark.value + SLACK * mark.value.abs()
            if bool(down.any()):
                index = down.nonzero()[:, 0]
                mark = mark.place(index, new.take(index))
            self.steps[lane] += 1
            if bool((decrement <= 1e-15 * (1 + mark.value.abs())).all()) or not bool(down.any()):
                break
            gradient = self.criterion.gradient(lane, mark)
        self.mark = self.mark.place(lane, mark)
        self.hessian[lane], self.slopes[lane] = hessian, slopes
        self.status[lane] = int(Status.CONVERGED)

    def _step(self, lane: Tensor, mark: Mark, gradient: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
        """Newton's step (b, K) downhill, and its decrement (b,)."""
        low, high = self.criterion.ends[lane].unbind(-1)
        edge = ((mark.psi <= low) & (gradient >= -LEVEL)) | ((mark.psi >= high) & (gradient <= LEVEL))
        held = self._held(lane) | edge
        gradient = torch.where(held, 0.0, gradient)
        both = held.unsqueeze(-1) | held.unsqueeze(-2)
        hessian = torch.where(both, torch.diag_embed(held.to(hessian.dtype)), hessian)
        size = hessian.diagonal(dim1=-2, dim2=-1).abs().clamp(min=1e-8)
        scale = size.rsqrt()
        bend = hessian * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        values, vectors = torch.linalg.eigh(bend.nan_to_num())
        turned = (vectors.mT @ (gradient * scale).unsqueeze(-1)).squeeze(-1)
        along = -turned / values.abs().clamp(min=1e-6)
        step = (vectors @ along.unsqueeze(-1)).squeeze(-1) * scale
        decrement = -(turned * along).sum(-1)
        limit = self._limits(mark.psi)
        share = (limit / step.abs().clamp(min=1e-300)).amin(-1).clamp(max=1.0)
        return step * share.unsqueeze(-1), decrement

    def _at(self, lane: Tensor, psi: Tensor, mark: Mark) -> Mark:
        """The criterion near a mark."""
        return self.criterion.at(lane, psi, ahead(self.criterion, lane, mark, psi))

    def _inside(self, lane: Tensor, psi: Tensor) -> Tensor:
        ends = self.criterion.ends[lane]
        return torch.maximum(torch.minimum(psi, ends[..., 1]), ends[..., 0])

    def refresh(self) -> None:
        """The end once more, from a pass at the coefficients there: the digits that a distant pass has lost."""
        criterion, mark = self.criterion, self.mark
        criterion.rebase(criterion.turn(self.every, mark.psi).times(mark.u))
        fine = self.status == int(Status.CONVERGED)
        lane = self.every[fine]
        if lane.numel():
            mark = criterion.at(lane, mark.psi[lane], mark.u[lane])
            self.mark = self.mark.place(lane, mark)
            self._polish(lane, mark, criterion.gradient(lane, mark))

    def _limits(self, psi: Tensor) -> Tensor:
        """(b, K) the longest steps."""
        roots, strengths, shapes, fixed = self.criterion.parts(psi)
        longest = [LONGEST * roots.abs().clamp(min=1.0)]
        longest += [torch.full_like(strengths, LONGEST), torch.full_like(shapes, LONGEST)]
        return torch.cat([*longest, torch.full_like(fixed, torch.inf)], -1)

    def _held(self, lane: Tensor) -> Tensor:
        """(b, K) the fixed effects of columns that depend on others, which stay."""
        first = sum(self.criterion.counts[:3])
        none = torch.zeros(len(lane), first, dtype=torch.bool, device=lane.device)
        if not self.criterion.apart:
            return none | self.kept[lane]
        keep = self.criterion.keep[lane]
        return torch.cat([none, ~keep[:, self.criterion.fixed]], -1) | self.kept[lane]

    # Hessians -----------------------------------------------------------------------------------------------

    def hessians(self, lane: Tensor, mark: Mark, gradient: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(b, K, K) by central differences of the gradient, and (b, F, p) the derivatives of the variances.

        Where the `gradient` (b, K) is given, by forward ones, between fixed effects that of the modes, and zeros.
        """
        whole = gradient is None
        criterion, total = self.criterion, mark.psi.shape[-1]
        fixed = criterion.counts[3]
        moved, unit = total if whole else total - fixed, self.units(lane, mark)
        columns, slopes = self._differences(lane, mark, unit, moved, gradient)  # (b, moved, K), (b, F, p)
        out = mark.psi.new_zeros(len(lane), total, total)
        out[:, :moved] = columns
        if moved < total:
            out[:, moved:, :moved] = columns[:, :, moved:].mT
            out[:, moved:, moved:] = self._information(lane, mark)
        held = self._held(lane)
        out = (out + out.mT) / 2
        both = held.unsqueeze(-1) | held.unsqueeze(-2)
        return torch.where(both, torch.diag_embed(held.to(out.dtype)), out), slopes

    def _differences(
        self, lane: Tensor, mark: Mark, unit: Tensor, moved: int, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(b, moved, K) derivatives of the gradient along the first parameters, and (b, F, p) those of the variances.

        Those evaluated at once are few.
        """
        criterion, signs = self.criterion, (1.0, -1.0) if gradient is None else (1.0,)
        n = float(criterion.effects.width if criterion.flat else criterion.count.max())
        steps = [(j, sign) for j in range(moved) for sign in signs]
        group = max(1, min(len(steps), int(TOGETHER / max(1.0, n * len(lane)))))
        group = group if criterion.order is None else 1
        out, places = (
            mark.psi.new_zeros(len(lane), moved, mark.psi.shape[-1]),
            torch.arange(len(lane), device=lane.device),
        )
        of_variance = torch.zeros_like(self.slopes[lane])
        for first in range(0, len(steps), group):
            part = steps[first : first + group]
            lanes, psi = lane.repeat(len(part)), mark.psi.repeat(len(part), 1)
            for i, (j, sign) in enumerate(part):
                own = slice(i * len(lane), (i + 1) * len(lane))
                psi[own, j] += sign * unit[:, j]
            at = self._at(lanes, psi, mark.take(places.repeat(len(part))))
            slopes = criterion.gradient(lanes, at)
            wanted = gradient is None and criterion.ranges is None and part[0][0] < of_variance.shape[1]
            spread = variances(criterion, lanes, at) if wanted else None
            for i, (j, sign) in enumerate(part):
                own = slice(i * len(lane), (i + 1) * len(lane))
                out[:, j] += sign * slopes[own] / unit[:, j : j + 1]
                if spread is not None and j < of_variance.shape[1]:
                    of_variance[:, j] += sign * spread[own] / (2 * unit[:, j : j + 1])
        out = out / 2 if gradient is None else out - gradient.unsqueeze(1) / unit[:, :moved].unsqueeze(-1)
        return out, of_variance

    def units(self, lane: Tensor, mark: Mark) -> Tensor:
        """(b, K) the steps of the differences."""
        roots, strengths, shapes, fixed = self.criterion.parts(mark.psi)
        units = [STEP * roots.abs().clamp(min=LEAST), torch.full_like(strengths, STEP), torch.full_like(shapes, STEP)]
        if self.criterion.apart:
            size = self._information(lane, mark).diagonal(dim1=-2, dim2=-1)
            units.append(STEP * torch.where(size > 0, size, 1.0).rsqrt())
        return torch.cat(units, -1)

    def _information(self, lane: Tensor, mark: Mark) -> Tensor:
        """(b, F, F) of the fixed effects at the covariances as they are."""
        criterion = self.criterion
        eliminated = criterion.eliminated(lane, mark.gram, criterion.turn(lane, mark.psi), mark.psi)
        own, f, r = eliminated.schur, criterion.fixed, eliminated.places(criterion.penalised)
        left = own[:, f.unsqueeze(-1), f]
        if r.numel():
            root = scaled_root(own[:, r.unsqueeze(-1), r])[0]
            half = root.mT @ own[:, r.unsqueeze(-1), f]
            left = left - half.mT @ half
        return left / mark.phi[:, None, None]

    # other starts -------------------------------------------------------------------------------------------

    def _elsewhere(self, lane: Tensor) -> Tensor:
        """Models of which another point is lower: there the search goes on."""
        if not lane.numel():
            return lane
        criterion = self.criterion
        best = self.mark.take(lane)
        value = best.value.clone()
        for inside in range(len(criterion.effects.groupings)):
            entries = [e for e, (k, _, _) in enumerate(criterion.effects.entries) if k == inside]
            for size in ELSEWHERE:
                psi = self.mark.psi[lane].clone()
                for e in entries:
                    _, row, column = criterion.effects.entries[e]
                    psi[:, e] = size if row == column else 0.0
                near = guess(criterion, lane, self.mark.take(lane), psi) < value + NEAR
                best = self._lower(lane, best, near, psi)
        place = sum(criterion.counts[:2])
        for alpha in ALPHAS if criterion.name else ():  # the criterion is flat by the logarithm of an alpha of 0
            psi = self.mark.psi[lane].clone()
            zero = psi[:, place] <= criterion.ends[lane, place, 0]
            psi[:, place] = math.log(alpha)
            best = self._lower(lane, best, zero, psi)
        moved = best.value < value - LOWER
        index = moved.nonzero()[:, 0]
        if index.numel():
            self.mark = self.mark.place(lane[index], best.take(index))
        return lane[index]

    def settled(self) -> Mark:
        """The end, what is nearly zero in a singular root being zero."""
        mark, roots = self.mark, self.criterion.counts[0]
        small = self.singular().unsqueeze(-1) & (mark.psi[:, :roots].abs() < ZERO)
        psi = mark.psi.clone()
        psi[:, :roots] = torch.where(small, 0.0, psi[:, :roots])
        self.mark = Mark(psi, mark.u, mark.value, mark.phi, mark.score, mark.gram)
        return self.mark

    def singular(self) -> Tensor:
        """(B,) where the covariance of some effects is singular: a variance is 0, or a correlation -1 or 1."""
        criterion, found = self.criterion, torch.zeros_like(self.every, dtype=torch.bool)
        theta = criterion.parts(self.mark.psi)[0]
        for root in criterion.effects.triangles(theta):
            values = torch.linalg.svdvals(root.nan_to_num())
            found |= values[:, -1] < ZERO * values[:, 0].clamp(min=1.0)
        return found

    def _lower(self, lane: Tensor, best: Mark, asked: Tensor, psi: Tensor) -> Mark:
        """The best points of models, or those at parameters `psi` where these are lower and are `asked` (b,) for."""
        index = asked.nonzero()[:, 0]
        if not index.numel():
            return best
        trial = self.criterion.at(lane[index], psi[index], self.mark.u[lane[index]])
        lower = trial.value < best.value[index] - LOWER
        return best.place(index[lower], trial.take(lower)) if bool(lower.any()) else best
