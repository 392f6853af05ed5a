"""Responses that are known in part: a time, and whether its event was seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

# What the formulas of a family take: a tensor, or for a family of times `Times` as well.
Response: TypeAlias = Any


class Times(NamedTuple):
    """Times to an event, elementwise: `size` is the time seen, `event` (bool) whether it ended with the event.

    Where it did not the time is right-censored: the event came later.
    """

    size: Tensor
    event: Tensor


def each(y: Response, change: Callable[[Tensor], Tensor]) -> Response:
    """The response with a change of place or shape made to every part of it."""
    return Times(change(y.size), change(y.event)) if isinstance(y, Times) else change(y)


def size_of(y: Response) -> Tensor:
    """The sizes alone: the response itself, or the times seen."""
    return y.size if isinstance(y, Times) else y


def event_of(y: Response) -> Tensor | None:
    """Whether each event was seen; None where every one was."""
    return y.event if isinstance(y, Times) else None


def response(size: Tensor, event: Tensor | None) -> Response:
    """Sizes, with their events where not every one was seen, as the formulas of a family take them."""
    return size if event is None else Times(size, event)


def filled(y: Response, used: Tensor, size: float) -> Response:
    """The response with a harmless size in place of those that are not used."""
    return response(torch.where(used, size_of(y), size), event_of(y))
