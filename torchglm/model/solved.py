"""A call's data, family and penalty brought to the maximum: by one search, or by one for the strengths as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchglm.design import PenaltyBlock
from torchglm.families import Family
from torchglm.families.several import Multinomial
from torchglm.fitting.apart import Apart, levels_apart
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.cones import solve_in_cone
from torchglm.fitting.firm import firmly
from torchglm.fitting.mixed.effects import Groupings
from torchglm.fitting.mixed.fit import solve_mixed
from torchglm.fitting.mixed.found import MixedFound
from torchglm.fitting.mixed.quadrature import MOST
from torchglm.fitting.mixed.rows import conditional
from torchglm.fitting.penalties import METHODS, Penalty, Quadratic
from torchglm.fitting.powers import solve_with_power
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.ranges import repeated
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.solve import solve
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.fitting.strengths import Estimated, solve_with_strengths
from torchglm.inference.absorbed import Beside
from torchglm.inputs import Data
from torchglm.inputs.specs import INTERCEPT, groupings_of
from torchglm.links import Identity, Link
from torchglm.model.absorbed import check_absorbed, solved_beside
from torchglm.model.restraints import Restraints, placed_on_terms, restrained
from torchglm.model.smoothing import Smoothing, strengths_of
from torchglm.writing.nearest import unknown


@dataclass(frozen=True)
class Solved:
    """A solution, the family and the penalty with what was estimated of them, and the levels that were set apart."""

    family: Family
    penalty: Penalty | None
    solution: Solution
    apart: Apart | None = None
    estimated: Estimated | None = None
    mixed: MixedFound | None = None
    beside: Beside | None = None


def penalty_of(
    penalty: Penalty | Jeffreys | None, data: Data, smoothing: Smoothing = None, asked: Restraints | None = None
) -> Penalty | Jeffreys | None:
    """The penalty on the columns of a call, or that of the terms of its formula, whose strengths are `smoothing`.

    With it go the constraints that were `asked` for. Raises `ValueError` for columns or models that it does not have,
    for both, and for `smoothing` without such terms.
    """
    own = placed_penalty(penalty, data, smoothing)
    if asked and isinstance(own, Quadratic) and own.nonnegative:
        raise ValueError("terms with a shape= do not stand beside constraints. Leave shape= or the constraints out.")
    return own if asked is None else restrained(own, asked, data)


def placed_penalty(
    penalty: Penalty | Jeffreys | None, data: Data, smoothing: Smoothing = None
) -> Penalty | Jeffreys | None:
    """The penalty on the columns of a call, without constraints."""
    spec = data.context.get("spec")
    own = [] if spec is None else spec.penalties
    if own:
        if penalty is not None:
            raise ValueError(
                f"the formula has terms with a penalty of their own ({own[0].name}), and penalty= is another. "
                "Leave one of them out."
            )
        penalty = _of_terms(own, data, smoothing)
        data.context["smoothing"] = penalty.method or "given"
    elif smoothing is not None and data.random is None:
        raise ValueError("smoothing= is for terms such as s(x) and (1 | group) of a formula; this fit has none.")
    if penalty is None or isinstance(penalty, Jeffreys):
        return penalty
    placed = placed_on_terms(penalty, data)
    assert isinstance(placed, Penalty)
    return placed.named(data.names).expand(data.constants, data.columns, data.batch)


def _of_terms(own: Sequence[PenaltyBlock], data: Data, smoothing: Smoothing) -> Quadratic:
    names = [one.name for one in own]
    places = [one.places if data.plan is None else data.plan.places(one.places) for one in own]
    blocks = [  # with classes, one for each of them, of one strength
        (at, torch.block_diag(*[torch.from_numpy(one.matrix)] * (len(at) // len(one.places))))
        for at, one in zip(places, own, strict=True)
    ]
    found, held = Quadratic(blocks, strengths_of(smoothing, names), names), data.context["spec"].nonnegative
    if held and data.plan is not None:
        raise ValueError("terms with a shape= are for families of one predictor; this fit has several. Leave it out.")
    return found.with_limits(held)


def solved(
    data: Data,
    family: Family,
    link: Link,
    penalty: Penalty | Jeffreys | None,
    start: Tensor | None,
    options: dict[str, Any],
    dispersion: str | float | None,
    observe: Observer | None,
    resume: Progress | None,
    smoothing: Smoothing = None,
    singular: str = "drop",
    quadrature: int = 1,
) -> Solved:
    """The maximum of a call; `options` are those of `irls`, `start` are first coefficients (B, p).

    Where strengths are estimated `observe` is told of the steps of the first fit and of the last, and `resume` gives
    the first coefficients. Raises `ValueError` for classes without a baseline, whose coefficients only the penalty of a
    path makes unique.
    """
    if isinstance(family, Multinomial) and family.baseline is None:
        raise ValueError("Multinomial(baseline=None) is for torchglm.path. Name a baseline: Multinomial(baseline=0).")
    spec = data.context.get("spec")
    if spec is not None and spec.absorbed:
        if data.random is not None:
            raise ValueError(
                "absorbed factors and random effects are not fitted at once. Write (1 | group) or | group."
            )
        check_absorbed(data, singular, penalty=penalty, start=start, resume=resume, smoothing=smoothing)
        family, solution, beside = solved_beside(data, family, link, options["tol"], options["max_iter"], observe)
        return Solved(family, None, solution, beside=beside)
    if data.random is not None:
        return _mixed(data, family, link, penalty, options, dispersion, smoothing, quadrature)
    if quadrature != 1:
        raise ValueError("quadrature= is for random effects, (1 | group) of a formula; this fit has none.")
    if isinstance(penalty, Jeffreys):
        family, solution = solve(data.source, family, link, start, options | {"penalty": penalty})
        return Solved(family, None, solution)
    held = None if dispersion is None or isinstance(dispersion, str) else float(dispersion)
    if isinstance(penalty, Quadratic) and penalty.nonnegative:
        begin = start if resume is None else resume.coef
        family, solution, found = solve_in_cone(data.source, family, link, penalty, begin, options, held, observe)
        _check_terms(solution, penalty, data)
        return Solved(family, found.penalty, solution, estimated=None if penalty.method is None else found)
    if not isinstance(penalty, Quadratic) or penalty.method is None:
        options = options | {"penalty": penalty}
        family, solution = solve(data.source, family, link, start, options, observe, resume)
        if isinstance(penalty, Quadratic) and not family.estimates_shape:
            solution = firmly(data.source, family, link, penalty, solution, options)
        _check_terms(solution, penalty, data)
        family, solution, apart = levels_apart(data.source, family, link, solution, options)
        return Solved(family, penalty, solution, apart)
    start = start if resume is None else resume.coef
    solver = solve_with_power if family.estimates_shape and not has_alpha(family) else solve_with_strengths
    family, solution, found = solver(data.source, family, link, penalty, start, options, held, observe)
    _check_terms(solution, penalty, data)
    return Solved(family, found.penalty, solution, estimated=found)


def _check_terms(solution: Solution, penalty: Penalty | None, data: Data) -> None:
    """Raise `ValueError` where what terms leave unpenalised is said twice: which of them has it, nothing tells."""
    spec = data.context.get("spec")
    if spec is None or not spec.penalties or not isinstance(penalty, Quadratic):
        return
    sound = solution.status != int(Status.NOT_FINITE)
    twice = repeated(penalty, solution.moments.gram.written_out()[sound])
    columns = [at for at, both in enumerate(twice.all(0).tolist()) if both] if len(twice) else []
    places = spec.terms if data.plan is None else {name: data.plan.places(at) for name, at in spec.terms.items()}
    terms = [name for name, own in places.items() if set(own) & set(columns)]
    terms = [name for name in terms if not name.endswith(INTERCEPT) or len(terms) < 3] or terms
    if any(set(columns) & {int(at) for at in block[0]} for block in penalty.blocks):
        raise ValueError(
            f"{' and '.join(terms)} say the same: some columns are sums of others, or no row tells of them. Leave one "
            "of them out. Beside s(x) an interaction is ti(x, z); a curve for each level, s(x, by=g), stands without "
            "s(x) but with C(g)."
        )


def _mixed(
    data: Data,
    family: Family,
    link: Link,
    penalty: Penalty | Jeffreys | None,
    options: dict[str, Any],
    dispersion: str | float | None,
    smoothing: Smoothing,
    quadrature: int,
) -> Solved:
    """The fit with random effects. Raises `ValueError` for penalties and dispersions that it does not know."""
    spec = data.context["spec"]
    if isinstance(penalty, Quadratic) and penalty.nonnegative:
        raise ValueError(
            "terms with a shape= do not stand beside random effects. Write s(group, bs='re') for (1 | group)."
        )
    if penalty is not None and (not spec.penalties or not isinstance(penalty, Quadratic) or penalty.method is None):
        raise ValueError(
            "beside random effects the strengths of penalties are estimated: terms such as s(x) with smoothing='reml' "
            "or 'ml'. penalty= and strengths that are numbers go with s(group, bs='re') in the place of (1 | group)."
        )
    if isinstance(dispersion, str) or dispersion is not None and not family.has_dispersion:
        raise ValueError(
            f"dispersion={dispersion!r} has no meaning beside random effects, which are estimated with the dispersion "
            "of a law by their likelihood. Leave it out, or give a number to a family that has one."
        )
    assert data.random is not None
    _check_groups(data, family)
    held = None if dispersion is None else float(dispersion)
    method = method_of(smoothing, family, link)
    _check_quadrature(quadrature, data.random, family, link, penalty, method)
    smooth = penalty if isinstance(penalty, Quadratic) else None
    family, solution, found = solve_mixed(
        data.source, family, link, data.random, smooth, method, options, held, quadrature, math.prod(data.batch)
    )
    _check_terms(solution, penalty, data)
    data.context |= {"method": method, "effect_rows": data.source, "held_dispersion": held, "quadrature": quadrature}
    data.source = conditional(data.source, data.random, found.coef)
    return Solved(family, None if smooth is None else smooth.with_strength(found.used), solution, mixed=found)


def _check_groups(data: Data, family: Family) -> None:
    """Raise `ValueError` for a grouping of one level."""
    for group in groupings_of(data.context["spec"], family):
        if len(group.levels) < 2:
            raise ValueError(
                f"the random effects of {group.name!r} have one level, {group.levels[0]!r}: nothing varies between its "
                "groups. Leave them out, or check the column."
            )


def _check_quadrature(
    nodes: int, effects: Groupings, family: Family, link: Link, penalty: Penalty | Jeffreys | None, method: str
) -> None:
    """Raise `ValueError` where quadrature is asked for and cannot be, or with another number of nodes."""
    if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= MOST:
        raise ValueError(f"quadrature must be a number of nodes from 1 (Laplace) to {MOST}, got {nodes!r}.")
    if nodes == 1:
        return
    exact = family.least_squares and isinstance(link, Identity)
    reasons = {
        "a likelihood that is not Gaussian, whose integral is exact as it is": exact,
        "one effect for each level of one factor, such as (1 | group)": len(effects.groupings) > 1
        or effects.groupings[0].effects > 1,
        "families without a dispersion": family.has_dispersion,
        "no smooths": penalty is not None,
        "smoothing='ml'": method != "ml",
    }
    for need, lacking in reasons.items():
        if lacking:
            raise ValueError(f"quadrature={nodes} needs {need}. Leave it out for Laplace's approximation.")


def method_of(smoothing: Smoothing, family: Family, link: Link) -> str:
    """REML of Gaussian responses and ML of others, unless it is said. Raises `ValueError` for an unknown method."""
    if smoothing is None:
        return "reml" if family.least_squares and isinstance(link, Identity) else "ml"
    if not isinstance(smoothing, str):
        raise ValueError(
            f"beside random effects smoothing= is 'reml' or 'ml', got {smoothing!r}: their variances are estimated. "
            "Strengths that are numbers go with s(group, bs='re') in the place of (1 | group)."
        )
    if smoothing not in METHODS:
        raise ValueError(unknown("smoothing", smoothing, METHODS))
    return smoothing
