"""Rows of models that have them in unlike number: none is padded to the longest of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from torchglm.rows.rows import Rows

CELLS = 1 << 17  # rows of all models in a chunk that pads them to one length


class Ragged:
    """The rows of `B` models in `parts`: those of models (b,) of like size, padded to the longest of these.

    `sizes` (B,) counts the rows of each model. Where models may be taken apart, one goes over the parts; iterating
    gives chunks of all models, each model padded by its first row with weight 0, which are made anew at each pass.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Rows]], sizes: Tensor) -> None:
        self.parts, self.sizes = list(parts), sizes
        self._owner, self._place = torch.zeros_like(sizes), torch.zeros_like(sizes)
        for number, (models, _) in enumerate(self.parts):
            self._owner[models] = number
            self._place[models] = torch.arange(len(models), device=sizes.device)

    @property
    def models(self) -> int:
        """How many models there are."""
        return len(self.sizes)

    @property
    def order(self) -> Tensor:
        """(B,) where each model stands among those of the parts, one part after the other."""
        return torch.cat([models for models, _ in self.parts]).argsort()

    def __iter__(self) -> Iterator[Rows]:
        longest, step = int(self.sizes.max()), max(1, CELLS // self.models)
        first = self._between(0, 1)
        for start in range(0, longest, step):
            yield self._between(start, min(longest, start + step), first)

    def map(self, change: Callable[[Rows], Rows]) -> Ragged:
        """The same models with a change made to their rows, which leaves as many of them."""
        return Ragged([(models, change(rows)) for models, rows in self.parts], self.sizes)

    def take(self, models: Tensor) -> Ragged | list[Rows]:
        """Some of the models `(T,)`, in any order, perhaps one several times; as one chunk where they are of like size.

        One model alone has its own rows and no others.
        """
        models = models.to(self.sizes.device)
        sizes, owner, place = self.sizes[models], self._owner[models], self._place[models]
        found = owner.unique().tolist()
        if len(found) == 1:
            rows = self.parts[found[0]][1].take(place)
            return [rows.between(0, int(sizes[0])) if len(models) == 1 else rows]
        lanes = [(owner == number).nonzero()[:, 0] for number in found]
        return Ragged(
            [(lane, self.parts[number][1].take(place[lane])) for number, lane in zip(found, lanes, strict=True)], sizes
        )

    def _between(self, start: int, stop: int, first: Rows | None = None) -> Rows:
        """The rows from `start` to `stop` of every model; `first` (B, 1) stands in, without weight, for none."""
        cut = [(models, rows.between(start, min(stop, rows.y.shape[-1]))) for models, rows in self.parts]
        own = self.parts[0][1]

        def filled(name: str) -> Any:
            value = getattr(own, name)
            if value is None:
                return None
            shape = (self.models, stop - start, *value.shape[2:])
            if first is None:
                whole = value.new_zeros(shape)
            elif name == "weight":
                whole = value.new_zeros(shape)
            else:
                whole = getattr(first, name).expand(shape).clone()
            for models, rows in cut:
                part = getattr(rows, name)
                whole[models, : part.shape[1]] = part
            return whole

        tensors = {name: filled(name) for name in ("x", "y", "weight", "offset", "repeats", "second")}
        return own._replace(**tensors)


def of_like_size(sizes: Tensor) -> list[Tensor]:
    """Models (b,) in ascending order, part by part, so that padding at most doubles the rows of a part."""
    unique, counts = sizes.unique(return_counts=True)
    parts: list[list[int]] = []
    models = rows = longest = 0
    for size, count in zip(unique.flip(0).tolist(), counts.flip(0).tolist(), strict=True):
        if parts and (models + count) * longest <= 2 * (rows + count * size):
            parts[-1].append(size)
            models, rows = models + count, rows + count * size
        else:
            parts.append([size])
            models, rows, longest = count, count * size, size
    return [((sizes <= part[0]) & (sizes >= part[-1])).nonzero()[:, 0] for part in parts]
