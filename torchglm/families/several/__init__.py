"""Families whose law has several linear predictors: classes, and laws of which more than the mean depends on columns.

`base` is the contract; the families stand by what they model: `categorical`, `dispersion`, `counts`, `compound`,
`proportions`, `zeros`, `times`. To add one, write its class in the file it belongs to and name it once in `MEMBERS`.
"""

from __future__ import annotations

from torchglm import links
from torchglm.families.base import Family
from torchglm.families.several.base import VectorFamily
from torchglm.families.several.categorical import Classes, Multinomial
from torchglm.families.several.compound import Compound
from torchglm.families.several.counts import Overdispersed
from torchglm.families.several.dispersion import Dispersed, Plain
from torchglm.families.several.ordinal import Ordinal
from torchglm.families.several.parameters import of_parameters
from torchglm.families.several.proportions import Beta, BetaBinomial
from torchglm.families.several.times import LogLogistic, LogNormal, LogTimes, Weibull
from torchglm.families.several.zeros import Hurdle, ZeroInflated
from torchglm.links import Link

__all__ = [
    "BY_NAME",
    "MEMBERS",
    "Beta",
    "BetaBinomial",
    "Classes",
    "Compound",
    "Dispersed",
    "Hurdle",
    "LogLogistic",
    "LogNormal",
    "LogTimes",
    "Multinomial",
    "Ordinal",
    "Overdispersed",
    "Plain",
    "VectorFamily",
    "Weibull",
    "ZeroInflated",
    "of_parameters",
    "of_predictors",
]

MEMBERS: tuple[type[VectorFamily], ...] = (
    Multinomial,
    Ordinal,
    Plain,
    Dispersed,
    Overdispersed,
    Compound,
    Beta,
    BetaBinomial,
    ZeroInflated,
    Hurdle,
    Weibull,
    LogNormal,
    LogLogistic,
)
# those that users name; the others `of_predictors` makes of a family of one predictor
BY_NAME: dict[str, type[VectorFamily]] = {
    kind.name: kind
    for kind in (Multinomial, Ordinal, Beta, BetaBinomial, ZeroInflated, Hurdle, Weibull, LogNormal, LogLogistic)
}


def of_predictors(family: Family, link: str | Link | type[Link] | None = None) -> VectorFamily:
    """The family with a predictor for each parameter of its law, beside that of the mean.

    Raises `ValueError` for a family that has no other.
    """
    found = of_parameters(family, None if link is None else links.get(link))
    if type(found) is Plain and not isinstance(family, VectorFamily):
        raise ValueError(
            f"{family.name} has no parameter beside its mean that could have a predictor. Leave predictors= out."
        )
    return found
