"""A call's data, family and penalty brought to the maximum: by one search, or by one for the strengths as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import Multinomial
from torchglm.fitting.alternate import solve
from torchglm.fitting.apart import Apart, levels_apart
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.mixed.fit import MixedFound, solve_mixed
from torchglm.fitting.mixed.rows import conditional
from torchglm.fitting.penalties import METHODS, Penalty, Quadratic
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.state import Solution
from torchglm.fitting.strengths import Estimated, solve_with_strengths
from torchglm.inputs import Data
from torchglm.links import Identity, Link


@dataclass(frozen=True)
class Solved:
    """A solution, the family and the penalty with what was estimated of them, and the levels that were set apart."""

    family: Family
    penalty: Penalty | None
    solution: Solution
    apart: Apart | None = None
    estimated: Estimated | None = None
    mixed: MixedFound | None = None


def penalty_of(penalty: Penalty | Jeffreys | None, data: Data) -> Penalty | Jeffreys | None:
    """The penalty on the columns of a call. Raises `ValueError` for columns or models that it does not have."""
    if penalty is None or isinstance(penalty, Jeffreys):
        return penalty
    placed = penalty.named(data.names) if isinstance(penalty, Quadratic) else penalty
    return placed.expand(data.constants, data.columns, data.batch)


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
    smoothing: str | None = None,
) -> Solved:
    """The maximum of a call; `options` are those of `irls`, `start` are first coefficients (B, p).

    Where strengths are estimated `observe` is told of the steps of the first fit and of the last, and `resume` gives
    the first coefficients. Raises `ValueError` for classes without a baseline, whose coefficients only the penalty of a
    path makes unique.
    """
    if isinstance(family, Multinomial) and family.baseline is None:
        raise ValueError("Multinomial(baseline=None) is for torchglm.path. Name a baseline: Multinomial(baseline=0).")
    if data.random is not None:
        return _mixed(data, family, link, penalty, options, dispersion, smoothing)
    if isinstance(penalty, Jeffreys):
        family, solution = solve(data.source, family, link, start, options | {"penalty": penalty})
        return Solved(family, None, solution)
    if not isinstance(penalty, Quadratic) or penalty.method is None:
        options = options | {"penalty": penalty}
        family, solution = solve(data.source, family, link, start, options, observe, resume)
        solution, apart = levels_apart(data.source, family, link, solution, options)
        return Solved(family, penalty, solution, apart)
    held = None if dispersion is None or isinstance(dispersion, str) else float(dispersion)
    start = start if resume is None else resume.coef
    family, solution, found = solve_with_strengths(data.source, family, link, penalty, start, options, held, observe)
    return Solved(family, found.penalty, solution, estimated=found)


def _mixed(
    data: Data,
    family: Family,
    link: Link,
    penalty: Penalty | Jeffreys | None,
    options: dict[str, Any],
    dispersion: str | float | None,
    smoothing: str | None,
) -> Solved:
    """The fit with random effects. Raises `ValueError` for penalties and dispersions that it does not know."""
    if penalty is not None:
        raise ValueError("penalty= and random effects are not fitted at once. Write smooths as terms of the formula.")
    if isinstance(dispersion, str) or dispersion is not None and not family.has_dispersion:
        raise ValueError(
            f"dispersion={dispersion!r} has no meaning beside random effects, which are estimated with the dispersion "
            "of a law by their likelihood. Leave it out, or give a number to a family that has one."
        )
    assert data.random is not None
    held = None if dispersion is None else float(dispersion)
    method = method_of(smoothing, family, link)
    family, solution, found = solve_mixed(data.source, family, link, data.random, None, method, options, held)
    data.context["method"] = method
    data.source = conditional(data.source, data.random, found.coef)
    return Solved(family, None, solution, mixed=found)


def method_of(smoothing: str | None, family: Family, link: Link) -> str:
    """REML of Gaussian responses and ML of others, unless it is said. Raises `ValueError` for an unknown method."""
    if smoothing is None:
        return "reml" if family.least_squares and isinstance(link, Identity) else "ml"
    if smoothing not in METHODS:
        raise ValueError(f"unknown smoothing {smoothing!r}. Known: {', '.join(map(repr, METHODS))}.")
    return smoothing
