"""The words of a check of several predictors: for each topic a sentence with its number, and what to try."""

from __future__ import annotations

from typing import Any

from torchglm.families.several import Classes, Multinomial, Ordinal
from torchglm.inference.adequacy import sentences
from torchglm.inference.adequacy.cells import Below
from torchglm.inference.adequacy.separation import Separation
from torchglm.inference.adequacy.several_questions import CONSTANT, LINK, PARALLEL, VARIANCE
from torchglm.inference.adequacy.several_tests import SPREADS
from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of
from torchglm.writing.numbers import stated

Words = tuple[str, str]


def tested(result: Fitted, topic: str, p: float, zeros: Below | None, i: int) -> Words:
    """On what a test found."""
    if topic.startswith(PARALLEL):
        name = topic.removeprefix(PARALLEL)
        return (
            f"The slope of {name} differs from cut to cut (p {p:.2g}).",
            f"Set it free: Ordinal(free=[{name!r}]), or look at a multinomial model.",
        )
    if topic.startswith(CONSTANT):
        name = topic.removeprefix(CONSTANT)
        whole = "probability of a zero" if name == "zero" else name
        return (
            f"The {whole} is not constant: it moves with the columns of the first predictor (p {p:.2g}).",
            f"Give it columns: predictors={{{name!r}: '~ ...'}}.",
        )
    if topic.startswith(LINK):
        return _link(result, topic.removeprefix(LINK).removeprefix(" of "), p)
    if topic == VARIANCE:
        name = next(name for name in result.predictors if name in SPREADS)
        return (
            f"The {name} moves with the mean beyond what its own columns say (adjusted p {stated(p)}), so standard "
            "errors are off.",
            f"Give {name} the columns of the mean as well, try another family, or robust('HC3').",
        )
    return _counts(result, topic, p, zeros, i)


def _link(result: Fitted, predictor: str, p: float) -> Words:
    family = family_of(result)
    whose = f"predictor of {predictor}" if predictor else "linear predictor"
    if isinstance(family, Classes):
        whose = "linear predictors" if isinstance(family, Multinomial) else whose
    said = (
        f"The {whose} {'do' if whose.endswith('s') else 'does'} not bend as the data do: the square adds to the fit "
        f"(adjusted p {stated(p)}), and the coefficients are biased where that matters."
    )
    other = "Try another link, as in Ordinal(link='probit'), or curved" if isinstance(family, Ordinal) else "Try curved"
    return said, f"{other} terms and interactions of the strongest columns."


def _counts(result: Fitted, topic: str, p: float, zeros: Below | None, i: int) -> Words:
    if topic == "dispersion":
        kind = "ZeroInflated" if result.family.name == "zero_inflated" else "Hurdle"
        return (
            f"The counts within vary more or less than Poisson ones (adjusted p {stated(p)}), so standard errors are "
            "off.",
            f"Try {kind}('negative_binomial'), or robust('HC3'); look for a column that is missing.",
        )
    assert zeros is not None
    seen, expected = float(zeros.seen[i, 0]), float(zeros.expected[i, 0])
    return (
        f"There are {'more' if seen > expected else 'fewer'} zeros than the model expects: {seen:.0f} seen, "
        f"{expected:.1f} expected (adjusted p {stated(p)}).",
        "Give their predictor more columns, or the counts another law."
        if "zero" in result.predictors
        else "Give zeros a law of their own: ZeroInflated or Hurdle.",
    )


def separation(result: Fitted, found: Separation, i: int) -> Words:
    """On a likelihood without a maximum: along which coefficients, whose names say the class and the column."""
    said, advice = sentences.separation(result, found, i)
    family = family_of(result)
    if isinstance(family, Classes):
        return said, "Merge classes or levels, drop the column, or use a penalty such as Ridge."
    return said, "Merge levels, drop the column, or use a penalty such as Ridge."


def aliased(lost: list[str]) -> Words:
    """On columns that were dropped."""
    return (
        f"Columns that depend on those before them have no coefficient: {', '.join(lost)}.",
        "Leave them out, or those they depend on.",
    )


def thin(few: list[tuple[Any, float]], own: float) -> Words:
    """On classes with few rows for each of their coefficients."""
    said = ", ".join(f"{label} ({count:g} rows)" for label, count in few)
    return (
        f"Of some classes there are few rows for {own:.3g} coefficients each: {said}.",
        "Merge them with neighbours, or take fewer columns.",
    )
