"""What a mark tells of points near by, as if the likelihood were quadratic: it costs no pass."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.fitting.mixed.criterion import MixedCriterion
from torchglm.fitting.mixed.mark import Mark


def ahead(criterion: MixedCriterion, lane: Tensor, mark: Mark, psi: Tensor) -> Tensor:
    """(b, P) about the modes at `psi`, by the quadratic model of the likelihood at a mark: it costs no pass.

    They are off by the square of a step, so that near by one pass finds them.
    """
    if criterion.flat:
        return mark.u
    turn, u = criterion.turn(lane, psi), criterion.place_fixed(psi, mark.u)
    score = mark.score - mark.gram.times(turn.times(u) - criterion.turn(lane, mark.psi).times(mark.u))
    inner = criterion.eliminated(lane, mark.gram, turn, psi).on(
        criterion.penalised if criterion.apart else criterion.every
    )
    step = inner.solve(turn.transposed(criterion.known(lane, score)) - criterion.drawn(psi, u))
    return torch.where((inner.sound & torch.isfinite(step).all(-1)).unsqueeze(-1), u + step, u)


def guess(criterion: MixedCriterion, lane: Tensor, mark: Mark, psi: Tensor) -> Tensor:
    """(b,) what the criterion would be at `psi` if the likelihood were quadratic: it costs no pass."""
    here, values = criterion.turn(lane, mark.psi), []
    for point in (mark.psi, psi):
        turn = criterion.turn(lane, point)
        eliminated = criterion.eliminated(lane, mark.gram, turn, point)
        u = criterion.place_fixed(point, mark.u)
        move = turn.times(u) - here.times(mark.u)
        score = criterion.known(lane, mark.score - mark.gram.times(move))
        inner = eliminated.on(criterion.penalised if criterion.apart else criterion.every)
        step = inner.solve(turn.transposed(score) - criterion.drawn(point, u))
        u, move = u + step, move + turn.times(step)
        half = (mark.gram.times(move) * move).sum(-1) / 2 - (mark.score * move).sum(-1)
        logs = eliminated.on(criterion.integrated).log
        if criterion.ranges is not None:
            logs = logs - criterion.ranges.log_determinant(criterion.parts(point)[1].exp())[0]
        values.append(((half + (u * criterion.drawn(point, u)).sum(-1) / 2) / mark.phi, logs / 2))
    (before, old), (after, new) = values
    return (mark.value + after - before + new - old).nan_to_num(torch.inf)
