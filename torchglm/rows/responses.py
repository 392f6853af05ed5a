"""Responses of two parts: a time and whether its event was seen or until when it came, a count and out of how many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

# What the formulas of a family take: a tensor, or for a family of such responses a `Pair`.
Response: TypeAlias = Any


class Times(NamedTuple):
    """Times to an event, elementwise: `size` is the time seen, `event` (bool) whether it ended with the event.

    Where it did not the time is right-censored: the event came later.
    """

    size: Tensor
    event: Tensor


class Intervals(NamedTuple):
    """Times known to lie between `size` and `upper`, elementwise: events where both are the same number.

    A time is right-censored where `upper` is infinite, left-censored where `size` is 0, and unknown where both hold.
    """

    size: Tensor
    upper: Tensor


class Counts(NamedTuple):
    """Counts of successes, elementwise: `size` out of `trials`."""

    size: Tensor
    trials: Tensor


Pair: TypeAlias = Times | Intervals | Counts


def each(y: Response, change: Callable[[Tensor], Tensor]) -> Response:
    """The response with a change of place or shape made to every part of it."""
    return type(y)(*map(change, y)) if isinstance(y, Pair) else change(y)


def size_of(y: Response) -> Tensor:
    """The sizes alone: the response itself, or the first part of a pair."""
    return y.size if isinstance(y, Pair) else y


def event_of(y: Response) -> Tensor | None:
    """Whether each event was seen; None where every one was."""
    return y.event if isinstance(y, Times) else None


def second_of(y: Response) -> tuple[Tensor | None, type[Pair]]:
    """The second part of a pair, None where there is none, and what the pair is."""
    return (y[1], type(y)) if isinstance(y, Pair) else (None, Times)


def response(size: Tensor, second: Tensor | None, pair: type[Pair] = Times) -> Response:
    """Sizes, with the second part where there is one, as the formulas of a family take them."""
    return size if second is None else pair(size, second)


def filled(y: Response, used: Tensor, size: float) -> Response:
    """The response with a harmless size in place of those that are not used."""
    harmless = torch.where(used, size_of(y), size)
    return y._replace(size=harmless) if isinstance(y, Pair) else harmless
