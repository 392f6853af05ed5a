"""The one hot kernel: a pass over the rows that leaves a few small sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.edges import fenced, lacking, margin
from torchglm.fitting.factors import working_factor
from torchglm.fitting.fused import fused
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.several import several_design, several_moments
from torchglm.fitting.shape_sums import of_coefficients, with_raw_shape, with_shape, with_unit_shape
from torchglm.links import Identity, Inverse, InverseSquared, Link, Sqrt
from torchglm.rows.grams import Dense, Layout
from torchglm.rows.products import gram, linear_predictor, project, stack_factors, terms, triangle
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import members, own_rows, ranks_of
from torchglm.rows.rows import Rows, is_all, to_float64, whole
from torchglm.rows.threads import spread

COARSE = 0.01  # least share of a deviance in the sum of the terms it is the difference of


def fold(source: Iterable[Rows], point: Point, family: Family, link: Link) -> Moments:
    """One pass over a source: the moments of all its rows at a point. Raises `ValueError` where it holds none."""
    ranks, total = ranks_of(source), None
    if isinstance(source, Ragged):
        parts = [moments(rows, _at(point, at), take_family(family, at), link) for at, rows in source.parts]
        return _concatenate(parts).take(source.order)
    with ranks.together():
        for rows in own_rows(source):
            part = moments(rows, point, family, link)
            total = part if total is None else total + part
    if total is None:
        raise ValueError("the source holds no rows (n = 0). Pass at least one row.")
    return total.over(ranks)


def moments(rows: Rows, point: Point, family: Family, link: Link) -> Moments:
    """The moments of one chunk, block by block; on a CPU the blocks are spread over threads.

    On a CUDA device one kernel takes what it can of the steps.
    """
    if rows.on_card and (whole := fused(rows, point, family, link, block_moments)) is not None:
        return whole
    blocks = list(rows.blocks(point.curved))
    several = not rows.shared and rows.y.shape[0] > 1

    def work(part: Sequence[tuple[slice, Rows]]) -> dict[int, Moments]:
        sums: dict[int, Moments] = {}
        for chosen, block in part:
            at, member = (_at(point, chosen), take_family(family, chosen)) if several else (point, family)
            new = block_moments(block, at, member, link)
            sums[chosen.start] = sums[chosen.start] + new if chosen.start in sums else new
        return sums

    total: dict[int, Moments] = {}
    for sums in spread(work, blocks) if rows.y.device.type == "cpu" else [work(blocks)]:
        for first, part in sums.items():
            total[first] = total[first] + part if first in total else part
    return _concatenate(list(total.values()))


def take_family(family: Family, models: Tensor | slice) -> Family:
    """The family with the shape parameters of some of the models."""
    if all(parameter.dim() == 0 for parameter in family.shapes.values()):
        return family
    return family.with_parameters({name: value[models] for name, value in family.shapes.items()})


def _at(point: Point, models: slice | Tensor) -> Point:
    def part(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[models]

    observed = point.observed if isinstance(point.observed, bool) else point.observed[models]
    return replace(
        point,
        coef=part(point.coef),
        observed=observed,
        before=part(point.before),
        constant=part(point.constant),
        averages=part(point.averages),
        lack=part(point.lack),
    )


def _concatenate(parts: list[Moments]) -> Moments:
    lists: dict[str, list[Any]] = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Moments)}
    grams = lists.pop("gram")
    joined: dict[str, Any] = {name: None if values[0] is None else torch.cat(values) for name, values in lists.items()}
    return Moments(grams[0].cat(grams[1:]), **joined)


def block_moments(block: Rows, point: Point, family: Family, link: Link) -> Moments:
    """The moments of rows that are not too many to be held in a cache."""
    rows = to_float64(block)
    if rows.plan is not None and not point.design:
        assert isinstance(family, VectorFamily)
        return several_moments(rows, point, family)
    if not point.shapes:
        return _of_coefficients(rows, point, family, link)[0]
    own = of_coefficients(point)  # whose factor has no columns for the shape
    if point.coef is None or point.design or point.lack is not None:
        return with_unit_shape(_of_coefficients(rows, own, family, link)[0], point.shapes, point.design)
    member = with_raw_shape(family, point.coef[:, -point.shapes :])
    sums, values = _of_coefficients(rows, replace(own, factor=False), member, link)
    assert values is not None
    return with_shape(sums, rows, values.mu, values.score, values.information, member, point)


def _of_coefficients(rows: Rows, point: Point, family: Family, link: Link) -> tuple[Moments, Values | None]:
    """The moments of rows, and the values they are the sums of, where there are such."""
    if point.design:
        return replace(Moments.zero(rows.y.shape[0], Layout(0), rows.y.device), factor=_design(rows)), None
    if point.lack is not None:
        return _lacks(rows, point), None
    plain = is_all(rows.weight, 1.0)
    values = _values(rows, point, family, link)
    eta, information = values.eta, values.information
    scale = torch.linalg.vecdot(information, eta.square())
    none = torch.zeros_like(scale)
    counted = point.coef is None or point.before is not None or point.census
    weight, count, response = census(rows, plain) if counted else (none,) * 3
    pearson, change, near = none, none, torch.full_like(none, math.inf)
    if point.before is not None:
        before = None if point.before is point.coef else linear_predictor(rows, point.before)
        pearson, change = report(rows, eta, values.mu, before, family, link, plain)
        near = near if point.ends is None else margin(eta, rows.weight, point.ends)
    sums = Moments(
        gram(rows, information, point.single) if point.curved else Dense(eta.new_zeros(eta.shape[0], 0, 0)),
        project(rows, values.score),
        values.half.sum(-1),
        scale,
        values.outside,
        weight,
        count,
        response,
        pearson,
        change,
        near,
        working_factor(rows, values.score, information) if point.factor else None,
    )
    return sums, values


class Values(NamedTuple):
    """What the rows of a block bring to the three products of a pass, `x coef`, `x' s` and `x' W x`; all (B, n).

    `half` of the deviance, `score` and `information` have the weights of the rows in them; a row without weight has
    0 there, and a harmless `eta` and `mu`. `outside` (B,) is 1 where a mean is out of range.
    """

    eta: Tensor
    mu: Tensor
    score: Tensor
    information: Tensor
    half: Tensor
    outside: Tensor


def _values(rows: Rows, point: Point, family: Family, link: Link) -> Values:
    """The values of a block at a point."""
    eta, observed = _predictor(rows, point, family, link)
    return row_values(rows, eta, observed, point, family, link)


def row_values(rows: Rows, eta: Tensor, observed: Tensor | bool, point: Point, family: Family, link: Link) -> Values:
    """The values of a block where its linear predictors (B, n) are known."""
    mu, plain = link(eta), is_all(rows.weight, 1.0)
    score, information = family.score_and_weight(rows.response, eta, mu, link, observed)
    half = objective(rows, eta, mu, point, family, link)
    if point.fence:
        assert point.ends is not None
        half, score, information = fenced(half, score, information, eta, point.fence, point.ends)
    if not plain:
        score, information, half = score * rows.weight, information * rows.weight, half * rows.weight
    if not plain and (rows.weight.is_cuda or bool((rows.weight == 0).any())):
        used = rows.weight > 0
        score, information, half = (torch.where(used, v, 0.0) for v in (score, information, half))
        mu, eta = torch.where(used, mu, mu.new_tensor(family.inner_mean)), torch.where(used, eta, 0.0)
        beyond = outside(mu, torch.where(used, eta, torch.inf), family, link)
    else:
        beyond = outside(mu, eta, family, link)
    if point.coef is None:  # the first step solves for the coefficients themselves
        own = eta if is_all(rows.offset, 0.0) else eta - rows.offset
        score = (score if point.constant is None else 0.0) + information * own
    return Values(eta, mu, score, information, half, beyond)


def objective(rows: Rows, eta: Tensor, mu: Tensor, point: Point, family: Family, link: Link) -> Tensor:
    """(B, n) half the unit deviance: to its last digits where the pass reports, else as cheaply as can be."""
    if point.before is not None and type(link) is Identity and family.least_squares and point.coef is not None:
        return _exact_residual(rows, point.coef).square() / 2
    half, size = family.cheap(rows.response, eta, mu, link, point.relative)
    if point.relative or point.before is None or size is None:
        return half
    if size.is_cuda:  # a look at the sums would have the device wait
        return family.half_deviance(rows.response, eta, mu, link)
    # where the sum is not small beside its terms the cheap form loses no digit either, at a quarter of the time
    fine = torch.linalg.vecdot(half, rows.weight) > COARSE * torch.linalg.vecdot(size, rows.weight)
    if bool(fine.all()):
        return half
    return torch.where(fine.unsqueeze(-1), half, family.half_deviance(rows.response, eta, mu, link))


def outside(mu: Tensor, eta: Tensor, family: Family, link: Link) -> Tensor:
    """(B,) 1 where a mean is outside the family's range or not a number, or `eta` below the link's range."""
    none = mu.new_zeros(mu.shape[0])
    if not mu.shape[-1]:
        return none
    bounded = math.isfinite(link.lower)
    if not mu.is_cuda:  # one look at all models is eight times as fast as a look at each
        inside = family.valid_mean(torch.stack(torch.aminmax(mu))).all()
        if bool(inside & link.inside(eta.amin()) if bounded else inside):
            return none
    least, most = torch.aminmax(mu, dim=-1)
    inside = family.valid_mean(least) & family.valid_mean(most)
    if bounded:
        inside = inside & link.inside(eta.amin(-1))
    return (~inside).to(torch.float64)


def census(rows: Rows, plain: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`weight`, `count` and `response` of a block; `plain` says that all weights are 1."""
    y = rows.y
    if plain and rows.repeats is None:
        number = y.new_full(y.shape[:1], y.shape[-1])
        return number, number, y.sum(-1)
    used = (rows.weight > 0).to(torch.float64)
    count = used if rows.repeats is None else used * rows.repeats
    return rows.weight.sum(-1), count.sum(-1), (rows.weight * torch.where(used > 0, y, 0.0)).sum(-1)


