"""Tensors, arrays and frames of numbers as Rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.mixed.effects import Groupings
from torchglm.fitting.status import FitWarning
from torchglm.inputs import checks
from torchglm.inputs.columns import column_names, own_names
from torchglm.inputs.planned import planned
from torchglm.inputs.roles import Roles
from torchglm.rows.indexed import Indexed
from torchglm.rows.plan import Plan
from torchglm.rows.responses import Response, second_of, size_of
from torchglm.rows.rows import Rows, is_all
from torchglm.writing.warning import tell


@dataclass
class Data:
    """The rows of a call, flattened to `B` models, and what is needed to speak of them.

    `source` is re-iterable; `columns` counts those of the design, the intercept among them; `skip` (B,) marks the
    models of a batch whose rows hold NaN or infinities.
    """

    source: Iterable[Rows]
    batch: torch.Size
    names: list[str]
    columns: int
    device: torch.device
    single: bool  # the rows are in float32
    constant: bool  # the first column of the design is an intercept
    skip: Tensor | None = None
    context: dict[str, Any] = field(default_factory=dict)
    family: Family | None = None  # as the response shows it, which may tell more of it
    plan: Plan | None = None  # of the rows, where they have several predictors
    random: Groupings | None = None  # the columns of random effects, behind those that have names

    @property
    def constants(self) -> tuple[int, ...]:
        """The coefficients of columns of ones, which no penalty takes."""
        return self.plan.free if self.plan is not None else (0,) * self.constant


def from_arrays(
    x: Any,
    y: Any,
    family: Family,
    roles: Roles,
    intercept: bool,
    names: Sequence[str] | None,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> Data:
    """The rows of arrays `x` (n, p) or (*B, n, p) and `y` (*B, n). Raises `ValueError` where they do not fit."""
    if y is None:
        raise ValueError("y is missing. Pass fit(x, y, ...), or a formula and a data frame.")
    own = own_names(x) or names
    names = column_names(x) if names is None else list(names)
    design, response = checks.tensor(x, "x", device), checks.tensor(y, "y", device)
    response = response.to(design.device)
    if design.dim() > 1:
        response = checks.responses_in_rows(design, response)
    checks.check_shapes(design, response)
    if dtype is not None:
        design = design.to(dtype)
    p = design.shape[-1]
    names = [f"x{j}" for j in range(p)] if names is None else names
    if len(names) != p:
        raise ValueError(f"names has {len(names)} entries for {p} columns of x. Give one name for each column.")
    data = assemble(design, response, family, roles, ["(Intercept)", *names] if intercept else names, intercept)
    data.context |= {"added": intercept, "inputs": None if own is None else list(own)}
    return data


def assemble(
    design: Tensor,
    response: Tensor,
    family: Family,
    roles: Roles,
    names: list[str],
    intercept: bool,
    constant: bool = False,
    strict: bool = True,
    indexed: Indexed | None = None,
    plan: Plan | None = None,
) -> Data:
    """Rows that have been looked at: shapes, finiteness, support, weights.

    `constant` says that the design brings its own intercept; with `strict`, weights that are all zero are refused;
    `indexed` are the index columns beside those of `design`; `plan` says how a family of several predictors uses them.
    """
    shape, device = response.shape, design.device
    roles = roles.map(lambda name, value: checks.per_row(value, shape, name, device))
    batch = shape[:-1]
    weight = _weight(roles, shape, strict, device)
    plain = is_all(weight, 1.0)  # known without a look at them
    used = torch.ones((), dtype=torch.bool, device=device).expand(shape) if plain else weight > 0
    response, roles = roles.readable(response, used)
    encoded, factor = family.encode(response, **roles.of_response)
    coded, (second, pair) = size_of(encoded), second_of(encoded)
    weight = weight if factor is None else weight * factor
    if factor is not None:
        if strict:
            checks.check_weights(factor, "trials", strict)
        plain, used = False, weight > 0
    shift = roles.shift(used)
    offset = torch.zeros((), dtype=torch.float64, device=device).expand(shape) if shift is None else shift
    offset = offset if roles.exposure is None else offset.to(torch.float64)
    skip = _not_finite(design, coded, used, len(batch) > 0)
    if len(batch) and not plain and not bool(used.any(-1).all()):
        skip = ~used.any(-1) if skip is None else skip | ~used.any(-1)
    if skip is not None:
        used = used & ~skip.unsqueeze(-1)
    checks.check_support(encoded, family, used)
    if shift is not None:
        checks.finite(offset, "offset", used, "An exposure of 0 carries no information: drop the row.")
    if not (plain and skip is None) and not bool(used.all()):
        if skip is None and not (checks.all_finite(design) and checks.all_finite(coded)):
            tell("rows of weight zero hold NaN or infinite values; they are left out.", FitWarning)
        design, coded, offset = _neutral(design, encoded, offset, used, family)
        weight = torch.where(used, weight, 0.0)
    n, models = shape[-1], batch.numel()
    freq = None if roles.freq is None else roles.freq.reshape(models, n)
    rows = Rows(
        design if design.dim() == 2 else design.reshape(models, n, design.shape[-1]),
        coded.reshape(models, n),
        weight.reshape(models, n),
        offset.reshape(models, n),
        freq,
        intercept,
        indexed,
        None if second is None else second.reshape(models, n),
        pair=pair,
    )
    constant = intercept or constant or _starts_with_ones(rows)
    if isinstance(family, VectorFamily) and plan is not None:
        rows = planned(rows, plan, family)
    return Data(
        [rows],
        batch,
        names,
        rows.columns,
        device,
        design.dtype == torch.float32,
        constant,
        None if skip is None else skip.reshape(-1),
        roles.context,
        family,
        plan,
    )


def _weight(roles: Roles, shape: torch.Size, strict: bool, device: torch.device) -> Tensor:
    """Prior weights times repeats, one number for all rows until a row has one of its own."""
    weight = torch.ones((), dtype=torch.float64, device=device).expand(shape)
    for name, value in (("weights", roles.weights), ("freq", roles.freq)):
        if value is not None:
            checks.check_weights(value, name, strict)
            weight = weight * value
    return weight


def _starts_with_ones(rows: Rows) -> bool:
    """True where the first column of the design is the user's own intercept."""
    if rows.indexed is not None and rows.indexed.places[:1].tolist() != [0]:
        return False
    x = rows.x
    return x.numel() > 0 and x[(0,) * x.dim()].item() == 1 and bool((x[..., 0] == 1).all())


