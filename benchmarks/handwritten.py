"""Losses as one writes them by hand for each law: of predictors `eta` (n, K) and responses (n,), the mean over rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import torchglm as tg
from torchglm.families.several import Beta, Compound

TERMS = 24  # of the series of a Tweedie density: enough for these responses


@dataclass(frozen=True)
class Case:
    """A head, responses that suit it, and the loss by hand, with a parameter of its own where it `learns` one."""

    title: str
    family: Any
    by_hand: Callable[..., Tensor]
    draw: Callable[[int], Tensor]
    predictors: int = 1
    learns: bool = False
    others: tuple[str, ...] = ()
    dispersion: str | float | None = None

    def head(self, columns: int) -> tg.GLMHead:
        return tg.GLMHead(columns, self.family, predictors=self.others, dispersion=self.dispersion)

    def responses(self, rows: int) -> Tensor:
        return self.draw(rows)


def counts(rows: int) -> Tensor:
    return torch.poisson(torch.distributions.Gamma(2.0, 1.0).sample((rows,)))


def amounts(rows: int) -> Tensor:
    return torch.distributions.Gamma(2.0, 2.0).sample((rows,))


def amounts_or_none(rows: int) -> Tensor:
    return amounts(rows) * (torch.rand(rows) > 0.4)


def yes_or_no(rows: int) -> Tensor:
    return (torch.rand(rows) > 0.6).float()


def real(rows: int) -> Tensor:
    return torch.randn(rows)


def classes(rows: int) -> Tensor:
    return torch.randint(4, (rows,))


def rates(rows: int) -> Tensor:
    return torch.rand(rows) * 0.9 + 0.05


def gaussian(eta: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(eta[:, 0], y) / 2


def gaussian_learned(eta: Tensor, y: Tensor, log_phi: Tensor) -> Tensor:
    return ((y - eta[:, 0]).square() * torch.exp(-log_phi) + log_phi + math.log(2 * math.pi)).mean() / 2


def bernoulli(eta: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(eta[:, 0], y)


def poisson(eta: Tensor, y: Tensor) -> Tensor:
    return F.poisson_nll_loss(eta[:, 0], y)


def gamma(eta: Tensor, y: Tensor) -> Tensor:
    eta = eta[:, 0]
    return (y * torch.exp(-eta) + eta).mean()


def _gamma_density(eta: Tensor, y: Tensor, log_phi: Tensor) -> Tensor:
    shape = torch.exp(-log_phi)
    rate = shape * torch.exp(-eta)
    return -(shape * torch.log(rate) + (shape - 1) * torch.log(y) - rate * y - torch.lgamma(shape)).mean()


def gamma_learned(eta: Tensor, y: Tensor, log_phi: Tensor) -> Tensor:
    return _gamma_density(eta[:, 0], y, log_phi)


def inverse_gaussian(eta: Tensor, y: Tensor) -> Tensor:
    return ((y * torch.exp(-eta[:, 0]) - 1).square() / y).mean() / 2


def _negative_binomial(eta: Tensor, y: Tensor, log_alpha: Tensor) -> Tensor:
    r = torch.exp(-log_alpha)
    log = F.softplus(eta + log_alpha)
    return (r + y) * log - y * (eta + log_alpha) - torch.lgamma(r + y) + torch.lgamma(r) + torch.lgamma(y + 1)


def negative_binomial(eta: Tensor, y: Tensor, log_alpha: Tensor) -> Tensor:
    return _negative_binomial(eta[:, 0], y, log_alpha).mean()


def negative_binomial_known(eta: Tensor, y: Tensor) -> Tensor:
    eta = eta[:, 0]
    return ((y + 2) * F.softplus(eta + math.log(0.5)) - y * eta).mean()


def tweedie(eta: Tensor, y: Tensor) -> Tensor:
    eta = eta[:, 0]
    return (torch.exp(0.5 * eta) + y * torch.exp(-0.5 * eta)).mean() / 0.5


def _tweedie_density(eta: Tensor, y: Tensor, log_phi: Tensor, p: Tensor) -> Tensor:
    """By the first terms of the series of Dunn and Smyth (2005)."""
    positive = y > 0
    safe = torch.where(positive, y, 1.0)
    a = (2 - p) / (p - 1)
    j = torch.arange(1, TERMS + 1, dtype=eta.dtype)
    log_z = a * torch.log(safe) - a * torch.log(p - 1) - torch.log(2 - p) - (1 + a) * log_phi
    series = torch.logsumexp(
        log_z.unsqueeze(-1) * j - torch.lgamma(j + 1) - torch.lgamma((a.unsqueeze(-1) if a.dim() else a) * j), -1
    )
    kernel = torch.exp((2 - p) * eta) / (2 - p) - y * torch.exp((1 - p) * eta) / (1 - p)
    return (kernel * torch.exp(-log_phi) - torch.where(positive, series - torch.log(safe), 0.0)).mean()


def tweedie_learned(eta: Tensor, y: Tensor, raw: Tensor) -> Tensor:
    return _tweedie_density(eta[:, 0], y, torch.zeros(()), 1 + torch.sigmoid(raw))


def compound(eta: Tensor, y: Tensor) -> Tensor:
    return _tweedie_density(eta[:, 0], y, eta[:, 1], 1 + torch.sigmoid(eta[:, 2]))


def exponential(eta: Tensor, y: Tensor) -> Tensor:
    return gamma(eta, y)


def multinomial(eta: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(torch.cat([torch.zeros_like(eta[:, :1]), eta], 1), y)


def ordinal(eta: Tensor, y: Tensor) -> Tensor:
    """Differences of sigmoids at thresholds that are held in order."""
    cuts = torch.tensor([-1.0, 0.0, 1.0])
    below = torch.sigmoid(cuts - eta[:, :1])
    padded = torch.cat([torch.zeros_like(below[:, :1]), below, torch.ones_like(below[:, :1])], 1)
    return -torch.log(padded.diff(dim=1).gather(1, y[:, None])).mean()


def gaussian_with_dispersion(eta: Tensor, y: Tensor) -> Tensor:
    return ((y - eta[:, 0]).square() * torch.exp(-eta[:, 1]) + eta[:, 1] + math.log(2 * math.pi)).mean() / 2


def gamma_with_dispersion(eta: Tensor, y: Tensor) -> Tensor:
    return _gamma_density(eta[:, 0], y, eta[:, 1])


def inverse_gaussian_dispersed(eta: Tensor, y: Tensor) -> Tensor:
    squares = (y * torch.exp(-eta[:, 0]) - 1).square() / y
    return (squares * torch.exp(-eta[:, 1]) + eta[:, 1] + math.log(2 * math.pi) + 3 * torch.log(y)).mean() / 2


def negative_binomial_with_alpha(eta: Tensor, y: Tensor) -> Tensor:
    return _negative_binomial(eta[:, 0], y, eta[:, 1]).mean()


def beta(eta: Tensor, y: Tensor) -> Tensor:
    mean, precision = torch.sigmoid(eta[:, 0]), torch.exp(eta[:, 1])
    a, b = mean * precision, precision - mean * precision
    density = torch.lgamma(precision) - torch.lgamma(a) - torch.lgamma(b)
    return -(density + (a - 1) * torch.log(y) + (b - 1) * torch.log1p(-y)).mean()


def _zero_inflated(seen: Tensor, y: Tensor, zero: Tensor) -> Tensor:
    return (F.softplus(zero) - torch.where(y == 0, torch.logaddexp(zero, -seen), -seen)).mean()


def _poisson_density(eta: Tensor, y: Tensor) -> Tensor:
    return torch.exp(eta) - y * eta + torch.lgamma(y + 1)


def zero_inflated_poisson(eta: Tensor, y: Tensor) -> Tensor:
    return _zero_inflated(_poisson_density(eta[:, 0], y), y, eta[:, 1])


def zero_inflated_negative_binomial(eta: Tensor, y: Tensor) -> Tensor:
    return _zero_inflated(_negative_binomial(eta[:, 0], y, eta[:, 2]), y, eta[:, 1])


def _hurdle(seen: Tensor, y: Tensor, zero: Tensor) -> Tensor:
    return torch.where(y == 0, F.softplus(-zero), F.softplus(zero) + seen).mean()


def hurdle_poisson(eta: Tensor, y: Tensor) -> Tensor:
    seen = _poisson_density(eta[:, 0], y) + torch.log(-torch.expm1(-torch.exp(eta[:, 0])))
    return _hurdle(seen, y, eta[:, 1])


def hurdle_gamma(eta: Tensor, y: Tensor) -> Tensor:
    safe, shape = torch.where(y > 0, y, 1.0), torch.exp(-eta[:, 2])
    rate = shape * torch.exp(-eta[:, 0])
    density = shape * torch.log(rate) + (shape - 1) * torch.log(safe) - rate * safe - torch.lgamma(shape)
    return _hurdle(-density, y, eta[:, 1])


def weibull(eta: Tensor, y: Tensor) -> Tensor:
    log_y = torch.log(y)
    z = (log_y - eta[:, 0]) * torch.exp(-eta[:, 1])
    return (torch.exp(z) - z + eta[:, 1] + log_y).mean()


def log_normal(eta: Tensor, y: Tensor) -> Tensor:
    log_y = torch.log(y)
    z = (log_y - eta[:, 0]) * torch.exp(-eta[:, 1])
    return (z.square() / 2 + eta[:, 1] + log_y + math.log(2 * math.pi) / 2).mean()


def log_logistic(eta: Tensor, y: Tensor) -> Tensor:
    log_y = torch.log(y)
    z = (log_y - eta[:, 0]) * torch.exp(-eta[:, 1])
    return (2 * F.softplus(z) - z + eta[:, 1] + log_y).mean()


SHAPE, ALPHA, ZERO, SCALE = ("dispersion",), ("alpha",), ("zero",), ("scale",)
COSTS = tg.Hurdle("gamma").linked(tg.links.Log())
CASES = (
    Case("Gaussian", "gaussian", gaussian, real),
    Case("Gaussian, dispersion learned", "gaussian", gaussian_learned, real, learns=True, dispersion="learned"),
    Case("Bernoulli", "bernoulli", bernoulli, yes_or_no),
    Case("binomial of proportions", "binomial", bernoulli, rates),
    Case("Poisson", "poisson", poisson, counts),
    Case("Gamma", "gamma", gamma, amounts),
    Case("Gamma, dispersion learned", "gamma", gamma_learned, amounts, learns=True, dispersion="learned"),
    Case("inverse Gaussian", "inverse_gaussian", inverse_gaussian, amounts),
    Case("exponential", "exponential", exponential, amounts),
    Case("negative binomial, alpha 1/2", tg.NegativeBinomial(0.5), negative_binomial_known, counts),
    Case("negative binomial, alpha learned", "negative_binomial", negative_binomial, counts, learns=True),
    Case("Tweedie, power 3/2", tg.Tweedie(1.5), tweedie, amounts_or_none),
    Case("Tweedie, power learned", "tweedie", tweedie_learned, amounts_or_none, learns=True),
    Case("multinomial, 4 classes", tg.Multinomial(classes=4), multinomial, classes, 3),
    Case("ordinal, 4 classes", tg.Ordinal(classes=4), ordinal, classes),
    Case("Gaussian with dispersion", "gaussian", gaussian_with_dispersion, real, 2, others=SHAPE),
    Case("Gamma with dispersion", "gamma", gamma_with_dispersion, amounts, 2, others=SHAPE),
    Case(
        "inverse Gaussian with dispersion",
        "inverse_gaussian",
        inverse_gaussian_dispersed,
        amounts,
        2,
        others=SHAPE,
    ),
    Case("negative binomial with alpha", "negative_binomial", negative_binomial_with_alpha, counts, 2, others=ALPHA),
    Case("Tweedie with dispersion and power", Compound(), compound, amounts_or_none, 3, others=("dispersion", "power")),
    Case("beta", Beta(), beta, rates, 2, others=("precision",)),
    Case("zero-inflated Poisson", tg.ZeroInflated("poisson"), zero_inflated_poisson, counts, 2, others=ZERO),
    Case(
        "zero-inflated negative binomial",
        tg.ZeroInflated("negative_binomial"),
        zero_inflated_negative_binomial,
        counts,
        3,
        others=ZERO + ALPHA,
    ),
    Case("hurdle Poisson", tg.Hurdle("poisson"), hurdle_poisson, counts, 2, others=ZERO),
    Case(
        "hurdle Gamma",
        tg.Hurdle("gamma").linked(tg.links.Log()),
        hurdle_gamma,
        amounts_or_none,
        3,
        others=ZERO + SHAPE,
    ),
    Case("Weibull", "weibull", weibull, amounts, 2, others=SCALE),
    Case("log-normal", "lognormal", log_normal, amounts, 2, others=SCALE),
    Case("log-logistic", "loglogistic", log_logistic, amounts, 2, others=SCALE),
)
