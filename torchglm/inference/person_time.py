"""Times as person-time: each split at cut points, so that a hazard constant between cuts is a Poisson model.

A time in several pieces is a row for each, with the time spent in it as exposure and 1 where the event came in it:
the likelihood is that of Poisson counts. Its coefficients are log hazard ratios, those of the pieces the baseline.
Source: Holford (1980), Biometrics 36(2); Laird & Olivier (1981), J. Am. Stat. Assoc. 76.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm import inputs, tables
from torchglm.inference.fitted import Fitted
from torchglm.tables.repeated import repeated
from torchglm.writing.answering import answering

PIECE, EXPOSURE, EVENT = "piece", "exposure", "event"  # the columns that a split table gains


@dataclass(frozen=True)
class PersonTime:
    """Rows (m,) of times split at `cuts`: of which time (`row`), in which `piece`, how long, with the event or not.

    Piece k is `(cuts[k - 1], cuts[k]]`; the first begins at 0 and the last has no end. A fit takes `columns(x)`,
    `event` as the response and `exposure`, or a table made by `table`.
    """

    row: Tensor
    piece: Tensor
    exposure: Tensor
    event: Tensor
    cuts: tuple[float, ...]

    @classmethod
    def of(cls, time: Any, cuts: Sequence[float], *, event: Any = None, entry: Any = None) -> PersonTime:
        """The rows of times (n,), with `event` 1 where it was seen (None: all) and `entry` when a row came under watch.

        Raises `ValueError` for cuts that are not above 0 and rising, and at the first time that is not finite, ends
        before its entry, or is an event without any time.
        """
        ends = _checked(cuts)
        stop = inputs.tensor(time, "time").to(torch.float64)
        begin = torch.zeros_like(stop) if entry is None else inputs.tensor(entry, "entry").to(stop)
        seen = torch.ones_like(stop) if event is None else inputs.tensor(event, "event").to(stop)
        for name, value in (("time", stop), ("entry", begin), ("event", seen)):
            if value.dim() != 1 or value.shape != stop.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, time {tuple(stop.shape)}. Give one of each.")
            inputs.finite(value, name)
        if not bool(((seen == 0) | (seen == 1)).all()):
            raise ValueError("event must be 1 (the event was seen) or 0 (censored). Recode the column.")
        bad = (begin < 0) | (stop < begin) | (stop == begin) & (seen == 1)
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise ValueError(
                f"times must begin at 0 or later and end after they begin; row {i} goes from {float(begin[i]):g} to "
                f"{float(stop[i]):g}. Correct or drop it."
            )
        low, high = torch.tensor([0.0, *ends]).to(stop), torch.tensor([*ends, torch.inf]).to(stop)
        spent = (torch.minimum(stop[:, None], high) - torch.maximum(begin[:, None], low)).clamp(min=0)
        row, piece = (spent > 0).nonzero(as_tuple=True)
        ended = (seen[row] == 1) & (stop[row] > low[piece]) & (stop[row] <= high[piece])
        return cls(row, piece, spent[row, piece], ended.to(stop.dtype), ends)

    @property
    def labels(self) -> list[str]:
        """The names of the pieces, `"(0, 1]"`, ..., `"(5, inf)"`."""
        ends = [f"{cut:g}" for cut in (0.0, *self.cuts)]
        return [f"({a}, {b}]" for a, b in zip(ends, ends[1:], strict=False)] + [f"({ends[-1]}, inf)"]

    def columns(self, x: Any) -> Tensor:
        """(m, k + p) an indicator of each of the k pieces, then the columns `x` (n, p) of the times: no intercept."""
        design = inputs.tensor(x, "x").to(self.exposure)
        return torch.cat([torch.eye(len(self.cuts) + 1).to(design)[self.piece], design[self.row]], -1)

    def table(self, data: Any) -> Any:
        """The rows of a table of the times, with the columns `piece`, `exposure` and `event`.

        A pandas frame gives one, all else an Arrow table. The pieces are categories in their order. Columns of these
        names are replaced.
        """
        own = {EXPOSURE: self.exposure.cpu().numpy(), EVENT: self.event.cpu().numpy()}
        return repeated(data, self.row.cpu().numpy(), own, PIECE, self.piece.cpu().numpy(), self.labels)

    def survival(self, result: Fitted, data: Any, at: Any) -> tuple[Tensor, Tensor]:
        """(n, T) the probabilities of a longer time than `at` (T,) for new rows of the fit, and their standard errors.

        `data` (n, p) are columns as in `columns`, or for a formula fit a table, without pieces. The errors are those of
        the delta method. Raises `ValueError` for a batch, a link other than the log, or times that are not above 0.
        """
        if result.batch_shape or result.link.name != "log" or result.plan is not None:
            raise ValueError("survival is that of one Poisson (or exponential) fit with the log link. Fit one.")
        times = torch.atleast_1d(torch.as_tensor(at, dtype=torch.float64))
        if not bool(((times > 0) & torch.isfinite(times)).all()):
            raise ValueError(f"at= are times above 0; got {float(times.min()):g}. Survival at 0 is 1.")
        every = PersonTime.of(times, self.cuts)  # how much of each piece lies before a time
        spent = torch.zeros(len(times), len(self.cuts) + 1, dtype=torch.float64)
        spent[every.row, every.piece] = every.exposure
        count = len(self.cuts) + 1
        n = len(data) if result.spec is None else tables.as_table(data).num_rows
        one = torch.ones(n * count, dtype=torch.float64)
        rows = torch.arange(n).repeat_interleave(count), torch.arange(count).repeat(n)
        whole = PersonTime(*rows, one, one, self.cuts)
        design = whole.columns(data) if result.spec is None else result.spec.transform(whole.table(data))
        coef = result.coef.nan_to_num(0.0)
        design, spent = design.to(coef), spent.to(coef)
        if result.spec is None and result.added_intercept:
            design = torch.cat([design.new_ones(len(design), 1), design], -1)
        hazard = (design @ coef).exp().reshape(n, count)
        total = hazard @ spent.mT  # (n, T)
        slope = torch.einsum("nk,tk,nkp->ntp", hazard, spent, design.reshape(n, count, -1))
        cov = torch.where(torch.isfinite(result.covariance()), result.covariance(), 0.0)
        error = torch.einsum("ntp,pq,ntq->nt", slope, cov, slope).clamp(min=0).sqrt()
        return torch.exp(-total), torch.exp(-total) * error


@answering
def split_times(data: Any, cuts: Sequence[float], time: str, event: str | None = None, entry: str | None = None) -> Any:
    """The table with a row for each piece of each time, and the columns `piece`, `exposure` and `event`.

    `time`, `event` and `entry` name columns; see `PersonTime`. `fit("event ~ piece + age - 1", split, family="poisson",
    exposure="exposure")` is then a proportional hazards model with a baseline that is constant between cuts.
    """
    named = [name for name in (time, event, entry) if name is not None]
    table = tables.as_table(data, named)
    given = {name: torch.as_tensor(tables.numbers(table, name)) for name in named}
    seen, begin = (None if name is None else given[name] for name in (event, entry))
    return PersonTime.of(given[time], cuts, event=seen, entry=begin).table(data)


def _checked(cuts: Sequence[float]) -> tuple[float, ...]:
    ends = tuple(float(cut) for cut in cuts)
    if not all(0 < cut < np.inf for cut in ends) or any(b <= a for a, b in zip(ends, ends[1:], strict=False)):
        raise ValueError(f"cuts must be finite, above 0 and rising; got {list(ends)}. Sort them and leave 0 out.")
    return ends
