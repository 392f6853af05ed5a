"""Quantiles of the Gamma and Beta laws from either tail, by Newton on the log-tail.

The densities of `log X` (Gamma) and `logit X` (Beta) are log-concave, so each log-tail is concave in that
variable and Newton converges from anywhere: after its first step the iterates are monotone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchglm.special.incomplete import (
    beta_log_kernel,
    gamma_log_kernel,
    log_betainc,
    log_gammainc,
    wide,
)
from torchglm.special.roots import root

LONGEST = 20.0  # step

LogTails = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def solve_log_tails(
    tails: LogTails, start: Tensor, log_lower: Tensor, log_upper: Tensor, longest: float = LONGEST
) -> Tensor:
    """The `z` at which an increasing distribution function has the given logarithms of its two tails.

    `tails(z)` returns log F(z), log(1 - F(z)) and the log-density at z. The smaller tail is solved for by Newton within
    a bracket (see `roots`), upward by at most `longest`. The last step is differentiable in whatever `tails` and the
    targets depend on.
    """
    lower = log_lower < log_upper
    target = torch.where(lower, log_lower, log_upper)
    sign = torch.where(lower, 1.0, -1.0).to(start.dtype)

    def step(z: Tensor) -> Tensor:
        below, above, density = tails(z)
        tail = torch.where(lower, below, above)
        return sign * (target - tail) / torch.exp(density - tail).detach()

    z = root(step, start, (LONGEST, longest))
    move = step(z)
    return z + torch.where(torch.isfinite(move), move, 0.0)


def clip(log_p: Tensor) -> Tensor:
    """Keep the ends of the range out of the iteration; they are put back by `with_ends`."""
    return torch.where(torch.isfinite(log_p) & (log_p < 0), log_p, math.log(0.5))


def with_ends(x: Tensor, log_lower: Tensor, log_upper: Tensor, end: float) -> Tensor:
    """0 where the lower tail is empty, `end` where the upper one is, NaN outside [0, 1]."""
    x = torch.where(log_lower == -math.inf, 0.0, torch.where(log_upper == -math.inf, end, x))
    return torch.where((log_lower <= 0) & (log_upper <= 0), x, math.nan)


def gamma_quantile(a: Tensor, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    """The `x` with `log P(a, x) = log_lower` and `log Q(a, x) = log_upper`; arguments broadcast."""
    a, log_lower, log_upper = wide(a, log_lower, log_upper)
    below, above = clip(log_lower), clip(log_upper)

    def tails(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.exp(z)
        return *log_gammainc(a, x), gamma_log_kernel(a, x)

    normal = torch.special.ndtri(torch.exp(below)).clamp(-30, 30)
    cube = 1 - 1 / (9 * a) + normal / (3 * torch.sqrt(a))  # Wilson and Hilferty (1931)
    near_zero = (below + torch.lgamma(a + 1)) / a
    start = torch.where((cube > 0.2) & (a > 0.2), torch.log(a) + 3 * torch.log(cube.clamp(min=0.2)), near_zero)
    z = solve_log_tails(tails, start.detach(), below, above, longest=2.0)
    return with_ends(torch.exp(z), log_lower, log_upper, math.inf).masked_fill(~(a > 0), math.nan)


def beta_quantile_logit(a: Tensor, b: Tensor, log_lower: Tensor, log_upper: Tensor, start: Tensor) -> Tensor:
    """The `z = log(x / (1 - x))` with the given finite logarithms of `I_x(a, b)` and `1 - I_x(a, b)`."""

    def tails(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y = torch.sigmoid(z), torch.sigmoid(-z)
        return *log_betainc(a, b, x, y), beta_log_kernel(a, b, x, y)

    return solve_log_tails(tails, start.detach(), log_lower, log_upper)


def beta_quantile(a: Tensor, b: Tensor, log_lower: Tensor, log_upper: Tensor) -> tuple[Tensor, Tensor]:
    """`x` and `1 - x` with `log I_x(a, b) = log_lower` and `log(1 - I_x(a, b)) = log_upper`; broadcasts."""
    a, b, log_lower, log_upper = wide(a, b, log_lower, log_upper)
    below, above = clip(log_lower), clip(log_upper)
    normal = torch.special.ndtri(torch.exp(below)).clamp(-30, 30)
    start = torch.log(a / b) + normal * torch.sqrt(1 / a + 1 / b)
    z = beta_quantile_logit(a, b, below, above, start)
    z = z.masked_fill(~(a > 0) | ~(b > 0), math.nan)
    x = with_ends(torch.sigmoid(z), log_lower, log_upper, 1.0)
    return x, with_ends(torch.sigmoid(-z), log_upper, log_lower, 1.0)
