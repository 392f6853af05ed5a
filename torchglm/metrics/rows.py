"""Rows as metrics see them: predicted means beside responses, in float64, checked for shape, not for value.

Values stay on their device: nothing here waits for it, except the checks of `trials=` and `event=`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.families import Family


class Scored(NamedTuple):
    """Predictions and responses `(n,)` in float64; `y` is encoded by the family.

    `weight` holds the row weights as given (NaN for one below 0), `trials` the factor the family adds to them;
    `offset` is None where the rows have none. Where `y` is NaN so is `mu`: no formula takes it for a number.
    """

    mu: Tensor
    y: Tensor
    weight: Tensor
    trials: Tensor
    offset: "Tensor | None"

    @property
    def whole(self) -> Tensor:
        """The whole weight of a row in the likelihood, `weight * trials`."""
        return self.weight * self.trials


def scored(family: Family, mu: Tensor, y: Tensor, weight: "Tensor | None" = None,
           offset: "Tensor | None" = None, exposure: "Tensor | None" = None, trials: "Tensor | None" = None,
           event: "Tensor | None" = None) -> Scored:
    """The rows `mu`, `y` `(*N,)`, flattened, in float64.

    `weight`, `offset`, `exposure`, `trials` and `event` have the shape of `y`, or lack its last dimension
    (one value per row for several responses). `exposure` stands for an offset of `log(exposure)`.
    Raises `ValueError` where shapes differ, or where both `offset` and `exposure` are given.
    """
    if mu.shape != y.shape:
        raise ValueError(f"mu and y must have one shape, got {tuple(mu.shape)} and {tuple(y.shape)}. "
                         "Squeeze a last dimension of 1 yourself: it is never broadcast.")
    if offset is not None and exposure is not None:
        raise ValueError("offset and exposure were both given. exposure means an offset of log(exposure).")
    extras = {"weight": weight, "offset": offset, "exposure": exposure, "trials": trials, "event": event}
    wide = {name: None if value is None else _like(name, value, y) for name, value in extras.items()}
    response = y.detach().double().flatten()
    means = torch.where(response.isnan(), torch.nan, mu.detach().double().flatten())
    response, factor = family.encode(response, trials=wide["trials"], event=wide["event"])
    ones = torch.ones_like(response)
    shift = wide["offset"] if wide["exposure"] is None else wide["exposure"].log()
    weight = ones if wide["weight"] is None else torch.where(wide["weight"] < 0, torch.nan, wide["weight"])
    return Scored(means, response, weight, ones if factor is None else factor, shift)


def _like(name: str, value: Tensor, y: Tensor) -> Tensor:
    """One value per response `(n,)` in float64."""
    value = value.detach().double()
    if value.shape == y.shape:
        return value.flatten()
    if y.dim() > 1 and value.shape == y.shape[:-1]:
        return value.unsqueeze(-1).expand(y.shape).flatten()
    raise ValueError(f"{name} must have the shape of y, {tuple(y.shape)}, got {tuple(value.shape)}. "
                     "Give one value per row.")
