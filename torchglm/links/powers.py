"""Links that are powers of the mean: identity, inverse, square root and the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchglm.links.base import Link


class Identity(Link):
    """`mu = eta`."""

    name = "identity"
    exponent = 1.0

    def inverse(self, eta: Tensor) -> Tensor:
        return eta

    def link(self, mu: Tensor) -> Tensor:
        return mu

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return torch.ones_like(eta)

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return torch.zeros_like(eta)


class Inverse(Link):
    """`mu = 1 / eta`, the canonical link of the Gamma family (up to sign)."""

    name = "inverse"
    exponent = -1.0

    def inverse(self, eta: Tensor) -> Tensor:
        return eta.reciprocal()

    def link(self, mu: Tensor) -> Tensor:
        return mu.reciprocal()

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return -eta.reciprocal().square()

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return -2 / eta

    def log_inverse(self, eta: Tensor) -> Tensor:
        return -eta.log()


class InverseSquared(Link):
    """`mu = eta^(-1/2)`, `eta > 0`: the canonical link of the inverse Gaussian family (up to a factor)."""

    name = "inverse_squared"
    lower = 0.0
    exponent = -2.0

    def inverse(self, eta: Tensor) -> Tensor:
        return eta.rsqrt()

    def link(self, mu: Tensor) -> Tensor:
        return mu.reciprocal().square()

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return -0.5 * eta.rsqrt() / eta

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return -1.5 / eta

    def log_inverse(self, eta: Tensor) -> Tensor:
        return -0.5 * eta.log()


class Sqrt(Link):
    """`mu = eta^2`, `eta > 0`: nearly stabilises the variance of counts."""

    name = "sqrt"
    lower = 0.0
    exponent = 0.5

    def inverse(self, eta: Tensor) -> Tensor:
        return eta.square()

    def link(self, mu: Tensor) -> Tensor:
        return mu.sqrt()

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return 2 * eta

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return 1 / eta

    def log_inverse(self, eta: Tensor) -> Tensor:
        return 2 * eta.abs().log()


class Power(Link):
    """`mu = eta^(1/power)`, that is `eta = mu^power`, on `eta > 0`; the power 0 is the link `Log`.

    Raises `ValueError` for a power that is zero or not finite.
    """

    name = "power"
    lower = 0.0

    def __init__(self, power: float) -> None:
        super().__init__()
        if power == 0 or not math.isfinite(power):
            raise ValueError(f"Power needs a finite power other than 0, got {power}. Use Log for power 0.")
        self.power = float(power)

    @property
    def exponent(self) -> float:  # type: ignore[override]
        return self.power

    def inverse(self, eta: Tensor) -> Tensor:
        return eta.pow(1 / self.power)

    def link(self, mu: Tensor) -> Tensor:
        return mu.pow(self.power)

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return eta.pow(1 / self.power - 1) / self.power

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return (1 / self.power - 1) / eta

    def log_inverse(self, eta: Tensor) -> Tensor:
        return eta.log() / self.power

    def arguments(self) -> dict[str, float]:
        return {"power": self.power}

    def extra_repr(self) -> str:
        return f"{self.power:g}"
