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
from torchglm.model.nodewise import nodewise
from torchglm.rows.grams import GRAM_PIVOT
from torchglm.rows.ranks import own_rows


def debiased(fitted: Fitted) -> Fitted:
    """The desparsified form of a lasso or elastic net: `b + theta score(b)`, `theta` an inverse of the information.

    With more rows than columns it is the exact one, and the covariance the dispersion times the inverse information of
    all columns, chosen or not, so that intervals hold whatever chose the strength. Otherwise `theta` is made by lassos
    of every column on the others (see `nodewise`), the covariance is `dispersion theta gram theta'`, and deviance,
    dispersion and degrees of freedom stay those of the lasso. Raises `ValueError` for several predictors with as many
    columns as rows, for columns that depend on others, and where the step leaves the range of the means.
    Source: van de Geer, Buehlmann, Ritov & Dezeure (2014), Ann. Statist. 42, 1166-1202.
    """
    if bool((fitted.flat.nobs <= fitted.flat.coef.shape[-1]).any()):
        return _by_lassos(fitted)
    return _by_inverses(fitted)


def _by_lassos(fitted: Fitted) -> Fitted:
    source, flat = fitted.source, fitted.flat
    if fitted.plan is not None:
        raise ValueError(
            f"inference='debiased' of {fitted.family.name} takes more rows than columns; here are "
            f"{int(flat.nobs.min())} rows and {flat.coef.shape[-1]} coefficients. Leave out columns, or inference=."
        )
    moments = fold(source, Point(flat.coef, before=flat.coef), fitted.family, fitted.link)
    total = moments.weight
    gram, score = moments.gram.written_out() / total[:, None, None], moments.score / total.unsqueeze(-1)
    theta = torch.stack([nodewise(one, float(n), fitted.intercept) for one, n in zip(gram, flat.nobs, strict=True)])
    if not bool(torch.isfinite(theta).all()):
        at = int((~torch.isfinite(theta)).any(-1).any(0).nonzero()[0, 0])
        raise ValueError(f"inference='debiased': {fitted.names[at]!r} depends on other columns. Leave one of them out.")
    covariance = theta @ gram @ theta.mT * (flat.dispersion / total)[:, None, None]
    flat = replace(
        flat,
        coef=flat.coef + (theta @ score.unsqueeze(-1)).squeeze(-1),
        keep=torch.ones_like(flat.keep),
        unknown=None,
        covariance=(covariance + covariance.mT) / 2,
    )
    context = fitted.context | {"debiased": str(fitted.penalty)}
    return replace(fitted, flat=flat, context=context, covariance_kind="debiased")


def _by_inverses(fitted: Fitted) -> Fitted:
    source, flat = fitted.source, fitted.flat
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
