"""The negative binomial whose over-dispersion has a predictor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from torchglm import links, special
from torchglm.distributions import NegativeBinomialMean
from torchglm.families.base import Family
from torchglm.families.numerics import checking, within
from torchglm.families.several.base import ALL_ZERO, START, Pairs, VectorFamily, absolute, units_of_mean
from torchglm.links import Link
from torchglm.rows.responses import Response

COMMON = 9.0  # of |log alpha|: within, float64 has digits to spare for a result in float32
LEAST_ALPHA, MOST_ALPHA = 0.02, 50.0  # of a start
POISSON = -30.0  # log alpha below which the law is Poisson's to the last digit: an end, not an estimate


class Overdispersed(VectorFamily):
    """Counts of `Var(y) = mu + alpha mu^2`, the mean by a link and `log alpha` with a predictor.

    Source: Lawless (1987), Negative binomial and mixed Poisson regression, Canadian J. Statist. 15, 209-225.
    """

    name = "negative_binomial_with_alpha"
    counts = True
    support = constraints.nonnegative
    support_text = "y >= 0"
    mean_text = "expected count"
    ratio_text = "rate ratio"

    @property
    def said(self) -> str:
        return "negative_binomial"

    def __init__(self, link: Link | None = None) -> None:
        super().__init__()
        self.link = links.Log() if link is None else link

    def linked(self, link: Link) -> Overdispersed:
        return Overdispersed(link)

    def parts(self) -> dict[str, Family | Link]:
        return {"link": self.link}

    @property
    def predictors(self) -> tuple[str, ...]:
        return ("mean", "alpha")

    @property
    def links(self) -> dict[str, Link]:
        return {"mean": self.link, "alpha": links.Log()}

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        return -special.negative_binomial_log_prob(y, self.link(eta[0]), eta[1].exp())

    def nll_and_score(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
        if type(self.link) is not links.Log or eta.dtype == torch.float64 or not within(eta[1], COMMON):
            return self.nll(y, eta), self.derivatives(y, eta)[0]
        (mean, log_alpha), size = eta.double(), y.double()  # in which differences of `lgamma` keep all that eta has
        mu, alpha, r = mean.exp(), log_alpha.exp(), torch.exp(-log_alpha)
        total, product = size + r, alpha * mu
        log, score = torch.log1p(product), (size - mu) / (1 + product)
        own = torch.lgamma(total) - torch.lgamma(r) + size * log_alpha - torch.lgamma(size + 1)
        by_alpha = score - size + r * (log - torch.digamma(total) + torch.digamma(r)) + size
        return (total * log - size * mean - own).to(eta.dtype), torch.stack([score, by_alpha]).to(eta.dtype)

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        mu, alpha, relative = self.link(eta[0]), eta[1].exp(), self.link.relative_slope(eta[0])
        share = alpha * mu / (1 + alpha * mu)
        score = (y - mu) / (1 + alpha * mu) * relative
        bend = self.link.inverse_curvature(eta[0]) - relative * (1 + share)
        first, second = special.negative_binomial_slopes(y, mu, alpha)
        pairs = {(0, 0): self._weight(mu, alpha, relative) - score * bend, (0, 1): score * share, (1, 1): -second}
        return torch.stack([score, first]), pairs

    def safe(self, y: Response, eta: Tensor, observed: Pairs) -> Pairs:
        weight = self._weight(self.link(eta[0]), eta[1].exp(), self.link.relative_slope(eta[0]))
        return {(0, 0): weight} | absolute(observed, [1])

    def law_at(self, eta: Tensor) -> Distribution:
        return NegativeBinomialMean(self.link(eta[0]), eta[1].exp(), validate_args=checking())

    @staticmethod
    def _weight(mu: Tensor, alpha: Tensor, relative: Tensor) -> Tensor:
        """The expected information of the mean's predictor."""
        return relative.square() * mu / (1 + alpha * mu)

    def valid(self, eta: Tensor) -> Tensor:
        mu = self.link(eta[0])
        inside = self.link.inside(eta[0]) & (mu > 0) & torch.isfinite(mu)
        return super().valid(eta) & inside & (eta[1].abs() < -POISSON)

    def has_laws(self, eta: Tensor) -> bool:
        return type(self.link) is links.Log or super().has_laws(eta)

    def units(self, eta: Tensor) -> Tensor:
        return units_of_mean(self.link, eta)

    @property
    def ends(self) -> dict[tuple[str, int], str]:
        return {
            ("alpha", -1): "alpha runs to 0: the counts vary no more than Poisson counts. Fit Poisson there.",
            START: ALL_ZERO,
        }

    def start(self, averages: Tensor) -> Tensor:
        mean, square = averages[0], averages[1]
        alpha = ((square - mean.square() - mean) / mean.square()).nan_to_num(1.0).clamp(LEAST_ALPHA, MOST_ALPHA)
        return torch.stack([self.link.link(mean), alpha.log()])

    def row_start(self, y: Response, eta: Tensor) -> Tensor:
        own = self.link.link((y + self.link(eta[0])) / 2)
        return torch.stack([torch.where(torch.isfinite(own), own, eta[0]), eta[1]])
