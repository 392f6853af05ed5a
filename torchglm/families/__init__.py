"""Every exponential dispersion family: a row of McCullagh & Nelder's table is a class.

A family is the loss of a GLM: `log f(y) = w (y theta - b(theta)) / phi + c(y, phi / w)`, written here as
`-w d(y, mu) / (2 phi) + log_base(y, phi / w)` with the unit deviance `d`, so that nothing large cancels.
Families know nothing of links beyond the functions every link offers.

`base` holds the contract, `numerics` what the formulas share; the families stand by what they model: `real`,
`proportions`, `counts`, `positive`, `durations`, `tweedie`. To add one, write its class in the file it belongs to
and name it once in `MEMBERS` below; the tests find it by themselves and ask for a reference case.
"""

from __future__ import annotations

from typing import Any

from torchglm.families.base import Family
from torchglm.families.counts import NegativeBinomial, Poisson
from torchglm.families.durations import Exponential
from torchglm.families.positive import Gamma, InverseGaussian
from torchglm.families.proportions import Bernoulli, Binomial
from torchglm.families.real import Gaussian
from torchglm.families.several import BY_NAME as SEVERAL
from torchglm.families.tweedie import Tweedie
from torchglm.links.inheritance import require_name

__all__ = [
    "Bernoulli",
    "Binomial",
    "Exponential",
    "Family",
    "Gamma",
    "Gaussian",
    "InverseGaussian",
    "NegativeBinomial",
    "Poisson",
    "Tweedie",
    "get",
    "names",
]

MEMBERS: tuple[type[Family], ...] = (
    Gaussian,
    Bernoulli,
    Binomial,
    Poisson,
    Gamma,
    Exponential,
    InverseGaussian,
    NegativeBinomial,
    Tweedie,
)
BY_NAME: dict[str, type[Family]] = {family.name: family for family in MEMBERS} | {"normal": Gaussian}


def names() -> list[str]:
    """The names that `get` knows of families of one predictor; those of several are in `several.BY_NAME`."""
    return list(BY_NAME)


def get(family: str | Family, /, **arguments: Any) -> Family:
    """The family of that name with those arguments, or the family itself.

    Raises `ValueError` for an unknown name, `TypeError` for a family without one.
    """
    if isinstance(family, Family):
        require_name(family, "family")
        return family
    known: dict[str, type[Family]] = {**BY_NAME, **SEVERAL}
    if family not in known:
        raise ValueError(f"unknown family {family!r}. Known: {', '.join(known)}.")
    return known[family](**arguments)
