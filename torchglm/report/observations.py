"""The rows behind the diagnostics: responses beside their fitted means, one flat column each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchglm.inference.result import Result


@dataclass(frozen=True)
class Observations:
    """Flat float64 columns (n,) of the rows of positive weight, pooled over the models of a batch."""

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
        w, e = (torch.ones_like(mu) if t is None else t for t in (weight, exposure))
        phi = torch.as_tensor(result.dispersion, dtype=torch.float64, device=mu.device)
        phi = phi.unsqueeze(-1) if phi.ndim else phi
        flat = [t.expand(shape).detach().double().reshape(-1) for t in (y, mu, w, phi, e)]
        kept = (flat[2] > 0) & flat[1].isfinite()
        if not bool(kept.any()):
            return None
        y, mu, w, phi, e = (t[kept] for t in flat)
        return cls(y, mu, w, phi, None if exposure is None else e)

    def sample(self, most: int, seed: int = 0) -> Observations:
        """All rows, or `most` of them drawn at random where there are more."""
        if len(self.y) <= most:
            return self
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(seed))
        keep = order[:most].to(self.y.device)
        exposure = None if self.exposure is None else self.exposure[keep]
        return Observations(self.y[keep], self.mu[keep], self.weight[keep], self.dispersion[keep], exposure)
