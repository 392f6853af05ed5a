"""How families of several predictors are put into words: their titles, and what each predictor stands for."""

from __future__ import annotations

from dataclasses import dataclass

from torchglm import links
from torchglm.families import Family
from torchglm.families.several import (
    Classes,
    Compound,
    Dispersed,
    Hurdle,
    LogTimes,
    Multinomial,
    Ordinal,
    Overdispersed,
    Plain,
    VectorFamily,
    Weibull,
    ZeroInflated,
)
from torchglm.links import Link
from torchglm.report import words

_TITLES = {
    "beta_binomial": "beta-binomial",
    "lognormal": "log-normal",
    "loglogistic": "log-logistic",
    "weibull": "Weibull",
}
_KINDS = {
    "cumulative": "P(y ≤ k) = F(threshold k − x β)",
    "adjacent": "log(P(y = k) / P(y = k + 1)) = threshold k − x β",
    "continuation": "P(y = k | y ≥ k) = F(threshold k − x β)",
}


@dataclass(frozen=True)
class Quantity:
    """What a predictor moves: its title, the link behind it, and what exp(coef) is and multiplies.

    `ratio` is None where exp(coef) says nothing; `what` is what a coefficient moves, in a sentence.
    """

    title: str
    link: Link
    ratio: str | None
    what: str


def law_title(family: Family) -> str:
    """A family as it is written in prose: `zero-inflated negative binomial`."""
    if isinstance(family, (ZeroInflated, Hurdle)):
        return f"{'zero-inflated' if isinstance(family, ZeroInflated) else 'hurdle'} {law_title(family.family)}"
    if isinstance(family, Plain):
        return words.family_title(family.family.name)
    name = {Overdispersed: "negative_binomial", Compound: "tweedie"}.get(type(family), family.name)
    return _TITLES.get(name, words.family_title(name))


def regression_title(family: VectorFamily) -> str:
    """`Ordinal regression, logit link`; `Gamma regression, log link, with a predictor of the dispersion`."""
    name = law_title(family)
    name = f"{name[:1].upper()}{name[1:]}"
    if isinstance(family, Multinomial):
        return "Multinomial logistic regression"
    if isinstance(family, Ordinal):
        kind = "" if family.kind == "cumulative" else f" ({family.kind})"
        return f"{name} regression{kind}, {words.link_title(family.link.name)} link"
    if isinstance(family, LogTimes):
        return f"{name} regression of times"
    link = "" if _logs(family) else f", {words.link_title(family.default_link.name)} link"
    beside = family.others if isinstance(family, (Dispersed, Overdispersed, Compound)) else ()
    named = ", with a predictor of " + " and of ".join(beside) if beside else ""
    return f"{name} regression{link}{named}"


def link_facts(family: VectorFamily) -> str:
    """The link of every predictor: `log; zero logit`."""
    if isinstance(family, Multinomial):
        return "logit against the baseline"
    if isinstance(family, Ordinal):
        return words.link_title(family.link.name)
    first, *others = family.predictors
    said = [f"{name} {words.link_title(family.links[name].name)}" for name in others]
    own = "logarithm of the response" if _logs(family) else words.link_title(family.links[first].name)
    return "; ".join([own, *said])


def quantity(family: VectorFamily, name: str | None) -> Quantity:
    """What the predictor `name` stands for; None is what all predictors of an ordinal model share."""
    if isinstance(family, Ordinal):
        return _of_ordinal(family, name)
    if isinstance(family, Multinomial):
        if family.base is None:
            return Quantity(str(name), links.Log(), "factor of the odds", f"probability of {name}, up to a factor")
        base = str(family.known[family.base])
        return Quantity(
            f"{name}, against {base}", links.Log(), family.ratio_text, f"probability of {name} relative to {base}"
        )
    assert name is not None
    return _of_first(family) if name == family.predictors[0] else _of_other(family, name)


def explained(family: VectorFamily) -> list[str]:
    """How the coefficients make the law, a sentence each."""
    if isinstance(family, Ordinal):
        free = " Slopes named by a cut differ from cut to cut." if family.free else ""
        return [f"{_KINDS[family.kind]}: a positive slope moves towards higher classes.{free}"]
    if isinstance(family, Multinomial):
        if family.base is None:
            return ["Every class has its own coefficients, of log P(class) up to a constant of the row."]
        return [f"Every class has its own coefficients, of log(P(class) / P({family.known[family.base]}))."]
    return []


def _of_ordinal(family: Ordinal, name: str | None) -> Quantity:
    title = "Slopes" if name is None else f"Slopes at {name}"
    logit = family.link.name == "logit"
    at = "a higher class" if name is None else f"a class above {name.split('|')[0]}"
    if family.kind == "adjacent":
        at = "the next class" if name is None else "{1}, against {0}".format(*name.split("|", 1))
    if family.kind == "continuation":
        at = "going on to a higher class"
    what = f"odds of {at}" if logit else "predictor of higher classes"
    return Quantity(title, links.Logit() if logit else links.Identity(), "odds ratio" if logit else None, what)


def _of_first(family: VectorFamily) -> Quantity:
    """The predictor of the mean, or of the location of log time."""
    inner = family.family if isinstance(family, (ZeroInflated, Hurdle)) else family
    if isinstance(inner, LogTimes):
        amount = isinstance(family, Hurdle)
        what = "time by which 63 % have had the event" if isinstance(inner, Weibull) else "median time"
        what = what.replace("time", "amount above 0") if amount else what
        title = f"Location of the log {'amount above 0' if amount else 'time'}"
        return Quantity(title, links.Log(), "ratio of amounts" if amount else family.ratio_text, what)
    link = family.links[family.predictors[0]]
    what, title = family.mean_text, "Mean"
    if isinstance(family, ZeroInflated):
        title, what = "Count, where it is no structural zero", "expected count that is no structural zero"
    if isinstance(family, Hurdle):
        title = "Count above 0" if family.counts else "Amount above 0"
        what = "mean of the count before its zeros are cut off" if family.counts else "expected amount above 0"
    if isinstance(family, Plain):
        what = family.family.mean_text
    if link.multiplies == "odds":
        what = "odds"
    ratio = {"odds": "odds ratio", "mean": family.ratio_text}.get(link.multiplies)
    return Quantity(f"{title} ({words.link_title(link.name)} link)", link, ratio, what)


def _of_other(family: VectorFamily, name: str) -> Quantity:
    """A further predictor: that of zeros, or of a parameter of the law."""
    link = family.links[name]
    if name == "zero" and isinstance(family, (ZeroInflated, Hurdle)):
        kind = "a structural zero" if isinstance(family, ZeroInflated) else "a zero"
        return Quantity(f"Probability of {kind} (logit link)", link, "odds ratio", f"odds of {kind}")
    title = f"{name[:1].upper()}{name[1:]} ({words.link_title(link.name)} link)"
    ratio = f"{name} ratio" if link.multiplies == "mean" else None
    return Quantity(title, link if ratio else links.Identity(), ratio, name if ratio else f"predictor of the {name}")


def _logs(family: VectorFamily) -> bool:
    """Whether the first predictor is that of a logarithm of the response."""
    inner = family.family if isinstance(family, (ZeroInflated, Hurdle)) else family
    return isinstance(inner, LogTimes)


def discrete(family: VectorFamily) -> bool:
    """Whether responses have probabilities, so that a share of the log-likelihood can be explained."""
    return isinstance(family, Classes) or family.counts
