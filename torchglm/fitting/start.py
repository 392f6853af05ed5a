"""Where a search begins: the rank of the design, first coefficients, and the first point with valid means."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting import linalg
from torchglm.fitting.feasible import feasible
from torchglm.fitting.kernel import edges
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.search import Solver
from torchglm.fitting.state import Search, Solution, Taken
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.grams import GRAM_PIVOT
from torchglm.rows.products import triangle
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows, wide


def begin(solver: Solver, lane: Tensor, start: Tensor | None, out: Solution) -> Search:
    """The search of the models `lane`, from `start` (B, p) or from a mean per row; hopeless ones are written out."""
    search, usable = _point(solver, lane, start)
    if not bool(usable.all()):
        solver.finish(search.take((~usable).nonzero()[:, 0]), Status.INVALID_START, out)
        search = solver.keep(search, usable)
    return solver.aim(search) if search.lane.numel() else search


def resume(solver: Solver, lane: Tensor, part: Solution, lend: bool) -> Search:
    """The search from the fit of some of the rows, in which all columns were independent.

    Where they are many enough to `lend` their Gram, scaled to all rows, the first steps are taken with it.
    """
    no, coef, gram = torch.zeros_like(lane, dtype=torch.bool), part.coef, part.moments.gram
    single = solver.chord and bool(linalg.allows_single(gram, gram.invert(part.keep)).all())
    point = replace(_first_point(solver, coef, no), census=True, curved=not lend, single=single)
    moments = solver.fold(point)
    if lend:
        scale = moments.weight / part.moments.weight
        moments = replace(moments, gram=gram.scaled(scale))
    search = _search(solver, lane, coef, torch.ones_like(coef, dtype=torch.bool), moments, moments, no)
    if lend:
        search = replace(search, stale=~no, decrement=torch.full_like(search.decrement, torch.inf))
    return solver.aim(search)


def at_coefficients(solver: Solver, lane: Tensor, coef: Tensor) -> Search:
    """The search at given coefficients, aliased columns known, before any step is aimed."""
    keep, factored, first = _columns(solver, lane.numel())
    point = Point(coef, False, bool(factored.any()))
    return _search(solver, lane, torch.where(keep, coef, 0.0), keep, solver.fold(point), first, factored)


def _point(solver: Solver, lane: Tensor, start: Tensor | None) -> tuple[Search, Tensor]:
    keep, factored, first = _columns(solver, lane.numel())
    total, mean = first.weight, first.response / first.weight
    zero = torch.zeros_like(first.score)
    coef, _, _ = solver.direction(first, zero, keep, factored, total)
    if start is not None:
        coef = torch.where(keep, start, 0.0)
    moments, coef, usable = _valid_start(solver, coef, keep, factored, mean, total, start is not None)
    if start is None:
        moments, coef = _better_start(solver, moments, coef, keep, factored, mean, total)
    return _search(solver, lane, coef, keep, moments, first, factored), usable


def _search(
    solver: Solver, lane: Tensor, coef: Tensor, keep: Tensor, moments: Moments, census: Moments, factored: Tensor
) -> Search:
    """A search that has made no step; the rows were counted in `census`."""
    total = census.weight
    whole, no = torch.zeros_like(lane), torch.zeros_like(lane, dtype=torch.bool)
    zero = torch.zeros_like(total)
    return Search(
        lane=lane,
        coef=coef,
        keep=keep,
        moments=moments,
        objective=solver.objective(moments, coef, total),
        first=moments.objective.clone(),
        total=total,
        volume=census.response.abs(),
        factored=factored,
        fisher=whole,
        delta=torch.zeros_like(coef),
        decrement=zero,
        light=no,
        single=no,
        stale=no,
        step=torch.ones_like(total),
        closing=no,
        refresh=no,
        drift=whole,
        stagnant=whole,
        hit=no,
        cut=no,
        shortened=whole,
        n_iter=whole.clone(),
    )


def _columns(solver: Solver, models: int) -> tuple[Tensor, Tensor, Moments]:
    """The columns that are kept, the models whose condition asks for a QR factor, and the first pass's moments."""
    first = solver.fold(Point())
    mean = first.response / first.weight
    bad = (~first.valid).nonzero()[:, 0]
    level = Point(constant=mean)
    if bad.numel():  # a mean per row with no linear predictor, such as log 0
        first = first.place(bad, solver.fold(level).take(bad))
    keep, factored = _rank(solver, first, models)
    if bool(factored.any()):
        first = solver.fold(Point(factor=True))
        if bad.numel():
            first = first.place(bad, solver.fold(replace(level, factor=True)).take(bad))
    return keep, factored, first


