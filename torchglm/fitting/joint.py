"""Coefficients and the shape parameter of a family together, by one Newton's method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.irls import irls, problem_of, searched
from torchglm.fitting.kinks import Kinks
from torchglm.fitting.penalties import GroupLasso, Penalty, RowWise
from torchglm.fitting.penalties.base import ONE
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.shape import RowMeans
from torchglm.fitting.shape_sums import POWER_END, has_alpha, shapes_of, with_raw_shape
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.rows import Rows

LEAST_ALPHA, MOST_ALPHA = 1e-12, 50.0  # of a start
NO_ALPHA = -30.0  # log alpha below which the law is Poisson's to the last digit
BESIDE_END = 0.05  # of the logit of a power: a search that was stopped no farther from its end is on it


class BesideShape(Penalty):
    """A penalty on coefficients behind which raw shape parameters stand, that have none."""

    def __init__(self, inner: Penalty, shapes: int) -> None:
        self.inner, self.shapes = inner, shapes
        self.diagonal, self.each = inner.diagonal, inner.each

    @property
    def smooth(self) -> bool:
        return self.inner.smooth

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.inner.value(coef[:, : -self.shapes], total)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        own = self.inner.ridge(coef[:, : -self.shapes], total)
        more = (0, self.shapes) if own.dim() == 2 else (0, self.shapes, 0, self.shapes)
        return torch.nn.functional.pad(own, more)

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return torch.nn.functional.pad(self.inner.slope(coef[:, : -self.shapes], total), (0, self.shapes))

    def bend(self, coef: Tensor, total: Tensor) -> Tensor | None:
        own = self.inner.bend(coef[:, : -self.shapes], total)
        return None if own is None else torch.nn.functional.pad(own, (0, self.shapes))

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        own = self.inner.nonsmooth(coef[:, : -self.shapes], total)
        return None if own is None else torch.nn.functional.pad(own, (0, self.shapes))

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Penalty:
        return self

    def take(self, models: Tensor) -> Penalty:
        return type(self)(self.inner.take(models), self.shapes)


class RowsBesideShape(BesideShape, RowWise):
    """The same for a penalty with kinks along rows."""

    inner: RowWise

    def kinks(self, total: Tensor) -> Kinks:
        own = self.inner.kinks(total)
        return replace(own, matrix=torch.nn.functional.pad(own.matrix, (0, self.shapes)))


def beside_shape(penalty: Penalty, shapes: int) -> Penalty:
    """A penalty on coefficients as one on these and so many shapes behind them."""
    if isinstance(penalty, GroupLasso):
        return penalty.with_columns(shapes)
    return (RowsBesideShape if isinstance(penalty, RowWise) else BesideShape)(penalty, shapes)


@dataclass(frozen=True)
class _Begin:
    """Where a joint search begins: coefficients, the raw shape (B, S), and steps made before.

    `limit` (B,) marks models whose likelihood falls from the first shape on, `separated` (B,) those whose coefficients
    ran to infinity; `solution` is the fit at the first shape, None for one that goes on.
    """

    coef: Tensor
    raw: Tensor
    n_iter: Tensor
    limit: Tensor
    separated: Tensor
    solution: Solution | None = None


@torch.no_grad()
def solve_with_shape(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    start: Tensor | None,
    options: dict[str, Any],
    observe: Observer | None,
    resume: Progress | None,
) -> tuple[Family, Solution]:
    """The coefficients and the shape of every model, see `solve`.

    A fit at a first shape comes before: alpha = 0, from which a likelihood rises or falls, or a power of 1.5. The
    search for both goes on from there, and a last fit at the shape that was found says what is there.
    """
    begin = _begin(source, family, link, start, options, observe, resume)
    if options["skip"] is not None:
        begin = replace(begin, limit=begin.limit | options["skip"])
    lane = (~begin.limit).nonzero()[:, 0]
    coef, raw, n_iter = begin.coef.clone(), begin.raw.clone(), begin.n_iter.clone()
    ended, separated = torch.ones_like(begin.limit), begin.separated.clone()
    error = torch.full_like(raw[:, 0], torch.nan)
    if lane.numel():
        found = _joint(source, family, link, torch.cat([coef, raw], -1), lane, options, _beside(observe, family, begin))
        coef[lane], raw[lane] = found.coef[lane, : coef.shape[1]], found.coef[lane, coef.shape[1] :]
        n_iter[lane] += found.n_iter[lane]
        separated[lane] |= found.status[lane] == int(Status.SEPARATED)
        ended[lane] = found.status[lane] == int(Status.CONVERGED)
        error[lane] = found.root.inverse_diagonal()[lane, -1].sqrt()
    raw[:, -1], limit = _on_limit(family, raw[:, -1], begin.limit, ended)
    # where coefficients run to infinity they begin anew, not ever farther out, where nothing is seen to move
    coef = torch.where(separated.unsqueeze(-1), begin.coef, coef)
    member = with_raw_shape(family, raw)
    last = _last(source, member, link, coef, begin, options, counting(observe, n_iter))
    status = last.status.clone()
    # at a shape that is held a search may end before it shows
    status[(status == int(Status.CONVERGED)) & separated] = int(Status.SEPARATED)
    regular = status == int(Status.CONVERGED)
    status[regular & ~limit & ~ended] = int(Status.ITERATION_LIMIT)
    status[regular & limit] = int(Status.SHAPE_LIMIT)
    error = torch.where(limit, torch.nan, error)
    solution = replace(last, n_iter=n_iter + last.n_iter, status=status, shape_error=error)
    return with_raw_shape(family, raw[0]) if len(raw) == 1 else member, solution


def _begin(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    start: Tensor | None,
    options: dict[str, Any],
    observe: Observer | None,
    resume: Progress | None,
) -> _Begin:
    """The fit at the first shape, or where an earlier fit stood."""
    if resume is not None and resume.shape is not None:
        no = torch.zeros_like(resume.shape, dtype=torch.bool)
        raw = _raw(family, resume.shape, resume.dispersion)
        return _Begin(resume.coef, raw, resume.n_iter, no, no)
    alone = has_alpha(family)
    first = with_raw_shape(family, torch.tensor([-torch.inf if alone else 0.0], dtype=torch.float64))
    before = 0 if resume is None else resume.n_iter
    start = start if resume is None else resume.coef
    solution = irls(source, first, link, start=start, observe=counting(observe, before), **options)
    raw, limit = _from_poisson(source, link, solution.coef) if alone else _from_middle(solution)
    separated = solution.status == int(Status.SEPARATED)
    return _Begin(solution.coef, raw, solution.n_iter + before, limit, separated, solution)


def _from_poisson(source: Iterable[Rows], link: Link, coef: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1) `log alpha` by moments beside the means of Poisson fits, and (B,) where their limit is the maximum.

    At `alpha = 0` the slope of the log-likelihood is `sum w ((y - mu)^2 - y) / 2` and its curvature about
    `-sum w mu^2 / 2`; where the slope is not positive the likelihood falls from the Poisson law on.
    """

    def term(rows: Rows, mu: Tensor) -> Tensor:
        parts = torch.stack([(rows.y - mu).square() - rows.y, mu.square()])
        return torch.where(rows.weight > 0, parts * rows.weight, 0.0).sum(-1).mT

    slope, square = RowMeans(source, link, coef).sum(term).unbind(-1)
    alpha = (slope / square).nan_to_num(1.0).clamp(LEAST_ALPHA, MOST_ALPHA)
    return alpha.log().unsqueeze(-1), slope <= 0


