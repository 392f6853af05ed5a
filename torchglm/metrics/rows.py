"""Rows as metrics see them: predicted means beside responses, in float64, checked for shape, not for value.

Values stay on their device: nothing here waits for it, except the checks of `trials=` and `event=`.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from torchglm.families import Family
from torchglm.inputs import tensor

Column: TypeAlias = Tensor | ArrayLike  # one value for each row: a tensor, an array, a series or a list


class Scored(NamedTuple):
    """Predictions and responses `(n,)` in float64; `y` is encoded by the family.

    `weight` holds the row weights as given (NaN for one below 0), `trials` the factor the family adds to them;
    `offset` is None where the rows have none. Where `y` is NaN so is `mu`: no formula takes it for a number.
    """

    mu: Tensor
    y: Tensor
    weight: Tensor
    trials: Tensor
    offset: Tensor | None

    @property
    def whole(self) -> Tensor:
        """The whole weight of a row in the likelihood, `weight * trials`."""
        return self.weight * self.trials


def scored(
    family: Family,
    mu: Column,
    y: Column,
    weight: Column | None = None,
    offset: Column | None = None,
    exposure: Column | None = None,
    trials: Column | None = None,
    event: Column | None = None,
) -> Scored:
    """The rows `mu`, `y` `(*N,)`, flattened, in float64.

    `weight`, `offset`, `exposure`, `trials` and `event` have the shape of `y`, or lack its last dimension
    (one value per row for several responses). `exposure` stands for an offset of `log(exposure)`.
    Raises `ValueError` where shapes differ, or where both `offset` and `exposure` are given, and `TypeError` for text.
    """
    mu = wide("mu", mu)
    y = wide("y", y, mu.device)
    if mu.shape != y.shape:
        raise ValueError(
            f"mu and y must have one shape, got {tuple(mu.shape)} and {tuple(y.shape)}. "
            "Squeeze a last dimension of 1 yourself: it is never broadcast."
        )
    if offset is not None and exposure is not None:
        raise ValueError("offset and exposure were both given. exposure means an offset of log(exposure).")
    extras = {"weight": weight, "offset": offset, "exposure": exposure, "trials": trials, "event": event}
    given = {name: None if value is None else _like(name, value, y) for name, value in extras.items()}
    response = y.flatten()
    means = torch.where(response.isnan(), torch.nan, mu.flatten())
    response, factor = family.encode(response, trials=given["trials"], event=given["event"])
    ones = torch.ones_like(response)
    shift = given["offset"] if given["exposure"] is None else given["exposure"].log()
    weight = ones if given["weight"] is None else torch.where(given["weight"] < 0, torch.nan, given["weight"])
    return Scored(means, response, weight, ones if factor is None else factor, shift)


def wide(name: str, value: Column, device: torch.device | None = None) -> Tensor:
    """A column in float64 without its graph; what is no tensor becomes one on the device."""
    return (value if isinstance(value, Tensor) else tensor(value, name, device)).detach().double()


def _like(name: str, given: Column, y: Tensor) -> Tensor:
    """One value per response `(n,)` in float64."""
    value = wide(name, given, y.device)
    if value.shape == y.shape:
        return value.flatten()
    if y.dim() > 1 and value.shape == y.shape[:-1]:
        return value.unsqueeze(-1).expand(y.shape).flatten()
    raise ValueError(
        f"{name} must have the shape of y, {tuple(y.shape)}, got {tuple(value.shape)}. Give one value per row."
    )


def count(name: str, value: Any, least: int) -> int:
    """A whole number; `ValueError` where it is none, or below the least."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return int(value)
