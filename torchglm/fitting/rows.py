"""Rows: the one thing that data and mathematics share."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# A block of the design of about this many numbers stays in a core's cache while the kernel works on it.
BLOCK = 1 << 18


class Rows(NamedTuple):
    """A chunk of observations of one model, or of `B` models at once.

    `x` is `(n, p)`, shared by all models, or `(B, n, p)`; the others are `(B, n)`. `weight` is the whole weight
    of a row (prior weights times trials times repeats; 0 drops the row); `repeats` the part of it that
    repeats the row (None: 1). `y` is encoded by the family. With `intercept` the design has a column of ones in
    front of `x`; it is made block by block and never copied whole.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    offset: Tensor
    repeats: "Tensor | None" = None
    intercept: bool = False

    @property
    def columns(self) -> int:
        """The number of columns of the design, the intercept among them."""
        return self.x.shape[-1] + int(self.intercept)

    @property
    def shared(self) -> bool:
        """True where one design serves all models."""
        return self.x.dim() == 2

    def take(self, models: "Tensor | slice") -> "Rows":
        """The rows of some of the models."""
        x = self.x if self.shared else self.x[models]
        repeats = None if self.repeats is None else self.repeats[models]
        return Rows(x, self.y[models], self.weight[models], self.offset[models], repeats, self.intercept)

    def between(self, start: int, stop: int) -> "Rows":
        """The rows from `start` to `stop` of every model."""
        repeats = None if self.repeats is None else self.repeats[:, start:stop]
        x = self.x[..., start:stop, :]
        return Rows(x, self.y[:, start:stop], self.weight[:, start:stop], self.offset[:, start:stop], repeats,
                    self.intercept)

    def blocks(self) -> Iterator[tuple[slice, "Rows"]]:
        """Blocks that fit a cache, each with the models it belongs to."""
        models, n = self.y.shape
        p = max(1, self.columns)
        if self.shared:
            step = max(256, 2 * BLOCK // p if models == 1 else BLOCK // (p * (p + 1) // 2 + models))
            for start in range(0, n, step):
                yield slice(0, models), self.between(start, min(n, start + step))
            return
        group = max(1, BLOCK // max(1, n * p))
        step = n if group > 1 else max(256, BLOCK // p)
        for first in range(0, models, group):
            chosen = slice(first, min(models, first + group))
            part = self.take(chosen)
            for start in range(0, max(n, 1), max(step, 1)):
                yield chosen, part.between(start, min(n, start + step))


class WithoutColumns:
    """A source whose design is the intercept alone, or nothing."""

    def __init__(self, source: Iterable[Rows], intercept: bool) -> None:
        self.source, self.intercept = source, intercept

    def __iter__(self) -> Iterator[Rows]:
        return (rows._replace(x=rows.x[..., :0], intercept=self.intercept) for rows in self.source)


def to_float64(rows: Rows) -> Rows:
    """The same rows in the precision of all sums."""
    return rows._replace(x=rows.x.to(torch.float64), y=rows.y.to(torch.float64), weight=rows.weight.to(torch.float64),
                         offset=rows.offset.to(torch.float64))


def whole(rows: Rows) -> Tensor:
    """The design with its intercept."""
    return torch.cat([rows.x.new_ones(*rows.x.shape[:-1], 1), rows.x], -1) if rows.intercept else rows.x


def wide(rows: Rows) -> Rows:
    """The same rows in float64, with the whole design in `x`."""
    rows = to_float64(rows)
    return rows._replace(x=whole(rows), intercept=False)
