"""The one hot kernel: a pass over the rows that leaves a few small sums.

Sums add over chunks, over files and over processes, so in-memory, streamed and distributed fits differ only in
where the rows come from. Everything is summed in float64, whatever the dtype of the data.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.rows import Rows, wide
from torchglm.links import Link


@dataclass(frozen=True)
class Moments:
    """What one pass leaves behind, for `B` models; `a + b` are the moments of the rows of both.

    Fields, with the row weight `w`, the score `s = dl/deta` and the information `W` per row:
    `gram` (B, p, p) sum of `w W x x'`; `score` (B, p) sum of `w s x`; `objective` (B,) half the deviance;
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
        return Moments(**{k: None if v is None else v[models] for k, v in kept.items()})

    def place(self, models: Tensor, part: "Moments") -> "Moments":
        """These moments with those of some models replaced."""
        kept = {}
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
    against which the change of `eta` is reported; `constant` (B,) starts from one mean per model instead.
    """

    coef: "Tensor | None" = None
    observed: "Tensor | bool" = False
    factor: bool = False
    before: "Tensor | None" = None
    constant: "Tensor | None" = None


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
    """The moments of one chunk, block by block."""
    models, p = rows.y.shape[0], rows.columns
    if rows.shared or models == 1:
        total = Moments.zero(models, p, rows.y.device)
        for _, block in rows.blocks():
            total = total + _block_moments(wide(block), point, family, link)
        return total
    parts: dict[int, Moments] = {}
    for chosen, block in rows.blocks():
        part = _block_moments(wide(block), _at(point, chosen), take_family(family, chosen), link)
        parts[chosen.start] = parts[chosen.start] + part if chosen.start in parts else part
    return _concatenate(list(parts.values()))


def take_family(family: Family, models: "Tensor | slice") -> Family:
    """The family with the shape parameters of some of the models."""
    if all(parameter.dim() == 0 for parameter in family.parameters()):
        return family
    return family.with_parameters({name: value[models] for name, value in family.named_parameters()})


def _at(point: Point, models: slice) -> Point:
    def part(value: "Tensor | None") -> "Tensor | None":
        return None if value is None else value[models]

    observed = point.observed if isinstance(point.observed, bool) else point.observed[models]
    return Point(part(point.coef), observed, point.factor, part(point.before), part(point.constant))


def _concatenate(parts: list[Moments]) -> Moments:
    lists: dict[str, list[Any]] = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Moments)}
    return Moments(**{name: None if values[0] is None else torch.cat(values) for name, values in lists.items()})


def linear_predictor(rows: Rows, coef: Tensor) -> Tensor:
    """`eta = x coef + offset`, shape `(B, n)`, for coefficients `(B, p)`."""
    if rows.shared:
        if coef.shape[0] == 1:
            return (rows.x @ coef[0]).unsqueeze(0) + rows.offset
        return coef @ rows.x.mT + rows.offset
    return (rows.x @ coef.unsqueeze(-1)).squeeze(-1) + rows.offset


def _block_moments(rows: Rows, point: Point, family: Family, link: Link) -> Moments:
    eta, observed = _predictor(rows, point, family, link)
    mu = link(eta)
    score, information = family.score_and_weight(rows.y, eta, mu, link, observed)
    half = family.half_deviance(rows.y, eta, mu, link)
    bad = ~(family.valid_mean(mu) & link.inside(eta))
    score, information, half = score * rows.weight, information * rows.weight, half * rows.weight
    if rows.weight.is_cuda or bool((rows.weight == 0).any()):
        used = rows.weight > 0
        score, information, half = (torch.where(used, v, 0.0) for v in (score, information, half))
        bad, eta = bad & used, torch.where(used, eta, 0.0)
    if point.coef is None:  # the first step solves for the coefficients themselves
        score = (score if point.constant is None else 0.0) + information * (eta - rows.offset)
    scale = (information * eta.square()).sum(-1)
    weight, count, response = _census(rows, family) if point.coef is None or point.before is not None else (
        torch.zeros_like(scale),) * 3
    pearson, change = torch.zeros_like(scale), torch.zeros_like(scale)
    if point.before is not None:
        residual = (rows.y.abs() if family.signed else rows.y) - mu
        square = residual.square() / family.variance(mu) * rows.weight
        pearson = torch.where(rows.weight > 0, square, 0.0).sum(-1)
        if link.name == "identity" and family.is_canonical(link) and point.coef is not None:
            half = _exact_residual(rows, point.coef).square() / 2 * rows.weight
        step = (eta - linear_predictor(rows, point.before)).abs() / (1 + eta.abs())
        change = torch.where(rows.weight > 0, step, 0.0).amax(-1) if eta.shape[-1] else change
    factor = _factor(rows, score, information) if point.factor else None
    return Moments(gram(rows.x, information), project(rows.x, score), half.sum(-1), scale,
                   bad.sum(-1).to(torch.float64), weight, count, response, pearson, change, factor)


def _census(rows: Rows, family: Family) -> tuple[Tensor, Tensor, Tensor]:
    """`weight`, `count` and `response` of a block."""
    y = rows.y.abs() if family.signed else rows.y
    used = (rows.weight > 0).to(torch.float64)
    count = used if rows.repeats is None else used * rows.repeats
    return rows.weight.sum(-1), count.sum(-1), (rows.weight * torch.where(used > 0, y, 0.0)).sum(-1)


def _exact_residual(rows: Rows, coef: Tensor) -> Tensor:
    """`y - offset - x coef` of least squares, the rounding of every sum carried along (Knuth's two-sum).

    A response of large mean and small spread keeps the digits of its deviance.
    """
    total, lost = rows.y - rows.offset, torch.zeros_like(rows.y)
    for j in range(coef.shape[-1]):
        term = -rows.x[..., j] * coef[:, j:j + 1]
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


def project(x: Tensor, rows: Tensor) -> Tensor:
    """`x' r`, shape `(B, p)`, for values `(B, n)` and a design `(n, p)` or `(B, n, p)`."""
    if x.dim() == 2:
        return rows @ x
    return (rows.unsqueeze(-2) @ x).squeeze(-2)


def gram(x: Tensor, weight: Tensor) -> Tensor:
    """`x' diag(weight) x`, shape `(B, p, p)`, for a design `(n, p)` or `(B, n, p)`.

    One model on a CPU takes BLAS' syrk (torch has none; numpy's `a.T @ a` calls it): half the work of a
    product. One design for many models takes one product of the weights with all pairs of columns.
    """
    if x.dim() == 3:
        return (x * weight.unsqueeze(-1)).mT @ x
    if weight.shape[0] == 1:
        if x.device.type != "cpu" or bool((weight < 0).any()):
            return ((x * weight[0].unsqueeze(-1)).mT @ x).unsqueeze(0)
        half = (x * weight[0].sqrt().unsqueeze(-1)).numpy()
        return torch.from_numpy(half.T @ half).unsqueeze(0)
    p = x.shape[-1]
    row, column = torch.triu_indices(p, p, device=x.device)
    pairs = weight @ (x[:, row] * x[:, column])
    out = pairs.new_zeros(weight.shape[0], p, p)
    out[:, row, column] = pairs
    out[:, column, row] = pairs
    return out


def _factor(rows: Rows, score: Tensor, information: Tensor) -> Tensor:
    """The triangular factor of `[sqrt(W) x, s / sqrt(W)]`, rows without information left out."""
    root = information.clamp(min=0).sqrt()
    working = torch.where(root > 0, score / torch.where(root > 0, root, 1.0), 0.0)
    x = rows.x.unsqueeze(0) if rows.shared else rows.x
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
