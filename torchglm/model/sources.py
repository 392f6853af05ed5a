"""Which door of `inputs` a call of `fit` goes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from torchglm import families, inputs, links
from torchglm.design import is_source
from torchglm.families import Family
from torchglm.families.several import Classes, VectorFamily, of_predictors
from torchglm.inputs import Data, Roles
from torchglm.links import Identity, Link
from torchglm.tables.text_format import TextFormat


def data_of(
    x: Any,
    y: Any,
    family: Family,
    link: Link,
    roles: Roles,
    *,
    intercept: bool,
    names: Sequence[str] | None,
    predictors: Mapping[str, Any],
    by: str | Sequence[str] | None,
    policies: Mapping[str, Any],
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> Data:
    """The rows of what `fit` was given, see there. Raises `ValueError` for arguments that mean nothing to its kind."""
    reading: TextFormat = policies["reading"]
    known = {"data": y} if isinstance(x, str) else {"x": x, "y": y}
    inputs.check_row_labels(known | roles.given | {f"predictors[{name!r}]": z for name, z in predictors.items()})
    if not isinstance(x, str):
        if given := ", ".join(f"{name}=" for name in reading.to_dict()):
            raise ValueError(f"{given} say how a table is read for a formula, and x is no formula. Leave them out.")
        if by is not None:
            raise ValueError("by= needs a formula and a data frame: fit('y ~ a', data, by='group', ...).")
        if isinstance(family, VectorFamily) and not (y is None and inputs.is_loader(x)):
            return inputs.several_from_arrays(x, y, family, roles, intercept, names, device, dtype, predictors)
        if y is None and inputs.is_loader(x):
            if predictors:
                raise ValueError(
                    "the batches of a loader have columns for the first predictor alone. Leave predictors= out."
                )
            return inputs.from_loader(x, family, link, roles, intercept, names, device, dtype)
        return inputs.from_arrays(x, y, family, roles, intercept, names, device, dtype)
    if names is not None or not intercept:
        raise ValueError(
            "a formula names its columns and decides on its intercept ('y ~ a - 1' has none). Leave out "
            "names= and intercept=."
        )
    if not is_source(y):
        return inputs.from_formula(x, y, family, roles, by, policies, device, dtype, predictors)
    if by is not None:
        raise ValueError("by= sorts rows in memory: pass a table, torchglm.tables.read_table(path).")
    return inputs.from_files(x, y, family, roles, policies, device, dtype, predictors)


def named_or_placed(x: Any, y: Any, formula: str | None, data: Any) -> tuple[Any, Any]:
    """`x` and `y`, of a formula also by these names. Raises `TypeError` for one that is given twice, or not."""
    if (formula is not None and x is not None) or (data is not None and y is not None):
        raise TypeError("fit() got x and formula=, or y and data=, which are the same. Give each once.")
    if data is not None and formula is None and not isinstance(x, str):
        raise TypeError("data= is the table of a formula. Pass fit('y ~ a', data, ...), or arrays as fit(x, y, ...).")
    x, y = x if formula is None else formula, y if data is None else data
    if x is None:
        raise TypeError("fit() needs x, the columns, or a formula: fit(x, y, ...) or fit('y ~ a', data, ...).")
    return x, y


def family_and_link(
    family: str | Family | type[Family], link: str | Link | type[Link] | None, predictors: Mapping[str, Any] | None
) -> tuple[Family, Link]:
    """The family, one of several predictors where some are named, and the link of its mean, which these have."""
    if predictors is not None and not isinstance(predictors, Mapping):
        raise TypeError(f"predictors is a dict, {{'dispersion': '~ age'}} or its columns; got {predictors!r}.")
    family = families.get(family)
    if not predictors and not isinstance(family, VectorFamily):
        return family, family.default_link if link is None else links.get(link)
    several = of_predictors(family, link)
    unknown = isinstance(several, Classes) and several.classes is None
    return several, Identity() if unknown else several.default_link
