"""Rows looked at once, before they train a head: on the CPU, or where they lie, but not in every step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.inputs import GLMBatch, check_support, check_weights, finite, named


def check_masses(rows: GLMBatch) -> None:
    """Raise `ValueError` for weights that are negative or not finite, and exposures that are not positive."""
    if rows.weight is not None:
        check_weights(_across(rows.weight), "weight", False)
    if rows.exposure is not None:
        finite(_across(rows.exposure), "exposure")
        if bool((rows.exposure <= 0).any()):
            row = int((rows.exposure <= 0).nonzero()[0, 0])
            raise ValueError(
                f"exposure must be > 0; row {row} has not. A row without exposure carries no information: drop it."
            )


def check_rows(rows: GLMBatch, family: Family) -> None:
    """Raise `ValueError` for rows that `torchglm.fit` refuses: not finite, outside the support, of weight < 0.

    Values of rows of weight 0 may be anything. Shapes that differ are left to who puts them together.
    """
    check_masses(rows)
    y = rows.y
    beside = [value for value in (rows.weight, rows.trials, rows.event) if value is not None]
    if y is None or any(value.shape != y.shape for value in beside):
        return
    given = {name: value for name, value in (("trials", rows.trials), ("event", rows.event)) if value is not None}
    coded, factor = family.encode(y, **given)
    used = torch.ones_like(coded, dtype=torch.bool)
    for weight in (rows.weight, factor):
        used = used if weight is None else used & (weight > 0)
    finite(_across(coded), "y", _across(used))
    if rows.offset is not None and rows.offset.shape == y.shape:
        finite(_across(rows.offset), "offset", _across(used))
    check_support(_across(coded), family, _across(used))
    if isinstance(rows.x, Tensor) and rows.x.dim() == 2 and len(rows.x) == len(y):
        finite(rows.x, "x", used.reshape(len(y), -1).any(-1, keepdim=True))


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
    """Several responses `(n, r)` as rows `(r, n)`, as refusals count them."""
    return value.mT if value.dim() == 2 and value.shape[1] != 1 else value.reshape(-1)
