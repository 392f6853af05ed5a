"""Tests of a law of several predictors, one question at a time: links, powers, spread, zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from torchglm.families import Poisson
from torchglm.families.several import (
    BetaBinomial,
    Classes,
    Compound,
    Hurdle,
    Ordinal,
    Plain,
    VectorFamily,
    ZeroInflated,
)
from torchglm.inference.adequacy.cells import Below, zero_sums
from torchglm.inference.adequacy.screening import bent, middle
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.nested import scaled_score, unpenalised
from torchglm.inference.several import family_of, weighed
from torchglm.inference.table import Outcome
from torchglm.inference.vector.columns import plan_of
from torchglm.inference.vector.score import Directions, pieces, score_sums
from torchglm.rows.grams import Dense
from torchglm.rows.planned import gram_of, predictors, project_each
from torchglm.rows.rows import Rows

SPREADS = ("dispersion", "alpha", "precision", "scale")  # predictors that say how far responses lie from their mean
MOST = 100_000  # terms of a sum over counts
REST = 1e-12  # of the sums that such a sum may leave out


@torch.no_grad()
def link_test_several(result: Fitted, predictor: str | None = None) -> Outcome:
    """(*B) the squares of the predictors as columns more, of all of them or of one; see `diagnostics.link_test`."""
    unpenalised(result, "a test of the model")
    family = family_of(result)
    if predictor is not None and predictor not in family.predictors:
        raise ValueError(f"{predictor!r} is no predictor of {family.said}. Known: {', '.join(family.predictors)}.")
    if isinstance(family, Ordinal) and predictor is not None:
        raise ValueError("the cuts of an ordinal model share their slopes: ask link_test() without a predictor.")
    places = [k for k, name in enumerate(family.predictors) if predictor in (None, name)]
    what = "squares of the linear predictors" if predictor is None else f"square of the predictor of {predictor}"
    return _scored(result, squares(result, middles(result), places), f"link test ({what})")


def squares(result: Fitted, means: Tensor, places: Sequence[int]) -> Directions:
    """The squares of the predictors at `places`, less their `means` (K, B, 1); of an ordinal model that of its cuts."""
    family = family_of(result)

    def directions(rows: Rows, eta: Tensor) -> list[Tensor]:
        far = eta - rows.offset.movedim(-1, 0) - means
        if isinstance(family, Ordinal):
            return [family.shifts().to(eta)[:, None, None] * far.mean(0).square()]
        return [into(far[k].square(), eta, k) for k in places]

    return directions


def curved(result: Fitted) -> list[str]:
    """The predictors that have columns, so that their links can be asked for."""
    family, plan = family_of(result), plan_of(result)
    moved = {
        k
        for block in plan.blocks
        if not set(block.columns) <= set(plan.ones)
        for entries in block.entries
        for k, _ in entries
    }
    return [name for k, name in enumerate(family.predictors) if k in moved]


def middles(result: Fitted) -> Tensor:
    """(K, B, 1) the means of the predictors without their offsets, over the rows."""
    total: Any = 0.0
    count: Any = 0.0
    for rows in pieces(result):
        weight = torch.where(rows.weight > 0, rows.weight, 0.0)
        inner = predictors(rows, result.flat.coef) - rows.offset.movedim(-1, 0)
        total = total + torch.where(weight > 0, weight * inner, 0.0).sum(-1, keepdim=True)
        count = count + weight.sum(-1, keepdim=True)
    return total / count


def into(value: Tensor, eta: Tensor, place: int) -> Tensor:
    """(K, B, n) a move of one predictor alone."""
    out = torch.zeros_like(eta)
    out[place] = value
    return out


def _scored(result: Fitted, moves: Directions, title: str) -> Outcome:
    statistic, df = scaled_score(*score_sums(result, moves))
    return Outcome(title, result.shaped(statistic), result.shaped(df))


@torch.no_grad()
def power_link_test_several(result: Fitted) -> Outcome:
    """(*B) the score test along the power links of the first predictor, see `screening.PowerLink`."""
    family = family_of(result)
    name = family.predictors[0]
    positive = name == "mean" and family.support is not constraints.real and not isinstance(family, Classes)
    power = family.links[name].exponent if positive else None
    if power is None:
        raise ValueError(f"{family.said} has no positive mean whose link is a power of it. Use link_test().")
    unpenalised(result, "a test of the model")
    link, origin = family.links[name], None

    def column(rows: Rows, eta: Tensor) -> list[Tensor]:
        nonlocal origin
        mu, used = link(eta[0]), rows.weight > 0
        rate = mu if power else mu / rows.offset[..., 0].exp()
        log = torch.where(used, rate, 1.0).log()
        origin = middle(log, used) if origin is None else origin
        return [into(bent(log - origin, origin, power), eta, 0)]

    return _scored(result, column, "power of the link")


@torch.no_grad()
def variance_test_several(result: Fitted) -> Outcome:
    """(*B) the logarithm of the mean as a column more of the predictor of spread, see `diagnostics.variance_test`."""
    unpenalised(result, "a test of the model")
    family = family_of(result)
    place = spread_of_law(family)
    if place is None:
        raise ValueError(
            f"the spread of {family.said} follows from its other parameters, and none is left to test. Use "
            "dispersion_test() or goodness_of_fit()."
        )
    return _scored(result, of_means(family, place), f"{family.predictors[place]} against the mean")


def of_means(family: VectorFamily, place: int) -> Directions:
    """The logarithm of the mean, or a mean that may be negative, as a move of the predictor at `place`."""
    first = family.predictors[0]
    real = first == "location" or family.support is constraints.real

    def column(rows: Rows, eta: Tensor) -> list[Tensor]:
        mean = family.links[first](eta[0])
        return [into(mean if real else mean.log(), eta, place)]

    return column


def spread_of_law(family: VectorFamily) -> int | None:
    """The place of the predictor of spread; None for a law that has none."""
    found = [k for k, name in enumerate(family.predictors) if name in SPREADS]
    return found[0] if found and not isinstance(family, Classes) else None


@torch.no_grad()
def zero_test_several(result: Fitted) -> Outcome:
    """(*B) the zeros seen against those the law expects, see `diagnostics.zero_test`."""
    unpenalised(result, "a test of the model")
    family = family_of(result)
    if isinstance(family, Hurdle):
        raise ValueError(
            "the zeros of a hurdle have a predictor of their own, and are as many as it was fitted to. Ask "
            "link_test(predictor='zero'), or goodness_of_fit() of the counts above them."
        )
    if not with_zeros(family):
        raise ValueError(f"zero_test() is for laws that put probability on zero, and {family.said} does not.")
    found = zero_sums(result)
    return zeros_of(result, found)


def with_zeros(family: VectorFamily) -> bool:
    """Whether a law has zeros of which something is left to test."""
    counted = family.counts or isinstance(family, BetaBinomial | Compound)
    return counted and not isinstance(family, Hurdle)


def zeros_of(result: Fitted, found: Below) -> Outcome:
    """The test of zeros by their sums."""
    statistic, df = found.test()
    one = found.seen.numel() == 1
    notes = (f"{float(found.seen):g} zeros, {float(found.expected):.1f} expected",) if one else ()
    return Outcome("zeros", result.shaped(statistic), result.shaped(df), notes=notes)


@torch.no_grad()
def dispersion_test_several(result: Fitted, kind: str = "dean") -> Outcome:
    """(*B) whether the Poisson counts within a law vary more or less, see `diagnostics.dispersion_test`.

    The score of `alpha` at 0, with its variance and what the fit has adapted to as sums of the law.
    """
    unpenalised(result, "a test of the model")
    family = family_of(result)
    if kind != "dean":
        raise ValueError(f"kind={kind!r} is for fits of one predictor. Known for {family.said}: dean.")
    if not within_is_poisson(family):
        place = spread_of_law(family)
        said = (
            f"{family.said} has none. Use goodness_of_fit()."
            if place is None
            else f"the {family.predictors[place]} of {family.said} is estimated. Use variance_test()."
        )
        raise ValueError(f"dispersion_test() is for laws with Poisson counts within; {said}")
    u: Any = 0.0
    uu: Any = 0.0
    cross: Any = 0.0
    total: Any = None
    for rows in pieces(result):
        eta, weight = predictors(rows, result.flat.coef), torch.where(rows.weight > 0, rows.weight, 0.0)
        y = torch.where(weight > 0, rows.y, 0.0)
        eta = torch.where(weight > 0, eta, 0.0)
        u = u + (weight * _excess(family, y, eta)).sum(-1)
        square, beside = _moments(family, eta, y)
        uu = uu + (weight * square).sum(-1)
        cross = cross + project_each(rows, weight * beside)
        pairs = family.expected(eta) or family.derivatives(y, eta)[1]
        own = gram_of(rows, weighed(rows, pairs))
        total = own if total is None else total + own
    left = uu - Dense(total.matrix).invert(result.flat.keep).root.within(cross.unsqueeze(-1))[:, 0, 0]
    statistic, df = scaled_score(u.unsqueeze(-1), uu[:, None, None], left[:, None, None])
    notes = (f"the counts vary {'more' if float(u) > 0 else 'less'}",) if u.numel() == 1 else ()
    return Outcome("dispersion within (score of alpha)", result.shaped(statistic), result.shaped(df), notes=notes)


def within_is_poisson(family: VectorFamily) -> bool:
    """Whether Poisson counts stand within a law that has more or other zeros."""
    inner = getattr(family, "family", None)
    return isinstance(family, ZeroInflated | Hurdle) and isinstance(inner, Plain) and type(inner.family) is Poisson


def _excess(family: VectorFamily, y: Tensor, eta: Tensor) -> Tensor:
    """(*N) the derivative of the log-law by `alpha` at 0, the counts within being negative binomial there."""
    mu = family.links["mean"](eta[0])
    plain = ((y - mu).square() - y) / 2
    if isinstance(family, ZeroInflated):
        return torch.where(y == 0, torch.sigmoid(-mu - eta[1]) * plain, plain)
    return torch.where(y == 0, 0.0, plain + mu.square() / 2 / torch.expm1(mu))


def _moments(family: VectorFamily, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The expectation (*N) of the square of `_excess`, and (K, *N) of its product with the score."""
    square, cross, rest = torch.zeros_like(eta[0]), torch.zeros_like(eta), torch.ones_like(eta[0])
    for k in range(MOST):
        value = torch.full_like(eta[0], float(k))
        share = torch.exp(-family.nll(value, eta))
        u = _excess(family, value, eta)
        square = square + share * u.square()
        cross = cross + share * u * family.derivatives(value, eta)[0]
        rest = rest - share
        if bool(((share * u.square() <= REST * square) & (value > family.mean(eta))).all()) and k > float(y.max()):
            break
    return square, cross
