"""Covariances under dependence in time: Newey and West's, of panels too, and Driscoll and Kraay's.

The meat is `S_0 + sum_l k(l) (S_l + S_l')`, `S_l = sum_t s_t s_(t-l)'`, with Bartlett's weights
`k(l) = 1 - l / (L + 1)` and no correction for small samples. Source: Newey & West (1987), Econometrica 55; Newey & West
(1994), Rev. Econ. Stud. 61; Driscoll & Kraay (1998), Rev. Econ. Stat. 80.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import row_values


def serial(result: Fitted, kind: str, units: Tensor | None, times: Any, lags: int | None) -> Tensor:
    """(B, p, p) the covariance `HAC` or `driscoll_kraay` of the flat models.

    `units` (n,) are the codes of panels, within which alone `HAC` looks back; `times` (n,) orders the rows, by default
    as they are. `lags` is the bandwidth, by default `floor(4 (T / 100)^(2/9))` of `T` times.
    Raises `ValueError` for a negative bandwidth, times of another length, two rows of a unit at one time.
    """
    scores = _scores(result)  # (B, n, p)
    n = scores.shape[1]
    if units is not None and units.shape[-1] != n:
        raise ValueError(f"clusters has {units.shape[-1]} labels for {n} rows. Give one for each row.")
    order, period = _ordered(times, n)
    unit = torch.zeros(n, dtype=torch.int64) if units is None else units.cpu()
    if kind == "driscoll_kraay":
        steps = int(period.max()) + 1
        summed = scores.new_zeros(scores.shape[0], steps, scores.shape[-1])
        scores = summed.index_add_(1, period.to(scores.device), scores)
        period, unit = torch.arange(steps), torch.zeros(steps, dtype=torch.int64)
        order = period
    by_unit = order[torch.argsort(unit[order], stable=True)]
    scores, unit, period = scores[:, by_unit.to(scores.device)], unit[by_unit], period[by_unit]
    if times is not None and bool(((unit.diff() == 0) & (period.diff() == 0)).any()):
        raise ValueError(
            "order= has two rows at one time. Give clusters=, the units of a panel, or covariance('driscoll_kraay')."
        )
    most = int(torch.unique(unit, return_counts=True)[1].max())
    width = int(4 * (most / 100) ** (2 / 9)) if lags is None else lags
    if isinstance(width, bool) or not isinstance(width, int) or width < 0:
        raise ValueError(f"lags must be a whole number >= 0, got {lags!r}.")
    if width >= most:
        raise ValueError(f"lags must be fewer than the times of a unit, of which there are {most} at most; got {lags}.")
    meat = scores.mT @ scores
    for lag in range(1, min(width, scores.shape[1] - 1) + 1):
        same = (unit[lag:] == unit[:-lag]).to(scores)
        cross = (scores[:, lag:] * same.unsqueeze(-1)).mT @ scores[:, :-lag]
        meat = meat + (1 - lag / (width + 1)) * (cross + cross.mT)
    bread = result.flat.root.inverse()
    return bread @ meat @ bread


def _scores(result: Fitted) -> Tensor:
    parts = []
    for values in row_values(result.scored, result.family, result.link, result.flat.coef):
        parts.append(values.score.unsqueeze(-1) * values.x.to(values.score.dtype))
    return torch.cat(parts, 1)


def _ordered(times: Any, n: int) -> tuple[Tensor, Tensor]:
    """The rows in the order of time, and the number of each row's time."""
    if times is None:
        return torch.arange(n), torch.arange(n)
    array = times.cpu().numpy() if isinstance(times, Tensor) else np.asarray(times)
    if array.shape != (n,):
        raise ValueError(f"order has shape {array.shape} for {n} rows. Give the time of each row.")
    if (array != array).any():
        raise ValueError("order holds missing times. Drop those rows.")
    period = torch.from_numpy(np.unique(array, return_inverse=True)[1].reshape(-1))
    return torch.argsort(period, stable=True), period
