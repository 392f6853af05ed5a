"""Absolute values that level off: large coefficients are not shrunk."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from torchglm.fitting.penalties.base import is_number
from torchglm.fitting.penalties.elastic_net import ByColumn, listed


class _LevelsOff(ByColumn):
    """`sum_j p(|b_j|)` where `p` begins as `strength |b|` and ends as a constant: `strength |b|` plus a concave part.

    The optimum that is found is a local one: a point from which no small change of the coefficients gains.
    """

    names = ("strength", "l2")

    def __init__(self, strength: float | Tensor, shape: float, least: float, name: str) -> None:
        super().__init__(strength, 0.0)
        if not (is_number(shape) and least < shape < float("inf")):
            raise ValueError(
                f"{name} must be a finite number > {least:g}, got {shape!r}. The larger it is, the nearer the penalty "
                f"is to the lasso: {type(self).__name__}(strength, {name}={least + 2:g})."
            )
        self.shape = float(shape)

    @abstractmethod
    def _concave(self, size: Tensor, strength: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, slope and curvature of `p(size) - strength size`."""

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        own = self._concave(coef.abs(), self.l1.to(coef.device))[0]
        return super().value(coef, total) + total * own.sum(-1)

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return total.unsqueeze(-1) * self._concave(coef.abs(), self.l1.to(coef.device))[1] * coef.sign()

    def bend(self, coef: Tensor, total: Tensor) -> Tensor | None:
        own = self._concave(coef.abs(), self.l1.to(coef.device))[2]
        return torch.where(coef == 0, 0.0, total.unsqueeze(-1) * own)


class MCP(_LevelsOff):
    """The minimax concave penalty: `strength |b| - b^2 / (2 gamma)` up to `|b| = gamma strength`, then constant.

    Coefficients beyond `gamma strength` are not shrunk; `gamma > 1`, and the lasso is its limit. `strength` is a
    number, one for each column (the intercept has none), or one for each model `(*B, 1)`. Where a likelihood curves
    less than `1 / gamma` there may be several optima, of which a near one is found. Raises `ValueError` for another
    gamma.
    Source: Zhang (2010), Ann. Statist. 38(2), 894-942; Breheny & Huang (2011), Ann. Appl. Stat. 5(1).
    """

    def __init__(self, strength: float | Tensor, gamma: float = 3.0) -> None:
        super().__init__(strength, gamma, 1.0, "gamma")

    def _concave(self, size: Tensor, strength: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gamma, end = self.shape, self.shape * strength
        inside = size <= end
        value = torch.where(inside, -size.square() / (2 * gamma), strength * end / 2 - strength * size)
        return value, -torch.minimum(size / gamma, strength), torch.where(inside & (strength > 0), -1 / gamma, 0.0)

    def __repr__(self) -> str:
        return f"MCP(strength={listed(self.l1)}, gamma={self.shape:g})"


class SCAD(_LevelsOff):
    """Smoothly clipped absolute deviations: the lasso up to `strength`, not shrinking beyond `a strength`.

    The slope falls from `strength` to 0 between them; `a > 2`. `strength` is a number, one for each column (the
    intercept has none), or one for each model `(*B, 1)`. Raises `ValueError` for another a.
    Source: Fan & Li (2001), J. Am. Stat. Assoc. 96, 1348-1360.
    """

    def __init__(self, strength: float | Tensor, a: float = 3.7) -> None:
        super().__init__(strength, a, 2.0, "a")

    def _concave(self, size: Tensor, strength: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, end = self.shape, self.shape * strength
        over = (size - strength).clamp(min=0)
        middle, beyond = (size > strength) & (size < end), size >= end
        flat = strength.square() * (a + 1) / 2 - strength * size
        value = torch.where(beyond, flat, -over.square() / (2 * (a - 1)))
        slope = -torch.minimum(over / (a - 1), strength)
        return value, slope, torch.where(middle, -1 / (a - 1), 0.0)

    def __repr__(self) -> str:
        return f"SCAD(strength={listed(self.l1)}, a={self.shape:g})"
