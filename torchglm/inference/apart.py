"""Questions to many models at once whose rows are of unlike number, asked of those of like size together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from torchglm.fitting.kernel import take_family
from torchglm.fitting.penalties import Penalty
from torchglm.inference.fitted import Fitted
from torchglm.rows.ragged import Ragged


def part_by_part(fitted: Fitted, value: Callable[[Fitted], Tensor]) -> Tensor:
    """(B, ...) what `value` gives of a fit, each model's being its own."""
    chunks = fitted.chunks
    if not isinstance(chunks, Ragged):
        return value(fitted)
    found = [
        value(
            replace(
                fitted,
                flat=fitted.flat.take(models),
                family=take_family(fitted.family, models),
                penalty=fitted.penalty.take(models) if isinstance(fitted.penalty, Penalty) else fitted.penalty,
                batch_shape=models.shape,
                context=fitted.context | {"groups": None},
                chunks=[rows],
            )
        )
        for models, rows in chunks.parts
    ]
    out = found[0].new_empty(chunks.models, *found[0].shape[1:])
    for (models, _), part in zip(chunks.parts, found, strict=True):
        out[models] = part
    return out
