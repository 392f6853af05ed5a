"""Rows for a fit that holds none, read as the fit read its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torchglm import inputs
from torchglm.design import is_source
from torchglm.families.several import VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.inference.mixed import conditional_rows
from torchglm.inputs import Data, Roles
from torchglm.rows.places import Places
from torchglm.rows.rows import Rows


def attached(
    result: Fitted, x: Any, y: Any, roles: Roles, predictors: Mapping[str, Any] | None = None
) -> tuple[Iterable[Rows], Places | None, Any]:
    """The rows that a fit is to look at, their places, and the table they are made of; see `Result.with_rows`."""
    roles.check_link(result.link)
    inputs.check_row_labels({"x": x, "y": y, **roles.given, **(predictors or {})})
    if result.flat.absorbed is not None:
        raise ValueError("a fit beside absorbed factors takes no other rows: its columns are free of them. Fit again.")
    device, table = result.coef.device, None
    named = Roles(**{**(result.context.get("columns") or {}), **roles.given})
    keys = result.group_names or []
    if result.spec is not None and y is None and is_source(x):
        if keys:
            raise ValueError(
                f"the models are those of {', '.join(keys)}, whose rows are sorted in memory. Pass a "
                "table, torchglm.tables.read_table(path)."
            )
        return conditional_rows(result, inputs.rows_by_spec(x, result.spec, result.family, named, device)), None, None
    if result.spec is not None and y is None:
        design = result.spec.design(x, response=True, also=[*named.columns.values(), *keys], random=True, rounded=True)
        data = inputs.from_design(design, result.family, named, keys, device, None)
        table = None if keys else design.table
        if data.context.get("groups") != result.groups:
            raise ValueError("the groups of these rows are not those of the fit. Pass the rows it was fitted on.")
    elif isinstance(result.family, VectorFamily):
        data = _several(result, result.family, x, y, roles, predictors or {})
    else:
        first, x = result.added_intercept, inputs.in_order(x, result.context.get("inputs"))
        data = inputs.from_arrays(x, y, result.family, roles, first, result.names[int(first) :], device, None)
    columns = len(result.all_names) if result.flat.modes is not None else data.columns
    if data.batch != result.batch_shape or columns != result.flat.coef.shape[-1]:
        raise ValueError(
            f"the rows have batch {tuple(data.batch)} and {data.columns} columns, the fit "
            f"{tuple(result.batch_shape)} and {result.flat.coef.shape[-1]}. Pass the rows it was fitted on."
        )
    return conditional_rows(result, data.source), data.context.get("places"), table


def _several(result: Fitted, family: VectorFamily, x: Any, y: Any, roles: Roles, predictors: Mapping[str, Any]) -> Data:
    """The rows of arrays of a family of several predictors."""
    context = result.context
    known = {name: inputs.in_order(value, context["beside"].get(name)) for name, value in predictors.items()}
    x = inputs.in_order(x, context.get("inputs"))
    return inputs.several_from_arrays(x, y, family, roles, context["added"], None, result.coef.device, None, known)
