"""The rows of a fit seen through other designs: some of the columns, or one column moved into the offset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchglm.fitting.irls import irls
from torchglm.fitting.status import Status
from torchglm.rows.ranks import seen
from torchglm.rows.rows import Rows, select, wide

if TYPE_CHECKING:
    from torchglm.model.result import Result

ROOM = 1 << 23  # numbers of a design that is made for a refit and held at one time


class Lanes:
    """A source seen through models `(T,)`, one for each lane; a model may have several lanes."""

    def __init__(self, source: Iterable[Rows], model: Tensor) -> None:
        self.source, self.model = source, model

    def __iter__(self) -> Iterator[Rows]:
        return (rows.take(self.model) for rows in self.source)


def lanes(source: Iterable[Rows], model: Tensor) -> Iterable[Rows]:
    """The rows of some models: at hand where the source is, else read again at every pass."""
    return seen(source, lambda own: Lanes(own, model))


class Columns:
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
        part = object.__new__(Held)
        part.source, part.model, part.column = self.source, self.model[lanes], self.column[lanes]
        part.others, part.value = self.others[lanes], value
        part.used = None if self.used is None else self.used[lanes]
        return part

    def __iter__(self) -> Iterator[Rows]:
        lanes = self.model.numel()
        for chunk in self.source:
            step = max(64, ROOM // max(1, lanes * chunk.columns))
            for start in range(0, chunk.y.shape[-1], step):
                yield self._lanes(wide(chunk.between(start, start + step)))

    def _lanes(self, rows: Rows) -> Rows:
        rows = rows.take(self.model)
        if rows.shared:
            x, own = rows.x[:, self.others].transpose(0, 1), rows.x[:, self.column].mT
        else:
            n = rows.x.shape[-2]
            x = torch.gather(rows.x, 2, self.others.unsqueeze(1).expand(-1, n, -1))
            own = torch.gather(rows.x, 2, self.column[:, None, None].expand(-1, n, 1)).squeeze(-1)
        if self.used is not None:
            x = x * self.used
        return rows._replace(x=x, offset=rows.offset + self.value.unsqueeze(-1) * own)


@torch.no_grad()
def submodel(result: Result, columns: Sequence[int]) -> Result:
    """The fit of the same models on some of their columns, with the shape parameters they have."""
    from torchglm.model.build import build

    state = result._state
    source: Iterable[Rows] = Columns(
        result.source, torch.tensor(list(columns), dtype=torch.int64, device=state["coef"].device)
    )
    first = next(iter(result.source))
    if result.rows is not None and result.rows.x.numel() <= ROOM:
        source = list(source)
    solution = irls(
        source,
        result.family,
        result.link,
        tol=min(state["tol"], 1e-8),
        rank_tol=1e-6 if first.x.dtype == torch.float32 else 1e-12,
        skip=state["status"] == int(Status.NOT_FINITE),
    )
    fixed = float(state["dispersion"][0]) if result.dispersion_kind == "number" else None
    kind = fixed if result.dispersion_kind in ("number", "fixed") else result.dispersion_kind
    names = [result.names[j] for j in columns]
    small = build(
        solution,
        source,
        result.family,
        result.link,
        result.batch_shape,
        names,
        constant=result.intercept and 0 in columns,
        penalty=None,
        dispersion=kind,
        tol=state["tol"],
        context={},
    )
    small._state["estimated_shape"] = state["estimated_shape"]
    return small
