"""The rows behind the diagnostics: responses beside their fitted means."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.rows.times import Response, response


@dataclass(frozen=True)
class Observations:
    """Float64 columns (B, n) of B models, so that a shape parameter (B,) of the family meets its rows.

    Rows of weight 0, and those of a model without finite means, have weight 0, y = 1 and mu = 1/2.
    `weight` is the whole weight, `prior` its part that divides the dispersion, `dispersion` is (B, 1).
    """

    y: Tensor
    mu: Tensor
    weight: Tensor
    prior: Tensor
    dispersion: Tensor
    exposure: Tensor | None = None
    event: Tensor | None = None  # False where a time is censored

    @classmethod
    def of(
        cls,
        result: Fitted,
        y: Tensor | None = None,
        mu: Tensor | None = None,
        weight: Tensor | None = None,
        exposure: Tensor | None = None,
    ) -> Observations | None:
        """The given columns, (n,) or (*B, n), else the rows behind the result; None where there are none.

        Of streamed rows the first million are taken. Under a log link the offset of rows behind the result is read as
        the logarithm of the exposure. Raises ValueError where only one of `y` and `mu` is given.
        """
        if (y is None) != (mu is None):
            raise ValueError(
                "A report needs y and mu together; got only one of them. Pass both, or neither "
                "to use the rows that the fit still holds."
            )
        repeats = event = None
        if y is None or mu is None:
            if not result.has_rows:
                return None
            y, mu, weight, offset, repeats, event = _first(result)
            if exposure is None and result.link.multiplies == "mean" and bool((offset != 0).any()):
                exposure = offset.exp()
        models = result.dispersion.numel()
        shape = torch.broadcast_shapes(y.shape, mu.shape)
        given = (torch.ones_like(mu) if t is None else t for t in (weight, exposure, repeats))
        y, mu, w, e, times = (
            t.detach().double().expand(shape).reshape(-1, shape[-1]).expand(models, -1) for t in (y, mu, *given)
        )
        kept = (w > 0) & (times > 0) & mu.isfinite()
        if not bool(kept.any()):
            return None
        # values inside the range of every family, so that unused rows spread no NaN
        y, mu, w, prior, e = (
            torch.where(kept, t, other) for t, other in ((y, 1.0), (mu, 0.5), (w, 0.0), (w / times, 1.0), (e, 1.0))
        )
        phi = result.dispersion.detach().double().reshape(-1, 1)
        return cls(y, mu, w, prior, phi, None if exposure is None else e, event)

    @property
    def response(self) -> Response:
        """The responses as the formulas of the family take them."""
        return response(self.y, self.event)

    @property
    def kept(self) -> Tensor:
        """True for the rows that count, (B, n)."""
        return self.weight > 0

    @property
    def count(self) -> int:
        """How many rows count."""
        return int(self.kept.sum())

    def sample(self, most: int, seed: int = 0) -> Observations:
        """All rows, or about `most` of them, the same columns of each model, where there are more."""
        models, n = self.y.shape
        each = max(1, most // models)
        if n <= each:
            return self
        keep = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:each].to(self.y.device)
        exposure, event = (None if part is None else part[:, keep] for part in (self.exposure, self.event))
        y, mu, weight, prior = (part[:, keep] for part in (self.y, self.mu, self.weight, self.prior))
        return Observations(y, mu, weight, prior, self.dispersion, exposure, event)


def _first(result: Fitted, most: int = 1_000_000) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Response, mean, weight, offset, repeats and event (B, n) of the rows behind a result; of a stream the first."""
    pieces: list[tuple[Tensor, ...]] = []
    events: list[Tensor] = []
    count = 0
    for values in result.row_values():
        pieces.append((values.rows.y, values.mu, values.rows.weight, values.rows.offset, values.repeats))
        events += [] if values.rows.event is None else [values.rows.event]
        count += values.mu.numel()
        if count >= most:
            break
    y, mu, weight, offset, repeats = (torch.cat(parts, -1) for parts in zip(*pieces, strict=True))
    return y, mu, weight, offset, repeats, torch.cat(events, -1) if events else None
