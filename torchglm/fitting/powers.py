"""A Tweedie power beside the strengths of penalties: where the criterion is least over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.laplace import Criterion
from torchglm.fitting.penalties import Quadratic
from torchglm.fitting.progress import Observer
from torchglm.fitting.shape_sums import POWER_END
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status, converged
from torchglm.fitting.strengths import Estimated, part_by_part, solve_with_strengths
from torchglm.links import Link
from torchglm.rows.ragged import Ragged
from torchglm.rows.rows import Rows

ROUNDS = 30
SETTLED = 1e-6  # a step of the logit of a power so short is the last
STEP = 1e-3  # of the differences
LONGEST = 1.0  # step of the logit of a power


@torch.no_grad()
def solve_with_power(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    penalty: Quadratic,
    start: Tensor | None,
    options: dict[str, Any],
    phi: float | None = None,
    observe: Observer | None = None,
) -> tuple[Family, Solution, Estimated]:
    """`solve_with_strengths` of a Tweedie family that estimates its power: the criterion is least in that as well.

    At each power the strengths are those of `solve_with_strengths`, where the criterion does not move with them, so
    that its slope by the power is that at these strengths; the power steps to where it is zero, by the secant.
    `observe` is told of the first of these fits. A power at an end of (1.01, 1.99) has the status SHAPE_LIMIT.
    """
    if isinstance(source, Ragged):
        return part_by_part(solve_with_power, source, family, link, penalty, start, options, phi, observe)
    raw, limit = family.get_parameter("raw_power").detach().reshape(-1)[:1], None
    slope = before = None
    solution, found = None, None
    for turn in range(ROUNDS):
        at = _at(family, raw)
        tell = observe if turn == 0 else None
        start = start if solution is None else solution.coef
        _, solution, found = solve_with_strengths(source, at, link, penalty, start, options, phi, tell)
        raw = raw.expand(len(solution.coef)) if raw.numel() == 1 else raw
        new, bend = _slopes(source, family, link, penalty, solution, found, options, phi, raw)
        if slope is not None and before is not None:
            secant = (new - slope) / (raw - before)
            bend = torch.where(torch.isfinite(secant) & (secant > 0), secant, bend)
        step = (-new / bend.abs().clamp(min=1e-8)).nan_to_num(0.0).clamp(-LONGEST, LONGEST)
        slope, before = new, raw
        raw = (raw + step).clamp(-POWER_END, POWER_END)
        limit = raw.abs() >= POWER_END
        still = ((raw - before).abs() <= SETTLED) | ~converged(solution.status)
        if bool(still.all()):
            break
    assert solution is not None and found is not None and before is not None and limit is not None
    sound = converged(solution.status)
    solution.status[sound & limit] = int(Status.SHAPE_LIMIT)
    solution.status[sound & ~still] = int(Status.ITERATION_LIMIT)
    fixed = before[0] if before.numel() == 1 else before
    return family.with_parameters({"raw_power": fixed}), solution, found


def _at(family: Family, raw: Tensor) -> Family:
    """The family with its power held."""
    fixed = family.with_parameters({"raw_power": raw[0] if raw.numel() == 1 else raw})
    return fixed.requires_grad_(False)


def _slopes(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    penalty: Quadratic,
    solution: Solution,
    found: Estimated,
    options: dict[str, Any],
    phi: float | None,
    raw: Tensor,
) -> tuple[Tensor, Tensor]:
    """(B,) the first and second difference of the criterion by the raw power at the strengths that were found."""
    lane = converged(solution.status).nonzero()[:, 0]
    first, second = torch.full_like(raw, torch.nan), torch.full_like(raw, torch.nan)
    if not lane.numel():
        return first, second
    criterion = Criterion(source, _at(family, raw), link, penalty, solution, options, phi, "raw_power")
    theta = found.penalty.strength.clamp(min=1e-300).log()[lane]
    values = [
        criterion.at(lane, torch.cat([theta, (raw[lane] + shift).unsqueeze(-1)], -1), solution.coef[lane]).value
        for shift in (-STEP, 0.0, STEP)
    ]
    first[lane] = (values[2] - values[0]) / (2 * STEP)
    second[lane] = (values[2] - 2 * values[1] + values[0]) / STEP**2
    return first, second
