"""Response: the left side of a formula as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchglm.design.expressions import Expression
from torchglm.design.factors import Categorical, Numeric
from torchglm.design.frame import Frame
from torchglm.design.random import Grouped


@dataclass(frozen=True)
class Response:
    """The left side of a formula: numbers and booleans as they are, two levels as 0 and 1 in their order.

    With `classes` there may be more levels: 0, 1, 2, ... `sorted_text` says of levels that were just learned that they
    are text without an order of its own.
    """

    expression: Expression
    factor: Numeric | Categorical
    classes: bool = False
    sorted_text: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if self.classes:
            return
        if self.levels is not None and len(self.levels) != 2:
            raise ValueError(
                f"The response {self.expression.text!r} has {len(self.levels)} levels: "
                f"{', '.join(map(repr, self.levels[:6]))}. It must hold numbers, booleans or two levels."
            )
        if self.levels is None and len(self.factor.full) != 1:
            raise ValueError(f"The response {self.expression.text!r} must be one column.")

    @classmethod
    def of(cls, factor: Numeric | Categorical, classes: bool) -> Response:
        """The left side with a factor that was read. Raises TypeError for groups of random effects."""
        if isinstance(factor.expression, Grouped):
            raise TypeError("the response is a grouping of random effects")
        return cls(factor.expression, factor, classes)

    @property
    def levels(self) -> list[Any] | None:
        """The two levels, the second being y = 1, or all classes; None for numbers."""
        return self.factor.levels if isinstance(self.factor, Categorical) else None

    def values(self, frame: Frame) -> np.ndarray:
        """y `(n,)` float64. Raises ValueError for a level never seen or a value that is not finite."""
        if isinstance(self.factor, Categorical):
            return self.factor.codes(frame, "error", {}).astype(np.float64)
        return self.factor.columns(frame)[0]
