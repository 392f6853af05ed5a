"""The one hot kernel: a pass over the rows that leaves a few small sums.

Sums add over chunks, over files and over processes, so in-memory, streamed and distributed fits differ only in
where the rows come from. Everything is summed in float64, whatever the dtype of the data.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.rows import Rows, to_float64, whole
from torchglm.fitting.workers import scratch, spread
from torchglm.links import Link


@dataclass(frozen=True)
class Moments:
    """What one pass leaves behind, for `B` models; `a + b` are the moments of the rows of both.

    Fields, with the row weight `w`, the score `s = dl/deta` and the information `W` per row:
    `gram` (B, p, p) sum of `w W x x'`; `score` (B, p) sum of `w s x`; `objective` (B,) half the deviance, to its last
    digits where the pass reports;
    `scale` (B,) sum of `w W eta^2`; `invalid` (B,) rows whose mean is outside the family's range;
    `weight`, `count` and `response` (B,) sum of `w`, the rows of positive weight (their repeats) and sum of `w y`
    (where the pass is the first or reports); `pearson` (B,) sum of `w (y - mu)^2 / V` and `change` (B,) the largest
    relative change of `eta` (where it reports); `factor` (B, p + 1, p + 1) triangular factor of `sqrt(w W) [x, s / W]`
    or None.
    """

    gram: Tensor
    score: Tensor
    objective: Tensor
    scale: Tensor
    invalid: Tensor
    weight: Tensor
    count: Tensor
    response: Tensor
    pearson: Tensor
    change: Tensor
    factor: "Tensor | None" = None

    @staticmethod
    def zero(models: int, p: int, device: torch.device) -> "Moments":
        """The moments of no rows."""
        def none(*shape: int) -> Tensor:
            return torch.zeros(models, *shape, dtype=torch.float64, device=device)

        return Moments(none(p, p), none(p), *(none() for _ in range(8)))

    def __add__(self, other: "Moments") -> "Moments":
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)
                if f.name not in ("change", "factor")}
        return Moments(**sums, change=torch.maximum(self.change, other.change),
                       factor=stack_factors(self.factor, other.factor))

    def take(self, models: Tensor) -> "Moments":
        """The moments of some of the models."""
        kept: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {k: None if v is None else v[models] for k, v in kept.items()}
        return Moments(**taken)

    def place(self, models: Tensor, part: "Moments") -> "Moments":
        """These moments with those of some models replaced."""
        kept: dict[str, Any] = {}
        for f in fields(self):
            value, new = getattr(self, f.name), getattr(part, f.name)
            kept[f.name] = value if value is None or new is None else value.index_copy(0, models, new)
        return Moments(**kept)

    @property
    def valid(self) -> Tensor:
        """(B,) True where every mean is in range and every sum finite."""
        finite = torch.isfinite(self.objective) & torch.isfinite(self.score).all(-1)
        return finite & torch.isfinite(self.gram).all(-1).all(-1) & (self.invalid == 0)


@dataclass(frozen=True)
class Point:
    """Where a pass evaluates, and what it carries.

    `coef` (B, p), or None for the pass that starts IRLS from a mean per row; `observed` (B,) chooses the
    observed information; `factor` carries a QR factor beside the Gram; `before` (B, p) are the coefficients
    against which the change of `eta` is reported; `constant` (B,) starts from one mean per model instead; `fence`
    is the strength of a logarithmic barrier that keeps `eta` off the edges of its range; `census` counts the rows
    as the first pass and a report do; without `curved` the Gram, the dear part, is left out (zero).
    """

    coef: "Tensor | None" = None
    observed: "Tensor | bool" = False
    factor: bool = False
    before: "Tensor | None" = None
    constant: "Tensor | None" = None
    fence: float = 0.0
    census: bool = False
    curved: bool = True


def fold(source: Iterable[Rows], point: Point, family: Family, link: Link, models: int, p: int,
         device: torch.device) -> Moments:
    """One pass over a source: the moments of all its rows at a point."""
    total = Moments.zero(models, p, device)
    if point.factor:
        total = replace(total, factor=total.gram.new_zeros(models, p + 1, p + 1))
    for rows in source:
        total = total + moments(rows, point, family, link)
    return total


def moments(rows: Rows, point: Point, family: Family, link: Link) -> Moments:
    """The moments of one chunk, block by block; on a CPU the blocks are spread over threads."""
    blocks = list(rows.blocks())
    several = not rows.shared and rows.y.shape[0] > 1

    def work(part: Sequence[tuple[slice, Rows]]) -> dict[int, Moments]:
        sums: dict[int, Moments] = {}
        for chosen, block in part:
            at, member = (_at(point, chosen), take_family(family, chosen)) if several else (point, family)
            new = _block_moments(block, at, member, link)
            sums[chosen.start] = sums[chosen.start] + new if chosen.start in sums else new
        return sums

    total: dict[int, Moments] = {}
    for sums in spread(work, blocks) if rows.y.device.type == "cpu" else [work(blocks)]:
        for first, part in sums.items():
            total[first] = total[first] + part if first in total else part
    return _concatenate(list(total.values()))


def take_family(family: Family, models: "Tensor | slice") -> Family:
    """The family with the shape parameters of some of the models."""
    if all(parameter.dim() == 0 for parameter in family.parameters()):
        return family
    return family.with_parameters({name: value[models] for name, value in family.named_parameters()})


def _at(point: Point, models: slice) -> Point:
    def part(value: "Tensor | None") -> "Tensor | None":
        return None if value is None else value[models]

    observed = point.observed if isinstance(point.observed, bool) else point.observed[models]
    return replace(point, coef=part(point.coef), observed=observed, before=part(point.before),
                   constant=part(point.constant))


def _concatenate(parts: list[Moments]) -> Moments:
    lists: dict[str, list[Any]] = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Moments)}
    joined: dict[str, Any] = {name: None if values[0] is None else torch.cat(values) for name, values in lists.items()}
    return Moments(**joined)


def linear_predictor(rows: Rows, coef: Tensor) -> Tensor:
    """`eta = x coef + offset`, shape `(B, n)`, for coefficients `(B, p)`, in their dtype."""
    first = int(rows.intercept)
    x, slopes = rows.x.to(coef.dtype), coef[:, first:]
    if not rows.shared:
        eta = product(x, slopes.unsqueeze(-1)).squeeze(-1)
    elif coef.shape[0] == 1:
        eta = (x @ slopes[0]).unsqueeze(0)
    else:
        eta = in_groups(slopes, lambda part: part @ x.mT)
    eta = eta + rows.offset.to(coef.dtype)
    return eta + coef[:, :1] if rows.intercept else eta


def in_groups(models: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """A product over models `(B, ...)`, always for a multiple of 16 of them.

    A matrix product may sum in another order at its edges; this keeps what one model gets independent of how
    many others there are.
    """
    missing = -models.shape[0] % 16
    if not missing:
        return work(models)
    return work(torch.cat([models, models.new_zeros(missing, *models.shape[1:])]))[:models.shape[0]]


def _block_moments(block: Rows, point: Point, family: Family, link: Link) -> Moments:
    rows = to_float64(block)
    eta, observed = _predictor(rows, point, family, link)
    mu = link(eta)
    score, information = family.score_and_weight(rows.y, eta, mu, link, observed)
    deviance = family.half_deviance if point.before is not None else family.rough_half_deviance
    half = deviance(rows.y, eta, mu, link)
    if point.fence:
        half, score, information = _fenced(half, score, information, eta, point.fence, family, link)
    if point.before is not None and link.name == "identity" and family.is_canonical(link) and point.coef is not None:
        half = _exact_residual(rows, point.coef).square() / 2
    score, information, half = score * rows.weight, information * rows.weight, half * rows.weight
    if rows.weight.is_cuda or bool((rows.weight == 0).any()):
        used = rows.weight > 0
        score, information, half = (torch.where(used, v, 0.0) for v in (score, information, half))
        mu, eta = torch.where(used, mu, mu.new_tensor(family.inner_mean)), torch.where(used, eta, 0.0)
        bad = _outside(mu, torch.where(used, eta, torch.inf), family, link)
    else:
        bad = _outside(mu, eta, family, link)
    if point.coef is None:  # the first step solves for the coefficients themselves
        score = (score if point.constant is None else 0.0) + information * (eta - rows.offset)
    scale = (information * eta.square()).sum(-1)
    none = torch.zeros_like(scale)
    counted = point.coef is None or point.before is not None or point.census
    weight, count, response = _census(rows, family) if counted else (none,) * 3
    pearson, change = _report(rows, eta, mu, point.before, family) if point.before is not None else (none, none)
    factor = _factor(rows, score, information) if point.factor else None
    curvature = gram(rows, information) if point.curved else mu.new_zeros(mu.shape[0], rows.columns, rows.columns)
    return Moments(curvature, project(rows, score), half.sum(-1), scale, bad, weight, count, response,
                   pearson, change, factor)


def _outside(mu: Tensor, eta: Tensor, family: Family, link: Link) -> Tensor:
    """(B,) 1 where a mean is outside the family's range or not a number, or `eta` below the link's range."""
    if not mu.shape[-1]:
        return mu.new_zeros(mu.shape[0])
    least, most = torch.aminmax(mu, dim=-1)
    inside = family.valid_mean(least) & family.valid_mean(most)
    if math.isfinite(link.lower):
        inside = inside & link.inside(eta.amin(-1))
    return (~inside).to(torch.float64)


def _census(rows: Rows, family: Family) -> tuple[Tensor, Tensor, Tensor]:
    """`weight`, `count` and `response` of a block."""
    y = rows.y.abs() if family.signed else rows.y
    used = (rows.weight > 0).to(torch.float64)
    count = used if rows.repeats is None else used * rows.repeats
    return rows.weight.sum(-1), count.sum(-1), (rows.weight * torch.where(used > 0, y, 0.0)).sum(-1)


def _report(rows: Rows, eta: Tensor, mu: Tensor, before: Tensor, family: Family) -> tuple[Tensor, Tensor]:
    """`pearson`, and the largest relative `change` of `eta` since the coefficients `before`."""
    used = rows.weight > 0
    residual = (rows.y.abs() if family.signed else rows.y) - mu
    square = residual.square() / family.variance(mu) * rows.weight
    step = (eta - linear_predictor(rows, before)).abs() / (1 + eta.abs())
    change = torch.where(used, step, 0.0).amax(-1) if eta.shape[-1] else eta.new_zeros(eta.shape[0])
    return torch.where(used, square, 0.0).sum(-1), change


def edges(family: Family, link: Link) -> tuple[float, float]:
    """The ends of the values of `eta` for which the mean lies in the family's range; infinite where none is."""
    if family.mean_lower == -math.inf:
        return link.lower, math.inf
    ends = link.link(torch.tensor([family.mean_lower, family.mean_upper], dtype=torch.float64)).tolist()
    finite = sorted(end for end in ends if math.isfinite(end))
    lower, upper = -math.inf, math.inf
    if len(finite) == 2:
        lower, upper = finite
    elif finite:  # on which side of the one end the means lie
        inside = link.link(torch.tensor(family.inner_mean, dtype=torch.float64)).item()
        lower, upper = (finite[0], math.inf) if inside > finite[0] else (-math.inf, finite[0])
    return max(lower, link.lower), upper


