"""Metrics of order and calibration in bounded memory: rows are counted in fixed bins of the predicted rate.

The bins are the 18 leading bits of the rate as a float32, put in numeric order: 2^18 of them, 0.2 % wide.
They depend on no data, so the sums of two parts add exactly, and nothing waits for the device.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.links import Link
from torchglm.metrics.base import FamilyMetric
from torchglm.metrics.rows import Scored, count
from torchglm.metrics.sums import observed_and_expected

BITS = 18


def ranked_sums(rows: Scored, family: Family, link: Link) -> Tensor:
    """`(3, 2^18)`: per bin of the predicted rate the weight `sum w e`, what was observed and what was expected.

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
    values = rows.whole * torch.stack([size, *observed_and_expected(rows, family)])
    known = torch.where(rows.mu.isnan(), torch.nan, values)  # a rate that is NaN has no place, though a bin takes it
    kept = torch.where(rows.whole == 0, 0.0, known)
    return torch.zeros(3, 1 << BITS, dtype=torch.float64, device=kept.device).index_add_(1, place, kept)


def lorenz(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Cumulated shares of weight and of response, lowest predicted rate first, `(2^18 + 1,)` each."""
    shares = sums[:2].cumsum(1) / sums[:2].sum(1, keepdim=True)
    weight, response = torch.nn.functional.pad(shares, (1, 0)).unbind(0)
    return weight, response


def gini_value(sums: Tensor) -> Tensor:
    """One minus twice the area under the Lorenz curve."""
    weight, response = lorenz(sums)
    return 1 - 2 * torch.trapezoid(response, weight)


def lift_value(sums: Tensor, bins: int) -> dict[str, Tensor]:
    """Bins of about equal weight, `(bins,)` each: weight, observed and predicted rate, lift over the mean."""
    weight = sums[0]
    middle = (weight.cumsum(0) - weight / 2) / weight.sum()
    where = (middle * bins).long().clamp(0, bins - 1)
    joined = torch.zeros(3, bins, dtype=sums.dtype, device=sums.device).index_add_(1, where, sums)
    observed, predicted = joined[1] / joined[0], joined[2] / joined[0]
    return {
        "weight": joined[0],
        "observed": observed,
        "predicted": predicted,
        "lift": observed / (sums[1].sum() / weight.sum()),
    }


def calibration_value(sums: Tensor, bins: int) -> Tensor:
    """The weighted mean distance of observed from predicted rates over the bins of `lift_value`."""
    table = lift_value(sums, bins)
    gap = torch.where(table["weight"] > 0, (table["observed"] - table["predicted"]).abs(), 0.0)
    return (table["weight"] * gap).sum() / table["weight"].sum()


class Ranked(FamilyMetric):
    """A metric of rows in bins of their predicted rate; in a MetricCollection all of one model share these sums."""

    size = (3, 1 << BITS)
    offset_counts = True

    def _part(self, rows: Scored) -> Tensor:
        return ranked_sums(rows, self.family, self.link)


class Gini(Ranked):
    """How well predicted rates order the response: one minus twice the area under the Lorenz curve.

    Rows are sorted by `mu / exposure` and weighted by `weights * freq * exposure` (exposure is `exp(offset)` with the
    log link, else 1); rates within 0.2 % of each other count as equal. For times to an event (`Exponential`) the rate
    is the hazard `exposure / mu`, the weight the time at risk and the response the events, so that a censored time
    counts for what is known of it: see `observed_and_expected`.
    Source: Frees, Meyers & Cummings (2011), Summarizing insurance scores using a Gini index.
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def compute(self) -> Tensor:
        """The Gini index, a float64 scalar."""
        return gini_value(self.sums)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the Lorenz curve of the rows so far, or given values as every metric does."""
        if val is not None:
            return self._plot(val, ax)
        figure, ax = _axes(ax)
        weight, response = lorenz(self.sums)
        at = torch.linspace(0, 1, 1001, dtype=weight.dtype, device=weight.device)
        last = torch.searchsorted(weight, at).clamp(max=len(weight) - 1)
        ax.plot(at.cpu(), response[last].cpu(), label=f"Gini {float(self.compute()):.3f}")
        ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        ax.set(xlabel="share of weight, lowest prediction first", ylabel="share of response")
        ax.legend()
        return figure, ax


class BinColumns(UserDict[str, Tensor]):
    """Columns `(bins,)` by name. No dict: a MetricCollection would spread the columns among its other values."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        super().__init__({name: torch.atleast_1d(column) for name, column in columns.items()})  # torchmetrics squeezes


class LiftTable(Ranked):
    """Observed against predicted rates in bins of about equal weight, ordered by the predicted rate.

    `compute` gives a `Table` of `(bins,)` tensors: weight, observed, predicted, lift (observed over the mean). For
    times to an event, censored or not, the weight is the time at risk and the rates are events per unit of it, as in
    `Gini`. A table is no number to be logged, or drawn in one plot with numbers; `CalibrationError` is one.
    """

    higher_is_better = None

    def __init__(self, family: str | Family, link: str | Link | None = None, bins: int = 10, **kwargs: Any) -> None:
        super().__init__(family, link, **kwargs)
        self.bins = count("bins", bins, 1)

    def compute(self) -> BinColumns:
        """The table; empty bins hold NaN."""
        return BinColumns(lift_value(self.sums, self.bins))

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw observed and predicted rates by bin: of the rows so far, of a table, or of tables over steps."""
        tables = [self.compute()] if val is None else [val] if isinstance(val, Mapping) else val
        figure, ax = _axes(ax)
        for step, table in enumerate(tables):
            at, ending = range(1, len(table["weight"]) + 1), f", step {step}" if len(tables) > 1 else ""
            (points,) = ax.plot(at, table["observed"].cpu(), "o", label=f"observed{ending}")
            ax.plot(at, table["predicted"].cpu(), "-", color=points.get_color(), label=f"predicted{ending}")
        ax.set(xlabel="bin of the predicted rate", ylabel="rate")
        ax.legend()
        return figure, ax


class CalibrationError(Ranked):
    """The weighted mean of `|observed - predicted|` rate over bins of about equal weight: those of `LiftTable`."""

    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(self, family: str | Family, link: str | Link | None = None, bins: int = 10, **kwargs: Any) -> None:
        super().__init__(family, link, **kwargs)
        self.bins = count("bins", bins, 1)

    def compute(self) -> Tensor:
        """The error, a float64 scalar in units of the rate."""
        return calibration_value(self.sums, self.bins)


def _axes(ax: Any) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained") if ax is None else (ax.figure, ax)
