"""A formula and a table as Rows: one model, or one for each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchglm import tables
from torchglm.design import Tally, build, groups
from torchglm.design.brackets import shortened
from torchglm.families import Family
from torchglm.families.row_error import RowError
from torchglm.families.several import VectorFamily
from torchglm.inputs import checks
from torchglm.inputs.arrays import Data, assemble
from torchglm.inputs.groups import by_groups, one_after_another
from torchglm.inputs.roles import Roles
from torchglm.inputs.specs import effects_of, family_of, formulas_of, in_class_order, plan_of, terms_of
from torchglm.rows.places import Places


def from_formula(
    formula: str,
    frame: Any,
    family: Family,
    roles: Roles,
    by: str | Sequence[str] | None,
    policies: Mapping[str, Any],
    device: torch.device | None,
    dtype: torch.dtype | None,
    predictors: Mapping[str, Any] | None = None,
) -> Data:
    """The rows of a table by a formula; roles may be names of columns, `policies` as in `data.build`.

    `predictors` are the right sides of further predictors, of a family that has several.

    Raises `ValueError` for a formula without a response, missing data and all that the tables refuse.
    """
    if frame is None:
        raise ValueError("a formula needs data: fit('y ~ a + b', data, ...) with a data frame, a table or a dict.")
    keys = [] if by is None else [by] if isinstance(by, str) else list(by)
    more = formulas_of(family, predictors or {})
    absorb = not keys and not isinstance(family, VectorFamily)
    design = build(formula, frame, also=[*roles.columns.values(), *keys], absorb=absorb, **policies, **more)
    if keys and design.spec.absorbed:
        design.spec.check_fixed("by=, a model for each group")
    if isinstance(family, VectorFamily) and design.spec.absorbed:
        design.spec.check_fixed(f"the family {family.said}, which has several predictors")
    if design.y is None:
        raise ValueError(f"the formula {shortened(formula)} has no response. Write it as 'y ~ ...'.")
    data = from_design(design, family_of(family, design.spec), roles, keys, device, dtype)
    data.context |= {
        "formula": formula,
        "predictors": dict(predictors or {}),
        "spec": design.spec,
        "terms": terms_of(design.spec, data.plan),
        "columns": roles.columns,
        "group_names": keys or None,
        "tally": Tally.of(design).to_dict(),
        "table": None if keys else design.table,
    }
    data.plan = None if data.plan is None else data.plan.first(len(data.names))
    data.random = effects_of(design.spec, len(data.names), data.family or family)
    return data


def from_design(
    design: Any,
    family: Family,
    roles: Roles,
    keys: list[str],
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> Data:
    """The rows of a built `Design`, one model for each group of the columns `keys`."""

    def value_of(name: str, value: Any) -> Tensor:
        if isinstance(value, str):
            return tables.numbers(design.table, value).to(device)
        given = checks.tensor(value, name, device)
        given = given.squeeze(-1) if given.dim() == 2 and given.shape[-1] == 1 else given
        if design.kept is None:
            return given
        if given.shape[-1:] != design.kept.shape:
            raise ValueError(
                f"{name} has shape {tuple(given.shape)}, the data {len(design.kept)} rows. Pass one value for each row."
            )
        return given[..., torch.as_tensor(design.kept, device=device)]

    roles = roles.map(value_of)
    places = Places()
    places.add(None, 0, len(design.table) if design.kept is None else len(design.kept), design.kept)
    response = torch.as_tensor(design.y).to(torch.float64).to(device)
    response = in_class_order(response, family, design.spec)
    plan, names = plan_of(family, design.spec)
    if not keys:
        numbers = design.numbers.to(device, dtype or design.numbers.dtype)
        indexed = design.whole_index
        indexed = None if indexed is None else indexed.to(numbers.device, numbers.dtype)
        try:
            data = assemble(
                numbers, response, family, roles, names, False, design.intercept, indexed=indexed, plan=plan
            )
        except RowError as error:
            raise error.moved(design.row(error.place[-1])) from None
        data.context["places"] = places
        if design.codes is not None:
            data.source = [rows._replace(codes=design.codes.to(device)) for rows in data.source]
        return data
    codes, labels = groups(design.table, keys)
    order, sizes = one_after_another(codes, len(labels)), torch.bincount(codes)
    x = design.x if design.random is None else torch.cat([design.x, design.random.whole(design.x[:, :0])], -1)
    x = x.to(device, dtype or x.dtype)
    try:
        data = by_groups(x, response, family, roles, codes, order, sizes, names, design.intercept, plan)
    except RowError as error:
        raise error.moved(design.row(error.place[-1])) from None
    data.context |= {"groups": labels, "places": places.grouped(order, sizes)}
    return data
