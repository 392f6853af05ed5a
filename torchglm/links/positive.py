"""Links whose mean is positive for every `eta`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from torchglm.links.base import Link
from torchglm.special.incomplete import log_complement as log_one_minus_exp


class Log(Link):
    """`mu = exp(eta)`: effects multiply."""

    name = "log"
    rates = True
    multiplies = "mean"
    exponent = 0.0

    def inverse(self, eta: Tensor) -> Tensor:
        return eta.exp()

    def link(self, mu: Tensor) -> Tensor:
        return mu.log()

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return eta.exp()

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return torch.ones_like(eta)

    def log_inverse(self, eta: Tensor) -> Tensor:
        return eta

    def log_complement(self, eta: Tensor) -> Tensor:
        return log_one_minus_exp(eta)

    def log_inverse_deriv(self, eta: Tensor) -> Tensor:
        return eta

    def relative_slope(self, eta: Tensor) -> Tensor:
        return torch.ones_like(eta)

    def complement_slope(self, eta: Tensor) -> Tensor:
        return 1 / torch.expm1(-eta)


class Softplus(Link):
    """`mu = log(1 + exp(eta))`: positive, and linear in `eta` where the mean is large."""

    name = "softplus"

    def inverse(self, eta: Tensor) -> Tensor:
        return F.softplus(eta, threshold=40)

    def link(self, mu: Tensor) -> Tensor:
        return mu + torch.log(-torch.expm1(-mu))

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta)

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(-eta)

    def log_inverse(self, eta: Tensor) -> Tensor:
        t = eta.clamp(max=-15).exp()
        series = eta - t * (1 / 2 - t * (5 / 24))  # log(log(1 + t)) for t = exp(eta)
        return torch.where(eta < -15, series, F.softplus(eta.clamp(min=-15), threshold=40).log())

    def log_inverse_deriv(self, eta: Tensor) -> Tensor:
        return F.logsigmoid(eta)

    def relative_slope(self, eta: Tensor) -> Tensor:
        return torch.exp(self.log_inverse_deriv(eta) - self.log_inverse(eta))
