"""The rows of a fit seen through other designs: some of the columns, or one column moved into the offset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from torchglm.rows.planned import contributions, plan_of
from torchglm.rows.rows import Rows, select, to_float64, wide

ROOM = 1 << 23  # numbers of a design that is made for a refit and held at one time


class SomeColumns:
    """A source whose design has some of the columns `(q,)`, in their order; every model of the batch the same."""

    def __init__(self, source: Iterable[Rows], columns: Tensor) -> None:
        self.source, self.columns = source, columns

    def __iter__(self) -> Iterator[Rows]:
        for chunk in self.source:
            step = max(256, ROOM // max(1, chunk.columns * (1 if chunk.shared else chunk.y.shape[0])))
            for start in range(0, chunk.y.shape[-1], step):
                yield select(chunk.between(start, start + step), self.columns)


class Held:
    """Refits with one coefficient held at a value: lane `t` is model `model[t]` with column `column[t]` in its offset.

    `model`, `column` and `value` are `(T,)`; `keep` (B, p) marks the columns that were not aliased. The designs
    `(T, n, p - 1)` are made piece by piece, so that no more than `ROOM` numbers are held.
    """

    def __init__(self, source: Iterable[Rows], model: Tensor, column: Tensor, keep: Tensor) -> None:
        self.source, self.model, self.column = source, model, column
        self.value = torch.zeros_like(model, dtype=torch.float64)
        p = keep.shape[-1]
        rest = torch.arange(p - 1, device=model.device).expand(model.numel(), p - 1)
        self.others = rest + (rest >= column.unsqueeze(-1)).to(rest.dtype)  # (T, p - 1)
        used = torch.gather(keep[model], 1, self.others)
        self.used = None if bool(used.all()) else used.unsqueeze(-2)

    def at(self, lanes: Tensor, value: Tensor) -> Held:
        """Some of the lanes, each with its coefficient at a value."""
        part = object.__new__(type(self))
        part.source, part.model, part.column = self.source, self.model[lanes], self.column[lanes]
        part.others, part.value = self.others[lanes], value
        part.used = None if self.used is None else self.used[lanes]
        return part

    def __iter__(self) -> Iterator[Rows]:
        lanes = self.model.numel()
        for chunk in self.source:
            step = max(64, ROOM // max(1, lanes * chunk.columns))
            for start in range(0, chunk.y.shape[-1], step):
                yield self._lanes(chunk.between(start, start + step))

    def _lanes(self, rows: Rows) -> Rows:
        rows = wide(rows).take(self.model)
        if rows.shared:
            x, own = rows.x[:, self.others].transpose(0, 1), rows.x[:, self.column].mT
        else:
            n = rows.x.shape[-2]
            x = torch.gather(rows.x, 2, self.others.unsqueeze(1).expand(-1, n, -1))
            own = torch.gather(rows.x, 2, self.column[:, None, None].expand(-1, n, 1)).squeeze(-1)
        if self.used is not None:
            x = x * self.used
        return rows._replace(x=x, offset=rows.offset + self.value.unsqueeze(-1) * own)


class HeldPlanned(Held):
    """The same of several predictors, in all lanes the same coefficient of models with the same aliased ones.

    Its column of the design of the predictors times its value is an offset (T, n, K), and the plan goes without it.
    """

    def __init__(self, source: Iterable[Rows], model: Tensor, column: Tensor, keep: Tensor) -> None:
        self.source, self.model, self.column = source, model, column
        self.value, self.used = torch.zeros_like(model, dtype=torch.float64), None
        rest = keep[model[0]].clone()
        rest[column[0]] = False
        self.others = rest.nonzero()[:, 0].expand(model.numel(), -1)  # (T, q)

    def _lanes(self, rows: Rows) -> Rows:
        plan, rows = plan_of(rows), to_float64(rows).take(self.model)
        alone = rows._replace(plan=plan.select([int(self.column[0])]))
        own = contributions(alone, self.value.unsqueeze(-1)).movedim(0, -1)  # (T, n, K)
        return rows._replace(plan=plan.select(self.others[0].tolist()), offset=rows.offset + own)
