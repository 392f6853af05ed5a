"""The rows that move a fit most, found in one pass over rows that may be streamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.inference.adequacy.screening import run
from torchglm.inference.fitted import Fitted
from torchglm.inference.influence import deletion
from torchglm.inference.rowwise import RowValues
from torchglm.report.sample import EvenSample
from torchglm.rows.rows import whole

_LISTED = 10


@dataclass(frozen=True)
class Cases:
    """Columns (k,) of `k` rows: `model` and `row` (both from 0) say where they stand.

    `residual` is Pearson's, standardised by dispersion and leverage; `shift` (k, p) is how far each coefficient
    moves when the row is taken in, in standard errors of the fit.
    """

    model: Tensor
    row: Tensor
    y: Tensor
    censored: Tensor
    mu: Tensor
    leverage: Tensor
    residual: Tensor
    cook: Tensor
    shift: Tensor

    def take(self, index: Tensor | slice) -> Cases:
        """Some of the rows."""
        return Cases(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def __add__(self, other: Cases) -> Cases:
        return Cases(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.row)


class Influence:
    """What single rows do to a fit, or to each of a batch: the extreme rows, a sample of all, and sums.

    `top` holds the `most` rows of largest Cook's distance, largest first; `drawn` an even sample of (leverage,
    residual) of at most `sampled` rows; `count` the rows that count, `high` those whose distance exceeds 4 / n of
    their model.
    """

    def __init__(self, result: Fitted, most: int = 200, sampled: int = 1500) -> None:
        self.result, self.most = result, most
        self.top: Cases | None = None
        self.drawn = EvenSample(sampled)
        self.count = self.high = self.seen = 0
        flat = result.flat
        self.fitted = (flat.nobs > flat.df).unsqueeze(-1)

    @classmethod
    @torch.no_grad()
    def of(cls, result: Fitted) -> Influence:
        """The influence of the rows of a fit: one pass. Raises ValueError where it holds none."""
        found = cls(result)
        run(result, [found])
        return found

    def add(self, values: RowValues) -> None:
        """Take in a chunk."""
        used = values.used
        h, left, residual, cook = deletion(self.result, values)
        fine = used & self.fitted & cook.isfinite()
        parts = (values, h, residual, cook, left)
        self.take(fine, cook, torch.stack([h, residual]), lambda index: self._cases(parts, index))

    def take(self, fine: Tensor, cook: Tensor, drawn: Tensor, cases: Callable[[Tensor], Cases]) -> None:
        """Take in distances (B, n) of rows that are `fine`, the leverage and residual (2, B, n) of each to draw from.

        `cases` makes those at places (k,) among the models' rows one after another.
        """
        cook = torch.where(fine, cook, -1.0)
        self.count += int(fine.sum())
        self.high += int((cook > 4 / self.result.flat.nobs.unsqueeze(-1)).sum())
        models, n = cook.shape
        flat = cook.reshape(-1)
        first = flat.topk(min(self.most, models * n)).indices
        top = cases(first[flat[first] >= 0])
        top = top if self.top is None else self.top + top
        self.top = top.take(top.cook.argsort(descending=True, stable=True)[: self.most])
        model, row = fine.nonzero(as_tuple=True)
        self.drawn.offer((self.seen + row) * models + model, drawn[:, model, row])
        self.seen += n

    def _cases(self, parts: tuple[RowValues, Tensor, Tensor, Tensor, Tensor], index: Tensor) -> Cases:
        """The cases at places (k,) among the models' rows one after another."""
        values, h, residual, cook, left = parts
        n = cook.shape[-1]
        model, row = index // n, index % n
        shift = self._shift(values, left, model, row)
        rows = values.rows
        censored = torch.zeros_like(rows.y, dtype=torch.bool) if rows.event is None else ~rows.event
        y, censored, mu, h, residual, cook = (
            v.expand(cook.shape)[model, row] for v in (rows.y, censored, values.mu, h, residual, cook)
        )
        return Cases(model, row + self.seen, y, censored, mu, h, residual, cook, shift)

    def _shift(self, values: RowValues, left: Tensor, model: Tensor, row: Tensor) -> Tensor:
        """(k, p) by how many standard errors each coefficient moves when the row is taken in."""
        fit = self.result.flat
        inverse = fit.root.inverse()  # (B, p, p)
        x = whole(values.rows.at(row)) if values.rows.shared else values.x[model, row]
        single = len(inverse) == 1  # one matrix serves all rows, and is not repeated for each
        moved = x @ inverse[0] if single else (x.unsqueeze(-2) @ inverse[model]).squeeze(-2)
        moved = moved * (values.score / left)[model, row].unsqueeze(-1)
        error = (fit.dispersion.unsqueeze(-1) * inverse.diagonal(dim1=-2, dim2=-1)).sqrt()[model]
        return torch.where(fit.keep[model], moved / error, torch.nan)

    @property
    def largest(self) -> Cases:
        """The rows to list, largest distance first."""
        assert self.top is not None  # a source without rows is refused before
        return self.top.take(slice(0, _LISTED))
