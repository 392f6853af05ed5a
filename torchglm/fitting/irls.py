"""Iteratively reweighted least squares: where to begin, the search, and models whose maximum lies on an edge."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import fields

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.feasible import distance
from torchglm.fitting.kernel import edges, take_family
from torchglm.fitting.moments import Moments
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.progress import Observer
from torchglm.fitting.regular import fit_regular
from torchglm.fitting.sample import LENDING, sample
from torchglm.fitting.search import Solver, Unsuited
from torchglm.fitting.start import at_coefficients, begin, resume, room
from torchglm.fitting.state import Search, Solution, Taken
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.inverses import placed
from torchglm.rows.ranks import own_rows, seen
from torchglm.rows.rows import InPairs, Rows
from torchglm.rows.threads import small_operators

FENCES = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10)  # strengths of the barrier, one after the other
PART_TOL = 1e-6  # of the fit that starts a large one
BESIDE = 1e-6  # nearer to the edge, as a share of the distance of the mean response, a fit is looked at again
MULTIPLIER = 1e-6  # a smaller slope of the objective towards the edge says that the maximum lies inside


@torch.no_grad()
@small_operators()
def irls(
    source: Rows | Iterable[Rows],
    family: Family,
    link: Link,
    *,
    penalty: Penalty | None = None,
    start: Tensor | None = None,
    tol: float = 1e-8,
    max_iter: int = 50,
    rank_tol: float = 1e-12,
    skip: Tensor | None = None,
    observe: Observer | None = None,
) -> Solution:
    """Fit `B` models by iteratively reweighted least squares with Newton steps.

    `source` is Rows, or a re-iterable of Rows of the same models; `start` (B, p); `skip` (B,) marks models
    that are not fitted; `observe` is told of every step, by a `Progress`. A model stops when its Newton decrement is
    below `tol` times the deviance and the last step moved no linear predictor by more than a thousandth; see `Status`
    for the other ends.
    Raises `ValueError` for an empty source.
    """
    try:
        return _irls(source, family, link, penalty, start, tol, max_iter, rank_tol, skip, observe)
    except Unsuited:
        return _irls(_in_pairs(source), family, link, penalty, start, tol, max_iter, rank_tol, skip, observe)


def _irls(
    source: Rows | Iterable[Rows],
    family: Family,
    link: Link,
    penalty: Penalty | None,
    start: Tensor | None,
    tol: float,
    max_iter: int,
    rank_tol: float,
    skip: Tensor | None,
    observe: Observer | None,
) -> Solution:
    chunks, head = _chunks(source)
    solver = Solver(chunks, head, family, link, penalty, tol, max_iter, rank_tol, observe=observe)
    out = solver.blank()
    fitted = torch.ones(solver.models, dtype=torch.bool, device=solver.device) if skip is None else ~skip
    out.status[~fitted] = int(Status.NOT_FINITE)
    for name in ("objective", "pearson", "weight", "count"):
        getattr(out.moments, name)[~fitted] = torch.nan
    lane = fitted.nonzero()[:, 0]
    if start is None and observe is None:
        lane = fit_regular(solver, lane, out)
    if lane.numel():
        solver.restrict(lane)
        search = _from_a_part(solver, lane) if start is None else None
        solver.run(search or begin(solver, lane, None if start is None else start[lane], out), out)
    ends = edges(family, link)
    if any(map(math.isfinite, ends)):
        size = room(out.moments.response / out.moments.weight, family, link, ends)
        near = (out.status == int(Status.CONVERGED)) & (distance(chunks, out.coef, ends) < BESIDE * size)
        edge = (near | (out.status == int(Status.BOUNDARY))).nonzero()[:, 0]
        if edge.numel():
            _along_the_edge(chunks, head, family, link, edge, size[edge], out, (penalty, tol, max_iter, rank_tol))
    return out


@torch.no_grad()
@small_operators()
def evaluate(
    source: Rows | Iterable[Rows],
    family: Family,
    link: Link,
    coef: Tensor,
    status: Status,
    n_iter: int,
    *,
    penalty: Penalty | None = None,
    rank_tol: float = 1e-12,
) -> Solution:
    """What IRLS would say at coefficients `(B, p)` that were found elsewhere, with the status they have."""
    solver, search = _standing(source, family, link, coef, penalty, rank_tol)
    out = solver.blank()
    search.n_iter += n_iter
    solver.finish(search, status, out)
    return out


def _standing(
    source: Rows | Iterable[Rows], family: Family, link: Link, coef: Tensor, penalty: Penalty | None, rank_tol: float
) -> tuple[Solver, Search]:
    """A solver, and its search at given coefficients."""
    chunks, head = _chunks(source)
    solver = Solver(chunks, head, family, link, penalty, 1e-8, 1, rank_tol)
    try:
        return solver, at_coefficients(solver, torch.arange(solver.models, device=solver.device), coef)
    except Unsuited:
        return _standing(_in_pairs(source), family, link, coef, penalty, rank_tol)


def _from_a_part(solver: Solver, lane: Tensor) -> Search | None:
    """The search from the fit of a part of the rows, or None where there is none or that fit is not regular.

    One model only. The columns of a part being independent, so are those of the whole.
    """
    parts = sample(solver.source, solver.p) if lane.numel() == 1 else None
    if parts is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = irls(
            parts,
            solver.family,
            solver.link,
            penalty=solver.penalty,
            tol=PART_TOL,
            max_iter=20,
            rank_tol=solver.rank_tol,
        )
    if int(part.status[0]) != Status.CONVERGED or not bool(part.keep.all()):
        return None
    lend = solver.chord and bool((part.moments.count >= LENDING * solver.p).all())
    search = resume(solver, lane, part, lend)
    return search if bool(search.moments.valid.all()) else None


def _in_pairs(source: Rows | Iterable[Rows]) -> Iterable[Rows]:
    """The rows with Grams of all pairs of columns."""
    return seen([source] if isinstance(source, Rows) else source, InPairs)


def _chunks(source: Rows | Iterable[Rows]) -> tuple[Iterable[Rows], Rows]:
    chunks = [source] if isinstance(source, Rows) else source
    head = next(iter(own_rows(chunks)), None)
    if head is None or head.y.shape[-1] == 0:
        raise ValueError("the source holds no rows (n = 0). Pass at least one row.")
    return chunks, head


def _along_the_edge(
    source: Iterable[Rows],
    head: Rows,
    family: Family,
    link: Link,
    models: Tensor,
    size: Tensor,
    out: Solution,
    options: tuple[Penalty | None, float, int, float],
) -> None:
    """Take models that stopped beside an edge of the mean's range on to the maximum inside it, written into `out`.

    A logarithmic barrier of falling strength bends the path along the edge; its slope at the end is the
    multiplier of the constraint, and zero where the maximum lies inside after all; `size` is the unit of distance
    (interior point method; Nocedal & Wright (2006), Numerical Optimization, section 19.6).
    """
    taken = seen(source, lambda own: Taken(own, models))
    member, first = take_family(family, models), head.take(models)
    lane, coef = torch.arange(models.numel(), device=models.device), out.coef[models]
    for strength in FENCES:
        coef = _descend(Solver(taken, first, member, link, *options, fence=strength), lane, coef).coef
    inside = FENCES[-1] * size < MULTIPLIER * distance(taken, coef, edges(family, link))
    last = evaluate(taken, member, link, coef, Status.BOUNDARY, 0, penalty=options[0], rank_tol=options[3])
    if bool(inside.any()):
        last = _choose(inside, _descend(Solver(taken, first, member, link, *options), lane, coef), last)
    out.n_iter[models] += last.n_iter
    for name in ("coef", "keep", "root", "status"):
        getattr(out, name)[models] = getattr(last, name)
    for f in fields(Moments):
        if f.name != "factor":
            getattr(out.moments, f.name)[models] = getattr(last.moments, f.name)


def _descend(solver: Solver, lane: Tensor, coef: Tensor) -> Solution:
    """The search of all models from given coefficients to its end."""
    out = solver.blank()
    solver.run(solver.aim(at_coefficients(solver, lane, coef)), out)
    return out


def _choose(mask: Tensor, first: Solution, second: Solution) -> Solution:
    """Model by model the first solution where `mask` is true, else the second."""
    index = mask.nonzero()[:, 0]
    values = {
        f.name: placed(getattr(second, f.name), index, getattr(first, f.name)[index])
        for f in fields(Solution)
        if f.name not in ("moments", "minnorm")
    }
    return Solution(**values, moments=second.moments.place(index, first.moments.take(index)))
