"""What a page shows of rows, from one pass over all of them: sums where they add, an even sample where not."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues
from torchglm.report.binned import Calibration
from torchglm.report.observations import Drawn, Observations

_DRAWN = 50_000  # rows drawn for residuals: more, no reader could see


class Gathered:
    """Rows seen chunk by chunk: `calibration` is summed over all of them, `drawn` is an even sample.

    `count` rows count; `weighted` says whether any weight is not 1, `whole` whether all
    responses are whole numbers, `least` is the smallest of them.
    """

    def __init__(self, result: Fitted) -> None:
        self.result = result
        self.drawn = Drawn(_DRAWN)
        self.sums: Calibration | None = None
        self.weighted = False
        self.whole, self.least = True, float("inf")

    @classmethod
    @torch.no_grad()
    def of(cls, result: Fitted, chunks: Iterable[Observations]) -> Gathered | None:
        """What all chunks hold together; None where no row counts."""
        found = cls(result)
        for rows in chunks:
            found.take(rows)
        return found if found.count else None

    def add(self, values: RowValues) -> None:
        """Take in a chunk of the rows behind the fit, as a screen does."""
        self.take(Observations.of_values(self.result, values))

    def take(self, rows: Observations) -> None:
        """Take in a chunk."""
        kept = rows.kept
        if not bool(kept.any()):
            return
        exposure = rows.exposure if rows.exposed else None
        sums = Calibration.of(rows.response, rows.mu, rows.weight, exposure, rows.family, rows.dispersion)
        self.sums = sums if self.sums is None else self.sums + sums
        self.weighted |= bool((rows.weight[kept] != 1).any())
        y = rows.y[kept]
        self.whole &= bool((y == y.round()).all())
        self.least = min(self.least, float(y.min()))
        self.drawn.take(rows)

    @property
    def count(self) -> int:
        """How many rows count."""
        return self.drawn.count

    @property
    def calibration(self) -> Calibration:
        """The sums of all rows by bin of the prediction."""
        assert self.sums is not None  # rows were taken in
        return self.sums
