"""Rows: the one thing that data and mathematics share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.rows.grams import Layout
from torchglm.rows.indexed import Indexed
from torchglm.rows.plan import Plan
from torchglm.rows.responses import Pair, Response, Times, response

# A block of the design of about this many numbers stays in a core's cache while the kernel works on it.
BLOCK = 1 << 18
CARD_BLOCK = 1 << 27  # numbers of a block or a piece on a GPU: a gigabyte, whose work outweighs its launches
PIECE = 1 << 18  # numbers of the design of a piece of rows; with 16 times as many inference takes twice as long
ROOM = 1 << 25  # the same with index columns, where Grams between them cost more than rows


class Rows(NamedTuple):
    """A chunk of observations of one model, or of `B` models at once.

    `x` is `(n, p)`, shared by all models, or `(B, n, p)`; the others are `(B, n)`. `weight` is the whole weight
    of a row (prior weights times trials times repeats; 0 drops the row); `repeats` the part of it that
    repeats the row (None: 1). `y` is encoded by the family; where a response has a `second` part, it is a `pair` of
    that kind. With `intercept` the design has a column of ones in front of `x`; it is made block by block
    and never copied whole. With `indexed` the design has index columns, `x` (n, q) holds the others, and there is no
    such intercept. With a `plan` every row has K linear predictors, made of the columns of this design as it says, and
    `offset` is (B, n, K). Where factors are absorbed, `codes` (F, n) int32 are the levels of each.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    offset: Tensor
    repeats: Tensor | None = None
    intercept: bool = False
    indexed: Indexed | None = None
    second: Tensor | None = None
    plan: Plan | None = None
    pair: type[Pair] = Times
    codes: Tensor | None = None

    @property
    def response(self) -> Response:
        """The response as the formulas of the family take it."""
        return response(self.y, self.second, self.pair)

    @property
    def event(self) -> Tensor | None:
        """Whether the event of each time was seen; None where every one was."""
        return self.second if self.pair is Times else None

    @property
    def columns(self) -> int:
        """The number of columns of the design, the intercept among them; with a plan that of the coefficients."""
        if self.plan is not None:
            return self.plan.columns
        return self.x.shape[-1] + int(self.intercept) if self.indexed is None else self.indexed.width

    @property
    def layout(self) -> Layout:
        """How the Grams of the design are kept."""
        return Layout(self.columns) if self.indexed is None or self.plan is not None else self.indexed.layout

    @property
    def on_card(self) -> bool:
        """True where the rows are not in the memory of the CPU."""
        return self.y.device.type != "cpu"

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take."""
        held = (self.x, self.y, self.weight, self.offset, self.repeats, self.second)
        return sum(part.nbytes for part in held if part is not None) + (
            0 if self.indexed is None else self.indexed.nbytes
        )

    @property
    def shared(self) -> bool:
        """True where one design serves all models."""
        return self.x.dim() == 2

    def take(self, models: Tensor | slice) -> Rows:
        """The rows of some of the models."""
        x = self.x if self.shared else self.x[models]
        repeats = None if self.repeats is None else self.repeats[models]
        y, weight, offset = (_members(value, models) for value in (self.y, self.weight, self.offset))
        second = None if self.second is None else self.second[models]
        return Rows(
            x, y, weight, offset, repeats, self.intercept, self.indexed, second, self.plan, self.pair, self.codes
        )

    def between(self, start: int, stop: int) -> Rows:
        """The rows from `start` to `stop` of every model."""
        return self.at(slice(start, stop))

    def at(self, rows: slice | Tensor) -> Rows:
        """Some of the rows of every model."""
        repeats = None if self.repeats is None else self.repeats[:, rows]
        indexed = None if self.indexed is None else self.indexed.at(rows)
        return Rows(
            self.x[..., rows, :],
            self.y[:, rows],
            self.weight[:, rows],
            self.offset[:, rows],
            repeats,
            self.intercept,
            indexed,
            None if self.second is None else self.second[:, rows],
            self.plan,
            self.pair,
            None if self.codes is None else self.codes[:, rows],
        )

    def pieces(self, columns: int = 0) -> Iterator[Rows]:
        """These rows in pieces whose design may be written out, with so many `columns` instead of its own if given."""
        models, n = self.y.shape
        columns = max(1, columns or self.columns) * (1 if self.plan is None else self.plan.predictors)
        most = PIECE if self.indexed is None else ROOM
        if self.on_card:
            most = CARD_BLOCK
        step = most // (columns if self.shared or self.indexed is not None else columns * models)
        step = max(256, step)
        return (self.between(start, start + step) for start in range(0, max(n, 1), step))

    def blocks(self, curved: bool = True) -> Iterator[tuple[slice, Rows]]:
        """Blocks that fit a cache, each with the models it belongs to; larger where no Grams are made of them."""
        models, n = self.y.shape
        p = max(1, self.columns + (0 if self.plan is None else self.plan.predictors**2))
        size = CARD_BLOCK if self.on_card else BLOCK
        if self.indexed is not None:
            # so that the Grams of the blocks are not the most of the work
            numbers = self.layout.numbers
            most = max(self.indexed.block, numbers // 4)
            if self.on_card:
                most = max(most, size // (8 + self.x.shape[-1]))
            count = min(-(-n // most), max(4, -(-n // numbers)))
            step = -(-n // (count + -count % 4)) if count > 1 else max(n, 1)  # as many for each thread
            for start in range(0, n, step):
                yield slice(0, models), self.between(start, min(n, start + step))
            return
        if self.shared:
            step = max(256, 2 * size // p if models == 1 else size // ((p * (p + 1) // 2 if curved else p) + models))
            for start in range(0, n, step):
                yield slice(0, models), self.between(start, min(n, start + step))
            return
        group = max(1, size // max(1, n * p))
        step = n if group > 1 else max(256, size // p)
        for first in range(0, models, group):
            chosen = slice(first, min(models, first + group))
            part = self.take(chosen)
            for start in range(0, max(n, 1), max(step, 1)):
                yield chosen, part.between(start, min(n, start + step))


def _members(value: Tensor, models: Tensor | slice) -> Tensor:
    """Those of some models; a number that stands for all of them is not written out."""
    if isinstance(models, slice) or any(value.stride()):
        return value[models]
    return value[:1].expand(models.shape[0], *value.shape[1:])


def repeated(rows: Rows, count: int) -> Rows:
    """The rows of one model, on a shared design, as those of `count` models; nothing is written out."""

    def seen(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.expand(count, *value.shape[1:])

    y, weight, offset = (value.expand(count, *value.shape[1:]) for value in (rows.y, rows.weight, rows.offset))
    return rows._replace(y=y, weight=weight, offset=offset, repeats=seen(rows.repeats), second=seen(rows.second))


def is_all(value: Tensor, number: float) -> bool:
    """True where a tensor `(B, n)` on a CPU is one number expanded, and that number: known without a look at all."""
    if any(value.stride()) or value.is_cuda or not value.numel():
        return False
    return bool(value.as_strided((), ()).item() == number)


def kept_columns(x: Tensor, kept: Sequence[int]) -> Tensor:
    """The columns `kept`, in ascending order, of a matrix: a view where they are neighbours."""
    near = not kept or kept[-1] - kept[0] + 1 == len(kept)
    return x[:, kept[0] : kept[-1] + 1] if kept and near else x[:, list(kept)]


def without_columns(rows: Rows, intercept: bool = False) -> Rows:
    """The same rows whose design is the intercept alone, or nothing."""
    plain = rows._replace(x=rows.x[..., :0].clone(), intercept=intercept, indexed=None)  # no view of the whole
    return plain if rows.plan is None else plain._replace(intercept=True, plan=rows.plan.constants())


def in_pairs(rows: Rows) -> Rows:
    """The same rows, their Grams kept with all pairs of columns, however many levels a factor has."""
    return rows if rows.indexed is None else rows._replace(indexed=replace(rows.indexed, bordered=False))


def to_float64(rows: Rows) -> Rows:
    """The same rows in the precision of all sums."""
    wanted = torch.float64
    if rows.x.dtype == rows.y.dtype == rows.weight.dtype == rows.offset.dtype == wanted:
        return rows
    return rows._replace(
        x=rows.x.to(wanted), y=rows.y.to(wanted), weight=rows.weight.to(wanted), offset=rows.offset.to(wanted)
    )


def whole(rows: Rows) -> Tensor:
    """The design with its intercept, all columns written out."""
    if rows.indexed is not None:
        return rows.indexed.whole(rows.x)
    return torch.cat([rows.x.new_ones(*rows.x.shape[:-1], 1), rows.x], -1) if rows.intercept else rows.x


def wide(rows: Rows) -> Rows:
    """The same rows in float64, with the whole design in `x`."""
    rows = to_float64(rows)
    return rows._replace(x=whole(rows), intercept=False, indexed=None)


def select(rows: Rows, columns: Tensor) -> Rows:
    """The same rows with some of the columns of their design, in that order; with a plan, some coefficients of it."""
    if rows.plan is not None:
        return rows._replace(plan=rows.plan.select(columns.tolist()))
    if rows.indexed is None:
        rows = wide(rows)
        return rows._replace(x=rows.x[..., columns])
    x, indexed = rows.indexed.select(rows.x, columns)
    return rows._replace(x=x, indexed=indexed)
