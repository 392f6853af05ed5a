"""Links whose mean lies between 0 and 1: each is a distribution function."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from torchglm.links.base import Link
from torchglm.special.elementary import exp_to_the_last
from torchglm.special.incomplete import log_complement as log_one_minus_exp

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
SQRT_HALF, SQRT_2_OVER_PI = math.sqrt(0.5), math.sqrt(2 / math.pi)


class Logit(Link):
    """`mu = 1 / (1 + exp(-eta))`: effects multiply the odds."""

    name = "logit"
    multiplies = "odds"

    def inverse(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta)

    def link(self, mu: Tensor) -> Tensor:
        return torch.logit(mu)

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta) * torch.sigmoid(-eta)

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return -torch.tanh(eta / 2)

    def log_inverse(self, eta: Tensor) -> Tensor:
        return F.logsigmoid(eta)

    def log_complement(self, eta: Tensor) -> Tensor:
        return F.logsigmoid(-eta)

    def log_inverse_deriv(self, eta: Tensor) -> Tensor:
        return F.logsigmoid(eta) + F.logsigmoid(-eta)

    def relative_slope(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(-eta)

    def complement_slope(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta)


class Probit(Link):
    """`mu = Phi(eta)`, the standard normal distribution function."""

    name = "probit"

    def inverse(self, eta: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-eta * SQRT_HALF)

    def link(self, mu: Tensor) -> Tensor:
        return torch.special.ndtri(mu)

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return self.log_inverse_deriv(eta).exp()

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return -eta

    def log_inverse(self, eta: Tensor) -> Tensor:
        return torch.special.log_ndtr(eta)

    def log_complement(self, eta: Tensor) -> Tensor:
        return torch.special.log_ndtr(-eta)

    def log_inverse_deriv(self, eta: Tensor) -> Tensor:
        return -0.5 * eta * eta - LOG_SQRT_2PI

    def relative_slope(self, eta: Tensor) -> Tensor:
        # the inverse of Mills' ratio; its two factors underflow together
        return SQRT_2_OVER_PI / torch.special.erfcx(-eta * SQRT_HALF)

    def complement_slope(self, eta: Tensor) -> Tensor:
        return self.relative_slope(-eta)


class CLogLog(Link):
    """`mu = 1 - exp(-exp(eta))`: effects multiply the hazard (complementary log-log)."""

    name = "cloglog"
    rates = True
    multiplies = "hazard"

    def inverse(self, eta: Tensor) -> Tensor:
        return -torch.expm1(-eta.exp())

    def link(self, mu: Tensor) -> Tensor:
        return torch.log(-torch.log1p(-mu))

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return self.log_inverse_deriv(eta).exp()

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return -torch.expm1(eta)

    def log_inverse(self, eta: Tensor) -> Tensor:
        return _log_one_minus_exp_of_exp(eta)

    def log_complement(self, eta: Tensor) -> Tensor:
        return -exp_to_the_last(eta)

    def log_inverse_deriv(self, eta: Tensor) -> Tensor:
        return eta - eta.exp()

    def relative_slope(self, eta: Tensor) -> Tensor:
        return torch.exp(self.log_inverse_deriv(eta) - self.log_inverse(eta))

    def complement_slope(self, eta: Tensor) -> Tensor:
        return eta.exp()


class LogLog(Link):
    """`mu = exp(-exp(-eta))`, the mirror image of the complementary log-log."""

    name = "loglog"

    def inverse(self, eta: Tensor) -> Tensor:
        return torch.exp(-torch.exp(-eta))

    def link(self, mu: Tensor) -> Tensor:
        return -torch.log(-torch.log(mu))

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return self.log_inverse_deriv(eta).exp()

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return torch.expm1(-eta)

    def log_inverse(self, eta: Tensor) -> Tensor:
        return -exp_to_the_last(-eta)

    def log_complement(self, eta: Tensor) -> Tensor:
        return _log_one_minus_exp_of_exp(-eta)

    def log_inverse_deriv(self, eta: Tensor) -> Tensor:
        return -eta - torch.exp(-eta)

    def relative_slope(self, eta: Tensor) -> Tensor:
        return torch.exp(-eta)

    def complement_slope(self, eta: Tensor) -> Tensor:
        return torch.exp(self.log_inverse_deriv(eta) - self.log_complement(eta))


class Cauchit(Link):
    """`mu = 1/2 + atan(eta) / pi`, the Cauchy distribution function."""

    name = "cauchit"

    def inverse(self, eta: Tensor) -> Tensor:
        return torch.atan2(torch.ones_like(eta), -eta) / math.pi

    def link(self, mu: Tensor) -> Tensor:
        # -1 / tan(pi mu), taken from the nearer end so that neither tail cancels
        near = torch.minimum(mu, 1 - mu)
        return torch.sign(mu - 0.5) / torch.tan(math.pi * near) * (near < 0.5)

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return 1 / (math.pi * (1 + eta * eta))

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return -2 * eta / (1 + eta * eta)

    def log_complement(self, eta: Tensor) -> Tensor:
        return self.inverse(-eta).log()

    def complement_slope(self, eta: Tensor) -> Tensor:
        return self.inverse_deriv(eta) / self.inverse(-eta)


def _log_one_minus_exp_of_exp(eta: Tensor) -> Tensor:
    """`log(1 - exp(-exp(eta)))`, which is `eta` itself far to the left, and 0 to the last digit beyond 8."""
    return torch.where(eta < -30, eta, log_one_minus_exp(-eta.clamp(min=-30, max=8).exp()))
