"""What `smoothing=` may be: how the strengths of terms are estimated, or numbers for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchglm.fitting.penalties import METHODS
from torchglm.fitting.penalties.base import numbers
from torchglm.writing.nearest import unknown

# how strengths are found: a method, or numbers, of all, of each, or by name
Smoothing: TypeAlias = str | float | Tensor | Mapping[str, float] | None


def strengths_of(smoothing: Any, names: Sequence[str]) -> Any:
    """The method, or the strengths `(J,)` or `(*B, J)` of the penalties of these names; None is REML.

    Raises `ValueError` for another method, names that are not those, and numbers that are no strengths, `TypeError` for
    what are no numbers.
    """
    if smoothing is None:
        return "reml"
    if isinstance(smoothing, str):
        if smoothing not in METHODS:
            raise ValueError(f"{unknown('smoothing', smoothing, METHODS)} Numbers go by name: {{{names[0]!r}: 2.5}}.")
        return smoothing
    if not isinstance(smoothing, Mapping):
        found = numbers(smoothing, "smoothing", f"'reml', 'ml', or numbers by name, {{{names[0]!r}: 2.5}}")
        return _checked(found, "smoothing")
    if set(smoothing) != set(names):
        raise ValueError(f"smoothing= must give a strength to each of {', '.join(names)}; got {dict(smoothing)!r}.")
    given = {name: numbers(smoothing[name], f"smoothing of {name}", "a number") for name in names}
    if any(one.numel() > 1 for one in given.values()):
        raise ValueError(f"smoothing= must give one number to each of {', '.join(names)}; got {dict(smoothing)!r}.")
    return torch.stack([_checked(one.reshape(()), f"smoothing of {name}") for name, one in given.items()])


def _checked(value: Tensor, what: str) -> Tensor:
    if bool((torch.isfinite(value) & (value >= 0)).all()):
        return value
    limit = " Where it is infinite the term is what its penalty leaves, of s(x) a straight line: write x instead."
    said = limit if bool((value == torch.inf).any()) else " 0 is no penalty."
    raise ValueError(f"{what} must be finite and >= 0, got {value.tolist()}.{said}")
