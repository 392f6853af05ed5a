"""Separated levels set apart: the maximum of all other coefficients, as the separated ones run to infinity.

Where a level has no events (or nothing else) its coefficient has no maximum, but the likelihood of the other rows has
one, and that is the limit of the whole (the limiting conditional model). A search that ended as separated shows the
direction by its next step. Rows that it moves are a level, or several, where their indicator is a combination of the
columns; other kinds of separation are left as they are.
Source: Geyer (2009), Electron. J. Stat. 3; Correia, Guimaraes & Zylkin (2019), Verifying the existence of maximum
likelihood estimates for generalized linear models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import take_family
from torchglm.fitting.solve import solve
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status, converged
from torchglm.links import Link
from torchglm.rows.grams import Gram
from torchglm.rows.inverses import placed
from torchglm.rows.products import gram, linear_predictor, project, times
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import members, own_rows, ranks_of, seen
from torchglm.rows.rows import Rows, to_float64

MOVED = 0.05  # a row is told apart where a step, of largest move 1, moves it by more
AGAINST = 1e-3  # no row may be moved the wrong way by more than this share
EXACT = 1e-6  # distance of a row's indicator from a combination of the columns that is rounding
FAR = 40.0  # predictors of levels that are told apart lie so far out, or beyond where the others leave them if farther
FAINT = 1e-9  # share of the heaviest row's weight below which what a row tells of a direction is lost beside others
LOST = 1e-5  # share of a deviance that rows told apart may still have had
BEFORE = 4.0  # times as far as a level that is told apart only then
ROUNDS = 4  # of levels that are told apart only where others have been


@dataclass(frozen=True)
class Apart:
    """What was set apart of each model (B): `infinite` (B, p) is the direction in which coefficients run to infinity.

    It moves the rows that are told apart, by one or more, and no others: `rows` (B,), with their repeats, in `levels`
    (B,) levels.
    """

    infinite: Tensor
    rows: Tensor
    levels: Tensor


@torch.no_grad()
def levels_apart(
    source: Iterable[Rows], family: Family, link: Link, solution: Solution, options: dict[str, Any]
) -> tuple[Family, Solution, Apart | None]:
    """The solution of one predictor, its separated levels set apart, and what was; None where there are none.

    `options` are those of `irls`. Such models have the status SEPARATED_LEVELS, moments, inverse and shape of the other
    rows, and for what is infinite a coefficient `FAR` out.
    """
    unfit = options.get("penalty") is not None or isinstance(family, VectorFamily)
    if unfit or not bool((solution.status == int(Status.SEPARATED)).any()):
        return family, solution, None
    lane = (solution.status == int(Status.SEPARATED)).nonzero()[:, 0]
    rest = {name: value for name, value in options.items() if name != "skip"}
    zero = torch.zeros_like(solution.moments.objective)
    apart = Apart(torch.zeros_like(solution.coef), zero, zero.clone())
    for model in _of_like_size(source, lane, max(1, (1 << 24) // solution.coef.shape[1] ** 2)):
        found = _of_models(source, family, link, solution, model, rest)
        if found is not None:
            far = _far(members(source, found.lane), found)
            family, solution = _with_shapes(family, found), _placed(solution, apart, found, far)
    return family, solution, apart if bool((apart.rows > 0).any()) else None


def _of_like_size(source: Iterable[Rows], lane: Tensor, most: int) -> Iterator[Tensor]:
    """The models `lane` in parts of at most so many, each of models of like size where they are of unlike size."""
    if isinstance(source, Ragged):
        for models, _ in source.parts:
            own = lane[torch.isin(lane, models)]
            yield from own.split(most) if own.numel() else ()
    else:
        yield from lane.split(most)


@dataclass(frozen=True)
class _Found:
    """Levels of models `lane` (L,): directions (L, p) that move them by one, and the fit of the other rows."""

    lane: Tensor
    direction: Tensor
    rows: Tensor
    family: Family
    rest: Solution


def _of_models(
    source: Iterable[Rows], family: Family, link: Link, solution: Solution, lane: Tensor, options: dict[str, Any]
) -> _Found | None:
    """What can be set apart of models `lane`, in rounds until what is left has a maximum."""
    rows = members(source, lane)
    family, deviance = take_family(family, lane), solution.moments.objective[lane]
    rest, keep = _taken(solution, lane), solution.keep[lane]
    direction, count = torch.zeros_like(rest.coef), torch.zeros_like(deviance)
    left, place = rows, torch.arange(lane.numel(), device=lane.device)  # models that are still looked at
    ended = torch.zeros_like(lane, dtype=torch.bool)
    for _ in range(ROUNDS):
        signs, told, sound = _levels(left, take_family(family, place), link, _taken(rest, place))
        chosen = sound.nonzero()[:, 0]
        if not chosen.numel():
            break
        place = place[chosen]
        # a later direction may move the levels set apart before, which go on as they went
        direction[place] = BEFORE * direction[place] + signs[chosen]
        count[place] += told[chosen]
        left = _without(members(rows, place), direction[place])
        fitted = irls(left, take_family(family, place), link, **options)
        rest = _written(rest, place, fitted)
        ended[place] = converged(fitted.status)
        again = (fitted.status == int(Status.SEPARATED)).nonzero()[:, 0]
        if not again.numel():
            break
        place, left = place[again], members(left, again)
    fine = ended & (rest.keep.any(-1)) & ((deviance - rest.moments.objective).abs() <= LOST * (1 + deviance))
    chosen = (fine & (keep.sum(-1) > rest.keep.sum(-1))).nonzero()[:, 0]
    if not chosen.numel():
        return None
    found = _Found(lane[chosen], direction[chosen], count[chosen], take_family(family, chosen), _taken(rest, chosen))
    return _shaped(members(rows, chosen), link, found, options) if family.estimates_shape else found


def _shaped(rows: Iterable[Rows], link: Link, found: _Found, options: dict[str, Any]) -> _Found | None:
    """What was found, the shape of the family sought together with the coefficients of the other rows."""
    left = _without(rows, found.direction)
    family, rest = solve(left, found.family, link, None, options | {"skip": None})
    sound = (converged(rest.status) & (rest.keep == found.rest.keep).all(-1)).nonzero()[:, 0]
    if not sound.numel():
        return None
    steps = found.rest.n_iter + rest.n_iter
    error = None if rest.shape_error is None else rest.shape_error[sound]
    rest = replace(_taken(replace(rest, n_iter=steps), sound), shape_error=error)
    return _Found(found.lane[sound], found.direction[sound], found.rows[sound], take_family(family, sound), rest)


def _levels(left: Iterable[Rows], family: Family, link: Link, at: Solution) -> tuple[Tensor, Tensor, Tensor]:
    """Directions (L, p) that move the levels told apart by one and no other row, their rows (L,), and where they do."""
    step = _step(left, family, link, at)
    [largest] = _over(left, lambda rows: [_along(rows, step).abs().amax(-1)], largest=True)
    step = step / torch.where(largest > 0, largest, 1.0).unsqueeze(-1)

    def sign(rows: Rows) -> Tensor:
        move = _along(rows, step)
        return torch.where(move.abs() > MOVED, move.sign(), 0.0)

    def against(rows: Rows) -> list[Tensor]:
        eta = linear_predictor(rows, at.coef)
        score, _ = family.score_and_weight(rows.response, eta, link(eta), link, False)
        return [torch.where(rows.weight > 0, -score.sign() * _along(rows, step), 0.0).amax(-1)]

    [worst] = _over(left, against, largest=True)

    def sums(rows: Rows) -> list[Tensor]:
        used = (rows.weight > 0).to(torch.float64)
        each = used if rows.repeats is None else used * rows.repeats
        told = sign(rows)
        return [project(rows, told * used), (each * told.abs()).sum(-1), used.sum(-1) - told.abs().sum(-1)]

    design = _gram_of(left, lambda rows: (rows.weight > 0).to(torch.float64))
    right, told, others = _over(left, sums)
    found = design.invert(at.keep)
    direction = found.solve(torch.where(at.keep, right, 0.0)).nan_to_num()
    direction = torch.where(direction.abs() * design.diagonal().sqrt() > EXACT, direction, 0.0)
    [off] = _over(left, lambda rows: [(_along(rows, direction) - sign(rows)).abs().amax(-1)], largest=True)
    sound = found.positive & (worst < AGAINST) & (off < EXACT) & (told > 0) & (others > 0)
    return direction, told, sound


def _step(left: Iterable[Rows], family: Family, link: Link, at: Solution) -> Tensor:
    """(L, p) Newton's step, by which levels that have no end move by one; as large where they have gone very far.

    What weighs less than `FAINT` of the heaviest row is given that weight, beside the same residual.
    """
    inverse = at.moments.gram.invert(at.keep)
    if bool(inverse.positive.all()):
        return inverse.solve(torch.where(at.keep, at.moments.score, 0.0)).nan_to_num()

    def working(rows: Rows, least: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """The residuals (L, n) and their weights, of rows that have one no less than `least`."""
        eta = linear_predictor(rows, at.coef)
        score, weight = family.score_and_weight(rows.response, eta, link(eta), link, False)
        lifted = (weight * rows.weight).clamp(min=least)
        return torch.where(weight > 0, score / weight, 0.0), torch.where(rows.weight > 0, lifted, 0.0)

    [heaviest] = _over(left, lambda rows: [working(rows)[1].amax(-1)], largest=True)
    least = FAINT * heaviest.unsqueeze(-1)
    [score] = _over(left, lambda rows: [project(rows, torch.mul(*working(rows, least)))])
    return (
        _gram_of(left, lambda rows: working(rows, least)[1])
        .invert(at.keep)
        .solve(torch.where(at.keep, score, 0.0))
        .nan_to_num()
    )


def _gram_of(left: Iterable[Rows], weigh: Callable[[Rows], Tensor]) -> Gram:
    """The Gram of all rows, over all processes, under the weights (L, n) of each piece."""
    ranks, total = ranks_of(left), None
    with ranks.together():
        for rows in _pieces(left):
            own = gram(rows, weigh(rows))
            total = own if total is None else total + own
    assert total is not None  # every process has rows
    parts = total.parts
    return total.of(dict(zip(parts, ranks.sum(*parts.values()), strict=True)))


def _far(rows: Iterable[Rows], found: _Found) -> Tensor:
    """(L, 1) how far models go along their directions, so that the others' fit leaves no level on the wrong side."""
    coef = torch.where(found.rest.keep, found.rest.coef, 0.0)

    def short(rows: Rows) -> list[Tensor]:
        move = _along(rows, found.direction)
        return [torch.where(move.abs() > 0.5, -linear_predictor(rows, coef) / move, 0.0).amax(-1)]

    [worst] = _over(rows, short, largest=True)
    return FAR + worst.clamp(min=0.0).unsqueeze(-1)


