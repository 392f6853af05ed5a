"""The Tweedie law whose dispersion and power have predictors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from torchglm import links, special
from torchglm.families.base import Family
from torchglm.families.several.base import Pairs, VectorFamily, absolute
from torchglm.links import Link
from torchglm.rows.responses import Response

END = math.log(0.99 / 0.01)  # of the logit of power - 1: nearer to 1 or 2 the density needs too many terms


class Compound(VectorFamily):
    """Zero or positive: `Var(y) = phi mu^power`, `1 < power < 2`, with predictors of `log phi` and `logit(power - 1)`.

    Source: Dunn & Smyth (2005), Series evaluation of Tweedie exponential dispersion model densities, Stat. Comput. 15.
    """

    name = "compound"
    support = constraints.nonnegative
    support_text = "y >= 0"

    def __init__(self, link: Link | None = None) -> None:
        super().__init__()
        self.link = links.Log() if link is None else link

    def linked(self, link: Link) -> Compound:
        return Compound(link)

    def parts(self) -> dict[str, Family | Link]:
        return {"link": self.link}

    @property
    def predictors(self) -> tuple[str, ...]:
        return ("mean", "dispersion", "power")

    @property
    def links(self) -> dict[str, Link]:
        return {"mean": self.link, "dispersion": links.Log(), "power": links.Logit()}

    def parameter(self, name: str, eta: Tensor) -> Tensor:
        own = super().parameter(name, eta)
        return 1 + own if name == "power" else own

    @property
    def weighted(self) -> str | None:
        return "dispersion"

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        return -special.tweedie_log_prob(y, self.link(eta[0]), eta[1].exp(), 1 + torch.sigmoid(eta[2]))

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        mu, relative = self.link(eta[0]), self.link.relative_slope(eta[0])
        power, bent = 1 + torch.sigmoid(eta[2]), torch.sigmoid(eta[2]) * torch.sigmoid(-eta[2])
        weight = self._weight(eta, mu, relative)
        score = (y - mu) / mu * weight / relative
        pairs = {
            (0, 0): weight - score * (self.link.inverse_curvature(eta[0]) - power * relative),
            (0, 1): score,
            (0, 2): score * mu.log() * bent,
        }
        with torch.enable_grad():
            at = eta[1:].detach().clone().requires_grad_()
            logs = special.tweedie_log_prob(y, mu, at[0].exp(), 1 + torch.sigmoid(at[1]))
            [slope] = torch.autograd.grad(logs.sum(), at, create_graph=True)
            first, second = (torch.autograd.grad(one.sum(), at, retain_graph=True)[0] for one in slope)
        pairs |= {(1, 1): -first[0], (1, 2): -first[1], (2, 2): -second[1]}
        return torch.cat([score.unsqueeze(0), slope.detach()]), pairs

    def safe(self, y: Response, eta: Tensor, observed: Pairs) -> Pairs:
        weight = self._weight(eta, self.link(eta[0]), self.link.relative_slope(eta[0]))
        return {(0, 0): weight} | absolute(observed, [1, 2])

    @staticmethod
    def _weight(eta: Tensor, mu: Tensor, relative: Tensor) -> Tensor:
        """The expected information of the mean's predictor, `(dmu/deta)^2 / (phi mu^power)`."""
        return relative.square() * torch.exp((1 - torch.sigmoid(eta[2])) * mu.log() - eta[1])

    def valid(self, eta: Tensor) -> Tensor:
        mu = self.link(eta[0])
        inside = self.link.inside(eta[0]) & (mu > 0) & torch.isfinite(mu)
        return super().valid(eta) & inside & (eta[2].abs() <= END)

    def start(self, averages: Tensor) -> Tensor:
        mean, square = averages[0], averages[1]
        spread = (square - mean.square()).clamp(min=1e-8 * square) / mean.pow(1.5)
        return torch.stack([self.link.link(mean), spread.log(), torch.zeros_like(mean)])
