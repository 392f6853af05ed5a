"""Both tails and the quantiles of the Tweedie law with power between 1 and 2.

`P(Y <= y) = sum_n Poisson(n; rate) P(n alpha, y / scale)` over the number n of Gamma terms, and the upper
tail with Q for P: all terms are positive. As for the density, a coarser lattice in n gives the same sum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchglm.special.counts import poisson_log_prob
from torchglm.special.incomplete import LogPair, chunked, log_complement, log_gammainc, wide
from torchglm.special.quantiles import clip, solve_log_tails, with_ends
from torchglm.special.tracing import traced
from torchglm.special.tweedie import FALL, lattice_step, reach_above, reach_below, tweedie_log_prob

_MOST_TERMS = 1 << 13
_TRACED_TERMS = 1 << 8  # in a graph, where no number of terms may depend on values


def tweedie_compound(mu: Tensor, dispersion: Tensor, power: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rate of the Poisson number of terms, and shape and scale of each Gamma term."""
    rate = mu ** (2 - power) / (dispersion * (2 - power))
    return rate, (2 - power) / (power - 1), dispersion * (power - 1) * mu ** (power - 1)


def _lattice(m: Tensor, rate: Tensor, alpha: Tensor, below: Tensor) -> tuple[Tensor, Tensor, int]:
    """First number of terms, step and count, for the lower sum where `below` and else for the upper one.

    On the inner side of the peak at m only the Poisson factor falls; beyond it the Gamma ratio does too.
    """
    narrow, broad = FALL / (1 + alpha), torch.full_like(alpha, FALL)
    first = torch.floor(m - reach_below(m, torch.where(below, broad, narrow)))
    centre = torch.maximum(m, rate)
    last = torch.where(below, m + reach_above(m, narrow), centre + reach_above(centre, broad))
    step = lattice_step(torch.minimum(m, rate), alpha)
    first = first.clamp(min=0).maximum((step == 1).to(m.dtype))
    if traced():
        return first, step, _TRACED_TERMS
    reach = ((last - first) / step).amax() if m.numel() else m.new_zeros(())
    return first, step, int(reach.nan_to_num(0).clamp(0, _MOST_TERMS)) + 2


@chunked
def _positive_tails(y: Tensor, rate: Tensor, alpha: Tensor, scale: Tensor) -> LogPair:
    """`log P(0 < Y <= y)` and `log P(Y > y)` for `y > 0`, the smaller one by its sum."""
    log_mass = log_complement(-rate)
    below = y <= rate * alpha * scale * torch.exp(-log_mass)
    m = rate * torch.exp(alpha / (1 + alpha) * torch.log(y / (scale * alpha * rate)))
    with torch.no_grad():
        first, step, count = _lattice(m, rate, alpha, below)
        n = first.unsqueeze(-1) + step.unsqueeze(-1) * torch.arange(count, dtype=y.dtype, device=y.device)
        empty = n == 0
        n = n.clamp(min=1)
    lower, upper = log_gammainc(n * alpha.unsqueeze(-1), (y / scale).unsqueeze(-1))
    number = poisson_log_prob(n, rate.unsqueeze(-1))
    terms = torch.where(below.unsqueeze(-1), number + lower, number + upper)
    terms = torch.where(empty, torch.where(below, -rate, -math.inf).unsqueeze(-1), terms)
    total = torch.logsumexp(terms, -1) + torch.log(step)
    # a coarse lattice stands for every n >= 0: take the zero off again
    with_zero = below & (step > 1)
    zero = torch.where(with_zero, -rate - total, -1.0)
    total = torch.where(with_zero, total + log_complement(zero.clamp(max=-1e-300)), total)
    other = log_mass + log_complement((total - log_mass).clamp(max=0))
    return torch.where(below, total, other), torch.where(below, other, total)


def tweedie_log_tails(y: Tensor, mu: Tensor, dispersion: Tensor, power: Tensor) -> LogPair:
    """`log P(Y <= y)` and `log P(Y > y)`; `mu, dispersion > 0`, `1 < power < 2` and y broadcast."""
    y, mu, dispersion, power = wide(y, mu, dispersion, power)
    rate, alpha, scale = tweedie_compound(mu, dispersion, power)
    inside = (y > 0) & (y < math.inf)
    lower, upper = _positive_tails(torch.where(inside, y, mu), rate, alpha, scale)
    lower = torch.where(inside, torch.logaddexp(-rate, lower), torch.where(y > 0, 0.0, -rate))
    upper = torch.where(inside, upper, torch.where(y > 0, -math.inf, log_complement(-rate)))
    lower, upper = torch.where(y < 0, -math.inf, lower), torch.where(y < 0, 0.0, upper)
    return lower.where(~torch.isnan(y), y), upper.where(~torch.isnan(y), y)


def tweedie_quantile(mu: Tensor, dispersion: Tensor, power: Tensor, log_lower: Tensor, log_upper: Tensor) -> Tensor:
    """The smallest y with `P(Y <= y)` at least the given one: 0 up to the probability of zero; broadcasts."""
    mu, dispersion, power, log_lower, log_upper = wide(mu, dispersion, power, log_lower, log_upper)
    rate, alpha, scale = tweedie_compound(mu, dispersion, power)
    log_mass = log_complement(-rate)
    zero = log_upper >= log_mass
    above = torch.where(zero, log_mass + math.log(0.5), clip(log_upper))
    below = torch.where(zero, above, log_lower + log_complement((-rate - log_lower).clamp(max=-1e-300)))
    below = torch.where(below < above, below, log_mass + log_complement((above - log_mass).clamp(max=-1e-300)))

    def tails(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.exp(z)
        return *_positive_tails(y, rate, alpha, scale), tweedie_log_prob(y, mu, dispersion, power) + z

    start = torch.log(mu) - log_mass
    z = solve_log_tails(tails, start.detach(), below, above, longest=1.0)
    y = with_ends(torch.exp(z), log_lower, log_upper, math.inf)
    return torch.where(zero & (log_lower <= 0), 0.0, y)
