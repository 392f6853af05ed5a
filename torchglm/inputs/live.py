"""Rows whose tensors keep their graph: what `arrays` makes of the same values, for derivatives by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.inputs import checks
from torchglm.inputs.planned import planned
from torchglm.inputs.roles import Roles
from torchglm.rows.plan import Plan
from torchglm.rows.responses import Response, filled, second_of, size_of
from torchglm.rows.rows import Rows


def live_design(x: Tensor, predictors: Mapping[str, Any], family: Family) -> Tensor:
    """The columns of all predictors side by side in float64, (n, p) or (*B, n, p), as `whole_design` has them."""
    others = family.others if isinstance(family, VectorFamily) else ()
    parts = [x] + [predictors[name] for name in others if isinstance(predictors.get(name), Tensor)]
    parts = [part.unsqueeze(-1) if part.dim() == 1 else part for part in parts]
    shape = max((part.shape[:-1] for part in parts), key=len)
    return torch.cat([part.expand(*shape, part.shape[-1]).double() for part in parts], -1)


def live_rows(design: Tensor, y: Tensor, roles: Roles, family: Family, intercept: bool, plan: Plan | None) -> Rows:
    """The rows of values that `arrays` has looked at, in float64: `design` (n, p) or (*B, n, p), `y` (*B, n).

    A row of weight 0 keeps what it says of its weight, but for one that holds what is no response or not finite.
    """
    shape, models, n = y.shape, y.shape[:-1].numel(), y.shape[-1]

    def each(_: str, value: Tensor) -> Tensor:
        return (value if value.shape == shape else value.reshape(n).expand(shape)).double()

    roles = roles.map(each)
    weight = torch.ones_like(y) if roles.weight is None else roles.weight
    y, roles = roles.readable(y, weight > 0)
    encoded, factor = family.encode(y, **roles.of_response)
    weight = weight if factor is None else weight * factor
    shift = roles.shift(weight > 0)
    offset = torch.zeros_like(weight) if shift is None else shift
    if not (checks.all_finite(design) and checks.all_finite(size_of(encoded)) and bool((weight > 0).all())):
        design, encoded, offset, weight = _harmless(design, encoded, offset, weight, family)
    second, pair = second_of(encoded)
    rows = Rows(
        design if design.dim() == 2 else design.reshape(models, n, -1),
        size_of(encoded).reshape(models, n),
        weight.reshape(models, n),
        offset.reshape(models, n),
        None if roles.freq is None else roles.freq.reshape(models, n),
        intercept or plan is not None,
        second=None if second is None else second.reshape(models, n),
        pair=pair,
    )
    return rows if plan is None or not isinstance(family, VectorFamily) else planned(rows, plan, family)


def _harmless(
    design: Tensor, y: Response, offset: Tensor, weight: Tensor, family: Family
) -> tuple[Tensor, Response, Tensor, Tensor]:
    """Values that can be computed with in rows that say nothing, whose weight is then 0 whatever is done to it."""
    finite = torch.isfinite(design)
    sound = torch.isfinite(size_of(y)) & family.supports(y) & torch.isfinite(offset) & finite.all(-1)
    y, offset = filled(y, sound, family.inner_mean), torch.where(sound, offset, 0.0)
    return torch.where(finite, design, 0.0), y, offset, torch.where(sound, weight, 0.0)
