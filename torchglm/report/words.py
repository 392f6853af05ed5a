"""How models and coefficients are put into words; no tensors, no layout."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torchglm.families import Family
from torchglm.links import Identity, Link
from torchglm.writing.numbers import fixed, percent, short
from torchglm.writing.terminal import head, width

INTERCEPT = "(Intercept)"
_UNBOUNDED = 40.0  # width of an interval on a log or logit scale past which a ratio says nothing

_FAMILY_TITLES = {
    "inverse_gaussian": "inverse Gaussian",
    "negative_binomial": "negative binomial",
    "gaussian": "Gaussian",
    "bernoulli": "Bernoulli",
    "poisson": "Poisson",
    "gamma": "Gamma",
    "tweedie": "Tweedie",
}
_LINK_TITLES = {
    "cloglog": "complementary log-log",
    "loglog": "log-log",
    "inverse_squared": "inverse squared",
    "sqrt": "square root",
}
_LEVEL = re.compile(r"^(?:C\()?(?P<factor>[^\[\]]+?)(?:,[^\[\]]*)?\)?\[T\.(?P<level>.*)\]$")


def ratio_name(family: Family, link: Link) -> str | None:
    """What exp(coef) is: `odds ratio`, `rate ratio`, `risk ratio`, `ratio of means`; None for other links."""
    return {"odds": "odds ratio", "mean": family.ratio_text}.get(link.multiplies)


def family_title(family: str) -> str:
    """A family as it is written in prose: `inverse Gaussian`."""
    return _FAMILY_TITLES.get(family, family.replace("_", " "))


def link_title(link: str) -> str:
    """A link as it is written in prose: `complementary log-log`."""
    return _LINK_TITLES.get(link, link.replace("_", " "))


def status_title(name: str) -> str:
    """A status code in prose: `ITERATION_LIMIT` as `iteration limit`."""
    return name.lower().replace("_", " ")


def model_title(family: str, link: str) -> str:
    """`Poisson regression, log link`."""
    name = family_title(family)
    return f"{name[:1].upper()}{name[1:]} regression, {link_title(link)} link"


@dataclass(frozen=True)
class Reading:
    """Sentences on the coefficients of one model.

    `names` are all its columns; `references` the reference level of each factor coded against one, by the
    factor's text in the formula; `exposure` whether the fit had an offset. `quantity` is what the coefficients move, as
    the link says it, where that is not the mean of the family.
    """

    family: Family
    link: Link
    names: Sequence[str] = ()
    references: Mapping[str, str] = field(default_factory=dict)
    exposure: bool = False
    level: float = 0.95
    quantity: str = ""

    def sentence(self, name: str, estimate: float, low: float, high: float) -> str:
        """One plain sentence on what the coefficient `name` says, with its interval."""
        if math.isnan(estimate):
            return f"{name} is not estimated (aliased with other columns, or the fit failed)."
        if math.isinf(estimate):
            return f"{name} runs to {'+' if estimate > 0 else '-'}infinity: its rows are told apart without error."
        subject = "The intercept" if name == INTERCEPT else self._subject(name)
        if self.link.multiplies in ("mean", "odds") and high - low > _UNBOUNDED:
            return f"{subject} has an effect that the rows do not bound (estimate {short(estimate)})."
        if name == INTERCEPT:
            return self._baseline(estimate, low, high)
        return f"{subject} {self._effect(estimate, low, high)}{self._proviso(name)}."

    def _subject(self, name: str) -> str:
        """The subject of a sentence about a slope, a level of a factor or an interaction."""
        if len(factors(name)) > 1:
            return f"The interaction {name}"
        found, factor = _LEVEL.match(name), name.partition("[")[0]
        if not found and factor in self.references and name.endswith("]"):  # every level has its own column
            return f"{factor.removeprefix('C(').removesuffix(')')} = {name[len(factor) + 1 : -1]}"
        if not found:
            return f"One unit more of {name}"
        against = self.references.get(factor, "the reference level")
        return f"{found['factor'].strip()} = {found['level']}, against {against},"

    def _proviso(self, name: str) -> str:
        if len(factors(name)) > 1:
            return ", on top of its parts"
        if any(name in factors(other) for other in self.names if other != name):
            return ", where the terms it interacts with are zero or at their reference level"
        return ", the other terms held fixed"

    def _baseline(self, estimate: float, low: float, high: float) -> str:
        where = f"With every other term at zero and factors at their reference level, the {self._what()} is"
        if self.quantity and len(self.names) == 1:
            where = f"The {self._what()} is"
        if self.link.multiplies == "mean":
            return f"{where} {self._ratio(estimate, low, high)}{', per unit of exposure' * self.exposure}."
        if self.link.multiplies == "odds":
            return (
                f"{where.removesuffix(' is')} are {self._ratio(estimate, low, high)}, a probability of "
                f"{short(_expit(estimate), 3)}."
            )
        return f"{where} {self._values(estimate, low, high)}."

    def _effect(self, estimate: float, low: float, high: float) -> str:
        if self.link.multiplies in ("mean", "odds"):
            return f"multiplies the {self._what()} by {self._ratio(estimate, low, high)}{_change(estimate)}"
        if estimate < 0:
            return f"takes {self._values(-estimate, -high, -low)} from the {self._what()}"
        return f"adds {self._values(estimate, low, high)} to the {self._what()}"

    def _what(self) -> str:
        """What the coefficient moves."""
        if self.quantity:
            return self.quantity
        if self.link.multiplies == "mean" or type(self.link) is Identity:
            return self.family.mean_text
        return "odds" if self.link.multiplies == "odds" else f"{link_title(self.link.name)} predictor"

    def _ratio(self, estimate: float, low: float, high: float) -> str:
        return self._values(*(math.exp(min(v, 700.0)) for v in (estimate, low, high)))

    def _values(self, estimate: float, low: float, high: float) -> str:
        """`1.35 (95 % interval 1.26 to 1.45)`, with decimals that suit the width of the interval."""
        [[estimate_text, low_text, high_text]] = fixed([(estimate, low, high)], [(high - low) / 4], digits=2)
        if math.isnan(low) or math.isnan(high):
            return f"{estimate_text} (no interval)"
        return f"{estimate_text} ({percent(self.level)} interval {low_text} to {high_text})"


def factors(name: str) -> list[str]:
    """The parts of a column's name: `["a", "C(b)[T.x:y]"]` of `a:C(b)[T.x:y]`."""
    parts, depth = [""], 0
    for character in name:
        depth += (character in "([") - (character in ")]")
        if character == ":" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def label(name: str, longest: int = 28) -> str:
    """A short name for an axis: `region: B` for `C(region)[T.B]`, cut in the middle where it is long."""
    found = _LEVEL.match(name) if len(factors(name)) == 1 else None
    return cut(f"{found['factor'].strip()}: {found['level']}" if found else name, longest)


def cut(text: str, longest: int) -> str:
    """`text` without its middle where it takes more than `longest` columns; both ends stay readable."""
    if width(text) <= longest:
        return text
    tail = (longest - 1) // 2
    return f"{head(text, longest - 1 - tail)}…{head(text[::-1], tail)[::-1]}"


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > 0 else math.exp(value) / (1 + math.exp(value))


def _change(estimate: float) -> str:
    """`: 2.3 % more`, where a percentage reads more easily than the ratio."""
    change = 100 * math.expm1(min(estimate, 700.0))
    if not 0.01 <= abs(change) <= 200:
        return ""
    return f", {short(abs(change), 3)} % {'more' if change > 0 else 'less'}"
