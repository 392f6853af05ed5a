"""The rows of a minibatch, as loaders hand them over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.inputs import checks
from torchglm.inputs.arrays import assemble
from torchglm.links import Link
from torchglm.rows.rows import Rows


class GLMBatch(NamedTuple):
    """The rows of a batch: `x` is what the model takes, the others `(n,)` or `(n, responses)`, or absent.

    `exposure` stays apart until a head is at hand: it is an offset of `log(exposure)` where the link is logarithmic,
    and has no meaning elsewhere.
    """

    x: Any
    y: Tensor | None = None
    weight: Tensor | None = None
    offset: Tensor | None = None
    trials: Tensor | None = None
    event: Tensor | None = None
    exposure: Tensor | None = None

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
    """A `GLMBatch` from one, from a dict with its names, or from a tuple in its order, as a head takes it.

    `exposure` becomes an offset of `log(exposure)`. Raises `ValueError` for other names or types, and for an exposure
    beside an offset, or where `link`, that of the head, is not one on whose scale rates multiply.
    """
    rows = named(batch)
    if rows.exposure is None:
        return rows
    if rows.offset is not None:
        raise ValueError("A batch holds offset or exposure (an offset of log(exposure)), not both.")
    if link is not None:
        checks.exposure_link(link)
    return rows._replace(offset=rows.exposure.log(), exposure=None)


def named(batch: Any) -> GLMBatch:
    """A `GLMBatch` from one, from a dict with its names, or from a tuple in its order, each value under its own name.

    Raises `ValueError` for other names or types.
    """
    if isinstance(batch, GLMBatch):
        return batch
    if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= len(GLMBatch._fields):
        return GLMBatch(*batch)
    names = ", ".join(GLMBatch._fields)
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"A batch is a GLMBatch, a dict with its names ({names}) or a tuple in that order; got "
            f"{type(batch).__name__}."
        )
    if set(batch) - set(GLMBatch._fields) or "x" not in batch:
        raise ValueError(f"A batch has the names {names}, and always x; got {', '.join(map(repr, batch))}.")
    return GLMBatch(**batch)


def unpacked(x: Any, y: Any, per_row: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """`x`, `y` and the per-row values of a minibatch, which may come together as the one argument `x`.

    That is a `GLMBatch`, a tuple in its order, or a dict of its names (`freq` too). Raises `ValueError`
    for other names, and for what came both in the batch and beside it.
    """
    together = isinstance(x, (GLMBatch, Mapping)) or (y is None and isinstance(x, (tuple, list)))
    if not together:
        return x, y, per_row
    more = {"freq": x["freq"]} if isinstance(x, Mapping) and "freq" in x else {}
    batch = named({name: value for name, value in x.items() if name not in more} if more else x)
    held = {**batch._asdict(), **more}
    beside = {"y": y, **per_row}
    twice = [name for name, value in beside.items() if value is not None and held.get(name) is not None]
    if twice:
        raise ValueError(f"{', '.join(twice)} came in the batch and beside it. Give each once.")
    given = {**held, **{name: value for name, value in beside.items() if value is not None}}
    return given.pop("x"), given.pop("y"), given


def minibatch(x: Any, y: Any, family: Family, link: Link, intercept: bool, **per_row: Any) -> Rows:
    """The rows of a minibatch of one response, `x` (n, p) and the others `(n,)`, looked at as `torchglm.fit` does.

    `per_row` are `weight`, `freq`, `offset`, `exposure`, `trials` and `event`. Raises `ValueError` or `TypeError` for
    data that do not fit together, are not finite or lie outside the family's support.
    """
    if x is None or y is None:
        raise ValueError(
            f"{'x' if x is None else 'y'} is missing. A minibatch to learn from has x and y: pass both, "
            "or one GLMBatch, dict or tuple (x, y, ...) that holds them."
        )
    if per_row.get("exposure") is not None:
        checks.exposure_link(link)
    design = checks.tensor(x, "x")
    response = checks.tensor(y, "y", design.device)
    if response.dim() == 2 and response.shape[-1] == 1:
        response = response.squeeze(-1)
    if design.dim() != 2 or response.dim() != 1:
        raise ValueError(
            f"x has shape {tuple(design.shape)} and y {tuple(response.shape)}; a minibatch needs x (n, p) and y (n,)."
        )
    checks.check_shapes(design, response)
    given = {
        "weights" if name == "weight" else name: checks.tensor(value, name, design.device).reshape(-1)
        for name, value in per_row.items()
        if value is not None
    }
    [rows] = assemble(design, response, family, given, [], intercept, strict=False).source
    return rows