def _fenced(half: Tensor, score: Tensor, information: Tensor, eta: Tensor, strength: float, family: Family,
            link: Link) -> tuple[Tensor, Tensor, Tensor]:
    """The sums with `-strength log(distance of eta to an edge)` added to the objective."""
    lower, upper = edges(family, link)
    for sign, end in ((1.0, lower), (-1.0, upper)):
        if math.isfinite(end):
            distance = sign * (eta - end)
            half = half - strength * distance.log()
            score = score + sign * strength / distance
            information = information + strength / distance.square()
    return half, score, information


def _exact_residual(rows: Rows, coef: Tensor) -> Tensor:
    """`y - offset - x coef` of least squares, the rounding of every sum carried along (Knuth's two-sum).

    A response of large mean and small spread keeps the digits of its deviance.
    """
    total, lost = rows.y - rows.offset, torch.zeros_like(rows.y)
    first = int(rows.intercept)
    for j in range(coef.shape[-1]):
        term = -coef[:, :1] if j < first else -rows.x[..., j - first] * coef[:, j:j + 1]
        new = total + term
        back = new - total
        lost = lost + ((total - (new - back)) + (term - back))
        total = new
    return total + lost


def _predictor(rows: Rows, point: Point, family: Family, link: Link) -> tuple[Tensor, "Tensor | bool"]:
    """The linear predictor of a point, and whose observed information is asked for, per row."""
    if point.coef is not None:
        observed = point.observed if isinstance(point.observed, bool) else point.observed.unsqueeze(-1)
        return linear_predictor(rows, point.coef), observed
    mean = family.initial_mean(rows.y, rows.weight) if point.constant is None else (
        point.constant.unsqueeze(-1).expand_as(rows.y))
    return link.link(torch.where(rows.weight > 0, mean, mean.new_ones(()))), False


