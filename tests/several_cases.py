"""Every family of several predictors, found by its class: examples, responses that suit it, and sums over its law."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import torchglm as tg
from torchglm import links
from torchglm.families.several import (
    Beta,
    BetaBinomial,
    Compound,
    Dispersed,
    Hurdle,
    LogLogistic,
    LogNormal,
    LogTimes,
    Multinomial,
    Ordinal,
    Overdispersed,
    Plain,
    VectorFamily,
    Weibull,
    ZeroInflated,
)
from torchglm.rows.responses import Response

CLASSES = 4


def categorical() -> Iterator[VectorFamily]:
    yield Multinomial(classes=CLASSES)
    yield Multinomial(2, classes=["a", "b", "c", "d"])
    for link in ("logit", "probit", "cloglog", "loglog", "cauchit"):
        yield Ordinal(link, classes=CLASSES)
        yield Ordinal(link, "continuation", classes=CLASSES)
    yield Ordinal(kind="adjacent", classes=CLASSES)
    yield Ordinal(free=True, classes=CLASSES)


def numerical() -> Iterator[VectorFamily]:
    yield Plain(tg.Poisson())
    yield Dispersed(tg.Gaussian())
    yield Dispersed(tg.Gaussian(), links.Log())
    yield Dispersed(tg.Gamma(), links.Log())
    yield Dispersed(tg.InverseGaussian(), links.Log())
    yield Overdispersed()
    yield Overdispersed(links.Softplus())
    yield Compound()
    yield Compound(power=1.4)
    yield Beta()
    yield Beta(links.CLogLog())
    yield BetaBinomial()
    yield BetaBinomial(links.Probit())
    yield ZeroInflated("poisson")
    yield ZeroInflated(tg.NegativeBinomial())
    yield ZeroInflated(tg.NegativeBinomial(0.4))
    yield Hurdle(tg.Poisson())
    yield Hurdle("negative_binomial")
    yield Hurdle(tg.Gamma()).linked(links.Log())
    yield Hurdle(tg.InverseGaussian()).linked(links.Log())
    yield Hurdle(tg.LogNormal())
    yield Hurdle(tg.Beta())
    yield Weibull()
    yield LogNormal()
    yield LogLogistic()


def families() -> list[VectorFamily]:
    return [*categorical(), *numerical()]


def innermost(family: VectorFamily) -> Any:
    """The family within all others."""
    inner = getattr(family, "family", None)
    return family if inner is None else innermost(inner) if isinstance(inner, VectorFamily) else inner


def title(family: VectorFamily) -> str:
    parts = [family.name, getattr(family, "kind", ""), "known" if getattr(family, "power", None) else ""]
    if hasattr(family, "family"):
        inner = innermost(family)
        parts += [inner.name, "known" if getattr(inner, "alpha", None) is not None else ""]
    return " ".join(filter(None, [*parts, family.links[family.predictors[0]].name]))


class Drawn(dict[str, Tensor]):
    """A response `y` and the roles beside it."""

    @property
    def roles(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.items() if name != "y"}

    def each(self, change: Any) -> Drawn:
        return Drawn({name: change(value) for name, value in self.items()})

    def response(self, family: VectorFamily) -> Response:
        return family.encode(self["y"], **self.roles)[0]


def draws(family: VectorFamily, shape: tuple[int, ...], seed: int = 0) -> Drawn:
    """Responses in the support of the family, not fitted well by anything."""
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def gamma(a: float) -> Tensor:
        return torch._standard_gamma(torch.full(shape, a, dtype=torch.float64), generator=generator)

    if family.name in ("multinomial", "ordinal"):
        return Drawn(y=torch.randint(0, CLASSES, shape, generator=generator).double())
    inner, apart = innermost(family), isinstance(family, (ZeroInflated, Hurdle))
    amounts = torch.randn(shape, generator=generator, dtype=torch.float64).exp() + 0.1
    if isinstance(family, LogTimes):
        return Drawn(y=amounts, event=(uniform() < 0.7).double())
    if family.counts:
        amounts = torch.poisson(2 * gamma(2.0), generator=generator)
    elif isinstance(inner, (Beta, BetaBinomial)):
        amounts = (one := gamma(2.0)) / (one + gamma(3.0))
    elif isinstance(inner, (Compound, tg.Tweedie)):
        amounts = torch.where(uniform() < 0.2, 0.0, amounts)
    if isinstance(inner, BetaBinomial):
        trials = torch.randint(0, 12, shape, generator=generator).double()
        return Drawn(y=torch.binomial(trials, amounts, generator=generator), trials=trials)
    return Drawn(y=torch.where(uniform() < 0.3, 0.0, amounts) if apart else amounts)


def predictors_of(family: VectorFamily, n: int, seed: int = 1) -> Tensor:
    """(K, n) predictors at which the family has a law."""
    generator = torch.Generator().manual_seed(seed)
    eta = torch.randn(len(family.predictors), n, generator=generator, dtype=torch.float64) * 1.5
    return eta.sort(0).values if family.name == "ordinal" else eta


def calm_predictors_of(family: VectorFamily, n: int, seed: int = 1) -> Tensor:
    """The same, where the law has no heavy tail and no pole: for sums and integrals over it."""
    eta = predictors_of(family, n, seed) / 5
    if isinstance(family, (Beta, BetaBinomial)) or isinstance(innermost(family), Beta):
        eta[-1] += 2.5
    if innermost(family).name in ("gamma", "inverse_gaussian") or isinstance(innermost(family), LogTimes):
        eta[-1] -= 2
    return eta


def support(family: VectorFamily) -> tuple[Response, Tensor]:
    """(S, 1) responses over the support of the family, and the weight each has in a sum over it."""
    inner, one = innermost(family), torch.ones((), dtype=torch.float64)
    if family.name in ("multinomial", "ordinal"):
        y = torch.arange(CLASSES, dtype=torch.float64).unsqueeze(-1)
        return y, torch.ones_like(y)
    if isinstance(inner, BetaBinomial):
        y = torch.arange(8, dtype=torch.float64).unsqueeze(-1)
        return family.encode(y, trials=torch.full_like(y, 7.0))[0], torch.ones_like(y)
    if family.counts:
        y = torch.arange(400, dtype=torch.float64).unsqueeze(-1)
        return y, torch.ones_like(y)
    u = torch.linspace(-36, 36, 4001, dtype=torch.float64).unsqueeze(-1)
    step = float(u[1] - u[0])
    if isinstance(inner, Beta):
        y, weight = u.sigmoid(), u.sigmoid() * (-u).sigmoid() * step
    elif isinstance(inner, tg.Gaussian):
        y, weight = u, torch.full_like(u, step)
    else:
        y, weight = (2 * u).exp(), (2 * u).exp() * step * 2
    if isinstance(family, Hurdle) or isinstance(inner, (Compound, tg.Tweedie)):
        y, weight = torch.cat([one.reshape(1, 1) * 0, y]), torch.cat([one.reshape(1, 1), weight])
    return y, weight
