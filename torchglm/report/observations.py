"""The rows behind the diagnostics: responses beside their fitted means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchglm.inference.result import Result


@dataclass(frozen=True)
class Observations:
    """Float64 columns (*B, n), so that a shape parameter (*B) of the family meets its rows.

    Rows of weight 0, and those of a model without finite means, have weight 0, y = 1 and mu = 1/2.
    `dispersion` is () or (*B, 1).
    """

    y: Tensor
    mu: Tensor
    weight: Tensor
    dispersion: Tensor
    exposure: Tensor | None = None

    @classmethod
    def of(cls, result: Result, y: Tensor | None = None, mu: Tensor | None = None,
           weight: Tensor | None = None, exposure: Tensor | None = None) -> Observations | None:
        """The given columns, (n,) or (*B, n), else the rows the result holds; None where there are none.

        Under a log link an offset of held rows is read as the logarithm of the exposure. Raises ValueError
        where only one of `y` and `mu` is given.
        """
        if (y is None) != (mu is None):
            raise ValueError("A report needs y and mu together; got only one of them. Pass both, or neither "
                             "to use the rows that the fit still holds.")
        if y is None or mu is None:
            held = result.rows
            if held is None:
                return None
            y, mu, weight = held.y, result.fitted, held.weight
            if exposure is None and result.link.name == "log" and bool((held.offset != 0).any()):
                exposure = held.offset.exp()
        shape = torch.broadcast_shapes(y.shape, mu.shape)
        given = (y, mu, torch.ones_like(mu) if weight is None else weight,
                 torch.ones_like(mu) if exposure is None else exposure)
        y, mu, w, e = (t.detach().double().expand(shape) for t in given)
        phi = torch.as_tensor(result.dispersion, device=mu.device).detach().double()
        kept = (w > 0) & mu.isfinite()
        if not bool(kept.any()):
            return None
        # a value inside the range of every family, so that unused rows spread no NaN
        y, mu = torch.where(kept, y, 1.0), torch.where(kept, mu, 0.5)
        return cls(y, mu, torch.where(kept, w, 0.0), phi.unsqueeze(-1) if phi.ndim else phi,
                   None if exposure is None else torch.where(kept, e, 1.0))

    @property
    def kept(self) -> Tensor:
        """True for the rows that count, (*B, n)."""
        return self.weight > 0

    @property
    def count(self) -> int:
        """How many rows count."""
        return int(self.kept.sum())

    def as_events(self) -> Observations:
        """Censored times, encoded as in the exponential family, as events of rate 1 / mu in the time seen."""
        time = self.y.abs()
        return Observations((self.y > 0).to(time), time / self.mu, self.weight, self.dispersion, time)

    def sample(self, most: int, seed: int = 0) -> Observations:
        """All rows, or about `most` of them, the same columns of each model, where there are more."""
        models = self.y.shape[:-1].numel()
        each = max(1, most // models)
        if self.y.shape[-1] <= each:
            return self
        order = torch.randperm(self.y.shape[-1], generator=torch.Generator().manual_seed(seed))
        keep = order[:each].to(self.y.device)
        exposure = None if self.exposure is None else self.exposure[..., keep]
        return Observations(self.y[..., keep], self.mu[..., keep], self.weight[..., keep], self.dispersion,
                            exposure)
