"""The rows of a minibatch, as loaders hand them over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.inputs import checks
from torchglm.inputs.arrays import assemble
from torchglm.inputs.columns import in_order
from torchglm.inputs.pandas_index import check_row_labels
from torchglm.inputs.roles import ROLES, Roles
from torchglm.links import Link
from torchglm.rows.plan import Plan
from torchglm.rows.rows import Rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


class _Fields(NamedTuple):
    x: Any
    y: Tensor | None = None
    weights: Tensor | None = None
    freq: Tensor | None = None
    offset: Tensor | None = None
    exposure: Tensor | None = None
    trials: Tensor | None = None
    event: Tensor | None = None
    until: Tensor | None = None


class GLMBatch(_Fields):
    """The rows of a batch: `x` is what the model takes, the others `(n,)` or `(n, responses)`, or absent.

    What stands beside `y` is given by name, see `Roles`. `exposure` stays apart until a head is at hand: it is an
    offset of `log(exposure)` where the link has rates, and has no meaning elsewhere.
    """

    __slots__ = ()

    def __new__(cls, x: Any, y: Any = None, *every: Any, **roles: Unpack[RoleValues]) -> GLMBatch:
        """Raises `TypeError` for roles that are given by position, or under a name that is none."""
        if every and (roles or len(every) != len(ROLES)):  # all of them come from who rebuilds a named tuple
            raise TypeError(f"GLMBatch takes x and y by position, and by name: {', '.join(ROLES)}.")
        beside = every or tuple(getattr(Roles.of(roles, "GLMBatch"), name) for name in ROLES)
        return tuple.__new__(cls, (x, y, *beside))

    @property
    def roles(self) -> Roles:
        """What stands beside `y`."""
        return Roles(*self[2:])

    def to(self, device: torch.device | str) -> GLMBatch:
        """The rows on a device, and `x` where it is a tensor, or a dict, list or tuple of them; itself if there."""
        where = torch.device(device)
        moved = [_moved(value, where) for value in self]
        same = all(one is other for one, other in zip(self, moved, strict=True))
        return self if same else GLMBatch(*moved)


def _moved(value: Any, device: torch.device) -> Any:
    if value is None or isinstance(value, Tensor):
        return (
            value if value is None or value.device == device else value.to(device, non_blocking=device.type == "cuda")
        )
    if isinstance(value, Mapping):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_moved(part, device) for part in value]
    return value.to(device) if hasattr(value, "to") else value


def as_batch(batch: Any, link: Link | None = None) -> GLMBatch:
    """A `GLMBatch` from one, from a dict with its names, or from `(x,)` or `(x, y)`, as a head takes it.

    `exposure` becomes an offset of `log(exposure)`, added to that of the batch. Raises `ValueError` for other names or
    types, an exposure that is not finite and above 0, and one where `link`, that of the head, has no rates.
    """
    rows = named(batch)
    if rows.exposure is None:
        return rows
    if link is not None:
        rows.roles.check_link(link)
    return rows._replace(offset=rows.roles.shift(), exposure=None)


def named(batch: Any) -> GLMBatch:
    """A `GLMBatch` from one, from a dict with its names, or from `(x,)` or `(x, y)`; each value under its own name.

    Raises `ValueError` for other names or types.
    """
    if isinstance(batch, GLMBatch):
        return batch
    if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 2:
        return GLMBatch(*batch)
    names = ", ".join(GLMBatch._fields)
    if not isinstance(batch, Mapping):
        what = f"a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
        raise ValueError(
            f"A batch is (x, y), or a GLMBatch or a dict with the names {names}: what stands beside y is given by "
            f"name. Got {what}."
        )
    if set(batch) - set(GLMBatch._fields) or "x" not in batch:
        raise ValueError(f"A batch has the names {names}, and always x; got {', '.join(map(repr, batch))}.")
    return GLMBatch(**batch)


def unpacked(x: Any, y: Any, roles: Roles) -> tuple[Any, Any, Roles]:
    """`x`, `y` and the roles of a minibatch, which may come together as the one argument `x`: see `named`.

    Raises `ValueError` for other names, and for what came both in the batch and beside it.
    """
    together = isinstance(x, (GLMBatch, Mapping)) or (y is None and isinstance(x, (tuple, list)))
    if not together:
        return x, y, roles
    batch = named(x)
    held, beside = batch._asdict(), {"y": y, **roles.given}
    twice = [name for name, value in beside.items() if value is not None and held.get(name) is not None]
    if twice:
        raise ValueError(f"{', '.join(twice)} came in the batch and beside it. Give each once.")
    return batch.x, batch.y if y is None else y, Roles(**{**batch.roles.given, **roles.given})


def minibatch(
    x: Any,
    y: Any,
    family: Family,
    link: Link,
    intercept: bool,
    roles: Roles,
    names: Sequence[str] | None = None,
    plan: Plan | None = None,
) -> Rows:
    """The rows of a minibatch of one response, `x` (n, p) and the others `(n,)`, looked at as `torchglm.fit` does.

    The columns of a frame are found by `names`, where they are known; `plan` is that of several predictors. Raises
    `ValueError` or `TypeError` for data that do not fit together, are not finite or lie outside the family's support.
    """
    if x is None or y is None:
        raise ValueError(
            f"{'x' if x is None else 'y'} is missing. A minibatch to learn from has x and y: pass both, "
            "or one GLMBatch or dict that holds them."
        )
    roles.check_link(link)
    check_row_labels({"x": x, "y": y, **roles.given})
    design = checks.tensor(in_order(x, names), "x")
    response = checks.tensor(y, "y", design.device)
    if response.dim() == 2 and response.shape[-1] == 1:
        response = response.squeeze(-1)
    if design.dim() != 2 or response.dim() != 1:
        raise ValueError(
            f"x has shape {tuple(design.shape)} and y {tuple(response.shape)}; a minibatch needs x (n, p) and y (n,)."
        )
    checks.check_shapes(design, response)
    first = intercept or plan is not None  # the constant that a plan has for every predictor
    [rows] = assemble(design, response, family, roles, [], first, strict=False, plan=plan).source
    return rows
