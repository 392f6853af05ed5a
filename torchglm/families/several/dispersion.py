"""Families of one predictor with a predictor for their dispersion beside it: double generalised linear models."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from torchglm import links
from torchglm.families.base import Family
from torchglm.families.counts import NegativeBinomial, Poisson
from torchglm.families.positive import Gamma, InverseGaussian
from torchglm.families.real import Gaussian
from torchglm.families.several.base import ALL_ZERO, START, Pairs, VectorFamily, units_of_mean
from torchglm.links import Link
from torchglm.rows.responses import Response

Own = TypeVar("Own", bound="Plain")

FINEST = 1e-28  # of the squared mean: the variance of rounding
CONSTANT = (Gaussian, Gamma, InverseGaussian)  # in whose log_base no part depends on both y and the dispersion


class Plain(VectorFamily):
    """A family of one predictor in the form of those that have several: `phi = 1`, and the mean by a link.

    A family that has a dispersion is `Dispersed`, one that estimates its shape has a class of its own.
    """

    name = "plain"

    def __init__(self, family: Family, link: Link | None = None) -> None:
        super().__init__()
        self.family, self.link = family, family.default_link if link is None else link
        self.named = link is not None  # somebody chose it
        self.mean_text, self.ratio_text, self.durations = family.mean_text, family.ratio_text, family.durations
        self.advice, self.counts = family.advice, isinstance(family, (Poisson, NegativeBinomial))

    @property
    def said(self) -> str:
        return self.family.name

    @property
    def support(self) -> Any:  # known by its identity, which a copy of the family would lose
        return self.family.support

    @property
    def support_text(self) -> str:
        return self.family.support_text

    def linked(self: Own, link: Link) -> Own:
        return type(self)(self.family, link)

    def for_heads(self: Own) -> Own:
        return self if self.named else self.linked(self.family.head_link)

    def parts(self) -> dict[str, Family | Link]:
        return {"family": self.family, "link": self.link}

    @property
    def predictors(self) -> tuple[str, ...]:
        return ("mean",)

    @property
    def links(self) -> dict[str, Link]:
        return {"mean": self.link}

    def encode(
        self,
        y: Tensor,
        trials: Tensor | None = None,
        event: Tensor | None = None,
        until: Tensor | None = None,
    ) -> tuple[Response, Tensor | None]:
        return self.family.encode(y, trials, event, until)

    def supports(self, y: Response) -> Tensor:
        return self.family.supports(y)

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        base = self.family.log_base(y, torch.ones_like(eta[0]))
        return self.family.nll(y, eta[0], self.link) - self.family.nll_saturated(y) - base

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        score, weight = self.family.score_and_weight(y, eta[0], self.link(eta[0]), self.link, True)
        return score.unsqueeze(0), {(0, 0): weight}

    def expected(self, eta: Tensor) -> Pairs | None:
        mu = self.link(eta[0])
        return {(0, 0): self.family.score_and_weight(mu, eta[0], mu, self.link, False)[1]}

    def law_at(self, eta: Tensor) -> Distribution:
        """The law of a response (*N)."""
        return self.family.law(eta[0], self.link)

    def variance_at(self, eta: Tensor) -> Tensor:
        return self.family.variance(self.link(eta[0]))

    def valid(self, eta: Tensor) -> Tensor:
        return super().valid(eta) & self.link.inside(eta[0]) & self.family.valid_mean(self.link(eta[0]))

    def has_laws(self, eta: Tensor) -> bool:
        free = type(self.link) is links.Log and self.family.mean_upper > 1 or self.family.mean_lower == -torch.inf
        return free or super().has_laws(eta)

    def nll_and_score(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor] | None:
        known = self.family.nll_and_slope(y, eta[0], self.link)
        if known is None:
            return super().nll_and_score(y, eta)
        return known[0] - self.family.log_constant(y), -known[1].unsqueeze(0)

    def start(self, averages: Tensor) -> Tensor:
        return self.link.link(averages[:1])

    @property
    def ends(self) -> dict[tuple[str, int], str]:
        return {START: ALL_ZERO} if self.counts else {}

    def row_start(self, y: Response, eta: Tensor) -> Tensor:
        mean = self.family.initial_mean(y, torch.ones_like(eta[0]))
        own = self.link.link(mean)
        return torch.cat([torch.where(torch.isfinite(own), own, eta[0]).unsqueeze(0), eta[1:]])

    def units(self, eta: Tensor) -> Tensor:
        return units_of_mean(self.link, eta)

    def is_canonical(self, link: Link) -> bool:
        return self.family.is_canonical(self.link)

    @property
    def inner_mean(self) -> float:
        return self.family.inner_mean


class Dispersed(Plain):
    """A family with a dispersion, whose logarithm has a predictor: `Var(y) = exp(eta_2) V(mu) / w`.

    Of the families whose log-density is `log_base(phi) - d / (2 phi)`. Source: Smyth (1989), Generalized linear models
    with varying dispersion, J. R. Stat. Soc. B 51(1).
    """

    name = "dispersed"

    @property
    def predictors(self) -> tuple[str, ...]:
        return ("mean", "dispersion")

    @property
    def links(self) -> dict[str, Link]:
        return {"mean": self.link, "dispersion": links.Log()}

    @property
    def weighted(self) -> str | None:
        return "dispersion"

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        half = self._half(y, eta[0])
        return half * torch.exp(-eta[1]) - self.family.log_base(y, eta[1].exp())

    def law_at(self, eta: Tensor) -> Distribution:
        return self.family.law(eta[0], self.link, eta[1].exp())

    def variance_at(self, eta: Tensor) -> Tensor:
        return super().variance_at(eta) * eta[1].exp()

    def _half(self, y: Response, eta: Tensor) -> Tensor:
        return self.family.half_deviance(y, eta, self.link(eta), self.link)

    def nll_and_score(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor] | None:
        known = self.family.nll_and_slope(y, eta[0], self.link)
        base = None if known is None else self.family.base_and_slope(y, eta[1])
        if known is None or base is None:
            return self.nll(y, eta), self.derivatives(y, eta)[0]
        precision = torch.exp(-eta[1])
        scaled = (known[0] - self.family.nll_saturated(y)) * precision
        return scaled - base[0], torch.stack([-known[1] * precision, base[1] + scaled])

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        precision = torch.exp(-eta[1])
        score, weight = self.family.score_and_weight(y, eta[0], self.link(eta[0]), self.link, True)
        scaled = self._half(y, eta[0]) * precision
        first, second = self.family.base_slopes(y, eta[1])
        pairs = {(0, 0): weight * precision, (0, 1): score * precision, (1, 1): scaled - second}
        return torch.stack([score * precision, first + scaled]), pairs

    def expected(self, eta: Tensor) -> Pairs | None:
        if type(self.family) not in CONSTANT:
            return None
        mu = self.link(eta[0])
        weight = self.family.score_and_weight(mu, eta[0], mu, self.link, False)[1]
        first, second = self.family.base_slopes(mu, eta[1])
        return {(0, 0): weight * torch.exp(-eta[1]), (1, 1): -second - first}

    def start(self, averages: Tensor) -> Tensor:
        mean, square = averages[0], averages[1]
        spread = (square - mean.square()).clamp(min=1e-8 * square) / self.family.variance(mean)
        return torch.cat([super().start(averages), torch.where(spread > 0, spread, 1.0).log().unsqueeze(0)])

    @property
    def ends(self) -> dict[tuple[str, int], str]:
        return {
            ("dispersion", -1): "The dispersion runs to 0: the mean fits some rows without error. Drop columns of the "
            "mean that tell such rows apart, or leave predictors= out."
        }

    def valid(self, eta: Tensor) -> Tensor:
        """And where the standard deviation is more than the rounding of the mean: below, a fit has no end."""
        mu = self.link(eta[0])
        return super().valid(eta) & (eta[1].exp() * self.family.variance(mu) > FINEST * mu.square())

    def units(self, eta: Tensor) -> Tensor:
        """Beside an identity link the standard deviation of a response."""
        if type(self.link) is not links.Identity:
            return super().units(eta)
        own = self.variance_at(eta).sqrt()
        own = own if self.family.mean_lower == -torch.inf else torch.minimum(own, eta[0].abs())
        return torch.stack([own, torch.ones_like(own)])

    def is_canonical(self, link: Link) -> bool:
        return False
