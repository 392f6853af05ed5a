"""The rows behind the diagnostics: responses beside their fitted means, a chunk at a time, and an even sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.kernel import take_family
from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues
from torchglm.report.sample import EvenSample
from torchglm.rows.responses import Response, response


@dataclass(frozen=True)
class Observations:
    """Float64 columns (B, n) of B models, so that a shape parameter (B,) of the family meets its rows.

    Rows of weight 0, and those of a model without finite means, have weight 0, y = 1 and mu = 1/2.
    `weight` is the whole weight, `prior` its part that divides the dispersion, `dispersion` is (B, 1). `exposed` says
    whether any exposure is not 1. A sample of cells has one in a line: columns (k, 1), `model` (k,) and a family whose
    shape parameters are (k,).
    """

    family: Family
    y: Tensor
    mu: Tensor
    weight: Tensor
    prior: Tensor
    dispersion: Tensor
    exposure: Tensor
    exposed: bool
    event: Tensor | None = None  # False where a time is censored
    model: Tensor | None = None

    @classmethod
    def of_values(cls, result: Fitted, values: RowValues) -> Observations:
        """A chunk of the rows behind a result: under a log link their offset is the logarithm of the exposure."""
        rows = values.rows
        exposed = result.link.multiplies == "mean" and bool((rows.offset != 0).any())
        exposure = rows.offset.exp() if exposed else torch.ones_like(rows.offset)
        return cls._made(result, rows.y, values.mu, rows.weight, exposure, values.repeats, exposed, rows.event)

    @classmethod
    def given(
        cls,
        result: Fitted,
        y: Tensor | None,
        mu: Tensor | None,
        weight: Tensor | None = None,
        exposure: Tensor | None = None,
    ) -> Observations:
        """Columns (n,) or (*B, n) from outside. Raises ValueError where only one of `y` and `mu` is given."""
        if y is None or mu is None:
            raise ValueError(
                "A report needs y and mu together; got only one of them. Pass both, or neither "
                "to use the rows that the fit still holds."
            )
        ones = torch.ones_like(mu)
        w, e = (ones if t is None else t for t in (weight, exposure))
        return cls._made(result, y, mu, w, e, ones, exposure is not None, None)

    @classmethod
    def _made(
        cls,
        result: Fitted,
        y: Tensor,
        mu: Tensor,
        weight: Tensor,
        exposure: Tensor,
        repeats: Tensor,
        exposed: bool,
        event: Tensor | None,
    ) -> Observations:
        models = result.dispersion.numel()
        shape = torch.broadcast_shapes(y.shape, mu.shape)
        y, mu, w, e, times = (
            t.detach().double().expand(shape).reshape(-1, shape[-1]).expand(models, -1)
            for t in (y, mu, weight, exposure, repeats)
        )
        kept = (w > 0) & (times > 0) & mu.isfinite()
        # values inside the range of every family, so that unused rows spread no NaN
        y, mu, w, prior, e = (
            torch.where(kept, t, other) for t, other in ((y, 1.0), (mu, 0.5), (w, 0.0), (w / times, 1.0), (e, 1.0))
        )
        event = None if event is None else event.expand(y.shape)
        phi = result.dispersion.detach().double().reshape(-1, 1)
        return cls(result.family, y, mu, w, prior, phi, e, exposed, event)

    @property
    def response(self) -> Response:
        """The responses as the formulas of the family take them."""
        return response(self.y, self.event)

    @property
    def kept(self) -> Tensor:
        """True for the rows that count, (B, n)."""
        return self.weight > 0


def chunks(
    result: Fitted, y: Tensor | None, mu: Tensor | None, weight: Tensor | None, exposure: Tensor | None
) -> Iterator[Observations]:
    """The given columns, else every chunk of the rows behind the result; nothing where there are none."""
    if y is not None or mu is not None:
        yield Observations.given(result, y, mu, weight, exposure)
    elif result.has_rows:
        yield from (Observations.of_values(result, values) for values in result.row_values())


class Drawn:
    """An even sample of the cells that count, each a row of a model, of all chunks that are taken in."""

    def __init__(self, most: int) -> None:
        self.sample = EvenSample(most)
        self.count = self.seen = 0
        self.last: Observations | None = None

    def take(self, rows: Observations) -> None:
        """Take in a chunk."""
        models, n = rows.y.shape
        model, at = rows.kept.nonzero(as_tuple=True)
        event = torch.ones_like(rows.y) if rows.event is None else rows.event.double()
        columns = [part[model, at] for part in (rows.y, rows.mu, rows.weight, rows.prior, event)]
        self.sample.offer((self.seen + at) * models + model, torch.stack([*columns, model.double()]))
        self.count += len(at)
        self.seen += n
        self.last = rows

    @property
    def whole(self) -> bool:
        """Whether every cell is in the sample."""
        return self.count <= self.sample.most

    def observations(self) -> Observations:
        """The cells drawn, one in a line."""
        assert self.last is not None  # chunks were taken in
        *columns, model = self.sample.columns()
        y, mu, weight, prior, event = (column.unsqueeze(-1) for column in columns)
        at = model.long()
        return Observations(
            take_family(self.last.family, at.to(self.last.dispersion.device)),
            y,
            mu,
            weight,
            prior,
            self.last.dispersion[at],
            torch.ones_like(y),
            False,
            None if self.last.event is None else event > 0,
            at,
        )