def _over(source: Iterable[Rows], values: Any, largest: bool = False) -> list[Tensor]:
    """Sums, or the largest, of what `values` gives of every piece of the rows, over all processes."""
    ranks, total = ranks_of(source), None
    with ranks.together():
        for rows in _pieces(source):
            new = values(rows)
            join = torch.maximum if largest else torch.add
            total = new if total is None else [join(a, b) for a, b in zip(total, new, strict=True)]
    assert total is not None
    return list(ranks.largest(*total) if largest else ranks.sum(*total))


def _pieces(source: Iterable[Rows]) -> Iterator[Rows]:
    return (piece for chunk in own_rows(source) for piece in to_float64(chunk).pieces())


def _along(rows: Rows, direction: Tensor) -> Tensor:
    """(L, n) the move of the linear predictors of rows with weight."""
    return torch.where(rows.weight > 0, times(rows, direction), 0.0)


def _without(source: Iterable[Rows], direction: Tensor) -> Iterable[Rows]:
    """The rows whose weight is 0 where the direction (L, p) moves them."""

    def change(rows: Rows) -> Rows:
        parts = [times(to_float64(piece), direction).abs() for piece in rows.pieces()]
        return rows._replace(weight=torch.where(torch.cat(parts, -1) > 0.5, 0.0, rows.weight).to(rows.weight.dtype))

    return seen(source, change)


