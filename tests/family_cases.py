"""The cases the tests of families and heads share: every family found, with responses, means and links that suit it.

A family without an entry in `CASES` fails the tests that read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import torch
from scipy import stats
from torch import Tensor

from torchglm import families, links
from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.links import Link, Power

mp = mpmath.mp
Exact = Callable[..., mpmath.mpf]


def wide(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A family; responses and means that suit it; a dispersion; its law in scipy; theta(mu) and b(theta) in mpmath."""

    family: Family
    y: Tensor
    mu: Tensor
    theta: Exact
    cumulant: Exact
    law: Callable[[Any, float], Any] | None  # (mu, phi) -> frozen law
    phi: float = 1.0

    def __repr__(self) -> str:
        return repr(self.family)


POSITIVE, MEANS, COUNTS = wide(0.01, 0.3, 1.0, 2.5, 40.0), wide(0.05, 0.7, 1.0, 6.0, 30.0), wide(0, 1, 2, 7, 60)
SHARES = wide(0.01, 0.3, 0.5, 0.9, 0.999)
GAUSSIAN = (lambda m: m, lambda t: t * t / 2, lambda mu, phi: stats.norm(mu, np.sqrt(phi)))
PROPORTION = (lambda m: mp.log(m / (1 - m)) if 0 < m < 1 else mp.mpf(0), lambda t: mp.log1p(mp.exp(t)))
POISSON = (lambda m: mp.log(m), lambda t: mp.exp(t))
GAMMA = (lambda m: -1 / m, lambda t: -mp.log(-t))
INVERSE_GAUSSIAN = (lambda m: -1 / (2 * m * m), lambda t: -mp.sqrt(-2 * t))


def gamma_law(mu: Any, phi: float) -> Any:
    return stats.gamma(1 / phi, scale=mu * phi)


def inverse_gaussian_law(mu: Any, phi: float) -> Any:
    return stats.invgauss(mu * phi, scale=1 / phi)


def negative_binomial(alpha: float) -> Case:
    family = families.NegativeBinomial(alpha)
    a = mp.mpf(float(family.alpha))
    cumulant = (lambda t: -mp.log1p(-a * mp.exp(t)) / a) if alpha else mp.exp
    law = (
        (lambda mu, phi: stats.nbinom(1 / alpha, 1 / (1 + alpha * mu)))
        if alpha
        else (lambda mu, phi: stats.poisson(mu))
    )
    return Case(family, COUNTS, MEANS, lambda m: mp.log(m / (1 + a * m)), cumulant, law)


def tweedie(power: float, y: Tensor, mu: Tensor, law: Any) -> Case:
    family = families.Tweedie(power)
    p = mp.mpf(float(family.power))
    limits = {0.0: GAUSSIAN, 1.0: POISSON, 2.0: GAMMA, 3.0: INVERSE_GAUSSIAN}
    theta, cumulant = (
        limits[power][:2]
        if power in limits
        else (lambda m: m ** (1 - p) / (1 - p), lambda t: ((1 - p) * t) ** ((2 - p) / (1 - p)) / (2 - p))
    )
    return Case(family, y, mu, theta, cumulant, law, 0.6)


ZERO_OR_MORE = torch.cat([wide(0.0), POSITIVE])
LINE = (wide(-3, -0.5, 0, 0.2, 2.5, 10), wide(-2, 0.1, 1, 5))
CASES: dict[str, list[Case]] = {
    "gaussian": [Case(families.Gaussian(), *LINE, *GAUSSIAN, 2.3)],
    "bernoulli": [Case(families.Bernoulli(), wide(0, 1), SHARES, *PROPORTION, lambda mu, phi: stats.bernoulli(mu))],
    "binomial": [Case(families.Binomial(), wide(0, 0.1, 0.5, 0.9, 1), SHARES, *PROPORTION, None)],
    "poisson": [Case(families.Poisson(), COUNTS, MEANS, *POISSON, lambda mu, phi: stats.poisson(mu))],
    "gamma": [Case(families.Gamma(), POSITIVE, MEANS, *GAMMA, gamma_law, 0.7)],
    "exponential": [Case(families.Exponential(), POSITIVE, MEANS, *GAMMA, gamma_law)],
    "inverse_gaussian": [
        Case(families.InverseGaussian(), POSITIVE, MEANS, *INVERSE_GAUSSIAN, inverse_gaussian_law, 0.4)
    ],
    "negative_binomial": [negative_binomial(alpha) for alpha in (0.0, 1e-9, 0.5, 3.0)],
    "tweedie": [
        tweedie(0.0, *LINE, GAUSSIAN[2]),
        tweedie(1.0, ZERO_OR_MORE, MEANS, None),
        *(tweedie(p, ZERO_OR_MORE, MEANS, None) for p in (1.0001, 1.2, 1.5, 1.9, 1.9999)),
        tweedie(2.0, POSITIVE, MEANS, gamma_law),
        tweedie(2.5, POSITIVE, MEANS, None),
        tweedie(3.0, POSITIVE, MEANS, inverse_gaussian_law),
        tweedie(4.5, POSITIVE, MEANS, None),
    ],
}


def found() -> list[type[Family]]:
    """Every family of one predictor: the classes below `Family` of the library that none of its own is derived from."""
    leaves, open_ = [], [Family]
    while open_:
        one = open_.pop()
        below = [found for found in one.__subclasses__() if found.__module__.startswith("torchglm.")]
        below = [found for found in below if not issubclass(found, VectorFamily)]
        open_ += below
        leaves += [] if below else [one]
    return sorted(leaves, key=lambda family: family.name)


ALL = [case for family in found() for case in CASES[family.name]]


def links_of(case: Case) -> list[Link]:
    """The links under which the means of a case make sense."""
    names = ["identity", "log", "softplus", "sqrt", "inverse", "inverse_squared"]
    if case.family.mean_upper == 1:
        names = ["logit", "probit", "cloglog", "loglog", "cauchit", "identity", "log"]
    chosen = [links.get(name) for name in names] + [Power(0.4), case.family.canonical_link, case.family.default_link]
    return list({repr(link): link for link in chosen}.values())


PAIRS = [(case, link) for case in ALL for link in links_of(case)]


def grid(case: Case, link: Link | None = None) -> tuple[Tensor, Tensor]:
    """Every response with every mean that a link can give, flat."""
    mu = case.mu[case.mu > 0] if link is not None and link.name != "identity" else case.mu
    y, mu = torch.meshgrid(case.y, mu, indexing="ij")
    return y.flatten(), mu.flatten()
