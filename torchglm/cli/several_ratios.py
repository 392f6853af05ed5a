"""Observed against expected of laws of several predictors for each value of a column, and coverage of intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import metrics
from torchglm.cli.observed_expected import Ratios
from torchglm.cli.run_rows import Batch
from torchglm.families.several import Classes, LogTimes, VectorFamily
from torchglm.inference.several import family_of
from torchglm.inference.vector.intervals import roles_of_response
from torchglm.report.document import Grid
from torchglm.report.laws import law_title
from torchglm.rows.responses import size_of
from torchglm.rows.rows import Rows
from torchglm.writing import numbers

if TYPE_CHECKING:
    import pyarrow as pa

    from torchglm.model.face import Result


class SeveralRatios:
    """Sums of responses and what was expected of them, for each value of a column: of classes the rows of each class.

    Of times to an event the response is the event, and expected is the cumulative hazard until the time.
    """

    def __init__(self, family: VectorFamily) -> None:
        self.labels = [str(label) for label in family.known] if isinstance(family, Classes) else [None]
        self.ratios = [Ratios() for _ in self.labels]

    def add(self, family: VectorFamily, rows: Rows, eta: Tensor, column: pa.ChunkedArray) -> None:
        """Take in rows of one model with their predictors (K, 1, n), and the values of the column."""
        used = (rows.weight > 0) & family.valid(eta)
        weight = torch.where(used, rows.weight, 0.0)[0]
        for ratios, (observed, expected, variance) in zip(self.ratios, _compared(family, rows, eta), strict=True):
            ratios.take(weight, observed[0], expected[0], variance[0], column)

    def table(self) -> list[dict[str, Any]]:
        """A dict for each value in order, of classes for each of its classes."""
        if self.labels == [None]:
            return self.ratios[0].table()
        each = [ratios.table() for ratios in self.ratios]
        return [
            {"value": line["value"], "class": label} | line
            for lines in zip(*each, strict=True)
            for label, line in zip(self.labels, lines, strict=True)
        ]


def _compared(family: VectorFamily, rows: Rows, eta: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What was observed in every row, expected, and its variance, (1, n) each; of classes a triple for each."""
    y = rows.response
    if isinstance(family, LogTimes):
        hazard = -family.tails(y, eta)[0][1].log()
        event = torch.ones_like(hazard) if rows.event is None else rows.event.to(hazard).expand_as(hazard)
        return [(event, hazard, hazard)]
    far, variance = family.departure(y, eta)
    if isinstance(family, Classes):
        seen = torch.stack([(rows.y == k).to(far) for k in range(len(far))])
        return list(zip(seen, seen - far, variance, strict=True))
    size = size_of(y).to(far).expand_as(far)
    if hasattr(y, "trials"):  # the successes, not their share
        far, variance = far * y.trials, variance * y.trials.square()
    return [(size, size - far, variance)]


def by_grid(name: str, rows: list[dict[str, Any]]) -> Grid:
    """The table of observed against expected by the values of a column."""
    classes = bool(rows) and "class" in rows[0]
    cells = [
        (
            numbers.MISSING if row["value"] is None else str(row["value"]),
            *((row["class"],) if classes else ()),
            f"{row['rows']:,}",
            numbers.number(row["observed"]),
            numbers.number(row["expected"]),
            ratio(row["ratio"], row["se"]),
        )
        for row in rows
    ]
    heads = (name, *(("class",) if classes else ()), "rows", "observed", "expected", "ratio ± 2 se")
    return Grid(f"By {name}", heads, cells)


def ratio(value: float, error: float) -> str:
    """A ratio of observed and expected with two standard errors."""
    return numbers.MISSING if value != value else f"{value:.4f} ± {2 * error:.4f}"


def check_coverage(result: Result) -> None:
    """Raise ValueError for a law whose responses have no intervals, or are not all known."""
    if isinstance(result.family, Classes):
        raise ValueError(
            f"--coverage is for amounts and counts; {law_title(result.family)} has classes. --by COLUMN compares the "
            "rows of each with those expected."
        )
    if set(result.context.get("columns") or {}) & {"event", "until"}:
        raise ValueError("--coverage needs every response, and this fit has censored times.")


def cover(
    metric: metrics.Coverage, level: float, batch: Batch, rows: Rows, result: Result, where: Tensor | None
) -> None:
    """Count the responses `rows` of one model inside their prediction intervals."""
    at: Any = slice(None) if where is None else where
    given = batch.roles.given
    roles = {name: given[name][at] for name in roles_of_response(family_of(result)) if name in given}
    roles = {name: torch.where(value > 0, value, 1.0) for name, value in roles.items()}
    ends = result.predict_interval(batch.new(where), kind="response", level=level, **batch.beside(at), **roles)
    count = (rows.weight[0] > 0).to(torch.float64)
    count = count if rows.repeats is None else count * rows.repeats[0]
    metric.update(ends[..., 0], ends[..., 1], batch.y[at], freq=count)
