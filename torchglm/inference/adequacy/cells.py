"""Responses below chosen places, seen against expected: the zeros of a law, and cells of equal probability.

With `c_j` the places of a row and `F` its law, `M_j = sum w (1[y <= c_j] - F(c_j))` has the covariance
`sum w F_i (1 - F_j) - D' V D`, `D_j = sum w Z' dF(c_j)/deta`: what the fitted coefficients have adapted to is taken
away (`dF(c)/deta = E[1(y <= c) s]`, `s` the score). Places that say the same count once.
Source: Andrews (1988), Chi-square diagnostic tests for econometric models, J. Econometrics 37; Tauchen (1985),
J. Econometrics 30; Cameron & Trivedi (2013), Regression Analysis of Count Data, section 5.3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchglm.families.several import BetaBinomial, VectorFamily
from torchglm.families.several.base import MOST
from torchglm.inference.adequacy.grouping import SPARSE
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.nested import scaled_score
from torchglm.inference.several import family_of, weighed
from torchglm.inference.table import Outcome
from torchglm.inference.vector.intervals import quantiles
from torchglm.inference.vector.score import bends_away, outer, pieces
from torchglm.rows.grams import Dense
from torchglm.rows.planned import gram_of, predictors, project_each
from torchglm.rows.responses import Counts, Intervals, Response, Times, size_of
from torchglm.rows.rows import Rows

CELLS = 10
FIRST = 32  # counts of which the shares are looked at first; twice as many where their cells lie beyond
STEP = 1e-4  # of the central differences of a law by its predictors

# rows and their predictors (K, B, n) -> places (J, B, n), the shares expected at or below them, and the slopes of
# these by the predictors (J, K, B, n)
Law = Callable[[Rows, Tensor], tuple[Tensor, Tensor, Tensor]]


class Below:
    """How many responses of each model (B) lie at or below J places, and how many the law expects: (B, J).

    `own` (B, J, J) is their covariance at known predictors, `left` what the fit leaves of it.
    """

    def __init__(self, result: Fitted, law: Law) -> None:
        self.seen, self.expected, self.own, self.left = self._sums(result, law, False)
        bent = bends_away(self.own, self.left)
        if bool(bent.any()):  # far from the law its observed information bends the other way
            own, left = self._sums(result, law, True)[2:]
            self.own, self.left = (
                torch.where(bent[:, None, None], a, b) for a, b in ((own, self.own), (left, self.left))
            )

    def _sums(self, result: Fitted, law: Law, outer_products: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        family = family_of(result)
        total: Any = None
        cross: Any = 0.0
        seen: Any = 0.0
        expected: Any = 0.0
        own: Any = 0.0
        for rows in pieces(result):
            weight = torch.where(rows.weight > 0, rows.weight, 0.0)
            eta = torch.where(weight > 0, predictors(rows, result.flat.coef), 0.0)
            at, share, slopes = law(rows, eta)
            share, below = torch.where(weight > 0, share, 0.0), (size_of(rows.response) <= at).to(share)
            seen, expected = seen + (weight * below).sum(-1).mT, expected + (weight * share).sum(-1).mT
            score, observed = family.derivatives(rows.response, eta)
            if outer_products:
                far = below - share
                inside = far.unsqueeze(1) * far.unsqueeze(0)
                slopes, pairs = far.unsqueeze(1) * score, outer(score)
            else:
                lower = torch.minimum(share.unsqueeze(1), share.unsqueeze(0))
                inside = lower * (1 - torch.maximum(share.unsqueeze(1), share.unsqueeze(0)))
                pairs = family.expected(eta) or observed
            own = own + (weight * inside).sum(-1).movedim(-1, 0)
            slopes = torch.where(weight > 0, slopes * weight, 0.0)
            cross = cross + torch.stack([project_each(rows, one) for one in slopes], -1)  # (B, P, J)
            gram = gram_of(rows, weighed(rows, pairs))
            total = gram if total is None else total + gram
        return seen, expected, own, own - Dense(total.matrix).invert(result.flat.keep).root.within(cross)

    def test(self) -> tuple[Tensor, Tensor]:
        """(B) the statistic, chi-squared under the model, and its degrees of freedom; NaN where nothing is left."""
        return scaled_score(self.seen - self.expected, self.own, self.left)


def cells_test(result: Fitted) -> Outcome:
    """(*B) the responses in `CELLS` cells of about equal probability. Raises `ValueError` for censored times."""
    if any(_censored(rows) for rows in result.source):
        raise ValueError(
            "where a censored time lies is not known, so it falls into no cell. Look at residuals(), or at the "
            "survival curve against Kaplan-Meier in the report."
        )
    family = family_of(result)
    discrete = family.counts or isinstance(family, BetaBinomial)
    found = Below(result, of_counts(family, _pooled(result)) if discrete else _of_quantiles(family))
    statistic, df = found.test()
    ends = torch.cat([torch.zeros_like(found.expected[:, :1]), found.expected, result.flat.nobs.unsqueeze(-1)], -1)
    inside = ends.diff(dim=-1)
    few = bool(((inside > 1e-8 * ends[:, -1:]) & (inside < SPARSE)).any())
    notes = (f"some cells expect fewer than {SPARSE:g} responses: the p-value is rough.",) if few else ()
    return Outcome("goodness of fit (cells of the law)", result.shaped(statistic), result.shaped(df), None, notes)


def _censored(rows: Rows) -> bool:
    y, used = rows.response, rows.weight > 0
    if isinstance(y, Intervals):
        return bool((used & (y.size != y.upper)).any())
    return isinstance(y, Times) and bool((used & ~y.event).any())


def zero_sums(result: Fitted) -> Below:
    """The zeros of each model, seen and expected."""
    none = torch.zeros(1, len(result.flat.deviance), dtype=torch.float64, device=result.flat.coef.device)
    return Below(result, of_counts(family_of(result), none))


def of_counts(family: VectorFamily, cuts: Tensor) -> Law:
    """Counts (J, B), the same for all rows of a model, by sums of the law."""

    def law(rows: Rows, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share, slopes = eta.new_zeros(len(cuts), *eta.shape[1:]), eta.new_zeros(len(cuts), *eta.shape)
        for k in range(int(cuts.max()) + 1):
            p, y = _probability(family, rows, k, eta)
            inside = (cuts >= k).unsqueeze(-1)
            share = share + inside * p
            slopes = slopes + inside.unsqueeze(1) * torch.where(p > 0, p * family.derivatives(y, eta)[0], 0.0)
        return cuts.unsqueeze(-1).expand_as(share), share, slopes

    return law


def _probability(family: VectorFamily, rows: Rows, k: int, eta: Tensor) -> tuple[Tensor, Response]:
    """(B, n) the probability of a count, and the count as a response; 0 beyond the trials of a row."""
    count = torch.full_like(eta[0], float(k))
    if not isinstance(rows.response, Counts):
        inside = family.supports(count)
        safe = torch.where(inside, count, family.inner_mean)
        return torch.where(inside, torch.exp(-family.nll(safe, eta)), 0.0), safe
    trials = rows.response.trials.expand(count.shape)
    y = Counts(torch.minimum(count, trials), trials)
    return torch.where(count <= trials, torch.exp(-family.nll(y, eta)), 0.0), y


def _pooled(result: Fitted) -> Tensor:
    """(J, B) the quantiles of the counts of all rows of a model together."""
    shares = torch.arange(1, CELLS, dtype=torch.float64, device=result.flat.coef.device) / CELLS
    size = FIRST
    while True:
        below = _expected_shares(result, size).cumsum(-1)  # (B, size)
        if bool((below[:, -1] >= shares[-1]).all()) or size >= MOST:
            return (below < shares[:, None, None]).sum(-1).to(below).clamp(max=size - 1)
        size *= 2


def _expected_shares(result: Fitted, size: int) -> Tensor:
    """(B, size) the share of all rows that is expected of each count from 0 on."""
    family = family_of(result)
    total: Any = 0.0
    weight: Any = 0.0
    for rows in pieces(result):
        used = torch.where(rows.weight > 0, rows.weight, 0.0)
        eta = torch.where(used > 0, predictors(rows, result.flat.coef), 0.0)
        each = [(used * _probability(family, rows, k, eta)[0]).sum(-1) for k in range(size)]
        total, weight = total + torch.stack(each, -1), weight + used.sum(-1, keepdim=True)
    return total / weight


def _of_quantiles(family: VectorFamily) -> Law:
    """The quantiles of every row's own law of amounts."""

    def law(rows: Rows, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = [quantiles(family, eta, k / CELLS) for k in range(1, CELLS // 2 + 1)]
        lower, upper = ([pair[..., end] for pair in found] for end in (0, 1))
        at = torch.stack([*lower, *upper[-2::-1]])

        def below(eta: Tensor) -> Tensor:
            return torch.stack([family.cdf(place, eta)[1] for place in at])

        slopes = []
        for k in range(len(eta)):
            step = torch.zeros_like(eta)
            step[k] = STEP
            slopes.append((below(eta + step) - below(eta - step)) / (2 * STEP))
        return at, below(eta), torch.stack(slopes, 1)

    return law
