"""Batches whose groupings cross in many levels, a model at a time: each has pairs of levels of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.kernel import take_family
from torchglm.fitting.mixed import order
from torchglm.fitting.mixed.effects import Groupings
from torchglm.fitting.mixed.found import MixedFound
from torchglm.fitting.parts import together
from torchglm.fitting.state import Solution
from torchglm.rows.index import Index
from torchglm.rows.indexed import Indexed
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import members, own_rows
from torchglm.rows.rows import Rows

One = Callable[[Iterable[Rows], Family], tuple[Family, Solution, MixedFound]]


def crosses_apart(source: Iterable[Rows], effects: Groupings, models: int) -> bool:
    """Whether models of a batch are fitted apart: on a processor, where a model alone keeps only pairs that meet."""
    if models == 1 or effects.small(order.MANY):
        return False
    held = source.parts[0][1] if isinstance(source, Ragged) else next(iter(own_rows(source)))
    plain = held.plan is None and held.indexed is None and held.y.device.type == "cpu"
    return isinstance(source, (Ragged, list)) and plain


def one_by_one(
    source: Iterable[Rows], family: Family, effects: Groupings, models: int, fit: One
) -> tuple[Family, Solution, MixedFound]:
    """What `fit` finds of each model, together."""
    every = [torch.tensor([at]) for at in range(models)]
    rows = [looked_up(next(iter(members(source, at))), effects) for at in every]
    apart = Ragged(list(zip(every, rows, strict=True)), torch.tensor([one.y.shape[-1] for one in rows]))
    found, shapes = list[MixedFound](), dict[str, list[Tensor]]()

    def part(at: Tensor, own: Rows) -> Solution:
        member, solution, new = fit([own], take_family(family, at))
        found.append(new)
        for name, value in member.shapes.items() if family.estimates_shape else ():
            shapes.setdefault(name, []).append(value.reshape(1))
        return solution

    solution = together(apart, part)
    if shapes:
        family = family.with_parameters({name: torch.cat(values) for name, values in shapes.items()})
    return family, solution, _joined(found, source)


def looked_up(rows: Rows, effects: Groupings) -> Rows:
    """The rows of one model with the columns of random effects, which were written out, as index columns."""
    x = rows.x.reshape(rows.x.shape[-2:])  # (n, P)
    found = list[Index]()
    for g in effects.groupings:
        block = x[:, g.columns].unflatten(1, (g.effects, g.levels))  # (n, q, L)
        some, level = (block != 0).any(1).max(1)
        codes = torch.where(some, level, g.levels).to(torch.int32)
        for r in range(g.effects):
            start = g.columns.start + r * g.levels
            value = block[:, r].gather(1, level.unsqueeze(1))[:, 0]
            found.append(Index(codes, slice(start, start + g.levels), g.levels, value))
    numbers = torch.arange(effects.columns, device=x.device)
    indexed = Indexed(numbers, tuple(found), effects.width)
    return rows._replace(x=x[:, : effects.columns].contiguous(), indexed=indexed)


def _joined(found: list[MixedFound], source: Iterable[Rows]) -> MixedFound:
    def of(values: list[Any]) -> Any:
        if isinstance(values[0], Tensor):
            return torch.cat(values)
        if isinstance(values[0], list):
            return [torch.cat(one) for one in zip(*values, strict=True)]
        return values[0]

    names = [field.name for field in fields(MixedFound) if field.name != "rows"]
    return MixedFound(**{name: of([getattr(one, name) for one in found]) for name in names}, rows=source)
