"""Strengths and coefficients together: each pass gives a quadratic likelihood, of which the criterion costs no other.

Where the fits begin this leads in a few passes to coefficients with their last digits but for a few, and to strengths
near those of the criterion itself, which knows how the information changes with them.
Source: Breslow & Clayton (1993), J. Am. Stat. Assoc. 88(421), 9-25; Gu (1992), J. Comput. Graph. Stat. 1(2), 169-179.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchglm.fitting.laplace import Criterion
from torchglm.fitting.marginal import Stand
from torchglm.fitting.moments import Moments
from torchglm.fitting.strength_search import ENDLESS, StrengthSearch

PASSES = 12  # of which a model that needs more is left to a search of its own
STEPS = 2  # of strengths by the sums of one pass
ROUGH = 0.3  # a step of log strengths so short is no matter before the next pass
GAIN = 0.1  # of the criterion, which is left to the search with its exact derivatives
WITHIN = 10.0  # times the information over the penalty that strengths stay below
ABOVE = 1e-6  # and the share of it that they stay above: of many rows the best ones are far below it
LEAST = 0.3  # degrees of freedom of a penalised part below which the information at other strengths is another

Teller = Callable[[Tensor, Tensor, int], None]


class Working(Criterion):
    """The criterion of models `lane` where their likelihoods are quadratic, by sums `here` at coefficients (b, p)."""

    def __init__(self, criterion: Criterion, lane: Tensor, coef: Tensor, here: Moments) -> None:
        vars(self).update(vars(criterion))
        self.coef, self.here = coef, here
        self.exact, self.flat = criterion.flat, True
        self.place = torch.zeros_like(self.count, dtype=torch.int64)
        self.place[lane] = torch.arange(len(lane), device=lane.device)

    def _fitted(self, lane: Tensor, theta: Tensor, start: Tensor) -> Stand:
        at = self.place[lane]
        return self.standing(lane, theta, self.coef[at], self.here.take(at))

    def _unlikely(
        self, lane: Tensor, theta: Tensor, at: Stand, total: Tensor, drawn: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As of a Gaussian likelihood, where it is none; what is the same everywhere is left out."""
        if self.exact or self.several:
            return super()._unlikely(lane, theta, at, total, drawn)
        if self.phi is not None or not self.family.has_dispersion:
            phi = torch.full_like(total, 1.0 if self.phi is None else self.phi)
            return total / (2 * phi), phi, torch.full_like(total, torch.inf)
        half = (self.count[lane] - self.free[lane]) / 2
        phi = total / (2 * half)
        return half + self.count[lane] * phi.log() / 2, phi, half


def performed(
    criterion: Criterion, ends: Tensor, lane: Tensor, theta: Tensor, coef: Tensor, tell: Teller
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Strengths (b, J) and coefficients (b, p) of models `lane`, the passes (b,) they took, and (b,) whether they came
    near an end; the others are left where they were.

    A raw shape stays as the family has it. `ends` (B, J, 2) are those of all models; `tell` is told of models, their
    coefficients and the passes.
    """
    criterion = copy.copy(criterion)
    criterion.name = ""
    inner = ends + ends.new_tensor([math.log(ENDLESS * ABOVE), -math.log(ENDLESS / WITHIN)])
    whole = theta.new_zeros(len(ends), theta.shape[1]), coef.new_zeros(len(ends), coef.shape[1])
    left, now = torch.arange(len(lane), device=lane.device), (theta, coef)
    passes, near = torch.zeros_like(lane), torch.zeros_like(lane, dtype=torch.bool)
    theta, coef = theta.clone(), coef.clone()
    for turn in range(PASSES):
        models = lane[left]
        here = criterion.sums(models, *now)
        tell(models, now[1], turn)
        promised, own, move = _step(criterion, inner, models, *now, here, whole)
        ended = promised <= GAIN
        going, index = torch.isfinite(promised) & ~ended, left[ended]
        theta[index], coef[index], near[index], passes[index] = own[ended], move[ended], True, turn + 1
        left, now = left[going], (own[going], move[going])
        if not left.numel():
            break
    return theta, coef, passes, near


def _step(
    criterion: Criterion,
    ends: Tensor,
    lane: Tensor,
    theta: Tensor,
    coef: Tensor,
    here: Moments,
    whole: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """How much lower (b,) the criterion promises to be at the next strengths and coefficients, and these."""
    working = Working(criterion, lane, coef, here)
    stand = working.standing(lane, theta, coef, here)
    at = working.said(lane, theta, stand)
    sound = torch.isfinite(at.value)
    search, index = StrengthSearch(working, ends, *whole, STEPS, LEAST), sound.nonzero()[:, 0]
    search.descend(lane[index], at.take(index), ROUGH)
    promised = at.value + stand.decrement / (2 * at.phi) - search.value[lane]
    return torch.where(sound, promised.nan_to_num(torch.inf), torch.inf), search.theta[lane], search.coef[lane]


def frozen(criterion: Criterion, lane: Tensor, theta: Tensor, coef: Tensor) -> Criterion:
    """The criterion; of an information that is the same everywhere by the sums of one pass, at coefficients (b, p)."""
    if not criterion.flat:
        return criterion
    return Working(criterion, lane, coef, criterion.sums(lane, theta, coef))
