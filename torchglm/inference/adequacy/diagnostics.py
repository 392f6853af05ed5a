"""Tests of whether a model holds, one at a time; `check` asks them all in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.distributions import constraints

from torchglm.families import Family, Poisson
from torchglm.inference.adequacy.screening import LinkTest, PowerLink, run
from torchglm.inference.adequacy.several_tests import (
    dispersion_test_several,
    link_test_several,
    power_link_test_several,
    variance_test_several,
    zero_test_several,
)
from torchglm.inference.adequacy.spread import CameronTrivedi, Overdispersion, VarianceTrend, ZeroCount
from torchglm.inference.apart import of_like_size
from torchglm.inference.by_plan import answered_by
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.nested import unpenalised
from torchglm.inference.table import Outcome
from torchglm.writing.nearest import unknown


def _one(result: Fitted, screen: Any) -> Outcome:
    unpenalised(result, "a test of the model")
    run(result, [screen])
    return screen.outcome()


def _of(result: Fitted, members: Sequence[type[Family]], what: str) -> None:
    if type(result.family) not in members or result.dispersion_kind != "fixed":
        raise ValueError(
            f"{what} is for {' and '.join(family.name for family in members)} fits with dispersion 1, "
            f"this is {result.family} with dispersion {result.dispersion_kind!r}."
        )


@of_like_size
@answered_by(link_test_several)
def link_test(result: Fitted, predictor: str | None = None) -> Outcome:
    """(*B) Pregibon's link test without a refit, see `LinkTest`.

    Of several predictors the square of each is a column more of its own, all tested together, or that of the one named
    `predictor`; the cuts of an ordinal model share one. Raises `ValueError` for an unknown predictor.
    """
    if predictor is not None:
        raise ValueError("predictor= names one of several, and this fit has one. Leave it out.")
    return _one(result, LinkTest(result))


@of_like_size
@answered_by(power_link_test_several)
def power_link_test(result: Fitted) -> Outcome:
    """(*B) the score test along the power links, see `PowerLink`; of several predictors that of the first.

    Raises `ValueError` for a link that is none.
    """
    if result.link.exponent is None:
        raise ValueError(f"the link {result.link.name} is no power of the mean. Use link_test().")
    return _one(result, PowerLink(result))


@of_like_size
@answered_by(dispersion_test_several)
def dispersion_test(result: Fitted, kind: str = "dean") -> Outcome:
    """(*B) over- or under-dispersion: `dean` (Poisson, binomial), or `nb1`, `nb2` of Cameron and Trivedi (Poisson).

    Of zero-inflated and hurdle Poisson counts the score test of negative binomial ones within. Raises `ValueError` for
    other families or an unknown kind. Source: Ridout, Hinde & Demetrio (2001), Biometrics 57; Gurmu (1991), J. Bus.
    Econ. Stat. 9.
    """
    made: dict[str, tuple[Callable[[], Any], tuple[type[Family], ...]]] = {
        "dean": (lambda: Overdispersion(result), Overdispersion.FAMILIES),
        "nb1": (lambda: CameronTrivedi(result, "nb1"), (Poisson,)),
        "nb2": (lambda: CameronTrivedi(result, "nb2"), (Poisson,)),
    }
    if kind not in made:
        raise ValueError(unknown("kind", kind, made))
    make, members = made[kind]
    _of(result, members, f"dispersion_test({kind!r})")
    return _one(result, make())


@of_like_size
@answered_by(zero_test_several)
def zero_test(result: Fitted) -> Outcome:
    """(*B) the zeros observed against those expected, see `ZeroCount`, and for several predictors `cells.Below`.

    NaN where a fit meets its zeros by its make. Raises `ValueError` for a law without zeros.
    """
    if not has_zeros(result):
        raise ValueError(
            "zero_test() is for laws of counts or amounts with zeros and a known dispersion, this is "
            f"{result.family} with dispersion {result.dispersion_kind!r}."
        )
    return _one(result, ZeroCount(result))


def has_zeros(result: Fitted) -> bool:
    """True where the law puts probability on zero and its dispersion is known: an estimate would add to the noise."""
    known = result.dispersion_kind == "fixed" or result.family.has_dispersion and result.dispersion_kind == "number"
    return known and type(result.family.support) is type(constraints.nonnegative)


@of_like_size
@answered_by(variance_test_several)
def variance_test(result: Fitted) -> Outcome:
    """(*B) the variance function against the residuals, see `VarianceTrend`.

    Of several predictors: the score test of the (logarithm of the) mean as a column more of the predictor of spread,
    dispersion, alpha, precision or scale. Raises `ValueError` for a law of several predictors without one.
    """
    return _one(result, VarianceTrend(result))
