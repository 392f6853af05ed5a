"""How the coefficients of a plan of predictors lie in the weight and the bias of a head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from torchglm.families import Family
from torchglm.families.several import BY_NAME, Classes, Ordinal, VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.rows.plan import Plan, PlanBlock


@dataclass(frozen=True)
class Shape:
    """The coefficients of a plan whose design has a one in front, as `weight` (R, p) and constants (C).

    `eta = slopes (weight x) + tops constants`, with `slopes` (K, R), None for the identity, and `tops` (K, C). The
    coefficients `places` are `weight[rows, columns]`, the coefficients `constants` the constants.
    """

    slopes: Tensor | None
    tops: Tensor
    rows: Tensor
    columns: Tensor
    places: Tensor
    constants: Tensor

    @staticmethod
    def of(plan: Plan) -> Shape:
        """The shape of a plan."""
        slopes, tops, constants = list[Tensor](), list[Tensor](), list[int]()
        at: list[tuple[int, int, int]] = []
        for block, place in zip(plan.blocks, plan.slices, strict=True):
            m = len(block.columns)
            for t in range(block.width):
                first = place.start + t * m
                own = [(len(slopes), j - 1, first + i) for i, j in enumerate(block.columns) if j]
                if own:
                    slopes.append(block.contrast[:, t])
                at += own
                ones = [first + i for i, j in enumerate(block.columns) if not j]
                constants += ones
                tops += [block.contrast[:, t]] * len(ones)
        rows, columns, places = torch.tensor(at, dtype=torch.long).reshape(-1, 3).unbind(-1)
        contrast = torch.stack(slopes, 1) if slopes else torch.zeros(plan.predictors, 0, dtype=torch.float64)
        alike = contrast.shape == (plan.predictors,) * 2 and bool((contrast == torch.eye(plan.predictors)).all())
        return Shape(
            None if alike else contrast,
            torch.stack(tops, 1) if tops else torch.zeros(plan.predictors, 0, dtype=torch.float64),
            rows,
            columns,
            places,
            torch.tensor(constants, dtype=torch.long),
        )

    @property
    def height(self) -> int:
        """The number R of rows of the weight."""
        return self.tops.shape[0] if self.slopes is None else self.slopes.shape[1]

    def used(self, columns: int) -> Tensor | None:
        """(R, p) where the weight is used; None where all of it is."""
        used = torch.zeros(self.height, columns, dtype=torch.bool)
        used[self.rows, self.columns] = True
        return None if bool(used.all()) else used


def designs_of_head(
    family: VectorFamily, columns: Sequence[str], bias: bool, predictors: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    """The columns of each predictor by name: the first and those named have all of them, the others a constant."""
    own, one = {name: 1 + j for j, name in enumerate(columns)}, {"(Intercept)": 0}
    designs = {"": (one if bias else {}) | own}
    return designs | {name: one | (own if name in predictors else {}) for name in family.others}


def plan_of(family: VectorFamily, columns: int, bias: bool, predictors: tuple[str, ...]) -> Plan:
    """The plan of a head: the first predictor and those named have all columns, the others a constant."""
    return family.plan(designs_of_head(family, [f"x{j}" for j in range(columns)], bias, predictors), (0,))[0]


def with_one_in_front(plan: Plan, added: bool) -> Plan:
    """The plan of a fit as that of a head, whose columns count from 1 on: where none was added, ones are constants."""
    if added:
        return plan
    places = [
        PlanBlock(tuple(0 if j in plan.ones else j + 1 for j in block.columns), block.contrast) for block in plan.blocks
    ]
    return Plan(plan.predictors, tuple(places))


def of_design(plan: Plan) -> Plan:
    """The plan of a head that takes the columns of a fit's design that are not ones; these are its constants."""
    place = {j: 1 + k for k, j in enumerate(j for j in range(plan.reach) if j not in plan.ones)}
    blocks = [PlanBlock(tuple(place.get(j, 0) for j in block.columns), block.contrast) for block in plan.blocks]
    return Plan(plan.predictors, tuple(blocks))


def is_ordered(family: VectorFamily) -> bool:
    """Whether the constants are thresholds, each above the one before it."""
    return isinstance(family, Ordinal) and family.kind == "cumulative"


def ordered(raw: Tensor) -> Tensor:
    """(..., C) thresholds in order: the first, and the sums of `softplus` of the others."""
    gaps = torch.nn.functional.softplus(raw[..., 1:])
    return torch.cat([raw[..., :1], raw[..., :1] + gaps.cumsum(-1)], -1)


def unordered(thresholds: Tensor) -> Tensor:
    """(..., C) what `ordered` makes these thresholds of."""
    gaps = thresholds.diff(dim=-1).clamp(min=torch.finfo(thresholds.dtype).eps)
    return torch.cat([thresholds[..., :1], gaps + torch.log(-torch.expm1(-gaps))], -1)


def constant_shapes(family: VectorFamily) -> VectorFamily:
    """A copy in which the shapes of families within are constants, which no optimizer is handed."""
    other = copy.deepcopy(family)
    for part in list(other.modules()):
        for name, inner in list(part.named_children()):
            if isinstance(inner, Family) and not isinstance(inner, VectorFamily):
                setattr(part, name, inner.requires_grad_(False).fixed())
    return other


def is_several(family: str | Family | type[Family]) -> bool:
    """Whether a family, or that of a name or class, has several predictors."""
    kind = family if isinstance(family, type) else BY_NAME.get(family) if isinstance(family, str) else type(family)
    return kind is not None and issubclass(kind, VectorFamily)


def plan_of_fit(fitted: Fitted, plan: Plan) -> tuple[Plan, int]:
    """The plan of a fit as that of a head, and the number of columns such a head takes: those of all predictors."""
    last = max(column for block in plan.blocks for column in block.columns)
    added = fitted.spec is None
    return with_one_in_front(plan, added), last if added else last + 1


def of_a_law(family: VectorFamily, eta: Tensor) -> Tensor:
    """The predictors; where cuts with slopes of their own cross, the class between them has no probability."""
    crossing = is_ordered(family) and getattr(family, "free", False)
    return torch.stack(list(accumulate(eta.unbind(0), torch.maximum))) if crossing else eta


def law(family: VectorFamily, eta: Tensor) -> Distribution:
    """The law of a response at predictors (K, *N), of classes that of their codes.

    Raises `ValueError` for a law of which there is no distribution.
    """
    if isinstance(family, Classes):
        logs = family.log_probabilities(of_a_law(family, eta)).movedim(0, -1)
        return Categorical(logits=logs, validate_args=False)
    if type(family).law_at is VectorFamily.law_at:
        raise ValueError(f"torch has no distribution of the law {family.name}. Ask the head for its parameters.")
    return family.law_at(eta)