def report(
    rows: Rows, eta: Tensor, mu: Tensor, before: Tensor | None, family: Family, link: Link, plain: bool
) -> tuple[Tensor, Tensor]:
    """`pearson`, and the largest relative `change` of `eta` since the predictors `before` (B, n); 0 without."""
    square = (rows.y - mu).square() / family.variance(mu)
    square = square if plain else torch.where(rows.weight > 0, square * rows.weight, 0.0)
    if before is None or not eta.shape[-1]:
        return square.sum(-1), eta.new_zeros(eta.shape[0])
    step = (eta - before).abs_().div_(eta.abs().add_(_unit(rows, link)))
    step = step if plain else torch.where(rows.weight > 0, step, 0.0)
    return square.sum(-1), step.amax(-1)


def _unit(rows: Rows, link: Link) -> Tensor | float:
    """(B, 1) what a change of `eta` is small beside where `eta` is 0.

    Of links that are powers no more than the link of the responses, whose unit is theirs; others have none.
    """
    if not isinstance(link, (Inverse, InverseSquared, Sqrt)) or not rows.y.shape[-1]:
        return 1.0
    size = rows.y.square().mean(-1, keepdim=True).sqrt()
    own = link.link(size)
    return torch.where((own > 0) & (own < 1), own, 1.0)


