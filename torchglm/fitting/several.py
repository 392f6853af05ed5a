"""A pass over rows of several predictors: the same sums, by the products of their plan."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from torchglm.families.several import VectorFamily
from torchglm.fitting.moments import Moments, Point
from torchglm.rows.arrow import ArrowIndexed
from torchglm.rows.grams import Gram, Layout
from torchglm.rows.planned import (
    Pairs,
    applied,
    expanded,
    full,
    gram_of,
    predictors,
    project_each,
)
from torchglm.rows.planned_arrow import arrow_gram
from torchglm.rows.planned_meetings import PlannedCrossed, crossed_gram
from torchglm.rows.products import stack_factors, triangle
from torchglm.rows.rows import Rows, is_all


def several_moments(rows: Rows, point: Point, family: VectorFamily) -> Moments:
    """The moments of rows (in float64) whose family has several predictors.

    The first pass counts; that from constants solves for the coefficients themselves. The curvature is the observed one
    where the point asks for it, else one that is nowhere negative.
    """
    models = rows.y.shape[0]
    nothing = Moments.zero(models, Layout(0), rows.y.device)
    if point.coef is None and point.constant is None and point.averages is None:
        return counted(rows, replace(nothing, score=nothing.score.new_zeros(models, rows.columns)), family)
    plain = is_all(rows.weight, 1.0)
    used = None if plain else rows.weight > 0
    eta = _point(rows, point, family)
    half, score, information = evaluated(family, rows.response, eta, point)
    outside = None if family.all_valid(eta) else ~family.valid(eta)
    if used is not None:
        outside = None if outside is None else outside & used
        score, half = (torch.where(used, value, 0.0) * rows.weight for value in (score, half))
        information = {pair: torch.where(used, value, 0.0) * rows.weight for pair, value in information.items()}
        eta = torch.where(used, eta, 0.0)
    if point.coef is None:  # the first step solves for the coefficients themselves
        own = eta if is_all(rows.offset, 0.0) else eta - rows.offset.movedim(-1, 0)
        score = (0.0 if point.averages is None else score) + applied(information, own)
    sums = replace(
        nothing,
        gram=_gram(rows, information, point) if point.curved else nothing.gram,
        score=project_each(rows, score),
        objective=half.sum(-1),
        scale=sum(torch.linalg.vecdot(information[k, k], eta[k].square()) for k in range(len(eta))),
        invalid=nothing.invalid if outside is None else outside.sum(-1).to(eta.dtype),
        factor=_factor(rows, score, information) if point.factor else None,
    )
    if point.before is not None or point.census:
        sums = counted(rows, sums, family)
    return replace(sums, change=_change(rows, eta, point, used)) if point.before is not None else sums


def _gram(rows: Rows, information: Pairs, point: Point) -> Gram:
    if isinstance(rows.indexed, ArrowIndexed):
        return arrow_gram(rows, information)
    if isinstance(rows.indexed, PlannedCrossed):
        return crossed_gram(rows, information)
    return gram_of(rows, information, point.single)


def several_design(rows: Rows) -> Tensor:
    """The triangular factor of the design of the predictors, on the rows of positive weight."""
    total, start = None, 0
    for piece in rows.pieces():
        stop = start + piece.y.shape[-1]
        used = (rows.weight[:, start:stop] > 0).to(torch.float64)
        design = expanded(piece)
        design = design.unsqueeze(1) if rows.shared else design
        stacked = (design * used.unsqueeze(-1)).movedim(0, 1).flatten(1, 2)  # (B, K n, P)
        total, start = stack_factors(total, triangle(stacked)), stop
    assert total is not None
    return total


def _point(rows: Rows, point: Point, family: VectorFamily) -> Tensor:
    """(K, B, n) the predictors of a point."""
    if point.coef is not None:
        return predictors(rows, point.coef)
    averages = point.constant if point.averages is None else point.averages
    assert averages is not None
    constants = family.start(averages.movedim(-1, 0))
    eta = constants.unsqueeze(-1).expand(*constants.shape, rows.y.shape[-1]).contiguous()
    return eta if point.averages is None else family.row_start(rows.response, eta)


def evaluated(family: VectorFamily, y: object, eta: Tensor, point: Point) -> tuple[Tensor, Tensor, Pairs]:
    """The negative log-density, the score, and the curvature that is asked for."""
    observed, canonical = point.observed, family.is_canonical(family.default_link)
    if canonical:
        return (family.evaluated if point.curved or point.coef is None else family.without_curvature)(y, eta)
    nll, score, information = family.evaluated(y, eta)
    every = observed if isinstance(observed, bool) else bool(observed.all())
    if every:
        return nll, score, information
    safe = family.safe(y, eta, information)
    if isinstance(observed, bool) or not bool(observed.any()):
        return nll, score, safe
    both, own = observed.unsqueeze(-1), torch.zeros_like(eta[0])
    return (
        nll,
        score,
        {pair: torch.where(both, information.get(pair, own), safe.get(pair, own)) for pair in information | safe},
    )


def with_counts(rows: Rows, sums: Moments) -> Moments:
    """The sums with `weight`, `count` and `response` of the rows."""
    if is_all(rows.weight, 1.0) and rows.repeats is None:
        number = rows.y.new_full(rows.y.shape[:1], rows.y.shape[-1])
        return replace(sums, weight=number, count=number, response=rows.y.sum(-1))
    used = rows.weight > 0
    count = used.to(torch.float64) if rows.repeats is None else torch.where(used, rows.repeats, 0.0).to(torch.float64)
    return replace(
        sums,
        weight=torch.where(used, rows.weight, 0.0).sum(-1),
        count=count.sum(-1),
        response=torch.where(used, rows.y * rows.weight, 0.0).sum(-1),
    )


def counted(rows: Rows, sums: Moments, family: VectorFamily) -> Moments:
    """The sums with what the rows count, and the statistics of their responses."""
    statistics = family.statistics(rows.response)  # (S, B, n)
    if not (is_all(rows.weight, 1.0) and rows.repeats is None):
        statistics = torch.where(rows.weight > 0, statistics, 0.0) * rows.weight
    return replace(with_counts(rows, sums), statistics=statistics.sum(-1).mT)


def _change(rows: Rows, eta: Tensor, point: Point, used: Tensor | None) -> Tensor:
    """(B,) the largest relative change of a predictor since the coefficients `before` of the point."""
    assert point.before is not None
    if point.before is point.coef or not eta.shape[-1]:
        return eta.new_zeros(eta.shape[1])
    before = predictors(rows, point.before)
    step = (eta - (before if used is None else torch.where(used, before, 0.0))).abs_() / (eta.abs() + 1)
    return torch.nan_to_num(step, nan=math.inf).amax((0, -1))


def _factor(rows: Rows, score: Tensor, information: Pairs) -> Tensor:
    """The triangular factor of `[L' Z, L^-1 s]` with `W = L L'`, directions without information left out."""
    whole = torch.nan_to_num(full(information, len(score)), nan=0.0, posinf=0.0, neginf=0.0)
    values, vectors = torch.linalg.eigh(whole)  # (B, n, K), (B, n, K, K)
    root = torch.where(values > 1e-14 * values.amax(-1, keepdim=True), values, 0.0).clamp(min=0).sqrt()
    turned = (vectors.mT @ score.movedim(0, -1).unsqueeze(-1)).squeeze(-1)
    working = torch.where(root > 0, turned / torch.where(root > 0, root, 1.0), 0.0)
    half = root.unsqueeze(-1) * vectors.mT
    total, start = None, 0
    for piece in rows.pieces():
        stop = start + piece.y.shape[-1]
        design = expanded(piece)
        design = design.unsqueeze(1) if rows.shared else design  # (K, B, n, P)
        scaled = half[:, start:stop] @ design.movedim(0, -2)  # (B, n, K, P)
        own = torch.cat([scaled, working[:, start:stop].unsqueeze(-1)], -1)
        total, start = stack_factors(total, triangle(own.flatten(1, 2))), stop
    assert total is not None
    return total
