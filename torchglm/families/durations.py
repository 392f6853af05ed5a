"""Families for times to an event, some of which are only known to be longer."""

from __future__ import annotations

import torch
from torch import Tensor, distributions
from torch.distributions import constraints

from torchglm import links, special
from torchglm.families.arithmetic import any_observed, log_less_excess, mask, values_are_known
from torchglm.families.positive import ConstantVariation
from torchglm.links import Link


class Exponential(ConstantVariation):
    """Time to an event at a constant rate, right-censored where `event` is 0: `l = -event log mu - t / mu`.

    A censored time is encoded as `-t` (the sign is free, times being positive). The default link is the log,
    so that effects multiply the expected time.
    """

    name = "exponential"
    has_dispersion = False
    signed = True
    support = constraints.positive
    support_text = "y > 0"
    mean_text = "expected time"

    @property
    def canonical_link(self) -> Link:
        return links.Inverse()  # not `canonical`: where times are censored, observed and expected differ

    @property
    def default_link(self) -> Link:
        return links.Log()

    def encode(
        self, y: Tensor, trials: Tensor | None = None, event: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if trials is not None:
            raise ValueError("trials= is for the Binomial family, got it with exponential. Remove it.")
        if event is None:
            return y, None
        if values_are_known() and not bool(((event == 0) | (event == 1)).all()):
            raise ValueError("event must be 1 (the event was seen) or 0 (censored). Recode the column.")
        return torch.where(event.bool(), y, -y), None

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        censored = y <= 0
        seen = -2 * log_less_excess(torch.where(censored, mu, y), mu)
        return torch.where(censored, -2 * y / mu, seen)

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        log_mean = link.log_inverse(eta)
        return y.abs() * torch.exp(-log_mean) + torch.where(y > 0, log_mean, 0.0)

    def nll_saturated(self, y: Tensor) -> Tensor:
        return torch.where(y > 0, 1 + y.clamp(min=torch.finfo(y.dtype).tiny).log(), 0.0)

    def score_and_weight(
        self, y: Tensor, eta: Tensor, mu: Tensor, link: Link, observed: Tensor | bool
    ) -> tuple[Tensor, Tensor]:
        relative = link.relative_slope(eta)
        ratio, seen = y.abs() / mu, (y > 0).to(mu.dtype)
        score = (ratio - seen) * relative
        weight = relative.square() * torch.where(y > 0, 1.0, ratio)
        if any_observed(observed):
            bend = link.inverse_curvature(eta)
            exact_weight = relative * (seen * (bend - relative) - ratio * (bend - 2 * relative))
            weight = torch.where(mask(observed, weight), exact_weight, weight)
        return score, weight

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        return -self.nll_saturated(y)

    def crps(self, y: Tensor, mu: Tensor, dispersion: Tensor) -> Tensor:
        return torch.where(y > 0, special.exponential_crps(y, mu), torch.nan)

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y.abs()

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        return distributions.Exponential(1 / mu)