def _taken(solution: Solution, models: Tensor) -> Solution:
    moments = replace(solution.moments, factor=None).take(models)
    names = ("coef", "keep", "root", "status", "n_iter", "cut")
    return replace(solution, moments=moments, **{name: getattr(solution, name)[models] for name in names})


def _written(whole: Solution, models: Tensor, part: Solution) -> Solution:
    """The solution with a part of it in the place of some models, but for what was counted of all their rows."""
    own = replace(whole.moments, factor=None).take(models)
    moments = replace(part.moments, factor=None, weight=own.weight, count=own.count, response=own.response)
    names = ("coef", "keep", "root", "status", "n_iter", "cut")
    parts = {name: placed(getattr(whole, name), models, getattr(part, name)) for name in names}
    return replace(whole, moments=replace(whole.moments, factor=None).place(models, moments), **parts)


def _with_shapes(family: Family, found: _Found) -> Family:
    """The family with the shapes of the models that were found, where it estimates one."""
    if not family.estimates_shape:
        return family
    shapes = {}
    for name, value in found.family.shapes.items():
        known, new = family.shapes[name].detach(), value.detach()
        shapes[name] = known.index_copy(0, found.lane, new.expand(len(found.lane))) if known.dim() else new.reshape(())
    return family.with_parameters(shapes)


def _placed(solution: Solution, apart: Apart, found: _Found, far: Tensor) -> Solution:
    lane, keep = found.lane, solution.keep[found.lane]
    steps = solution.n_iter[lane] + found.rest.n_iter
    apart.infinite[lane] = found.direction
    apart.rows[lane] = found.rows
    apart.levels[lane] = (keep.sum(-1) - found.rest.keep.sum(-1)).to(found.rows.dtype)
    solution = _written(solution, lane, found.rest)
    solution.coef[lane] = torch.where(found.rest.keep, found.rest.coef, 0.0) + far * found.direction
    solution.keep[lane], solution.n_iter[lane] = keep, steps
    solution.status[lane] = int(Status.SEPARATED_LEVELS)
    new = found.rest.shape_error
    if new is None:
        return solution
    error = new.new_full(solution.cut.shape, torch.nan)
    error = error if solution.shape_error is None else solution.shape_error
    return replace(solution, shape_error=error.index_copy(0, lane, new))
