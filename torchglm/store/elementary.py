"""Special functions by exponentials, logarithms and polynomials alone, for runtimes that have no more in float64.

`table()` gives for operators of torch what they are made of;
`ExportedProgram.run_decompositions(everywhere())` writes them out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm.special.elementary import HALF_LOG_2PI, STIRLING

_SHIFT = 10  # from where on Stirling's series has all digits
_DEGREE = 24  # of the polynomial for erfcx
_HALVINGS = 3  # of an angle
_ROOT_2 = math.sqrt(2)
# Wichura (1988), Algorithm AS 241, PPND7: numerators and denominators near the middle, in the tail, and far out
_MIDDLE = ((3.3871327179, 50.434271938, 159.29113202, 59.109374720), (1.0, 17.895169469, 78.757757664, 67.187563600))
_TAIL = ((1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103), (1.0, 0.73700164250, 0.12021132975))
_FAR = ((6.6579051150, 3.0812263860, 0.42868294337, 0.017337203997), (1.0, 0.24197894225, 0.012258202635))


def log1p(x: Tensor) -> Tensor:
    """`log(1 + x)`: what rounding takes from `1 + x` it takes from the quotient as well (Kahan)."""
    u = 1 + x
    away = torch.where(u == 1, 1.0, u - 1)
    near = torch.log(u) * (torch.where(u == 1, 1.0, x) / away)
    return torch.where(u == 1, x, torch.where(x > 1e15, torch.log(x), near))


def expm1(x: Tensor) -> Tensor:
    """`exp(x) - 1`, in the same way."""
    u = torch.exp(x)
    inner = (u != 1) & (x.abs() < 30)
    safe = torch.where(inner, u, 2.0)
    near = (safe - 1) * (torch.where(inner, x, 1.0) / torch.log(safe))
    return torch.where(u == 1, x, torch.where(inner, near, u - 1))


def lgamma(x: Tensor) -> Tensor:
    """`log Gamma(x)` for `x >= 0`, by Stirling's series at 10 or above."""
    low = x < _SHIFT
    product = torch.ones_like(x)
    for k in range(_SHIFT):
        product = product * torch.where(low, x + k, 1.0)
    z = torch.where(low, x + _SHIFT, x)
    w = 1 / z
    value = (z - 0.5) * torch.log(z) - z + HALF_LOG_2PI + w * _polynomial(w * w, STIRLING) - torch.log(product)
    return torch.where(x == math.inf, x, value)


@cache
def _erfcx_coefficients() -> tuple[float, ...]:
    """Of the powers of `2 t - 1`, `t = 2 / (2 + x)`, the coefficients of `log(erfcx(x) / t)`."""

    def function(u: Any) -> Any:
        t = (np.asarray(u) + 1) / 2
        x = torch.from_numpy(2 / t - 2)
        return (torch.special.erfcx(x).log() - torch.from_numpy(t).log()).numpy()

    return tuple(np.polynomial.chebyshev.cheb2poly(np.polynomial.chebyshev.chebinterpolate(function, _DEGREE)).tolist())


def _erfcx_above(x: Tensor) -> Tensor:
    """`erfcx(x)` for `x >= 0`."""
    t = 2 / (2 + x)
    return t * torch.exp(_polynomial(2 * t - 1, _erfcx_coefficients()))


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def erfcx(x: Tensor) -> Tensor:
    """`exp(x^2) erfc(x)`."""
    above = _erfcx_above(x.abs())
    return torch.where(x >= 0, above, 2 * torch.exp(x * x) - above)


def erfc(x: Tensor) -> Tensor:
    """The complementary error function."""
    above = torch.exp(-x * x) * _erfcx_above(x.abs())
    return torch.where(x >= 0, above, 2 - above)


def erf(x: Tensor) -> Tensor:
    """The error function, to its absolute digits."""
    size = x.abs()
    return torch.sign(x) * (1 - torch.exp(-x * x) * _erfcx_above(size))


def log_ndtr(x: Tensor) -> Tensor:
    """The logarithm of the normal distribution function."""
    tail = _erfcx_above(x.abs() / _ROOT_2) / 2
    below = torch.log(tail) - 0.5 * x * x
    return torch.where(x < 0, below, log1p(-torch.exp(-0.5 * x * x) * tail))


def ndtri(p: Tensor) -> Tensor:
    """The normal quantile, by rational functions and a step of Newton's method on the logarithm of the smaller tail."""
    small = torch.minimum(p, 1 - p)
    inside = small > 0
    safe = torch.where(inside, small, 0.25)
    target, q = torch.log(safe), safe - 0.5
    r = torch.sqrt(-target)
    z = -torch.where(r <= 5, _ratio(r - 1.6, _TAIL), _ratio(r - 5, _FAR))
    z = torch.where(q.abs() <= 0.425, q * _ratio(0.180625 - q * q, _MIDDLE), z)
    mills = _erfcx_above(-z.clamp(max=0.0) / _ROOT_2) / 2
    z = z - (torch.log(mills) - 0.5 * z * z - target) * mills * math.sqrt(2 * math.pi)
    z = torch.where(inside, z, torch.where(small == 0, -math.inf, math.nan))
    return torch.where(p < 0.5, z, -z)


