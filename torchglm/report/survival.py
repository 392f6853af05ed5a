"""The survival curve that rows show, by Kaplan and Meier, beside the one that a model expects of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.families.several import LogTimes
from torchglm.rows.responses import Response, event_of, size_of

_POINTS = 120  # of a curve that is drawn
_Z = 1.959963984540054


@dataclass(frozen=True)
class Survival:
    """Steps `observed` at `time` (k,) with 95 % limits by Greenwood on the log(-log) scale, and `expected` on `grid`.

    Source: Kaplan & Meier (1958), J. Am. Stat. Assoc. 53; Kalbfleisch & Prentice (2002), section 1.4.
    """

    time: Tensor
    observed: Tensor
    low: Tensor
    high: Tensor
    grid: Tensor
    expected: Tensor

    @staticmethod
    def of(family: LogTimes, y: Response, eta: Tensor, weight: Tensor) -> Survival:
        """The curves of rows of times (m,), predictors (K, m) and weights (m,)."""
        size, event = size_of(y), event_of(y)
        seen = torch.ones_like(size) if event is None else event.to(size.dtype)
        times, place = size.unique(return_inverse=True)
        ended, left, count = (
            torch.zeros_like(times).index_add_(0, place, part)
            for part in (weight * seen, weight, torch.ones_like(size))
        )
        at_risk = left.flip(0).cumsum(0).flip(0)
        observed = (1 - ended / at_risk).clamp(min=0).cumprod(0)
        number = len(size) / weight.sum()  # Greenwood's errors are of rows, whatever their weights add up to
        gone = ended / (at_risk * (at_risk - ended) * number)
        spread = torch.where(ended < at_risk, gone, torch.inf).cumsum(0).sqrt()
        width = (_Z * spread / observed.log().abs()).nan_to_num(0.0, posinf=torch.inf)
        low, high = (torch.where(observed < 1, observed ** torch.exp(sign * width), 1.0) for sign in (1, -1))
        grid = torch.linspace(float(times[-1]) / _POINTS / 10, float(times[-1]), _POINTS, dtype=size.dtype)
        z = (grid.to(eta.device).log().unsqueeze(-1) - eta[0]) * torch.exp(-eta[1])
        expected = (family.log_beyond(z).exp() * weight).sum(-1) / weight.sum()
        step = _thinned(ended)
        start = torch.zeros(1, dtype=size.dtype, device=size.device)
        one = start + 1
        low, high = (part.nan_to_num(0.0).clamp(0, 1) for part in (low, high))
        return Survival(
            torch.cat([start, times[step]]),
            torch.cat([one, observed[step]]),
            torch.cat([one, low[step]]),
            torch.cat([one, high[step]]),
            torch.cat([start, grid.to(start)]),
            torch.cat([one, expected]),
        )


def _thinned(ended: Tensor, most: int = 400) -> Tensor:
    """The places of the steps, some of them where there are very many, and the end."""
    steps = (ended > 0).nonzero()[:, 0]
    if len(steps) > most:
        steps = steps[torch.linspace(0, len(steps) - 1, most).round().long()]
    return torch.cat([steps, torch.tensor([len(ended) - 1], device=ended.device)]).unique()