def _not_finite(design: Tensor, y: Tensor, used: Tensor, batched: bool) -> Tensor | None:
    """(*B,) the models of a batch that hold NaN or infinities; with one model they are an error."""
    if checks.all_finite(design) and checks.all_finite(y):
        return None
    shared = design.dim() == 2
    rows_used = used.reshape(-1, used.shape[-1]).any(0) if shared else used
    if shared or not batched:
        checks.finite(design, "x", rows_used.unsqueeze(-1))
    if not batched:
        checks.finite(y, "y", used)
        return None
    bad = (~torch.isfinite(y) & used).any(-1)
    if not shared:
        bad = bad | (~torch.isfinite(design) & used.unsqueeze(-1)).any(-1).any(-1)
    if bool(bad.all()):
        checks.finite(y, "y", used)
        checks.finite(design, "x", used.unsqueeze(-1))
    return bad if bool(bad.any()) else None


def _neutral(
    design: Tensor, y: Response, offset: Tensor, used: Tensor, family: Family
) -> tuple[Tensor, Tensor, Tensor]:
    """Harmless values in place of what cannot be computed with in rows without weight, so that it reaches no sum."""
    if not checks.all_finite(design):
        shared = design.dim() == 2
        rows_used = used.reshape(-1, used.shape[-1]).any(0) if shared else used
        whole = torch.isfinite(design).all(-1)
        design = torch.where((rows_used | whole).unsqueeze(-1), design, 0.0)
    size = size_of(y)
    fits = used | torch.isfinite(size) & family.supports(y)
    return design, torch.where(fits, size, family.inner_mean), torch.where(used | torch.isfinite(offset), offset, 0.0)
