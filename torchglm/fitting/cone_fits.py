"""A penalised fit at given strengths whose coefficients, some of them, may not be negative: for many models at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.faces import minimise
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.penalties import Quadratic
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.state import Solution
from torchglm.links import Link
from torchglm.rows.ranks import members
from torchglm.rows.rows import Rows

HALVINGS = 30
SLACK = 1e-13  # share of the objective that rounding leaves unsaid


@dataclass
class ConePoint:
    """Where models stand: `coef` (B, p), the sums of a pass there, and the objective `value` (B,) with the penalty."""

    coef: Tensor
    moments: Moments
    value: Tensor


class ConeFits:
    """Fits of models, of which `first` has the columns that are kept, with coefficients `penalty.nonnegative` held.

    `observe` is told of every step. `shapes` (B,) are the alphas or powers at hand of a family that estimates one,
    `steps` (B,) counts, and `finished` (B,) says which models the last fit has brought to their minimum.
    """

    def __init__(
        self,
        source: Iterable[Rows],
        family: Family,
        link: Link,
        penalty: Quadratic,
        first: Solution,
        max_iter: int,
        observe: Observer | None = None,
    ) -> None:
        self.source, self.family, self.link, self.penalty = source, family, link, penalty.without_limits()
        self.keep, self.steps, self.max_iter = first.keep, first.n_iter.clone(), max_iter
        self.held = torch.zeros_like(first.keep)
        self.held[:, list(penalty.nonnegative)] = True
        self.held &= self.keep
        self.finished = torch.ones_like(self.steps, dtype=torch.bool)
        powers = family.estimates_shape and not has_alpha(family)
        self.shapes = torch.full_like(first.coef[:, 0], 1.5 if powers else 1.0)
        self.observe, self._coef = observe, self.start(first)  # (B, p) of the last step of every model
        self._deviance = 2 * first.moments.objective

    def start(self, first: Solution) -> Tensor:
        """(B, p) the coefficients of a fit without limits within them."""
        coef = torch.where(self.held, first.coef.clamp(min=0), first.coef)
        return torch.where(torch.isfinite(coef), coef, 0.0)

    def face(self, lane: Tensor, coef: Tensor) -> Tensor:
        """(b, p) the columns that do not stand at zero for their sign."""
        return self.keep[lane] & ~(self.held[lane] & (coef <= 0))

    def member(self, lane: Tensor) -> Family:
        """The family of some of the models, with the shapes at hand."""
        if not self.family.estimates_shape:
            return take_family(self.family, lane)
        return self.family.with_parameters(self.raw(self.shapes[lane]))  # (b,)

    def raw(self, value: Tensor) -> dict[str, Tensor]:
        """The raw parameter of the family of shapes (b,)."""
        return {"log_alpha": value.log()} if has_alpha(self.family) else {"raw_power": (value - 1).logit()}

    def fit(self, lane: Tensor, theta: Tensor, coef: Tensor) -> ConePoint:
        """The minimum over the cone from coefficients (b, p)."""
        penalty = self.penalty.with_strength(theta.exp())
        self.finished[lane] = True
        out = self._valid(lane, penalty, coef)
        left = torch.arange(len(lane), device=lane.device)
        for _ in range(self.max_iter):
            own = penalty.take(left)
            here = ConePoint(out.coef[left], out.moments.take(left), out.value[left])
            step, gain = self._step(lane[left], own, here)
            done = gain <= SLACK * here.value.abs()
            left, step, here = left[~done], step[~done], _some(here, (~done).nonzero()[:, 0])
            if not left.numel():
                return out
            moved, there = self._walked(lane[left], penalty.take(left), here, step)
            self.steps[lane[left]] += 1
            self._tell(lane[left], there)
            out = ConePoint(
                out.coef.index_copy(0, left, there.coef),
                out.moments.place(left, there.moments),
                out.value.index_copy(0, left, there.value),
            )
            left = left[moved]
            if not left.numel():
                return out
        self.finished[lane[left]] = False
        return out

    def _tell(self, lane: Tensor, there: ConePoint) -> None:
        """Hand the observer, where there is one, what all models have reached."""
        if self.observe is None:
            return
        self._coef = self._coef.index_copy(0, lane, there.coef)
        self._deviance = self._deviance.index_copy(0, lane, 2 * there.moments.objective)
        shape = self.shapes.clone() if self.family.estimates_shape else None
        self.observe(Progress(self._coef, self.steps.clone(), self._deviance, shape))

    def _at(self, lane: Tensor, penalty: Quadratic, coef: Tensor) -> ConePoint:
        here = fold(
            members(self.source, lane), Point(coef, False, before=coef, census=True), self.member(lane), self.link
        )
        value = here.objective + penalty.value(coef, here.weight)
        return ConePoint(coef, here, torch.where(here.valid & torch.isfinite(value), value, torch.inf))

    def _valid(self, lane: Tensor, penalty: Quadratic, coef: Tensor) -> ConePoint:
        """The sums at coefficients; where a mean is not valid there, at the intercept alone."""
        at = self._at(lane, penalty, coef)
        bad = torch.isinf(at.value)
        if not bool(bad.any()):
            return at
        mean = at.moments.response / at.moments.weight
        level = torch.zeros_like(coef)
        level[:, 0] = self.link.link(mean)
        return self._at(lane, penalty, torch.where(bad.unsqueeze(-1), level, coef))

    def _step(self, lane: Tensor, penalty: Quadratic, here: ConePoint) -> tuple[Tensor, Tensor]:
        """The step to the minimum of the quadratic model over the cone (b, p), and what it promises (b,)."""
        keep, held = self.keep[lane], self.held[lane]
        both = keep.unsqueeze(-1) & keep.unsqueeze(-2)
        bend = here.moments.gram.written_out() + penalty.ridge(here.coef, here.moments.weight)
        bend = torch.where(both, bend, torch.diag_embed((~keep).to(bend.dtype)))
        slope = torch.where(keep, here.moments.score - penalty.slope(here.coef, here.moments.weight), 0.0)
        size = bend.diagonal(dim1=-2, dim2=-1).clamp(min=1e-300).rsqrt()
        scaled = bend * size.unsqueeze(-1) * size.unsqueeze(-2)
        start = here.coef / size
        pull = slope * size + (scaled @ start.unsqueeze(-1)).squeeze(-1)
        lower = torch.where(held, 0.0, -torch.inf).to(pull)
        terms = pull.abs() + (scaled.abs() @ start.abs().unsqueeze(-1)).squeeze(-1)
        close = 1e-14 * terms.amax(-1)
        best = minimise(scaled, pull, start, torch.zeros_like(pull), lower, torch.full_like(pull, torch.inf), close)
        step = torch.where(keep, (best - start) * size, 0.0)
        return step, (slope * step).sum(-1)

    def _walked(self, lane: Tensor, penalty: Quadratic, here: ConePoint, step: Tensor) -> tuple[Tensor, ConePoint]:
        """Along steps, each halved until the objective does not rise; which models moved, and where they stand."""
        out, left = here, torch.arange(len(lane), device=lane.device)
        for _ in range(HALVINGS):
            target = here.coef[left] + step[left]
            target = torch.where(self.held[lane[left]], target.clamp(min=0), target)
            there = self._at(lane[left], penalty.take(left), target)
            fine = there.value <= here.value[left] + SLACK * here.value[left].abs()
            index = fine.nonzero()[:, 0]
            out = ConePoint(
                out.coef.index_copy(0, left[index], there.coef[index]),
                out.moments.place(left[index], there.moments.take(index)),
                out.value.index_copy(0, left[index], there.value[index]),
            )
            left = left[~fine]
            if not left.numel():
                break
            step = step / 2
        moved = torch.ones(len(lane), dtype=torch.bool, device=lane.device)
        moved[left] = False
        return moved, out


def _some(here: ConePoint, index: Tensor) -> ConePoint:
    return ConePoint(here.coef[index], here.moments.take(index), here.value[index])
