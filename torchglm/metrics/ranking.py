"""Order and calibration in bounded memory: rows are counted in fixed bins of the predicted rate.

The bins are the 18 leading bits of the rate as a float32, put in numeric order: 2^18 of them, 0.2 % wide.
They depend on no data, so the sums of two parts add exactly, and nothing waits for the device. Metrics, reports and
the command line all take their Lorenz curves, Gini indices and tables by decile from here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.links import Link
from torchglm.metrics.rows import Scored
from torchglm.metrics.sums import observed_and_expected

BITS = 18


def ranked_sums(rows: Scored, family: Family, link: Link, *more: Tensor) -> Tensor:
    """`(3, 2^18)`: per bin of the predicted rate the weight `sum w e`, what was observed and what was expected.

    `more` are further values of the rows `(n,)`, whose sums follow, a line for each.

    With a link that `multiplies` the mean (the log) an offset is a log exposure `e`, and the rate is `mu / e`. Times
    to an event are ranked by their predicted hazard `e / mu`: the weight is the time at risk `sum w t / e`, observed
    and expected are events.
    """
    offset = rows.offset if link.multiplies == "mean" else None
    exposure = torch.ones_like(rows.mu) if offset is None else torch.exp(offset)
    size, rate = (rows.y / exposure, exposure / rows.mu) if family.durations else (exposure, rows.mu / exposure)
    bits = rate.float().view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # floats as integers of the same order
    place = (ordered >> (32 - BITS)).long() + (1 << BITS - 1)
    weighted = rows.whole * torch.stack([size, *observed_and_expected(rows.response, rows.mu, family)])
    values = torch.cat([weighted, *(one.unsqueeze(0) for one in more)])
    known = torch.where(rows.mu.isnan(), torch.nan, values)  # a rate that is NaN has no place, though a bin takes it
    kept = torch.where(rows.whole == 0, 0.0, known)
    return torch.zeros(len(kept), 1 << BITS, dtype=torch.float64, device=kept.device).index_add_(1, place, kept)


def lorenz(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Cumulated shares of weight and of response, lowest predicted rate first, `(2^18 + 1,)` each."""
    shares = sums[:2].cumsum(1) / sums[:2].sum(1, keepdim=True)
    weight, response = torch.nn.functional.pad(shares, (1, 0)).unbind(0)
    return weight, response


def curve(sums: Tensor, points: int = 1001) -> tuple[Tensor, Tensor]:
    """The Lorenz curve at `points` even shares of weight, to be drawn."""
    weight, response = lorenz(sums)
    at = torch.linspace(0, 1, points, dtype=weight.dtype, device=weight.device)
    return at, response[torch.searchsorted(weight, at).clamp(max=len(weight) - 1)]


def gini_value(sums: Tensor) -> Tensor:
    """One minus twice the area under the Lorenz curve."""
    weight, response = lorenz(sums)
    return 1 - 2 * torch.trapezoid(response, weight)


def joined(sums: Tensor, bins: int) -> Tensor:
    """The sums `(k, 2^18)` in bins of about equal weight, lowest predicted rate first, `(k, bins)`."""
    weight = sums[0]
    middle = (weight.cumsum(0) - weight / 2) / weight.sum()
    where = (middle * bins).long().clamp(0, bins - 1)
    return torch.zeros(len(sums), bins, dtype=sums.dtype, device=sums.device).index_add_(1, where, sums)


def lift_value(sums: Tensor, bins: int) -> dict[str, Tensor]:
    """Bins of about equal weight, `(bins,)` each: weight, observed and predicted rate, lift over the mean."""
    weight, observed, predicted = joined(sums, bins)[:3]
    return {
        "weight": weight,
        "observed": observed / weight,
        "predicted": predicted / weight,
        "lift": observed / weight / (sums[1].sum() / sums[0].sum()),
    }


def calibration_value(sums: Tensor, bins: int) -> Tensor:
    """The weighted mean distance of observed from predicted rates over the bins of `lift_value`."""
    table = lift_value(sums, bins)
    gap = torch.where(table["weight"] > 0, (table["observed"] - table["predicted"]).abs(), 0.0)
    return (table["weight"] * gap).sum() / table["weight"].sum()
