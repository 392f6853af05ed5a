"""LevelEffects of levels that are drawn from one normal law: `s(group, bs="re")`, `s(group, x, bs="re")`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from torchglm.design.blocks import Block, Indicator, Written
from torchglm.design.factors import Categorical, Numeric
from torchglm.design.frame import Frame
from torchglm.design.smooths.call import SmoothCall
from torchglm.design.smooths.factor import PenaltyBlock, SmoothPart


class LevelEffects:
    """One coefficient for each level (of each of `by`) of categories, times numbers, with a ridge on all of them.

    `scale` divides the ridge: 1 for levels alone.
    """

    kind = "effects"
    spans = False

    def __init__(
        self,
        call: SmoothCall,
        categories: list[Categorical],
        numbers: list[Numeric],
        scale: float,
        by: Numeric | Categorical | None,
    ) -> None:
        self.expression, self.categories, self.numbers, self.scale, self.by = call, categories, numbers, scale, by
        self.full = self.reduced = [
            f"{part.label}.{j + 1}" for part in self.parts for j in range(part.places.stop - part.places.start)
        ]

    @property
    def call(self) -> SmoothCall:
        """The term as it was written."""
        return self.expression

    @cached_property
    def levels(self) -> list[tuple[Any, ...]]:
        """The combination of levels of each coefficient of one part, the first category varying fastest."""
        return [one[::-1] for one in product(*(category.levels for category in self.categories[::-1]))]

    @cached_property
    def parts(self) -> list[SmoothPart]:
        """The sets of effects, one for each level of `by`."""
        label, q = self.call.label, len(self.levels)
        if not isinstance(self.by, Categorical):
            name = label if self.by is None else f"{label}:{self.by.expression.text}"
            return [SmoothPart(name, slice(0, q))]
        name = self.by.expression.column or self.by.expression.text
        return [
            SmoothPart(f"{label}:{name}{level}", slice(i * q, (i + 1) * q), level)
            for i, level in enumerate(self.by.levels)
        ]

    @property
    def penalties(self) -> list[PenaltyBlock]:
        """A ridge for each part, by its places among the term's columns."""
        q = len(self.levels)
        return [
            PenaltyBlock(list(range(part.places.start, part.places.stop)), np.eye(q) / self.scale, part.label)
            for part in self.parts
        ]

    def blocks(self, frame: Frame, reduced: bool, unseen: str, counts: dict[str, int]) -> list[Block]:
        """The columns over the frame's rows; a level never seen has the effect 0 where it is no error."""
        found: list[Block] = [
            Indicator(one.codes(frame, unseen, counts, none=True), len(one.levels)) for one in self.categories
        ]
        if isinstance(self.by, Categorical):
            found.append(Indicator(self.by.codes(frame, unseen, counts, none=True), len(self.by.levels)))
        numbers = [*self.numbers, *([self.by] if isinstance(self.by, Numeric) else [])]
        return [*found, *(Written(one.columns(frame)) for one in numbers)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        own = {one.expression.text: one.to_dict() for one in self.categories}
        by = self.by.to_dict() if isinstance(self.by, Categorical) else None
        return {"kind": self.kind, "categories": own, "scale": self.scale, "by": by}

    @classmethod
    def from_dict(cls, call: SmoothCall, data: Mapping[str, Any]) -> LevelEffects:
        """The inverse of `to_dict`."""
        own, by = data["categories"], None if call.by is None else Numeric(call.by, [call.by.text])
        categories = [Categorical.from_dict(v, dict(own[v.text])) for v in call.variables if v.text in own]
        numbers = [Numeric(v, [v.text]) for v in call.variables if v.text not in own]
        coded = None if call.by is None or data["by"] is None else Categorical.from_dict(call.by, dict(data["by"]))
        return cls(call, categories, numbers, float(data["scale"]), by if coded is None else coded)
