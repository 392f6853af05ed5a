"""What a page shows of the rows of a fit of several predictors, from one pass over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Bernoulli
from torchglm.families.several import Classes, LogTimes
from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of
from torchglm.metrics.class_scores import ClassSums
from torchglm.metrics.class_sums import concordance_value
from torchglm.report.binned import Calibration
from torchglm.report.document import Grid
from torchglm.report.sample import EvenSample
from torchglm.rows.planned import predictors
from torchglm.rows.responses import Counts, Pair, Response, Times, event_of, size_of
from torchglm.rows.rows import Rows, to_float64

MOST_CLASSES = 12  # of which probabilities are compared with shares
MOST_CELLS = 30  # classes of a confusion table
_DRAWN = 50_000  # rows drawn for what does not add


@dataclass(frozen=True)
class DrawnRows:
    """Rows drawn evenly from all: the responses (m,), their weights and the predictors (K, m)."""

    response: Response
    weight: Tensor
    eta: Tensor


class SeveralRows:
    """Sums of all rows that count, and an even sample of them.

    `classes` are the sums of scores of classes, `calibrations` those of the probabilities of each, or of the means.
    """

    def __init__(self, result: Fitted) -> None:
        self.result, self.family = result, family_of(result)
        self.sample = EvenSample(_DRAWN)
        self.classes: ClassSums | None = None
        self.calibrations: dict[str, Calibration] = {}
        self.count = self.seen = 0
        self.weighted, self.least = False, float("inf")
        self.kind: type[Any] | None = None
        self.times: list[Tensor] = []  # (4, k) of times: median predicted, time, event, weight

    @classmethod
    @torch.no_grad()
    def of(cls, result: Fitted) -> SeveralRows | None:
        """One pass over the rows behind the fit; None where there are none, or none that counts."""
        found = cls(result)
        for chunk in result.source if result.has_rows else ():
            for rows in to_float64(chunk).pieces():
                found.take(rows, predictors(rows, result.flat.coef))
        return found if found.count else None

    def take(self, rows: Rows, eta: Tensor) -> None:
        """Take in a piece with its predictors (K, B, n)."""
        usable = (rows.weight > 0) & self.family.valid(eta)
        model, at = usable.nonzero(as_tuple=True)
        models, n = usable.shape
        y = [part.expand(usable.shape)[model, at] for part in _parts(rows.response)]
        weight, own = rows.weight[model, at], eta[:, model, at]
        self.kind = type(rows.response) if isinstance(rows.response, Pair) else None
        if len(at):
            self._add(self._response(y), weight, own)
            self.sample.offer((self.seen + at) * models + model, torch.stack([*y, weight, *own]))
        self.count += len(at)
        self.seen += n

    def drawn(self) -> DrawnRows:
        """The rows of the even sample."""
        columns = self.sample.columns()
        parts = 1 if self.kind is None else 2
        return DrawnRows(self._response(list(columns[:parts])), columns[parts], columns[parts + 1 :])

    @property
    def concordance(self) -> float | None:
        """Harrell's C of the medians predicted; None without times."""
        return concordance_of(self.times)

    @property
    def whole(self) -> bool:
        """Whether every row is in the sample."""
        return self.count <= self.sample.most

    def _response(self, parts: list[Tensor]) -> Response:
        if self.kind is None:
            return parts[0]
        return Times(parts[0], parts[1] > 0) if self.kind is Times else self.kind(*parts)

    def _add(self, y: Response, weight: Tensor, eta: Tensor) -> None:
        self.weighted |= bool((weight != 1).any())
        self.least = min(self.least, float(size_of(y).min()))
        if isinstance(self.family, LogTimes):
            self._add_times(self.family, y, weight, eta)
        elif isinstance(self.family, Classes):
            self._add_classes(self.family, y, weight, eta)
        elif self.kind in (None, Counts):
            size, mean = size_of(y), self.family.mean(eta)
            if isinstance(y, Counts):
                some = y.trials > 0
                size, mean, weight = (y.size / y.trials)[some], mean[some], (weight * y.trials)[some]
            fine = mean.isfinite()
            if bool(fine.any()):
                self._sum("mean", Calibration.of(size[fine], mean[fine], weight[fine]))

    def _add_times(self, family: LogTimes, y: Response, weight: Tensor, eta: Tensor) -> None:
        if self.kind not in (None, Times):
            return  # in intervals, whose order is not known
        size, event = size_of(y), event_of(y)
        middle = family.quantile(torch.tensor(0.5, dtype=eta.dtype, device=eta.device), eta)
        seen = torch.ones_like(size) if event is None else event.to(size.dtype)
        self.times.append(torch.stack([middle, size, seen, weight]))

    def _add_classes(self, family: Classes, y: Tensor, weight: Tensor, eta: Tensor) -> None:
        logs = family.log_probabilities(eta)
        sums = ClassSums.of(y, logs, weight)
        self.classes = sums if self.classes is None else self.classes + sums
        for k, name in enumerate(family.known[:MOST_CLASSES]):
            self._sum(str(name), Calibration.of((y == k).to(logs.dtype), logs[k].exp(), weight, family=Bernoulli()))

    def _sum(self, name: str, sums: Calibration) -> None:
        self.calibrations[name] = self.calibrations[name] + sums if name in self.calibrations else sums


def concordance_of(parts: list[Tensor]) -> float | None:
    """Harrell's C of rows (4, k): times predicted, times, events and weights; None of none."""
    if not parts:
        return None
    mu, time, event, weight = torch.cat(parts, 1)
    return float(concordance_value(mu, time, event > 0, weight))


def _parts(response: Response) -> list[Tensor]:
    """The tensors of a response, as numbers."""
    parts = list(response) if isinstance(response, Pair) else [response]
    return [part.to(torch.float64) for part in parts]


def confusion(weights: Tensor, known: list[str]) -> Grid:
    """The rows of each class by the class that is most probable for them, and the share that is told rightly."""
    right = (weights.diagonal() / weights.sum(-1)).tolist()
    rows = [
        (name, *(f"{w:,.0f}" for w in own), "" if share != share else f"{100 * share:.1f} %")
        for name, own, share in zip(known, weights.tolist(), right, strict=True)
    ]
    return Grid("Observed (lines), most probable (columns)", ("", *known, "right"), rows)
