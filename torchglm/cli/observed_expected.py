"""Observed against expected, for all rows or for each value of a column, from sums alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.metrics.rows import Scored
from torchglm.metrics.sums import observed_and_expected

if TYPE_CHECKING:
    import pyarrow as pa

    from torchglm.families import Family

MOST = 1000  # values of a column


class Ratios:
    """Sums of rows, weights, responses, expected responses and their variance under the fit, for each value.

    For times to an event the response is the event: see `metrics.sums.observed_and_expected`.
    """

    def __init__(self) -> None:
        self.places: dict[Any, int] = {}
        self.sums = torch.zeros(0, 5, dtype=torch.float64)

    def add(self, rows: Scored, variance: Tensor, family: Family, column: pa.ChunkedArray | None) -> None:
        """Take in rows, and the variances `(n,)` of what is observed in a row of weight 1.

        `column` holds the values, None for all rows. Raises ValueError where it has more than a thousand different
        values.
        """
        self.take(rows.whole, *observed_and_expected(rows.response, rows.mu, family), variance, column)

    def take(
        self, weight: Tensor, observed: Tensor, expected: Tensor, variance: Tensor, column: pa.ChunkedArray | None
    ) -> None:
        """Take in what was observed and expected in rows of some weight, with its variance, (n,) each."""
        codes = torch.zeros(len(weight), dtype=torch.int64) if column is None else self._codes(column)
        if column is None:
            self.places.setdefault("all", 0)
        ones = torch.ones_like(expected)
        values = torch.stack([ones, observed, expected, variance])
        parts = torch.stack([ones, *(weight * values)], -1)
        parts = torch.where((weight > 0).unsqueeze(-1), parts, 0.0)
        grown = torch.zeros(len(self.places), 5, dtype=torch.float64)
        grown[: len(self.sums)] = self.sums
        self.sums = grown.index_add_(0, codes, parts)

    def _codes(self, column: pa.ChunkedArray) -> Tensor:
        encoded = column.combine_chunks()
        encoded = encoded if hasattr(encoded, "dictionary") else encoded.dictionary_encode(null_encoding="encode")
        values = encoded.dictionary.to_pylist()
        places = [self.places.setdefault(value, len(self.places)) for value in values]
        if len(self.places) > MOST:
            raise ValueError(f"--by names a column of more than {MOST:,} different values. Take one of groups.")
        missing = self.places.setdefault(None, len(self.places)) if encoded.null_count else 0
        codes = torch.from_numpy(encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False).astype("int64"))
        return torch.tensor([*places, missing], dtype=torch.int64)[codes]

    def table(self) -> list[dict[str, Any]]:
        """A dict for each value in order: rows, weight, observed, expected, their ratio and its standard error."""
        try:
            order = sorted(self.places, key=lambda value: (value is None, value))
        except TypeError:
            order = list(self.places)
        made = []
        for value in order:
            n, weight, observed, expected, variance = self.sums[self.places[value]].tolist()
            sound = expected != 0
            made.append(
                {
                    "value": value,
                    "rows": int(n),
                    "weight": weight,
                    "observed": observed,
                    "expected": expected,
                    "ratio": observed / expected if sound else float("nan"),
                    "se": variance**0.5 / abs(expected) if sound else float("nan"),
                }
            )
        return made