def _from_middle(solution: Solution) -> tuple[Tensor, Tensor]:
    """(B, 2) the logarithm of the mean deviance and a power of 1.5, which is no limit."""
    phi = (2 * solution.moments.objective / solution.moments.count).nan_to_num(1.0, posinf=1.0)
    log_phi = torch.where(phi > 0, phi, 1.0).log()
    return torch.stack([log_phi, torch.zeros_like(phi)], -1), torch.zeros_like(phi, dtype=torch.bool)


def _joint(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    start: Tensor,
    lane: Tensor,
    options: dict[str, Any],
    observe: Observer | None,
) -> Solution:
    """The search for coefficients and raw shape of models `lane` from a start (B, p + S)."""
    shapes, penalty = shapes_of(family), options["penalty"]
    own = options | {"penalty": None if penalty is None else beside_shape(penalty, shapes)}
    chunks, problem = problem_of(source, family, link, own)
    problem = replace(problem, layout=problem.layout.with_columns(shapes), shapes=shapes)
    return searched(problem, chunks, start=start, lane=lane, observe=observe).solution


def _last(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    coef: Tensor,
    begin: _Begin,
    options: dict[str, Any],
    observe: Observer | None,
) -> Solution:
    """The fit at the shape that was found, from coefficients that are all but its maximum."""
    if begin.solution is not None and bool(begin.limit.all()):
        return replace(begin.solution, n_iter=torch.zeros_like(begin.n_iter))
    return irls(source, family, link, start=coef, observe=observe, **options)


def _on_limit(family: Family, raw: Tensor, limit: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the last raw shape and where it is a limit, after searches of which some have not `ended` inside."""
    if has_alpha(family):
        limit = limit | ~ended & (raw < NO_ALPHA)
        return torch.where(limit, -torch.inf, raw), limit
    beside = ~ended & (raw.abs() > POWER_END - BESIDE_END)
    return torch.where(beside, raw.sign() * POWER_END, raw), limit | beside


def _raw(family: Family, shape: Tensor, dispersion: Tensor | None) -> Tensor:
    """(B, S) raw shape parameters from their values."""
    if has_alpha(family):
        return shape.log().unsqueeze(-1)
    assert dispersion is not None
    return torch.stack([dispersion.log(), (shape - 1).logit()], -1)


def counting(observe: Observer | None, before: Tensor | int) -> Observer | None:
    """An observer that counts the steps made before."""
    if observe is None:
        return None
    tell = observe
    return lambda now: tell(replace(now, n_iter=now.n_iter + before))


def _beside(observe: Observer | None, family: Family, begin: _Begin) -> Observer | None:
    """An observer of a joint search, told of coefficients and shape apart."""
    if observe is None:
        return None
    tell, p, alone = observe, begin.coef.shape[1], has_alpha(family)

    def split(now: Progress) -> None:
        raw = now.coef[:, p:]
        shape = raw[:, 0].exp() if alone else 1 + raw[:, 1].sigmoid()
        phi = None if alone else raw[:, 0].exp()
        tell(replace(now, coef=now.coef[:, :p], n_iter=now.n_iter + begin.n_iter, shape=shape, dispersion=phi))

    return split
