"""Facts of `B` models that are taken, and put back, model by model."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import Tensor

from torchglm.fitting.moments import Moments
from torchglm.rows.inverses import placed

Own = TypeVar("Own", bound="ByModel")


@dataclass
class ByModel:
    """Fields whose first dimension is the models: tensors, Grams, and the moments of a pass."""

    def take(self: Own, models: Tensor) -> Own:
        """Those of some of the models."""
        return replace(self, **{name: _taken(value, models) for name, value in self._held().items()})

    def place(self: Own, models: Tensor, part: Own) -> Own:
        """These with those of some models, in ascending order, replaced."""
        theirs = part._held()
        return replace(self, **{name: _placed(value, models, theirs[name]) for name, value in self._held().items()})

    def _held(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def _taken(value: Any, models: Tensor) -> Any:
    return value.take(models) if isinstance(value, Moments) else value[models]


def _placed(value: Any, models: Tensor, part: Any) -> Any:
    return value.place(models, part) if isinstance(value, Moments) else placed(value, models, part)
