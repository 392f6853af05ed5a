"""A role of new rows: what stands beside them, looked at as `fit` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchglm import inputs, tables
from torchglm.inference.fitted import Fitted
from torchglm.inputs import Roles


def shift_of(result: Fitted, roles: Roles, eta: Tensor, x: Any) -> Tensor | float:
    """What the offset and the exposure of new rows `x` add to predictors of the shape of `eta`, (*B, m)."""
    columns = result.context.get("columns") or {}
    from_frame = result.spec is not None and not isinstance(x, Tensor)
    own = {name: column for name, column in columns.items() if name in ("offset", "exposure")}
    if from_frame and (not roles.given or len(own) == 2):  # of two, what is given replaces the one of its name
        roles = Roles(**own | roles.given)
    if len(result.context.get("offset") or ()) == 2 and len(roles.given) == 1:
        missing, neutral = ("exposure", 1) if roles.exposure is None else ("offset", 0)
        raise ValueError(
            f"the model was fitted with an offset and an exposure, and the new rows have no {missing}. Pass both; "
            f"{missing}={neutral} leaves it out."
        )
    roles.check_link(result.link)
    every = torch.ones_like(eta, dtype=torch.bool)
    shift = roles.map(lambda name, value: for_each(name, value, eta, x).expand(eta.shape)).shift(every)
    if shift is not None:
        return shift
    if result.context.get("offset"):
        raise ValueError(
            "the model was fitted with an offset (or exposure), and none is given for the new rows. "
            "Pass exposure= (1 for means of a unit of exposure) or offset=."
        )
    return 0.0


def for_each(name: str, value: Any, eta: Tensor, x: Any) -> Tensor:
    """A role of new rows `x`: one number `()`, `(m,)`, or a value for each prediction (*B, m); a column by its name."""
    inputs.check_row_labels({"x": x, name: value})
    if isinstance(value, str):
        if inputs.column_names(x) is None and not isinstance(x, Mapping):
            raise ValueError(f"{name}={value!r} names a column, and the new rows are no table. Pass its values.")
        value = torch.as_tensor(tables.numbers(tables.as_table(x, [value]), value))
    given = (torch.as_tensor(value) if isinstance(value, (int, float)) else inputs.tensor(value, name)).to(eta)
    if given.shape == (eta.shape[-1], 1):
        given = given.squeeze(-1)
    if given.dim() and given.shape not in (eta.shape, eta.shape[-1:]):
        raise ValueError(
            f"{name} has shape {tuple(given.shape)}, the predictions {tuple(eta.shape)}. Pass one {name} for each row."
        )
    if name == "offset":
        inputs.finite(torch.atleast_1d(given), name)
    return given
