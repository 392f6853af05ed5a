"""Every link function, on one page. A link is the output activation of a GLM: `mu = link(eta)`.

To add a link, write one class here: its `name`, `inverse` (the activation) and `link`; the tests find it by
themselves. Closed forms of the slope, the curvature or the logarithms are worth a line each where they exist.
"""

import math

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn import functional as F

from torchglm.special.incomplete import log_complement as log_one_minus_exp

__all__ = ["CLogLog", "Cauchit", "Identity", "Inverse", "InverseSquared", "Link", "Log", "LogLog", "Logit",
           "Power", "Probit", "Softplus", "Sqrt", "get", "names"]

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
SQRT_HALF, SQRT_2_OVER_PI = math.sqrt(0.5), math.sqrt(2 / math.pi)


class Link(nn.Module):
    """A monotone map between the linear predictor `eta` and the mean `mu`: `g(mu) = eta`.

    Calling the module applies the inverse, `mu = g^-1(eta)`, elementwise on tensors of any shape, device and
    floating dtype. `lower` is the open lower end of the values of `eta` on which the map is one to one.
    Source: McCullagh & Nelder (1989), Generalized Linear Models, section 2.2.3.
    """

    name: str
    lower: float = -math.inf

    def inverse(self, eta: Tensor) -> Tensor:
        """The mean `mu = g^-1(eta)`."""
        raise NotImplementedError

    def link(self, mu: Tensor) -> Tensor:
        """The linear predictor `eta = g(mu)`."""
        raise NotImplementedError

    def forward(self, eta: Tensor) -> Tensor:
        return self.inverse(eta)

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        """The slope `dmu/deta`."""
        return jvp(self.inverse, (eta,), (torch.ones_like(eta),))[1]

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        """The relative curvature `(d2mu/deta2) / (dmu/deta)`."""
        pair = jvp(self.inverse_deriv, (eta,), (torch.ones_like(eta),))
        return pair[1] / pair[0]

    def log_inverse(self, eta: Tensor) -> Tensor:
        """`log mu`, finite where `mu` itself underflows."""
        return self.inverse(eta).log()

    def log_complement(self, eta: Tensor) -> Tensor:
        """`log(1 - mu)`, finite where `mu` rounds to one."""
        return torch.log1p(-self.inverse(eta))

    def log_inverse_deriv(self, eta: Tensor) -> Tensor:
        """`log |dmu/deta|`, finite where the slope itself underflows."""
        return self.inverse_deriv(eta).abs().log()

    def relative_slope(self, eta: Tensor) -> Tensor:
        """`d log mu / deta`, finite where `mu` underflows."""
        return self.inverse_deriv(eta) / self.inverse(eta)

    def complement_slope(self, eta: Tensor) -> Tensor:
        """`-d log(1 - mu) / deta`, the hazard: finite where `mu` rounds to one."""
        return self.inverse_deriv(eta) / (1 - self.inverse(eta))

    def inside(self, eta: Tensor) -> Tensor:
        """True where `eta` lies in the range on which the link is one to one."""
        return eta > self.lower

    def extra_repr(self) -> str:
        return ""


class Identity(Link):
    """`mu = eta`."""

    name = "identity"

    def inverse(self, eta: Tensor) -> Tensor:
        return eta

    def link(self, mu: Tensor) -> Tensor:
        return mu

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return torch.ones_like(eta)

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return torch.zeros_like(eta)


class Log(Link):
    """`mu = exp(eta)`: effects multiply."""

    name = "log"

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


class Logit(Link):
    """`mu = 1 / (1 + exp(-eta))`: effects multiply the odds."""

    name = "logit"

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
        return -eta.exp()

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
        return -torch.exp(-eta)

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


class Inverse(Link):
    """`mu = 1 / eta`, the canonical link of the Gamma family (up to sign)."""

    name = "inverse"

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

    def extra_repr(self) -> str:
        return f"{self.power:g}"


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


def _log_one_minus_exp_of_exp(eta: Tensor) -> Tensor:
    """`log(1 - exp(-exp(eta)))`, which is `eta` itself far to the left."""
    return torch.where(eta < -30, eta, log_one_minus_exp(-eta.clamp(min=-30).exp()))


_BY_NAME = {link.name: link for link in (Identity, Log, Logit, Probit, CLogLog, LogLog, Cauchit, Inverse,
                                         InverseSquared, Sqrt, Softplus)}


def names() -> list[str]:
    """The names that `get` knows."""
    return list(_BY_NAME)


def get(link: "str | Link") -> Link:
    """The link of that name, or the link itself; raises `ValueError` for an unknown name."""
    if isinstance(link, Link):
        return link
    if link not in _BY_NAME:
        raise ValueError(f"unknown link {link!r}. Known: {', '.join(_BY_NAME)}; or pass links.Power(p).")
    return _BY_NAME[link]()