def _ratio(x: Tensor, parts: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    return _polynomial(x, parts[0]) / _polynomial(x, parts[1])


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """`log(1 + exp(beta x)) / beta`."""
    scaled = beta * x
    return (scaled.clamp(min=0.0) + log1p(torch.exp(-scaled.abs()))) / beta


def log_sigmoid(x: Tensor) -> Tensor:
    """`-softplus(-x)`."""
    return x.clamp(max=0.0) - log1p(torch.exp(-x.abs()))


def atan(x: Tensor) -> Tensor:
    """The angle of a tangent: halved thrice, then by its series."""
    far = x.abs() > 1
    t = torch.where(far, 1 / torch.where(far, x, 1.0), x)
    for _ in range(_HALVINGS):
        t = t / (1 + torch.sqrt(1 + t * t))
    square, series = t * t, torch.zeros_like(t)
    for k in range(14, -1, -1):
        series = series * square + (-1) ** k / (2 * k + 1)
    angle = 2**_HALVINGS * t * series
    return torch.where(far, torch.sign(x) * (math.pi / 2) - angle, angle)


def asin(x: Tensor) -> Tensor:
    """The angle of a sine."""
    return atan(x / torch.sqrt((1 - x) * (1 + x)))


def xlogy(x: Tensor, y: Tensor) -> Tensor:
    """`x log y`, 0 where `x` is 0."""
    none = x == 0
    return torch.where(none, 0.0, x * torch.log(torch.where(none, 1.0, y)))


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """`log(exp(x) + exp(y))`, minus infinity where both are."""
    top = torch.maximum(x, y)
    apart = torch.where(top == -math.inf, 0.0, (x - y).abs())
    return top + log1p(torch.exp(-apart))


def choose(condition: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """`where` of truth values by logic, as runtimes choose between numbers alone; of numbers it stays."""
    if first.dtype != torch.bool or second.dtype != torch.bool:
        return NotImplemented
    return (condition & first) | (~condition & second)


def any_of(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Whether one is true, by their number: of none at all runtimes say that one is."""
    true = (x != 0).to(torch.int64)
    return (true.sum() if dim is None else true.sum(dim, keepdim)) > 0


def all_of(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Whether none is false."""
    return ~any_of(x == 0, dim, keepdim)


def table() -> dict[Any, Callable[..., Any]]:
    """Operator -> what it is made of."""
    aten = torch.ops.aten
    _erfcx_coefficients()  # here, so that no trace looks at it
    return {
        aten.log1p.default: log1p,
        aten.expm1.default: expm1,
        aten.special_expm1.default: expm1,
        aten.lgamma.default: lgamma,
        aten.special_gammaln.default: lgamma,
        aten.erf.default: erf,
        aten.erfc.default: erfc,
        aten.special_erf.default: erf,
        aten.special_erfc.default: erfc,
        aten.special_erfcx.default: erfcx,
        aten.special_log_ndtr.default: log_ndtr,
        aten.special_ndtr.default: lambda x: 0.5 * erfc(-x / _ROOT_2),
        aten.special_ndtri.default: ndtri,
        aten.softplus.default: softplus,
        aten.log_sigmoid.default: log_sigmoid,
        aten.log_sigmoid_forward.default: lambda x: (log_sigmoid(x), torch.zeros_like(x)),
        aten.any.default: any_of,
        aten.any.dim: any_of,
        aten.all.default: all_of,
        aten.all.dim: all_of,
        aten.asin.default: asin,
        aten.acos.default: lambda x: math.pi / 2 - asin(x),
        aten.atan.default: atan,
        aten.tan.default: lambda x: torch.sin(x) / torch.sin(x + math.pi / 2),
        aten.sinh.default: lambda x: (torch.exp(x) - torch.exp(-x)) / 2,
        aten.cosh.default: lambda x: (torch.exp(x) + torch.exp(-x)) / 2,
        aten.xlogy.Tensor: xlogy,
        aten.special_xlogy.default: xlogy,
        aten.special_xlog1py.default: lambda x, y: xlogy(x, 1 + y),
        aten.logaddexp.default: logaddexp,
        aten.where.self: choose,
    }


def everywhere() -> dict[Any, Callable[..., Any]]:
    """`table` in the place of torch's own decompositions, beside the others of these."""
    return dict(torch.export.default_decompositions()) | table()
