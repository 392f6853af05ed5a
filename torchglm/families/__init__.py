"""Every exponential dispersion family: a row of McCullagh & Nelder's table is a class.

A family is the loss of a GLM: `log f(y) = w (y theta - b(theta)) / phi + c(y, phi / w)`, written here as
`-w d(y, mu) / (2 phi) + log_base(y, phi / w)` with the unit deviance `d`, so that nothing large cancels.
Families know nothing of links beyond the functions every link offers.

`base` holds the contract, `numerics` what the formulas share; the families stand by what they model: `real`,
`proportions`, `counts`, `positive`, `durations`, `tweedie`. To add one, write its class in the file it belongs to
and name it once in `MEMBERS` below; the tests find it by themselves and ask for a reference case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NoReturn

from torchglm.families.base import Family
from torchglm.families.counts import NegativeBinomial, Poisson
from torchglm.families.durations import Exponential
from torchglm.families.positive import Gamma, InverseGaussian
from torchglm.families.proportions import Bernoulli, Binomial
from torchglm.families.real import Gaussian
from torchglm.families.several import BY_NAME as SEVERAL
from torchglm.families.tweedie import Tweedie
from torchglm.links.inheritance import require_name, require_text
from torchglm.writing.nearest import absent, nearest

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


ELSEWHERE = {  # names in other libraries, by their letters
    "logistic": "'bernoulli'",
    "logit": "'bernoulli', whose link is the logit",
    "binary": "'bernoulli'",
    "probit": "family='bernoulli', link='probit'",
    "linear": "'gaussian'",
    "ols": "'gaussian'",
    "negbin": "'negative_binomial'",
    "negbinomial": "'negative_binomial'",
    "nb": "'negative_binomial'",
    "nbinom": "'negative_binomial'",
    "inversegaussian": "'inverse_gaussian'",
    "invgauss": "'inverse_gaussian'",
    "quasipoisson": "family='poisson', dispersion='pearson'",
    "quasibinomial": "family='binomial', dispersion='pearson'",
    "softmax": "'multinomial'",
    "categorical": "'multinomial'",
    "cumulative": "'ordinal'",
    "polr": "'ordinal'",
    "bce": "'bernoulli'",
    "bceloss": "'bernoulli'",
    "bcewithlogitsloss": "'bernoulli'",
    "logloss": "'bernoulli'",
    "mse": "'gaussian'",
    "mseloss": "'gaussian'",
    "squarederror": "'gaussian'",
    "poissonnll": "'poisson'",
    "poissonnllloss": "'poisson'",
    "gaussiannll": "'gaussian', with predictors=('dispersion',)",
    "gaussiannllloss": "'gaussian', with predictors=('dispersion',)",
    "crossentropy": "'multinomial'",
    "crossentropyloss": "'multinomial'",
    "negativebinomial": "'negative_binomial'",
    "zip": "torchglm.ZeroInflated('poisson')",
    "zinb": "torchglm.ZeroInflated('negative_binomial')",
}


def names() -> list[str]:
    """The names that `get` knows of families of one predictor; those of several are in `several.BY_NAME`."""
    return list(BY_NAME)


def get(family: str | Family | type[Family], /, **arguments: Any) -> Family:
    """The family of that name with those arguments, or the family itself.

    A class is made with these arguments. Raises `ValueError` for an unknown name, `TypeError` for what is no family or
    has no name.
    """
    if isinstance(family, Family):
        require_name(family, "family")
        return family
    if isinstance(family, type) and issubclass(family, Family):
        return get(family(**arguments))
    known: dict[str, type[Family]] = {**BY_NAME, **SEVERAL}
    require_text(family, "family", known, ELSEWHERE)
    if family not in known:
        raise ValueError(f"unknown family {family!r}{_meant(family, known)}. Known: {', '.join(known)}.")
    return known[family](**arguments)


def _meant(name: str, known: Iterable[str]) -> str:
    """What stands here for the name that another library has, or the nearest name."""
    letters = re.sub("[^a-z]+", "", name.lower())
    return f" (here it is {ELSEWHERE[letters]})" if letters in ELSEWHERE else nearest(name, known)


def __getattr__(name: str) -> NoReturn:
    several = {one.__name__: f"torchglm.{one.__name__}" for one in SEVERAL.values()}
    raise AttributeError(absent("module 'torchglm.families'", name, several, __all__))
