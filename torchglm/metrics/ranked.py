"""Metrics of order and calibration, their rows counted in fixed bins of the predicted rate (see `ranking`)."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.links import Link
from torchglm.metrics.base import FamilyMetric
from torchglm.metrics.ranking import BITS, calibration_value, curve, gini_value, lift_value, ranked_sums
from torchglm.metrics.rows import Scored, count


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
        weight, response = curve(self.sums)
        ax.plot(weight.cpu(), response.cpu(), label=f"Gini {float(self.compute()):.3f}")
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
