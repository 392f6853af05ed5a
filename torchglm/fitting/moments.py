"""What a pass over the rows leaves behind, and what it is asked for.

Sums add over chunks, over files and over processes, so in-memory, streamed and distributed fits differ only in
where the rows come from. Everything is summed in float64, whatever the dtype of the data.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchglm.rows.grams import Gram, Layout
from torchglm.rows.inverses import placed
from torchglm.rows.products import stack_factors
from torchglm.rows.ranks import Ranks

NO_SUMS = ("change", "margin", "factor", "statistics")  # fields that add in their own way


@dataclass(frozen=True)
class Moments:
    """What one pass leaves behind, for `B` models; `a + b` are the moments of the rows of both.

    Fields, with the row weight `w`, the score `s = dl/deta` and the information `W` per row:
    `gram` the sum of `w W x x'`; `score` (B, p) sum of `w s x`; `objective` (B,)
    half the deviance, to its last digits where the pass reports;
    `scale` (B,) sum of `w W eta^2`; `invalid` (B,) rows whose mean is outside the family's range;
    `weight`, `count` and `response` (B,) sum of `w`, the rows of positive weight (their repeats) and sum of `w y`
    (where the pass is the first or reports); `pearson` (B,) sum of `w (y - mu)^2 / V` and `change` (B,) the largest
    relative change of `eta` (where it reports); `margin` (B,) the least distance of `eta` to an edge of its range
    (where it has one, and the pass reports); `factor` (B, p + 1, p + 1) triangular factor of `sqrt(w W) [x, s / W]` or
    None; `statistics` (B, S) sums of what a family of several predictors starts from, None for the others.
    """

    gram: Gram
    score: Tensor
    objective: Tensor
    scale: Tensor
    invalid: Tensor
    weight: Tensor
    count: Tensor
    response: Tensor
    pearson: Tensor
    change: Tensor
    margin: Tensor
    factor: Tensor | None = None
    statistics: Tensor | None = None

    @staticmethod
    def zero(models: int, layout: Layout, device: torch.device) -> Moments:
        """The moments of no rows of a design."""

        def none(*shape: int) -> Tensor:
            return torch.zeros(models, *shape, dtype=torch.float64, device=device)

        sums = Moments(layout.gram(models, device), none(layout.columns), *(none() for _ in range(9)))
        return replace(sums, margin=sums.margin + torch.inf)

    @staticmethod
    def of_step(gram: Gram, score: Tensor, objective: Tensor, scale: Tensor, invalid: Tensor | None = None) -> Moments:
        """The moments that a step needs, the others 0."""
        none = torch.zeros_like(objective)
        invalid = none if invalid is None else invalid
        return Moments(gram, score, objective, scale, invalid, none, none, none, none, none, none + torch.inf)

    def __add__(self, other: Moments) -> Moments:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name not in NO_SUMS}
        return Moments(
            **sums,
            change=torch.maximum(self.change, other.change),
            margin=torch.minimum(self.margin, other.margin),
            factor=stack_factors(self.factor, other.factor),
            statistics=_both(self.statistics, other.statistics),
        )

    def over(self, ranks: Ranks) -> Moments:
        """The moments of the rows of all processes."""
        if ranks.size == 1:
            return self
        names = [f.name for f in fields(self) if f.name not in ("gram", *NO_SUMS)]
        parts = self.gram.parts
        summed = ranks.sum(*parts.values(), *(getattr(self, name) for name in names))
        gram = self.gram.of(dict(zip(parts, summed[: len(parts)], strict=True)))
        sums = dict(zip(names, summed[len(parts) :], strict=True))
        factor = None if self.factor is None else ranks.stacked(self.factor)
        change, near = ranks.largest(self.change, -self.margin)
        statistics = None if self.statistics is None else ranks.sum(self.statistics)[0]
        return Moments(gram, **sums, change=change, margin=-near, factor=factor, statistics=statistics)

    def to(self, device: torch.device) -> Moments:
        """The same on a device, in one copy."""
        if self.objective.device == device:
            return self
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "gram"}
        held, parts = {name: value for name, value in known.items() if value is not None}, self.gram.parts
        values = [*parts.values(), *held.values()]
        flat = torch.cat([value.reshape(-1) for value in values]).to(device)
        moved = [
            own.view(value.shape)
            for own, value in zip(flat.split([value.numel() for value in values]), values, strict=True)
        ]
        gram = self.gram.of(dict(zip(parts, moved[: len(parts)], strict=True)))
        return replace(self, gram=gram, **dict(zip(held, moved[len(parts) :], strict=True)))

    def take(self, models: Tensor) -> Moments:
        """The moments of some of the models, in any order, perhaps one several times."""
        if models.numel() == self.objective.shape[0] and bool((models[1:] > models[:-1]).all()):
            return self
        kept: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {k: None if v is None else v[models] for k, v in kept.items()}
        return Moments(**taken)

    def place(self, models: Tensor, part: Moments) -> Moments:
        """These moments with those of some models, in ascending order, replaced."""
        if models.numel() == self.objective.shape[0]:
            return part if part.factor is not None and self.factor is not None else replace(part, factor=self.factor)
        kept: dict[str, Any] = {}
        for f in fields(self):
            value, new = getattr(self, f.name), getattr(part, f.name)
            kept[f.name] = value if value is None or new is None else placed(value, models, new)
        return Moments(**kept)

    @cached_property
    def valid(self) -> Tensor:
        """(B,) True where every mean is in range and every sum finite."""
        finite = torch.isfinite(self.objective) & torch.isfinite(self.score).all(-1)
        return finite & self.gram.finite() & (self.invalid == 0)


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other


@dataclass(frozen=True)
class Point:
    """Where a pass evaluates, and what it carries.

    `coef` (B, p), or None for the pass that starts IRLS from a mean per row; `observed` (B,) chooses the
    observed information; `factor` carries a QR factor beside the Gram; `before` (B, p) are the coefficients
    against which the change of `eta` is reported; `constant` (B,) starts from one mean per model instead
    (of several predictors, from constants by averages (B, S) of their statistics; and `averages` from each row);
    `fence` is the strength of a logarithmic barrier that keeps `eta` off the edges of its range; `census` counts the
    rows as the first pass and a report do; without `curved` the Gram, the dear part, is left out (empty); a `relative`
    objective leaves out what depends on `y` alone; a `single` Gram may be summed in float32. `ends` is the range of
    `eta` where it has an end. With `lack` (B,) the sums are of what rows lack to that distance from the ends, `invalid`
    counting those that lack half of it; with `design` there is but a factor, that of the design's rows of positive
    weight. So many raw `shapes` of the family stand behind the coefficients, see `shape_sums`.
    """

    coef: Tensor | None = None
    observed: Tensor | bool = False
    factor: bool = False
    before: Tensor | None = None
    constant: Tensor | None = None
    averages: Tensor | None = None
    fence: float = 0.0
    census: bool = False
    curved: bool = True
    relative: bool = False
    single: bool = False
    ends: tuple[float, float] | None = None
    lack: Tensor | None = None
    design: bool = False
    shapes: int = 0

    def to(self, device: torch.device) -> Point:
        """The same on a device; from a CPU what is asked of all models alike becomes one answer, to be had unseen."""
        held = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        if all(value.device == device for value in held.values()):
            return self
        moved: dict[str, Any] = {name: value.to(device) for name, value in held.items()}
        if self.before is self.coef and self.coef is not None:
            moved["before"] = moved["coef"]
        asked = self.observed
        if isinstance(asked, Tensor) and asked.device.type == "cpu" and bool((asked == asked[:1]).all()):
            moved["observed"] = bool(asked.any())
        return replace(self, **moved)

    @property
    def likelihood(self) -> bool:
        """Whether the objective is half the deviance."""
        return not (self.design or self.fence) and self.lack is None