def project(rows: Rows, values: Tensor) -> Tensor:
    """`x' r`, shape `(B, p)`, for values `(B, n)` and the design of the rows."""
    if not rows.shared:
        out = product(values.unsqueeze(-2), rows.x).squeeze(-2)
    elif values.shape[0] == 1:
        out = values @ rows.x
    else:
        out = in_groups(values, lambda part: part @ rows.x)
    return torch.cat([values.sum(-1, keepdim=True), out], -1) if rows.intercept else out


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` for stacks of matrices; on a CPU by numpy, which hands small ones to BLAS one by one, fast and alike."""
    if a.device.type != "cpu":
        return a @ b
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


def gram(rows: Rows, weight: Tensor) -> Tensor:
    """`x' diag(weight) x`, shape `(B, p, p)`, for the design of the rows and weights `(B, n)`.

    On a CPU numpy's `a.T @ a` calls BLAS' syrk, which torch has not: half the work of a product. One design for
    many models takes one product of the weights with all pairs of columns.
    """
    if rows.shared and weight.shape[0] > 1:
        return _gram_of_pairs(whole(rows), weight)
    root = _roots(rows, weight)
    if root is not None:
        half = _design(rows, root)
        return product(half.mT, half)
    x = _design(rows, None)
    scaled = scratch("scaled", *x.shape) if x.device.type == "cpu" else torch.empty_like(x)
    return product(torch.mul(x, weight.unsqueeze(-1), out=scaled).mT, x)


def _roots(rows: Rows, weight: Tensor) -> "Tensor | None":
    """The roots of the weights where a syrk is worth them: many columns, and no weight is negative."""
    narrow = not rows.shared and rows.columns < 32
    return None if weight.device.type != "cpu" or narrow or bool((weight < 0).any()) else weight.sqrt()


def _design(rows: Rows, scale: "Tensor | None") -> Tensor:
    """(B, n, p) the design with its intercept, its rows multiplied by `scale` (B, n) where given."""
    x = rows.x.unsqueeze(0) if rows.shared else rows.x
    first = int(rows.intercept)
    if scale is None and not first:
        return x
    shape = (*x.shape[:-1], rows.columns)
    out = scratch("design", *shape) if x.device.type == "cpu" else x.new_empty(shape)
    out[..., :first] = 1.0 if scale is None else scale.unsqueeze(-1)
    if scale is None:
        out[..., first:] = x
    else:
        torch.mul(x, scale.unsqueeze(-1), out=out[..., first:])
    return out


def _gram_of_pairs(x: Tensor, weight: Tensor) -> Tensor:
    p = x.shape[-1]
    row, column = torch.triu_indices(p, p, device=x.device)
    products = x[:, row] * x[:, column]
    pairs = in_groups(weight, lambda part: part @ products)
    out = pairs.new_zeros(weight.shape[0], p, p)
    out[:, row, column] = pairs
    out[:, column, row] = pairs
    return out


def _factor(rows: Rows, score: Tensor, information: Tensor) -> Tensor:
    """The triangular factor of `[sqrt(W) x, s / sqrt(W)]`, rows without information left out."""
    root = information.clamp(min=0).sqrt()
    working = torch.where(root > 0, score / torch.where(root > 0, root, 1.0), 0.0)
    x = whole(rows).unsqueeze(0) if rows.shared else whole(rows)
    return triangle(torch.cat([x * root.unsqueeze(-1), working.unsqueeze(-1)], -1))


def triangle(a: Tensor) -> Tensor:
    """The square upper triangular factor of a QR decomposition, padded with rows of zeros where `a` is wide."""
    r = torch.linalg.qr(torch.nan_to_num(a, nan=0.0, posinf=0.0, neginf=0.0), mode="r").R
    missing = a.shape[-1] - r.shape[-2]
    return r if missing <= 0 else torch.cat([r, r.new_zeros(*r.shape[:-2], missing, r.shape[-1])], -2)


def stack_factors(first: "Tensor | None", second: "Tensor | None") -> "Tensor | None":
    """The factor of the rows of both: triangular factors stack as Grams add."""
    if first is None or second is None:
        return first if second is None else second
    return triangle(torch.cat([first, second], -2))
