"""Inference for a fit whose columns a lasso chose: its bias taken off in one step, with errors for every column."""

from __future__ import annotations

from dataclasses import replace

import torch

from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.problem import Problem
from torchglm.fitting.state import Solution
from torchglm.inference.build import build
from torchglm.inference.fitted import Fitted
from torchglm.rows.grams import GRAM_PIVOT
from torchglm.rows.ranks import own_rows


def debiased(fitted: Fitted) -> Fitted:
    """The desparsified form of a lasso or elastic net, for more rows than columns: `b + (X'WX)^-1 score(b)`.

    Its covariance is the dispersion times the inverse information of all columns, chosen or not, so that its intervals
    hold whatever chose the strength. Raises `ValueError` for as many columns as rows, for columns that depend on
    others, and where the step leaves the range of the means.
    Source: van de Geer, Buehlmann, Ritov & Dezeure (2014), Ann. Statist. 42, 1166-1202, with the exact inverse.
    """
    source, flat, p = fitted.source, fitted.flat, fitted.flat.coef.shape[-1]
    if bool((flat.nobs <= p).any()):
        raise ValueError(
            f"inference='debiased' takes more rows than columns; here are {int(flat.nobs.min())} rows and {p} "
            "coefficients. Leave out columns, or inference=, and take the estimates without errors."
        )
    problem = Problem.of(source, next(iter(own_rows(source))), fitted.family, fitted.link)
    keep = torch.ones_like(flat.keep)
    none = torch.zeros_like(flat.status, dtype=torch.bool)
    observed = problem.several and not problem.canonical
    moments = fold(source, Point(flat.coef, observed), fitted.family, fitted.link)
    inverse = problem.inverse(moments, flat.coef, keep, none, flat.nobs)
    coef = flat.coef + inverse.solve(moments.score)
    moments = fold(source, Point(coef, observed, before=coef), fitted.family, fitted.link)
    there = problem.inverse(moments, coef, keep, none, moments.weight)
    if not bool((inverse.positive & there.positive & (inverse.pivot >= GRAM_PIVOT)).all()):
        raise ValueError("inference='debiased' takes columns that do not depend on others. Leave out those that do.")
    if not bool(moments.valid.all()):
        raise ValueError(
            "inference='debiased': the step that takes off the bias leaves the range of the means. Take a link without "
            "an edge, such as log, or a weaker strength."
        )
    made = build(
        Solution(coef, keep, moments, there.root, flat.status, flat.n_iter, none),
        source,
        fitted.family,
        fitted.link,
        fitted.batch_shape,
        [*fitted.names, *fitted.cuts],
        constant=fitted.intercept,
        penalty=None,
        dispersion=None,
        tol=fitted.tol,
        context=fitted.context | {"debiased": str(fitted.penalty)},
        plan=fitted.plan,
    )
    return replace(made, flat=replace(made.flat, covariance=made.model_covariance), covariance_kind="debiased")