def _exact_residual(rows: Rows, coef: Tensor) -> Tensor:
    """`y - offset - x coef` of least squares, the rounding of every sum carried along (Knuth's two-sum).

    A response of large mean and small spread keeps the digits of its deviance.
    """
    total, lost = rows.y - rows.offset, torch.zeros_like(rows.y)
    for term in terms(rows, coef):
        new = total - term
        back = new - total
        lost = lost + ((total - (new - back)) - (term + back))
        total = new
    return total + lost


def _predictor(rows: Rows, point: Point, family: Family, link: Link) -> tuple[Tensor, Tensor | bool]:
    """The linear predictor of a point, and whose observed information is asked for, per row."""
    if point.coef is not None:
        observed = point.observed if isinstance(point.observed, bool) else point.observed.unsqueeze(-1)
        return linear_predictor(rows, point.coef), observed
    offset = None if is_all(rows.offset, 0.0) else rows.offset
    mean = (
        family.first_mean(rows.response, rows.weight, offset, link)
        if point.constant is None
        else (point.constant.unsqueeze(-1).expand_as(rows.y))
    )
    if not is_all(rows.weight, 1.0):
        mean = torch.where(rows.weight > 0, mean, 1.0)
    return link.link(mean), False


def _lacks(rows: Rows, point: Point) -> Moments:
    """The sums over what rows lack to a distance from the ends of `eta`."""
    assert point.coef is not None and point.lack is not None and point.ends is not None
    eta = linear_predictor(rows, point.coef)
    half, score, information = lacking(eta, rows.weight, point.ends, point.lack)
    outside = ~(half <= point.lack.unsqueeze(-1).square() / 8)  # half of the distance
    return replace(
        Moments.zero(rows.y.shape[0], Layout(0), eta.device),
        gram=gram(rows, information, False),
        score=project(rows, score),
        objective=half.sum(-1),
        invalid=outside.sum(-1).to(eta.dtype),
    )


def design_triangle(source: Iterable[Rows], models: Tensor) -> Tensor:
    """(B, p, p) the triangular factor of the design of some models, on their rows of positive weight."""
    chosen, total, ranks = members(source, models), None, ranks_of(source)
    if isinstance(chosen, Ragged):
        return torch.cat([_design(rows) for _, rows in chosen.parts])[chosen.order]
    with ranks.together():
        for rows in own_rows(chosen):
            total = stack_factors(total, _design(rows))
    assert total is not None  # every process has rows
    return ranks.stacked(total)


def _design(rows: Rows) -> Tensor:
    """The same of one chunk."""
    if rows.plan is not None:
        return several_design(to_float64(rows))
    used, total = (rows.weight > 0).to(torch.float64), None
    same, start = rows.shared and bool((used > 0).all()), 0
    for piece in rows.pieces():
        stop = start + piece.y.shape[-1]
        x = whole(piece).to(torch.float64)
        x = x.unsqueeze(0) if rows.shared else x
        total = stack_factors(total, triangle(x if same else x * used[:, start:stop].unsqueeze(-1)))
        start = stop
    assert total is not None
    return total.expand(rows.y.shape[0], -1, -1)
