"""Every link function. A link is the output activation of a GLM: `mu = link(eta)`.

`base` holds the contract; the links stand by the means they reach: `powers`, `positive`, `proportions`. To add one,
write its class in the file it belongs to (its `name`, `inverse`, which is the activation, and `link`; closed forms of
the slopes and the logarithms are worth a line each where they exist) and name it once in `MEMBERS` below; the tests
find it by themselves and ask for a reference formula.
"""

from __future__ import annotations

import re
from typing import NoReturn

from torchglm.links.base import Link
from torchglm.links.inheritance import require_name, require_text
from torchglm.links.positive import Log, Softplus
from torchglm.links.powers import Identity, Inverse, InverseSquared, Power, Sqrt
from torchglm.links.proportions import Cauchit, CLogLog, Logit, LogLog, Probit
from torchglm.writing.nearest import absent, nearest

__all__ = [
    "CLogLog",
    "Cauchit",
    "Identity",
    "Inverse",
    "InverseSquared",
    "Link",
    "Log",
    "LogLog",
    "Logit",
    "Power",
    "Probit",
    "Softplus",
    "Sqrt",
    "get",
    "names",
]

MEMBERS: tuple[type[Link], ...] = (  # those that need no argument
    Identity,
    Log,
    Logit,
    Probit,
    CLogLog,
    LogLog,
    Cauchit,
    Inverse,
    InverseSquared,
    Sqrt,
    Softplus,
)
BY_NAME: dict[str, type[Link]] = {link.name: link for link in MEMBERS}
ELSEWHERE = {  # names in other libraries, by their letters
    "logistic": "'logit'",
    "sigmoid": "'logit'",
    "exp": "'log'",
    "logarithm": "'log'",
    "linear": "'identity'",
    "normal": "'probit'",
    "gaussian": "'probit'",
    "cauchy": "'cauchit'",
    "reciprocal": "'inverse'",
    "inversepower": "'inverse'",
    "mu": "'inverse_squared', which is 1/mu^2 in R",
    "power": "torchglm.links.Power(p)",
    "cloglink": "'cloglog'",
    "gompertz": "'cloglog'",
    "gumbel": "'cloglog'",
}


def names() -> list[str]:
    """The names that `get` knows."""
    return list(BY_NAME)


def get(link: str | Link | type[Link]) -> Link:
    """The link of that name or class, or the link itself.

    Raises `ValueError` for an unknown name, `TypeError` for what is no link, or one without a name.
    """
    if isinstance(link, Link):
        require_name(link, "link")
        return link
    if isinstance(link, type) and issubclass(link, Link):
        return get(link())
    require_text(link, "link", BY_NAME, ELSEWHERE)
    if link not in BY_NAME:
        raise ValueError(f"unknown link {link!r}{_meant(link)}. Known: {', '.join(BY_NAME)}; or pass links.Power(p).")
    return BY_NAME[link]()


def _meant(name: str) -> str:
    """What stands here for the name that another library has, or the nearest name."""
    letters = re.sub("[^a-z]+", "", name.lower())
    return f" (here it is {ELSEWHERE[letters]})" if letters in ELSEWHERE else nearest(name, BY_NAME)


def __getattr__(name: str) -> NoReturn:
    said = {one: ELSEWHERE[one.lower()] for one in (name,) if one.lower() in ELSEWHERE}
    raise AttributeError(absent("module 'torchglm.links'", name, said, __all__))
