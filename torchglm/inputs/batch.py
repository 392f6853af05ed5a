"""The rows of a minibatch, as loaders hand them over."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor


class GLMBatch(NamedTuple):
    """The rows of a batch: `x` is what the model takes, the others `(n,)` or `(n, responses)`, or absent."""

    x: Any
    y: "Tensor | None" = None
    weight: "Tensor | None" = None
    offset: "Tensor | None" = None
    trials: "Tensor | None" = None
    event: "Tensor | None" = None


def as_batch(batch: Any) -> GLMBatch:
    """A `GLMBatch` from one, from a dict with its names, or from a tuple in its order.

    `exposure` in a dict is an offset of `log(exposure)`. Raises `ValueError` for other names or types.
    """
    if isinstance(batch, GLMBatch):
        return batch
    if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= len(GLMBatch._fields):
        return GLMBatch(*batch)
    if not isinstance(batch, Mapping):
        raise ValueError(f"A batch is a GLMBatch, a dict with its names ({', '.join(GLMBatch._fields)}) or a "
                         f"tuple in that order; got {type(batch).__name__}.")
    named = dict(batch)
    exposure = named.pop("exposure", None)
    unknown = set(named) - set(GLMBatch._fields)
    if unknown or "x" not in named:
        raise ValueError(f"A batch has the names {', '.join(GLMBatch._fields)} or exposure, and always x; "
                         f"got {', '.join(map(repr, batch))}.")
    if exposure is not None:
        if named.get("offset") is not None:
            raise ValueError("A batch holds offset or exposure (an offset of log(exposure)), not both.")
        named["offset"] = exposure.log()
    return GLMBatch(**named)
