"""The coefficients of models, and the shape parameter that their family estimates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.bias import Jeffreys, bias_reduced
from torchglm.fitting.irls import irls
from torchglm.fitting.joint import counting, solve_with_shape
from torchglm.fitting.kernel import take_family
from torchglm.fitting.parts import Told, replaced, resumed, together
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.shape import RowMeans, alpha_ml, power_ml
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import members
from torchglm.rows.rows import Rows

ROUNDS = 100
SETTLED = 1e-9  # relative change of a shape parameter that ends the alternation


def solve(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    start: Tensor | None,
    options: dict[str, Any],
    observe: Observer | None = None,
    resume: Progress | None = None,
) -> tuple[Family, Solution]:
    """The coefficients, and together with them the shape parameter the family estimates, if any.

    `options` are those of `irls`; `observe` is told of every step, and `resume` is where an earlier fit stood. A model
    whose shape ends on its limit has the status SHAPE_LIMIT, and one whose shape has not settled ITERATION_LIMIT.
    """
    if isinstance(source, Ragged):
        return _part_by_part(source, family, link, start, options, observe, resume)
    if isinstance(options["penalty"], Jeffreys):
        options["penalty"].check(family)
        if family.estimates_shape:
            return _in_turn(source, family, link, None, options, observe, None)
        return family, _found(source, family, link, None, options, None)
    if not family.estimates_shape:
        if resume is None:
            return family, irls(source, family, link, start=start, observe=observe, **options)
        observe = counting(observe, resume.n_iter)
        solution = irls(source, family, link, start=resume.coef, observe=observe, **options)
        return family, replace(solution, n_iter=solution.n_iter + resume.n_iter)
    if has_alpha(family) or options["penalty"] is None:
        member, solution = solve_with_shape(source, family, link, start, options, observe, resume)
        lane = _unfinished(solution).nonzero()[:, 0]
        if lane.numel() < len(solution.status):
            return _finished(source, family, link, start, options, resume, lane, member, solution)
    return _in_turn(source, family, link, start, options, observe, resume)


def _unfinished(solution: Solution) -> Tensor:
    """(B,) where a joint search ended before its shape did, such as where means stood on an edge."""
    ends = (Status.CONVERGED, Status.SHAPE_LIMIT, Status.SEPARATED, Status.NOT_FINITE)
    inside = torch.tensor([int(s) for s in ends])
    return ~torch.isin(solution.status, inside.to(solution.status))


def _finished(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    start: Tensor | None,
    options: dict[str, Any],
    resume: Progress | None,
    lane: Tensor,
    member: Family,
    solution: Solution,
) -> tuple[Family, Solution]:
    """What a joint search found of all models, models `lane` fitted in turn, and these alone."""
    if not lane.numel():
        return member, solution
    own = _options_of(options, lane)
    first, before = None if start is None else start[lane], resumed(resume, lane)
    of_lane, part = _in_turn(members(source, lane), take_family(family, lane), link, first, own, None, before)
    [(name, values)] = member.shapes.items()
    values = values.detach().expand(len(solution.status)).clone()
    values[lane] = of_lane.shapes[name].detach().expand(len(lane))
    return member.with_parameters({name: values}), replaced(solution, lane, part)


def _in_turn(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    start: Tensor | None,
    options: dict[str, Any],
    observe: Observer | None,
    resume: Progress | None,
) -> tuple[Family, Solution]:
    """Coefficients and shape in turn, each by maximum likelihood given the other, where a joint search does not serve.

    The penalty of a Tweedie model goes with the deviance, as that of every family, and not with the likelihood: no one
    function has its minimum where both are satisfied. On an edge of the means a barrier leaves coefficients of a joint
    search five digits where the likelihood is flat; and beside an identity link some joint searches of Tweedie models
    come to no end. With Jeffreys' penalty the coefficients are the bias-reduced ones given the shape.
    """
    alone = has_alpha(family)
    name = "log_alpha" if alone else "raw_power"
    start = start if resume is None else resume.coef
    if resume is not None and resume.shape is not None:
        family = family.with_parameters({name: _raw(resume.shape, alone)})
    before = 0 if resume is None else resume.n_iter
    solution = _found(source, family, link, start, options, _beside(observe, resume))
    solution = replace(solution, n_iter=solution.n_iter + before)
    value = torch.ones_like(solution.moments.objective)
    value, phi = (value, None) if alone else (1.5 * value, value.clone())
    if resume is not None and resume.shape is not None:
        value, phi = resume.shape, resume.dispersion
    limit, moved, begin = torch.zeros_like(value, dtype=torch.bool), value, solution.coef
    for _ in range(ROUNDS):
        fitted = RowMeans(source, link, solution.coef)
        if phi is None:
            new, limit = alpha_ml(fitted, family, value)
        else:
            new, phi, limit = power_ml(fitted, family, value, phi)
        moved = ((new - value).abs() / (new + 1e-3 * value + 1e-300)).nan_to_num()
        value, family = new, family.with_parameters({name: _raw(new, alone)})
        so_far = Progress(solution.coef, solution.n_iter, value, value, phi)
        # where coefficients run to infinity they begin anew, not ever farther out, where nothing is seen to move
        separated = solution.status == int(Status.SEPARATED)
        begin = torch.where(separated.unsqueeze(-1), begin, solution.coef)
        again = _found(source, family, link, begin, options, _beside(observe, so_far))
        solution = replace(again, n_iter=solution.n_iter + again.n_iter)
        if bool((moved < SETTLED).all()):
            break
    regular = solution.status == int(Status.CONVERGED)
    solution.status[regular & ~limit & ~(moved < SETTLED)] = int(Status.ITERATION_LIMIT)
    solution.status[regular & limit] = int(Status.SHAPE_LIMIT)
    raw = _raw(value, alone)
    return family.with_parameters({name: raw[0] if raw.numel() == 1 else raw}), solution


def _found(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    start: Tensor | None,
    options: dict[str, Any],
    observe: Observer | None,
) -> Solution:
    """The coefficients at a given shape: those of maximum likelihood, of a penalty, or bias-reduced."""
    if isinstance(options["penalty"], Jeffreys):
        return bias_reduced(source, family, link, options["rank_tol"], options["skip"], options["max_iter"])
    return irls(source, family, link, start=start, observe=observe, **options)


def _raw(value: Tensor, alone: bool) -> Tensor:
    """A shape parameter on its own scale: an alpha (which stands alone) by its logarithm, a power by a logit."""
    return value.log() if alone else (value - 1).logit()


def _part_by_part(
    source: Ragged,
    family: Family,
    link: Link,
    start: Tensor | None,
    options: dict[str, Any],
    observe: Observer | None,
    resume: Progress | None,
) -> tuple[Family, Solution]:
    """`solve` of models of like size together."""
    told = None if observe is None else Told(source, source.parts[0][1].columns, observe, resume)
    shapes: dict[str, Tensor] = {}

    def part(models: Tensor, rows: Rows) -> Solution:
        first, tell = None if start is None else start[models], None if told is None else told.of(models)
        member, solution = solve(
            [rows], family, link, first, _options_of(options, models), tell, resumed(resume, models)
        )
        for name, value in member.named_parameters() if family.estimates_shape else ():
            shapes.setdefault(name, value.new_empty(source.models))[models] = value
        return solution

    solution = together(source, part)
    return family.with_parameters(shapes) if shapes else family, solution


def _options_of(options: dict[str, Any], models: Tensor) -> dict[str, Any]:
    """The options of some of the models."""
    skip, penalty = options.get("skip"), options.get("penalty")
    return options | {
        "skip": None if skip is None else skip[models],
        "penalty": None if penalty is None else penalty.take(models),
    }


def _beside(observe: Observer | None, before: Progress | None) -> Observer | None:
    """An observer of `irls` that counts the steps made before, and knows the shape of that time."""
    if observe is None or before is None:
        return observe
    tell, known = observe, before
    return lambda now: tell(
        replace(now, n_iter=now.n_iter + known.n_iter, shape=known.shape, dispersion=known.dispersion)
    )
