"""Rows looked at once, before they train a head: on the CPU, or where they lie, but not in every step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.inputs import GLMBatch, Roles, check_support, check_weights, finite, named
from torchglm.rows.responses import size_of


def check_masses(rows: GLMBatch) -> None:
    """Raise `ValueError` for weights that are negative or not finite, and exposures that are not positive."""
    for name, value in (("weights", rows.weights), ("freq", rows.freq)):
        if value is not None:
            check_weights(_across(value), name, False)
    rows.roles.shift(wait=True)


def check_rows(rows: GLMBatch, family: Family) -> None:
    """Raise `ValueError` for rows that `torchglm.fit` refuses: not finite, outside the support, of weight < 0.

    Rows of weight 0 may hold anything. Shapes that differ are left to who puts them together.
    """
    check_masses(rows)
    if rows.y is None:
        return
    y, given = _across(rows.y), {name: _across(value) for name, value in rows.roles.given.items()}
    if any(value.shape not in (y.shape, y.shape[-1:]) for value in given.values()):
        return
    roles = Roles(**{name: value.expand(y.shape) for name, value in given.items()})
    used = torch.ones_like(y, dtype=torch.bool) if roles.weight is None else roles.weight > 0
    y, roles = roles.readable(y, used)
    encoded, factor = family.encode(y, **roles.of_response)
    used = used if factor is None else used & (factor > 0)
    finite(size_of(encoded), "y", used)
    if roles.offset is not None:
        finite(roles.offset, "offset", used)
    check_support(encoded, family, used)
    if isinstance(rows.x, Tensor) and rows.x.dim() == 2 and len(rows.x) == y.shape[-1]:
        finite(rows.x, "x", used.reshape(-1, y.shape[-1]).any(0).unsqueeze(-1))


def suit(loaders: Any, family: Family) -> None:
    """Have the loaders of a Trainer look at their rows for a family, those that can."""
    for loader in loaders if isinstance(loaders, (list, tuple)) else [loaders]:
        for source in (loader, getattr(loader, "dataset", None)):
            look = getattr(source, "suit", None)
            if look is not None:
                look(family)


def checked(batches: Iterable[Any], family: Family) -> Iterator[Any]:
    """The batches, each looked at."""
    for number, batch in enumerate(batches):
        try:
            check_rows(named(batch), family)
        except ValueError as error:
            raise ValueError(f"batch {number}: {error}") from None
        yield batch


def _across(value: Tensor) -> Tensor:
    """Several responses `(n, r)` as rows `(r, n)`, as refusals count them; a column `(n, 1)` as `(n,)`."""
    return value.mT if value.dim() == 2 and value.shape[1] != 1 else value.reshape(-1)
