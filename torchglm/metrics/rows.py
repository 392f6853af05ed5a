"""Rows as metrics see them: predicted means beside responses, in float64, checked for shape, not for value.

Values stay on their device: nothing here waits for it, except the checks of `exposure=`, `trials=` and `event=`.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from torchglm.families import Family
from torchglm.inputs import Roles, tensor
from torchglm.rows.responses import Intervals, Response, event_of, response, size_of

Column: TypeAlias = Tensor | ArrayLike  # one value for each row: a tensor, an array, a series or a list


class Scored(NamedTuple):
    """Predictions and responses `(n,)` in float64; `y` is encoded by the family.

    `event` is False where such a time is censored (None: nowhere). `prior` holds the prior weights with the trials in
    them, `repeats` how often a row was seen (NaN for one below 0); `offset` is None where the rows have none. Where `y`
    is NaN so is `mu`: no formula takes it for a number.
    """

    mu: Tensor
    y: Tensor
    prior: Tensor
    repeats: Tensor
    offset: Tensor | None
    event: Tensor | None = None

    @property
    def response(self) -> Response:
        """The response as the formulas of the family take it."""
        return response(self.y, self.event)

    @property
    def whole(self) -> Tensor:
        """The whole weight of a row in the likelihood, `weights * freq * trials`."""
        return self.prior * self.repeats

    @property
    def seen(self) -> Tensor:
        """How often a row counts: its repeats, and 0 where it has no weight."""
        return torch.where(self.prior > 0, self.repeats, self.prior)  # 0, or NaN


def scored(family: Family, mu: Column, y: Column, roles: Roles) -> Scored:
    """The rows `mu`, `y` `(*N,)` or as one column `(*N, 1)`, flattened, in float64.

    The roles have the shape of `y`, or lack its last dimension (one value per row for several responses).
    Raises `ValueError` where shapes differ, and for an exposure that is not finite and above 0 in a row that counts,
    and `TypeError` for text.
    """
    mu = wide("mu", mu)
    y = wide("y", y, mu.device)
    if mu.shape != y.shape:
        mu, y = (value.squeeze(-1) if value.dim() > 1 and value.shape[-1] == 1 else value for value in (mu, y))
    if mu.shape != y.shape:
        raise ValueError(
            f"mu and y must have one shape, got {tuple(mu.shape)} and {tuple(y.shape)}. Nothing is broadcast."
        )
    given = roles.map(lambda name, value: _like(name, value, y))
    sizes = y.flatten()
    ones = torch.ones_like(sizes)
    prior, repeats = (
        ones if value is None else torch.where(value < 0, torch.nan, value) for value in (given.weights, given.freq)
    )
    used = prior * repeats != 0
    means = torch.where(sizes.isnan(), torch.nan, mu.flatten())
    sizes, given = given.readable(sizes, used)
    encoded, factor = family.encode(sizes, **given.of_response)
    if isinstance(encoded, Intervals):
        raise ValueError("no metric knows times in intervals, until=. Score them by the log-likelihood of a fit.")
    prior = prior if factor is None else prior * factor
    sizes = size_of(encoded)
    if family.durations:  # a negative time is none
        sizes = torch.where(family.supports(encoded), sizes, torch.nan)
    return Scored(means, sizes, prior, repeats, given.shift(used), event_of(encoded))


def wide(name: str, value: Column, device: torch.device | None = None) -> Tensor:
    """A column in float64 without its graph; what is no tensor becomes one on the device."""
    return (value if isinstance(value, Tensor) else tensor(value, name, device)).detach().double()


def _like(name: str, given: Column, y: Tensor) -> Tensor:
    """One value per response `(n,)` in float64."""
    value = wide(name, given, y.device)
    if value.shape in (y.shape, (*y.shape, 1)):
        return value.flatten()
    if y.dim() > 1 and value.shape in (y.shape[:-1], (*y.shape[:-1], 1)):
        return value.reshape(*y.shape[:-1], 1).expand(y.shape).flatten()
    raise ValueError(
        f"{name} must have the shape of y, {tuple(y.shape)}, got {tuple(value.shape)}. Give one value per row."
    )


def count(name: str, value: Any, least: int) -> int:
    """A whole number; `ValueError` where it is none, or below the least."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return int(value)
