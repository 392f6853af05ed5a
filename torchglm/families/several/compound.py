"""The Tweedie law whose dispersion and power have predictors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from torchglm import links, special
from torchglm.distributions import TweedieMean
from torchglm.families.base import Family
from torchglm.families.numerics import checking, within
from torchglm.families.several.base import ALL_ZERO, START, Pairs, VectorFamily, absolute, units_of_mean
from torchglm.links import Link
from torchglm.rows.responses import Response

END = math.log(0.99 / 0.01)  # of the logit of power - 1: nearer to 1 or 2 the density needs too many terms


class Compound(VectorFamily):
    """Zero or positive: `Var(y) = phi mu^power`, `1 < power < 2`, with predictors of `log phi` and `logit(power - 1)`.

    A `power` that is given has no predictor. Raises `ValueError` for one outside (1, 2).
    Source: Dunn & Smyth (2005), Series evaluation of Tweedie exponential dispersion model densities, Stat. Comput. 15.
    """

    name = "tweedie_with_dispersion"
    support = constraints.nonnegative
    support_text = "y >= 0"

    @property
    def said(self) -> str:
        return "tweedie"

    def __init__(self, link: Link | None = None, power: float | None = None) -> None:
        super().__init__()
        if power is not None and not 1 < power < 2:
            raise ValueError(
                f"Tweedie with a predictor for its dispersion needs a power in (1, 2), got {power:g}. At 0, 2, 3 it is "
                "Gaussian, Gamma and InverseGaussian: name those."
            )
        self.link, self.power = links.Log() if link is None else link, power
        self.thrice = False  # whether its density is to have third derivatives too

    def linked(self, link: Link) -> Compound:
        return Compound(link, self.power)

    def arguments(self) -> dict[str, float]:
        return {} if self.power is None else {"power": self.power}

    def parts(self) -> dict[str, Family | Link]:
        return {"link": self.link}

    @property
    def predictors(self) -> tuple[str, ...]:
        return ("mean", "dispersion", "power") if self.power is None else ("mean", "dispersion")

    @property
    def links(self) -> dict[str, Link]:
        own = {"mean": self.link, "dispersion": links.Log()}
        return own | {"power": links.Logit()} if self.power is None else own

    def _power(self, eta: Tensor) -> Tensor:
        return 1 + torch.sigmoid(eta[2]) if self.power is None else torch.full_like(eta[0], self.power)

    def parameter(self, name: str, eta: Tensor) -> Tensor:
        own = super().parameter(name, eta)
        return 1 + own if name == "power" else own

    @property
    def weighted(self) -> str | None:
        return "dispersion"

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        mu, phi = self.link(eta[0]), eta[1].exp()
        return -special.tweedie_log_prob(y, mu, phi, self._power(eta), thrice=self.thrice)

    def nll_and_score(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
        if type(self.link) is links.Log:
            logit = eta[2] if self.power is None else eta.new_tensor(self.power - 1, dtype=torch.float64).logit()
            found = special.tweedie_with_slopes(y, eta[0], eta[1], logit)
            if found is not None:
                return found[0], -torch.stack(found[1 : 1 + len(eta)])
        return self.evaluated(y, eta)[:2]

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        return self.evaluated(y, eta)[1:]

    def evaluated(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        mu, relative = self.link(eta[0]), self.link.relative_slope(eta[0])
        power, weight = self._power(eta), self._weight(eta, mu, relative)
        score = (y - mu) / mu * weight / relative
        found = special.tweedie_slopes(y, mu, eta[1].exp(), power)
        pairs = {
            (0, 0): weight - score * (self.link.inverse_curvature(eta[0]) - power * relative),
            (0, 1): score,
            (1, 1): -found.by_log_phi_twice,
        }
        slopes = [score, found.by_log_phi]
        if self.power is None:
            share = power - 1
            move = share * torch.sigmoid(-eta[2])  # the derivative of the power by its predictor
            slopes.append(found.by_power * move)
            pairs[0, 2] = score * mu.log() * move
            pairs[1, 2] = -found.by_both * move
            pairs[2, 2] = -(found.by_power_twice * move.square() + found.by_power * move * (1 - 2 * share))
        return -found.log_prob, torch.stack(slopes), pairs

    def safe(self, y: Response, eta: Tensor, observed: Pairs) -> Pairs:
        weight = self._weight(eta, self.link(eta[0]), self.link.relative_slope(eta[0]))
        return {(0, 0): weight} | absolute(observed, range(1, len(eta)))

    def law_at(self, eta: Tensor) -> Distribution:
        return TweedieMean(self.link(eta[0]), eta[1].exp(), self._power(eta), validate_args=checking())

    def _weight(self, eta: Tensor, mu: Tensor, relative: Tensor) -> Tensor:
        """The expected information of the mean's predictor, `(dmu/deta)^2 / (phi mu^power)`."""
        return relative.square() * torch.exp((2 - self._power(eta)) * mu.log() - eta[1])

    def valid(self, eta: Tensor) -> Tensor:
        mu = self.link(eta[0])
        inside = self.link.inside(eta[0]) & (mu > 0) & torch.isfinite(mu)
        return super().valid(eta) & inside & (eta[2:].abs() <= END).all(0)

    def has_laws(self, eta: Tensor) -> bool:
        free = type(self.link) is links.Log and (self.power is not None or within(eta[2], END))
        return free or super().has_laws(eta)

    def units(self, eta: Tensor) -> Tensor:
        return units_of_mean(self.link, eta)

    @property
    def ends(self) -> dict[tuple[str, int], str]:
        return {
            ("power", -1): "The power runs to 1: the responses are like multiples of counts. Fit Poisson (by "
            "dispersion='pearson'), or give power=.",
            (
                "power",
                1,
            ): "The power runs to 2: the responses are like Gamma ones, without zeros. Fit Gamma or Hurdle, "
            "or give power=.",
            START: ALL_ZERO,
        }

    def start(self, averages: Tensor) -> Tensor:
        mean, square = averages[0], averages[1]
        power = 1.5 if self.power is None else self.power
        spread = (square - mean.square()).clamp(min=1e-8 * square) / mean.pow(power)
        own = [self.link.link(mean), spread.log(), torch.zeros_like(mean)]
        return torch.stack(own[: len(self.predictors)])
