"""The search on whitened columns, its passes made over the rows as they are: steps, and how far the optimum is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.penalties import Along, Penalty
from torchglm.fitting.problem import Problem
from torchglm.fitting.search import Search
from torchglm.fitting.state import Solution
from torchglm.model.face import GLMHead
from torchglm.model.head_rows import penalty_on
from torchglm.rows.grams import Dense, Layout
from torchglm.rows.products import triangle
from torchglm.rows.ranks import seen
from torchglm.rows.rows import Rows
from torchglm.training.whitening import WhitenedGLM

FAR = 1e4  # standard deviations of a mean from zero from which on sums of products lose more than half of their digits


def centred(rows: Rows, mean: Tensor | None, fixed: Tensor) -> Rows:
    """Rows with what is fixed of a trained model in their offset, the `mean` (if any) taken off their columns."""
    x = rows.x if mean is None else rows.x.to(mean) - mean
    return rows._replace(x=x, offset=rows.offset + fixed)


@dataclass(frozen=True)
class Sight:
    """`loss`, the penalised mean loss, and `distance`, the longest step of a coefficient to the optimum.

    That is a share of its standard error: NaN with an l1 penalty, whose optimum is not where the slope is zero.
    `dispersion` is Pearson's, NaN where no row is left to estimate it from.
    """

    loss: float
    distance: float
    dispersion: float


class OnWhitened:
    """Trained weights `(1, q)` on the rows of a source: sums of their columns, turned to the whitened ones."""

    def __init__(self, inner: WhitenedGLM, head: GLMHead, source: Iterable[Rows], penalty: Penalty | None) -> None:
        layer, bias = inner.backbone, head.bias is not None
        mean, matrix, constant = (part.double() for part in (layer.mean, layer.weight, layer.bias))
        far = bool((mean.abs() * matrix.abs().amax(0) > FAR).any()) if len(matrix) else False
        self.head, self.source = head, seen(source, lambda rows: centred(rows, mean if far else None, inner.start))
        given = torch.cat([(constant - matrix @ mean).unsqueeze(1), matrix], 1)
        self.back = given if bias else matrix  # (q, p + 1) to the coefficients on the columns as they are
        # (q, p + 1) to those on the columns that are summed
        self.turn = torch.cat([constant.unsqueeze(1), matrix], 1) if far and bias else self.back
        whole = penalty_on(head, penalty)
        along = None if whole is None else Along(whole, self.back)
        self.problem = Problem(head.family, head.link, along, 1, Layout(len(matrix)), mean.device)

    def sums(self, point: Point) -> Moments:
        """The moments of all rows at a point of trained weights."""
        coef = None if point.coef is None else point.coef @ self.turn
        before = coef if point.before is point.coef else None if point.before is None else point.before @ self.turn
        sums = fold(self.source, replace(point, coef=coef, before=before), self.head.family, self.head.link)
        gram, factor, columns = sums.gram, sums.factor, self.turn.shape[1]
        if gram.layout.columns:
            gram = Dense(self.turn @ gram.written_out() @ self.turn.mT)
        if factor is not None:
            factor = triangle(torch.cat([factor[..., :columns] @ self.turn.mT, factor[..., columns:]], -1))
        score = sums.score @ self.turn.mT if sums.score.numel() else sums.score
        return replace(sums, gram=gram, score=score, factor=factor)

    def walk(self, trained: Tensor, steps: int) -> Tensor:
        """The trained weights `(1, q)` after at most so many steps of the search."""
        search = Search(replace(self.problem, max_iter=steps), known=trained)
        while not search.done:
            search.take(self.sums(search.point))
        return search.coef

    def look(self, trained: Tensor) -> Sight:
        """Loss and distance by a pass at trained weights `(1, q)`.

        The information is the expected one; where times are censored, whose expectation nobody knows, the observed one,
        unless it is not positive there.
        """
        keep, plain = torch.ones_like(trained, dtype=torch.bool), torch.zeros_like(trained[:, 0], dtype=torch.bool)
        for observed in (True, False) if self.head.family.durations else (False,):
            sums = self.sums(Point(trained, observed, before=trained, relative=True))
            step, _, inverse = self.problem.direction(sums, trained, keep, plain, sums.weight)
            if bool(inverse.positive.all()):
                break
        loss = self.problem.objective(sums, trained, sums.weight) / sums.weight
        phi, distance = dispersion_of(sums, trained.shape[-1]), float("nan")
        if self.problem.smooth_penalty:
            distance = farthest(self.head, sums, step @ self.back, inverse.root.within(self.back))
        return Sight(float(loss), distance, phi)


def dispersion_of(sums: Moments, rank: int) -> float:
    """Pearson's chi-square over `n - rank`."""
    free = float(sums.count) - rank
    return float(sums.pearson) / free if free > 0 else float("nan")


def farthest(head: GLMHead, sums: Moments, step: Tensor, inverse: Tensor) -> float:
    """The longest step `(1, p)` of a coefficient as a share of its standard error, by the inverse information."""
    free = (sums.count - inverse.shape[-1]).clamp(min=1)
    phi = sums.pearson / free if head.family.has_dispersion else torch.ones_like(free)
    error = (phi.unsqueeze(-1) * inverse.diagonal(dim1=-2, dim2=-1)).clamp(min=0).sqrt()
    return float(torch.where(error > 0, step.abs() / error, 0.0).max())


def look_at(head: GLMHead, source: Iterable[Rows], found: Solution, penalty: Penalty | None) -> Sight:
    """Loss and distance by a pass without a Gram at the end of a fit, whose information it has."""
    coef = found.coef
    point = Point(coef, before=coef, curved=False, relative=True)
    sums = fold(source, point, head.family, head.link)
    loss, score, smooth = sums.objective, sums.score, True
    if penalty is not None:
        loss, score = loss + penalty.value(coef, sums.weight), score - penalty.slope(coef, sums.weight)
        smooth = penalty.smooth
    inverse = found.root.inverse()
    step = (inverse @ torch.where(found.keep, score, 0.0).unsqueeze(-1)).squeeze(-1)
    distance = farthest(head, sums, step, inverse) if smooth else float("nan")
    return Sight(float(loss / sums.weight), distance, dispersion_of(sums, int(found.keep.sum())))
