"""A family of one predictor in the form of those with a predictor for each parameter of the law."""

from __future__ import annotations

from torchglm.families.base import Family
from torchglm.families.counts import NegativeBinomial, Poisson
from torchglm.families.positive import Gamma, InverseGaussian
from torchglm.families.real import Gaussian
from torchglm.families.several.base import VectorFamily
from torchglm.families.several.compound import Compound
from torchglm.families.several.counts import Overdispersed
from torchglm.families.several.dispersion import Dispersed, Plain
from torchglm.families.several.proportions import Beta
from torchglm.families.several.times import LogLogistic, LogNormal, Weibull
from torchglm.families.tweedie import Tweedie
from torchglm.links import Link

KNOWN: dict[str, type[Family]] = {
    kind.name: kind
    for kind in (
        Gaussian,
        Poisson,
        NegativeBinomial,
        Gamma,
        InverseGaussian,
        Tweedie,
        Beta,
        Weibull,
        LogNormal,
        LogLogistic,
    )
}


def of_parameters(family: str | Family, link: Link | None = None) -> VectorFamily:
    """The family, or that of a name, with a predictor for every parameter that is not given a value.

    Raises `ValueError` for an unknown name.
    """
    if isinstance(family, str):
        if family not in KNOWN:
            raise ValueError(f"no family {family!r} can stand within another. Known: {', '.join(KNOWN)}.")
        family = KNOWN[family]()
    if isinstance(family, VectorFamily):
        return family if link is None else family.linked(link)
    if isinstance(family, NegativeBinomial) and family.estimates_shape:
        return Overdispersed(link)
    if isinstance(family, Tweedie):
        return Compound(link, None if family.estimates_shape else float(family.power))
    return (Dispersed if family.has_dispersion else Plain)(family, link)