def _rank(solver: Solver, first: Moments, models: int) -> tuple[Tensor, Tensor]:
    """Columns that depend on those before them are dropped, unless they are penalised."""
    ridge, held_all = torch.zeros_like(first.score), torch.zeros_like(first.score, dtype=torch.bool)
    if solver.penalty is not None:
        ridge = solver.penalty.ridge(first.score, first.weight)
        l1 = solver.penalty.nonsmooth(first.score, first.weight)
        held_all = ridge > 0 if l1 is None else (ridge > 0) | (l1 > 0)
    gram = first.gram.with_ridge(ridge)
    keep, unclear = gram.independent(held_all)
    factored, doubtful = torch.zeros(models, dtype=torch.bool, device=keep.device), unclear.nonzero()[:, 0]
    if doubtful.numel():
        solver.need_all_pairs()
        held = held_all[doubtful]
        design = design_triangle(solver.source, doubtful, solver.p)
        own = torch.where(held.unsqueeze(-2), 0.0, design)
        keep[doubtful] = linalg.independent_columns(own, solver.rank_tol) | held
        again = gram[doubtful].invert(keep[doubtful] & ~(held & (ridge[doubtful] == 0)))
        factored[doubtful] = ~again.positive | ~(again.pivot >= GRAM_PIVOT)
    return keep, factored


def _valid_start(
    solver: Solver, coef: Tensor, keep: Tensor, factored: Tensor, mean: Tensor, total: Tensor, given: bool
) -> tuple[Moments, Tensor, Tensor]:
    """The moments at the first coefficients, or where those are invalid at a constant mean, or at any valid point."""
    moments = solver.fold(_first_point(solver, coef, factored))
    bad = (~moments.valid).nonzero()[:, 0]
    if bad.numel() and given:
        warnings.warn(
            "start= gives a mean out of range or an infinite deviance in "
            f"{bad.numel()} model(s); torchglm's own start is used there.",
            stacklevel=2,
        )
    if bad.numel():
        coef = coef.index_copy(0, bad, _level(solver, keep, mean, total)[bad])
        moments = moments.place(bad, solver.fold(_first_point(solver, coef, factored)).take(bad))
    bad, ends = (~moments.valid).nonzero()[:, 0], edges(solver.family, solver.link)
    if bad.numel() and any(map(math.isfinite, ends)):
        size = room(mean, solver.family, solver.link, ends)
        found = feasible(solver.source, torch.nan_to_num(coef), keep, ends, size)
        coef = coef.index_copy(0, bad, found[bad])
        moments = moments.place(bad, solver.fold(_first_point(solver, coef, factored)).take(bad))
    return moments, coef, moments.valid


def room(mean: Tensor, family: Family, link: Link, ends: tuple[float, float]) -> Tensor:
    """(B,) how far the linear predictor of a mean lies from the nearer edge; a usual one where it lies on it."""
    both = link.link(torch.stack([mean, torch.full_like(mean, family.inner_mean)]))
    own, usual = torch.minimum(both - ends[0], ends[1] - both)
    return torch.where(own > 0, own, usual)


def _first_point(solver: Solver, coef: Tensor, factored: Tensor) -> Point:
    """Newton's curvature where a Gram holds it; a factor needs weights that are not negative."""
    return Point(coef, observed=False if solver.canonical else ~factored, factor=bool(factored.any()))


def _level(solver: Solver, keep: Tensor, mean: Tensor, total: Tensor) -> Tensor:
    """(B, p) the coefficients that come nearest to one mean for all rows."""
    moments = solver.fold(Point(constant=mean))
    return solver.direction(moments, torch.zeros_like(moments.score), keep, torch.zeros_like(keep[:, 0]), total)[0]


def _better_start(
    solver: Solver, moments: Moments, coef: Tensor, keep: Tensor, factored: Tensor, mean: Tensor, total: Tensor
) -> tuple[Moments, Tensor]:
    """The constant mean instead, for models whose first point promises to be far off and is the worse one.

    Far off: the Newton decrement is a quarter of the deviance. From such a point the search may end in
    another, lower maximum of a likelihood that has several.
    """
    _, decrement, _ = solver.direction(moments, coef, keep, factored, total)
    far = (decrement > 0.5 * solver.objective(moments, coef, total)) & moments.valid
    if not bool(far.any()):
        return moments, coef
    level = _level(solver, keep, mean, total)
    other = solver.fold(_first_point(solver, level, factored))
    better = far & other.valid & (solver.objective(other, level, total) < solver.objective(moments, coef, total))
    index = better.nonzero()[:, 0]
    return moments.place(index, other.take(index)), torch.where(better.unsqueeze(-1), level, coef)


def design_triangle(source: Iterable[Rows], models: Tensor, p: int) -> Tensor:
    """The triangular factor `(B, p, p)` of the design on the rows of positive weight."""
    total, ranks = torch.zeros(models.numel(), 0, p, dtype=torch.float64, device=models.device), ranks_of(source)
    with ranks.together():
        taken = Taken(own_rows(source), models)
        for part in (wide(piece) for rows in taken for piece in rows.pieces()):
            used = (part.weight > 0).to(torch.float64).unsqueeze(-1)
            x = part.x.unsqueeze(0) if part.shared else part.x
            if part.shared and bool((used > 0).all()):
                piece = triangle(x).expand(models.numel(), p, p)
            else:
                piece = triangle(x * used)
            total = triangle(torch.cat([total, piece], -2)) if total.shape[-2] else piece
    return ranks.stacked(total)
