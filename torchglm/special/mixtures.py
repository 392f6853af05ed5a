"""Tails of weighted sums of chi-squared variables, to all digits, however far out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HALVINGS = 100  # of the range in which the saddle point lies
STEP, WIDEST = 1 / 32, 30.0  # of the trapezoidal rule, and how far it goes
BEND = 0.25  # of the path, over the distance from the saddle point to the nearest branch


def mixture_sf(value: float, weights: Tensor, df: Tensor) -> float:
    """`P(sum_j weights_j X_j > value)` of independent chi-squared `X_j` with `df_j` degrees of freedom, `value >= 0`.

    `weights` and `df` are (k,). The moment generating function is inverted along a path through its saddle point, on
    which nothing cancels: `p = int exp(K(s) - s value) / s ds / (2 pi i)` with
    `K(s) = -sum_j df_j log(1 - 2 weights_j s) / 2`. The path bends away from the imaginary axis, to
    where the exponential falls, and its steps widen as those of a sinh.
    Source: Butler (2007), Saddlepoint Approximations with Applications, section 1.2; Rice (1980), SIAM J. Sci. Stat.
    Comput. 1(4), 438-448.
    """
    weights, df = weights.to(torch.float64), df.to(torch.float64)
    largest = float(weights.max())
    if largest <= 0:
        return 0.0
    weights, value = weights / largest, value / largest
    if value == 0 and bool((weights >= 0).all()):
        return 1.0
    low, high = 0.0, 0.5  # of the saddle point: the exponent is convex between these, and infinite at both
    for _ in range(HALVINGS):
        s = (low + high) / 2
        slope = float((df * weights / (1 - 2 * weights * s)).sum()) - value - 1 / s
        low, high = (s, high) if slope < 0 else (low, s)
    curvature = float((2 * df * weights**2 / (1 - 2 * weights * s) ** 2).sum()) + 1 / s**2
    u = torch.arange(0.0, WIDEST, STEP, dtype=torch.float64)
    width, bend = curvature**-0.5, BEND / (0.5 - s)
    t = width * torch.sinh(u)
    path = torch.complex(s + bend * t**2, t)
    direction = torch.complex(torch.ones_like(t), -2 * bend * t) * width * torch.cosh(u)  # ds / (i du)
    exponent = -(df * torch.log(1 - 2 * weights * path.unsqueeze(-1))).sum(-1) / 2 - value * path - path.log()
    first = exponent[0].real
    each = ((exponent - first).exp() * direction).real
    return float(first.exp() * (each.sum() - each[0] / 2) * STEP / math.pi)
