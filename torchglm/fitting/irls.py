"""Iteratively reweighted least squares over rows at hand: the search, and passes wherever it asks for them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting import conjugate
from torchglm.fitting.certificate import certified
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.moments import Moments
from torchglm.fitting.one_model import fit_one_model
from torchglm.fitting.parts import Told, together
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.problem import Problem
from torchglm.fitting.progress import Observer
from torchglm.fitting.sample import LENDING, LENDING_OF_SEVERAL, sample
from torchglm.fitting.search import Search
from torchglm.fitting.small_models import fit_small_models
from torchglm.fitting.state import Ask, Solution
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import members, own_rows, seen
from torchglm.rows.rows import Rows, in_pairs
from torchglm.rows.threads import small_operators
from torchglm.writing.answering import answering
from torchglm.writing.warning import tell

PART_TOL = 1e-6  # of the fit that starts a large one


@torch.no_grad()
@small_operators()
@answering
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
    if isinstance(source, Ragged):
        told = None if observe is None else Told(source, source.parts[0][1].columns, observe, None)
        return together(
            source,
            lambda models, rows: irls(
                [rows],
                take_family(family, models),
                link,
                penalty=None if penalty is None else penalty.take(models),
                start=None if start is None else start[models],
                tol=tol,
                max_iter=max_iter,
                rank_tol=rank_tol,
                skip=None if skip is None else skip[models],
                observe=None if told is None else told.of(models),
            ),
        )
    given = {"penalty": penalty, "tol": tol, "max_iter": max_iter, "rank_tol": rank_tol}
    chunks, problem = problem_of(source, family, link, given)
    home = problem.device
    return _solution(problem if observe else problem.at_desk(), chunks, start, skip, observe).to(home)


def _solution(
    problem: Problem, chunks: Iterable[Rows], start: Tensor | None, skip: Tensor | None, observe: Observer | None
) -> Solution:
    """What `irls` says of a problem, on the device of its search."""
    if problem.models == 1 and start is None and skip is None and observe is None:
        found = fit_one_model(problem, chunks)
        if found is not None:
            return found
    if conjugate.serves(problem):
        return conjugate.fit_by_conjugate_gradients(problem, chunks, start, skip, observe)
    search = _sought(problem, chunks, start, skip, observe)
    if search.needs_pairs:
        search = _sought(problem.in_pairs(), seen(chunks, in_pairs), start, skip, observe)
    if search.refused:
        tell(
            f"start= gives a mean out of range or an infinite deviance in {search.refused} model(s); torchglm's own "
            "start is used there."
        )
    return certified(search.solution, problem)


def _sought(
    problem: Problem, source: Iterable[Rows], start: Tensor | None, skip: Tensor | None, observe: Observer | None
) -> Search:
    """The search over a source at its end: small models in groups, one large model from a part of its rows."""
    skip, start = (None if value is None else value.to(problem.device) for value in (skip, start))
    out = Solution.blank(problem.models, problem.layout, problem.device)
    lane = torch.arange(problem.models, device=problem.device) if skip is None else (~skip).nonzero()[:, 0]
    if skip is not None:
        out.status[skip] = int(Status.NOT_FINITE)
        for name in ("objective", "pearson", "weight", "count"):
            getattr(out.moments, name)[skip] = torch.nan
    part = None
    if start is None and observe is None and (problem.models > 1 or problem.several):
        lane = fit_small_models(problem, source, lane, out)
    if start is None and lane.numel() == problem.models == 1:
        part = _of_a_part(problem, source)
    least = (LENDING_OF_SEVERAL if problem.several else LENDING) * problem.p
    lend = part is not None and problem.chord and bool((part.moments.count >= least).all())
    known, near = (None, None) if part is None else (part.coef, part.moments)
    search = Search(problem, start=start, known=known, part=near, lend=lend, lane=lane, out=out, observe=observe)
    pull(search, source)
    return search


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
    chunks, problem = problem_of(source, family, link, {"penalty": penalty, "rank_tol": rank_tol})
    search = searched(problem, chunks, start=coef, stay=True)
    search.solution.status.fill_(int(status))
    search.solution.n_iter.fill_(n_iter)
    return certified(search.solution, problem)


@torch.no_grad()
@small_operators()
def searched(problem: Problem, source: Iterable[Rows], **begin: Any) -> Search:
    """A search from where `begin` says (see `Search`) at its end; begun anew on Grams of all pairs where it must be."""
    search = Search(problem, **begin)
    pull(search, source)
    if search.needs_pairs:
        search = Search(problem.in_pairs(), **begin)
        pull(search, seen(source, in_pairs))
    return search


def pull(search: Search, source: Iterable[Rows]) -> None:
    """Take a search to its end with passes over a source."""
    passes = Puller(search.problem, source)
    while not search.done:
        search.take(passes(Ask(search.point, search.lane)))


class Puller:
    """Makes the passes that are asked for over a source, each over the models it is asked of."""

    def __init__(self, problem: Problem, source: Iterable[Rows]) -> None:
        self.problem, self.source = problem, source
        self._lane: Tensor | None = None  # of the models that `_rows` and `_family` are of
        self._rows, self._family = source, problem.family

    def __call__(self, ask: Ask) -> Moments:
        """The moments of a pass."""
        problem, lane = self.problem, ask.lane
        home = problem.home or problem.device
        if lane.numel() == problem.models:
            rows, family = self.source, problem.family
        else:
            if self._lane is None or not torch.equal(self._lane, lane):
                there = lane.to(home)
                self._lane, self._rows = lane, members(self.source, there)
                self._family = take_family(problem.family, there)
            rows, family = self._rows, self._family
        return fold(rows, ask.point.to(home), family, problem.link).to(problem.device)


def _of_a_part(problem: Problem, source: Iterable[Rows]) -> Solution | None:
    """The fit of a part of one model's rows, or None where there is none or that fit is not regular.

    The columns of a part being independent, so are those of the whole.
    """
    rows = sample(source, problem.p)
    if rows is None:
        return None
    given = {"penalty": problem.penalty, "tol": PART_TOL, "max_iter": 20, "rank_tol": problem.rank_tol}
    chunks, own = problem_of(rows, problem.family, problem.link, given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = _solution(replace(own, device=problem.device), chunks, None, None, None)
    return part if int(part.status[0]) == Status.CONVERGED and bool(part.keep.all()) else None


def problem_of(
    source: Rows | Iterable[Rows], family: Family, link: Link, options: dict[str, Any]
) -> tuple[Iterable[Rows], Problem]:
    """The rows as a source, and their problem with these `options` of `irls`. Raises `ValueError` for no rows."""
    chunks = [source] if isinstance(source, Rows) else source
    head = next(iter(own_rows(chunks)), None)
    if head is None or head.y.shape[-1] == 0:
        raise ValueError("the source holds no rows (n = 0). Pass at least one row.")
    known = {name: value for name, value in options.items() if name not in ("skip", "start", "observe")}
    return chunks, Problem.of(chunks, head, family, link, **known)
