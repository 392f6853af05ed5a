"""Rows whose family has several predictors: one design for all of them, and the plan of how each uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families.several import Classes, VectorFamily
from torchglm.inputs import checks
from torchglm.inputs.arrays import Data, from_arrays
from torchglm.inputs.classes import class_codes, counted, is_counts
from torchglm.inputs.columns import column_names, own_names
from torchglm.inputs.planned import planned
from torchglm.inputs.roles import Roles
from torchglm.inputs.specs import CONSTANT, check_predictors, tell_of_sorted_text


def several_from_arrays(
    x: Any,
    y: Any,
    family: VectorFamily,
    roles: Roles,
    intercept: bool,
    names: Sequence[str] | None,
    device: torch.device | None,
    dtype: torch.dtype | None,
    predictors: Mapping[str, Any],
) -> Data:
    """The rows of arrays `x` (n, p) or (*B, n, p), the columns of further predictors (n, q) beside it, and `y`.

    `Data.family` is the family as the response shows it. Raises `ValueError` where they do not fit together.
    """
    if isinstance(family, Classes):
        if y is None:
            raise ValueError("y is missing. Pass fit(x, y, ...), or a formula and a data frame.")
    check_predictors(predictors, family)
    design, columns = whole_design(x, predictors, family, intercept, names, device)
    as_counts = isinstance(family, Classes) and is_counts(design, y)
    if isinstance(family, Classes):
        if as_counts:
            design, y, roles, classes = counted(design, y, roles)
            classes = family.classes or classes
        else:
            free = family.classes is None and "category" not in str(getattr(y, "dtype", getattr(y, "dtypes", "")))
            y, classes = class_codes(y, family.classes)
            if free:
                tell_of_sorted_text(family, classes)
        family = family.of_classes(classes)
    data = from_arrays(design, y, family, roles, True, _flat(columns), device, dtype)
    plan, own = family.plan(columns, (0,))
    source = [planned(rows, plan, family) for rows in data.source]
    context = data.context | {
        "added": intercept,
        "counted": as_counts,
        "designs": {name: list(places.items()) for name, places in columns.items()},
        "inputs": _known(x),
        "beside": {name: _known(value) for name, value in predictors.items()},
    }
    return replace(
        data,
        source=source,
        names=own,
        columns=plan.columns,
        constant=any(0 in block.columns for block in plan.blocks),
        family=family,
        plan=plan,
        context=context,
    )


def whole_design(
    x: Any,
    predictors: Mapping[str, Any],
    family: VectorFamily,
    intercept: bool,
    names: Sequence[str] | None,
    device: torch.device | None,
) -> tuple[Tensor, dict[str, dict[str, int]]]:
    """The columns of all predictors side by side, and of each the names of its own with their places from 1 on.

    Place 0 is the constant, which the first predictor has with `intercept` and the others always.
    """
    first = checks.tensor(x, "x", device)
    own = list(names) if names is not None else column_names(x)
    own = [f"x{j}" for j in range(first.shape[-1])] if own is None else own
    if first.dim() > 1 and len(own) != first.shape[-1]:
        raise ValueError(
            f"names has {len(own)} entries for {first.shape[-1]} columns of x. Give one name for each column."
        )
    parts, columns, place = [first], {"": _places(own, 1, intercept)}, 1 + len(own)
    for name in family.others:
        given = predictors.get(name, CONSTANT)
        if isinstance(given, str):
            if given.replace(" ", "") != "~1":
                raise ValueError(
                    f"predictors={{{name!r}: {given!r}}} is a formula, and x is no formula. Pass its columns, or "
                    f"{CONSTANT!r}."
                )
            columns[name] = {"(Intercept)": 0}
            continue
        z = checks.tensor(given, f"predictors[{name!r}]", first.device)
        z = z.unsqueeze(-1) if z.dim() == 1 else z
        if z.shape[-2:-1] != first.shape[-2:-1]:
            raise ValueError(
                f"predictors[{name!r}] has shape {tuple(z.shape)}, x {tuple(first.shape)}. Pass one row for each row "
                "of x."
            )
        labels = column_names(given) or [f"z{j}" for j in range(z.shape[-1])]
        columns[name] = _places(labels, place, True)
        parts.append(z)
        place += len(labels)
    shape = max((part.shape[:-1] for part in parts), key=len)
    return torch.cat([part.expand(*shape, part.shape[-1]).to(first.dtype) for part in parts], -1), columns


def _places(names: Sequence[str], first: int, intercept: bool) -> dict[str, int]:
    places = {name: first + j for j, name in enumerate(names)}
    if len(places) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ValueError(f"two columns are named {twice!r}. Give each its own name.")
    return ({"(Intercept)": 0} if intercept else {}) | places


def _flat(columns: dict[str, dict[str, int]]) -> list[str]:
    named = [(place, f"{name}:{column}") for name, own in columns.items() for column, place in own.items() if place]
    return [name for _, name in sorted(named)]


def _known(x: Any) -> list[str] | None:
    own = own_names(x)
    return None if own is None else list(own)
