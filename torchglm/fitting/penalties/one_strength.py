"""What penalties share that are kinks alone, times a strength."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor

from torchglm.fitting.penalties.base import Penalty, numbers

Own = TypeVar("Own", bound="OneStrength")


class OneStrength(Penalty):
    """A penalty without a quadratic part; its strength is a number, or one for each model of a batch `(*B,)`.

    Raises `ValueError` for strengths that are below 0 or not finite, `TypeError` for what are no numbers.
    """

    selects = True

    def __init__(self, strength: float | Tensor) -> None:
        self.strength = numbers(strength, "strength", "a number, or one for each model")
        if not bool((torch.isfinite(self.strength) & (self.strength >= 0)).all()):
            raise ValueError(f"strength must be finite numbers >= 0, got {self.strength.tolist()}.")

    @property
    def each(self) -> bool:  # type: ignore[override]
        return self.strength.dim() > 0

    def of_batch(self: Own, batch: torch.Size) -> Own:
        """A copy for these models. Raises `ValueError` where the strengths are those of others."""
        if self.each and self.strength.shape != batch:
            raise ValueError(
                f"strength has shape {tuple(self.strength.shape)} and the models are {tuple(batch)}. Give one number, "
                "or one for each model."
            )
        return self._with(self.strength.reshape(-1) if self.each else self.strength)

    def scaled(self: Own, strength: Tensor) -> Own:
        return self._with(strength.to(self.strength.device) * self.strength)

    def take(self: Own, models: Tensor) -> Own:
        return self._with(self.strength[models.to(self.strength.device)]) if self.each else self

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.kink(coef, total)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return torch.zeros_like(coef)

    def _with(self: Own, strength: Tensor) -> Own:
        other = copy.copy(self)
        other.strength = strength
        return other
