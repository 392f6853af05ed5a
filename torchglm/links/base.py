"""The contract of a link; the links themselves are grouped by the means they reach in the files beside this one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp

from torchglm.links.inheritance import check_name, renounce
from torchglm.writing.answering import answering_init
from torchglm.writing.short import Short

# what a subclass with an inverse of its own does not take from its parent: see `renounce`
MADE_OF = {
    "lower": ("inverse",),
    "rates": ("inverse",),
    "multiplies": ("inverse",),
    "exponent": ("inverse",),
    "inside": ("inverse", "lower"),
    "link": ("inverse",),
    "inverse_deriv": ("inverse",),
    "inverse_curvature": ("inverse",),
    "log_inverse": ("inverse",),
    "log_complement": ("inverse",),
    "log_inverse_deriv": ("inverse",),
    "relative_slope": ("inverse",),
    "complement_slope": ("inverse",),
}


@answering_init
class Link(nn.Module, metaclass=Short):
    """A monotone map between the linear predictor `eta` and the mean `mu`: `g(mu) = eta`.

    Calling the module applies the inverse, `mu = g^-1(eta)`, elementwise on tensors of any shape, device and
    floating dtype. `lower` is the open lower end of the values of `eta` on which the map is one to one.

    A link is what its class is: a name is for people, and a subclass has one of its own (else `TypeError`). Closed
    forms of a parent hold for a subclass as long as it keeps the parent's `inverse`.
    Source: McCullagh & Nelder (1989), Generalized Linear Models, section 2.2.3.
    """

    name: str
    lower: float = -math.inf
    rates: bool = False  # True where a factor on a rate is a shift of eta, so that log(exposure) is an offset
    multiplies: str = ""  # what exp(coef) multiplies: "mean", "odds" or "hazard"
    exponent: float | None = None  # p of a link mu^p (0 for the logarithm)

    def __dir__(self) -> list[str]:
        """Its own names, without those of every module."""
        return sorted({*super().__dir__()} - {*dir(nn.Module())})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.forward is not Link.forward:
            raise TypeError(f"{cls.__name__} overrides forward. Write inverse(eta), which forward calls, and link(mu).")
        renounce(cls, Link, MADE_OF)
        answering_init(cls)

    def __init__(self) -> None:
        check_name(type(self))
        super().__init__()

    def inverse(self, eta: Tensor) -> Tensor:
        """The mean `mu = g^-1(eta)`."""
        raise NotImplementedError(f"{type(self).__name__} says no inverse. Write inverse(eta), the mean.")

    def link(self, mu: Tensor) -> Tensor:
        """The linear predictor `eta = g(mu)`."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say link(mu), the way back of its inverse. Write it."
        )

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

    def reach(self, eta: Tensor) -> Tensor:
        """Over how long a way `log mu` changes by 1, but no more than 1: towards an end of the range ever shorter."""
        return 1 / self.relative_slope(eta).abs().clamp(min=1.0)

    def inside(self, eta: Tensor) -> Tensor:
        """True where `eta` lies in the range on which the link is one to one."""
        return eta > self.lower

    def arguments(self) -> dict[str, float]:
        """What the class is called with to make one like this, but for parameters and buffers."""
        return {}

    def extra_repr(self) -> str:
        return ""
