"""Passes over rows of very many classes: sums without a matrix of all pairs of their coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.families.several import Multinomial
from torchglm.rows.planned import contributions, part, plan_of, predictors, project_each
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows, is_all, to_float64, whole
from torchglm.rows.threads import spread

HELD = 1 << 20  # numbers of the predictors of a block


@dataclass(frozen=True)
class ClassMoments:
    """What a pass leaves of one model, with the probabilities `p` (K, n) of the classes that have a predictor.

    `score` (1, P) sum of `w s x`; `objective` (1,) sum of `-w log p_y`; `invalid` (1,) rows without a law; `spread`
    (K,) sum of `w p (1 - p)`; `diagonal` (1, P) that of the information and `scale` (1,) sum of `w p (1 - p) eta^2`,
    where the pass reports; `change` (1,) the largest relative change of a predictor along a step.
    """

    score: Tensor
    objective: Tensor
    invalid: Tensor
    spread: Tensor
    diagonal: Tensor
    scale: Tensor
    change: Tensor


def class_sums(
    source: Iterable[Rows], family: Multinomial, coef: Tensor, step: Tensor | None = None, report: bool = False
) -> ClassMoments:
    """The sums at coefficients (1, P), with the change along the `step` that led there; all of them to `report`."""

    def work(rows: Rows) -> list[Tensor]:
        eta = predictors(rows, coef)
        half, score, p = family.values(rows.response, eta)
        weight = rows.weight
        variance = p * (1 - p)
        inside = torch.isfinite(eta).all(0) | (weight == 0)
        if not is_all(weight, 1.0):
            used = weight > 0
            half, score, variance = (torch.where(used, value, 0.0) * weight for value in (half, score, variance))
        sums = [project_each(rows, score), half.sum(-1), (~inside).sum(-1).to(eta.dtype), variance.sum((1, 2))]
        if report:
            square = whole(part(rows, plan_of(rows).blocks[0])).square()
            sums += [(variance[:, 0] @ square).reshape(1, -1), (variance * eta.square()).sum((0, -1))]
        else:
            sums += [torch.zeros_like(coef), torch.zeros_like(half[:, 0])]
        far = torch.zeros_like(half[:, 0])
        if step is not None:
            moved = contributions(rows, step).abs_() / (eta.abs() + 1)
            far = torch.where(weight > 0, moved, 0.0).nan_to_num(nan=math.inf).amax((0, -1))
        return [*sums, far]

    return ClassMoments(*_over(source, work))


def information_times(source: Iterable[Rows], family: Multinomial, coef: Tensor, vector: Tensor) -> Tensor:
    """(1, P) the information at coefficients times a vector, `sum w Z' (p u - p (p' u))` with `u = Z v`."""

    def work(rows: Rows) -> list[Tensor]:
        p = family.shares(predictors(rows, coef))
        along = contributions(rows, vector)
        bent = along.mul_(p)
        bent = bent - p * bent.sum(0)
        if not is_all(rows.weight, 1.0):
            bent = torch.where(rows.weight > 0, bent, 0.0) * rows.weight
        return [project_each(rows, bent), bent.new_zeros(1)]

    return _over(source, work)[0]


def _over(source: Iterable[Rows], work: Callable[[Rows], list[Tensor]]) -> list[Tensor]:
    """The sums of what `work` gives of every block of the rows, the largest of the last, over all processes."""
    ranks, total = ranks_of(source), None

    def several(blocks: Sequence[Rows]) -> list[Tensor]:
        own = None
        for block in blocks:
            own = _joined(own, work(to_float64(block)))
        assert own is not None
        return own

    with ranks.together():
        for rows in own_rows(source):
            blocks = list(_blocks(rows))
            for new in spread(several, blocks) if not rows.on_card else [several(blocks)]:
                total = _joined(total, new)
    if total is None:
        raise ValueError("the source holds no rows (n = 0). Pass at least one row.")
    *sums, largest = total
    return [*ranks.sum(*sums), *ranks.largest(largest)]


def _joined(one: list[Tensor] | None, other: list[Tensor]) -> list[Tensor]:
    if one is None:
        return other
    sums = [a + b for a, b in zip(one[:-1], other[:-1], strict=True)]
    return [*sums, torch.maximum(one[-1], other[-1])]


def _blocks(rows: Rows) -> Iterable[Rows]:
    """Blocks of rows whose predictors stay in a cache."""
    step = max(64, (HELD << 7 if rows.on_card else HELD) // plan_of(rows).predictors)
    n = rows.y.shape[-1]
    return [rows.between(start, start + step) for start in range(0, max(n, 1), step)]
