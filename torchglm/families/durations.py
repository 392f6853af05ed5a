"""Families for times to an event, some of which are only known to be longer."""

from __future__ import annotations

import torch
from torch import Tensor, distributions
from torch.distributions import constraints

from torchglm import links, special
from torchglm.families.censored import Censored
from torchglm.families.numerics import any_observed, checking, log_less_excess, mask
from torchglm.families.positive import ConstantVariation
from torchglm.links import Link
from torchglm.rows.responses import Response, Times, size_of


class Exponential(Censored, ConstantVariation):
    """Time to an event at a constant rate, right-censored where `event` is 0: `l = -event log mu - t / mu`.

    A time that is not censored is a plain tensor to the formulas, one that may be is `Times`; a censored time of 0 says
    nothing. The default link is the log, so that effects multiply the expected time.
    """

    name = "exponential"
    has_dispersion = False
    durations = True
    support = constraints.positive
    support_text = "y > 0"
    advice = "or say by event=0 that it is censored, if it is (0 or longer), never by its sign"
    mean_text = "expected time"

    @property
    def canonical_link(self) -> Link:
        return links.Inverse()  # not `canonical`: where times are censored, observed and expected differ

    @property
    def default_link(self) -> Link:
        return links.Log()

    def unit_deviance(self, y: Response, mu: Tensor) -> Tensor:
        if not isinstance(y, Times):
            return -2 * log_less_excess(y, mu)
        seen = -2 * log_less_excess(torch.where(y.event, y.size, mu), mu)
        return torch.where(y.event, seen, 2 * y.size / mu)

    def nll(self, y: Response, eta: Tensor, link: Link) -> Tensor:
        log_mean = link.log_inverse(eta)
        return size_of(y) * torch.exp(-log_mean) + _where_seen(y, log_mean)

    def nll_and_slope(self, y: Response, eta: Tensor, link: Link) -> tuple[Tensor, Tensor] | None:
        if type(link) is not links.Log:
            return None
        ratio = size_of(y) * torch.exp(-eta)
        if not isinstance(y, Times):
            return ratio + eta, 1 - ratio
        seen = y.event.to(eta.dtype)
        return torch.addcmul(ratio, seen, eta), seen - ratio

    def nll_saturated(self, y: Response) -> Tensor:
        size = size_of(y)
        return _where_seen(y, 1 + size.clamp(min=torch.finfo(size.dtype).tiny).log())

    def score_and_weight(
        self, y: Response, eta: Tensor, mu: Tensor, link: Link, observed: Tensor | bool
    ) -> tuple[Tensor, Tensor]:
        relative = link.relative_slope(eta)
        ratio, seen = size_of(y) / mu, _where_seen(y, torch.ones_like(mu))
        score = (ratio - seen) * relative
        weight = relative.square() * (torch.where(y.event, 1.0, ratio) if isinstance(y, Times) else 1.0)
        if any_observed(observed):
            bend = link.inverse_curvature(eta)
            exact_weight = relative * (seen * (bend - relative) - ratio * (bend - 2 * relative))
            weight = torch.where(mask(observed, weight), exact_weight, weight)
        return score, weight

    def log_base(self, y: Response, dispersion: Tensor) -> Tensor:
        return -self.nll_saturated(y)

    def crps(self, y: Response, mu: Tensor, dispersion: Tensor) -> Tensor:
        score = special.exponential_crps(size_of(y), mu)
        return torch.where(y.event, score, torch.nan) if isinstance(y, Times) else score

    def initial_mean(self, y: Response, weight: Tensor) -> Tensor:
        return torch.where(y.size > 0, y.size, 1.0) if isinstance(y, Times) else y

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        return distributions.Exponential(1 / mu, validate_args=checking())


def _where_seen(y: Response, value: Tensor) -> Tensor:
    """The values where the event was seen, 0 where the time is censored."""
    return torch.where(y.event, value, 0.0) if isinstance(y, Times) else value
