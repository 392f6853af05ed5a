"""The rows that move a fit of several predictors most, found in one pass over rows that may be streamed."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.families.several import Classes
from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of
from torchglm.inference.vector.deletion import Reach, cook_of, reaches
from torchglm.inference.vector.residuals import quantile_of
from torchglm.report.influence import Cases, Influence


class SeveralInfluence(Influence):
    """What single rows do: residuals are quantile ones; of classes `mu` is the probability of the one observed."""

    @classmethod
    @torch.no_grad()
    def made(cls, result: Fitted) -> SeveralInfluence | None:
        """One pass over the rows behind the fit; None for a family of one's own that does not say its tails."""
        found, generator = cls(result), torch.Generator().manual_seed(0)
        for reach in reaches(result):
            uniform = torch.rand(reach.values.rows.y.shape[-1], dtype=torch.float64, generator=generator)
            try:
                found.reach(reach, uniform.to(reach.spread.device))
            except NotImplementedError:
                return None
        return found

    def reach(self, reach: Reach, uniform: Tensor) -> None:
        """Take in a chunk; `uniform` (n,) draws the residuals of what has an atom."""
        values, cook = reach.values, cook_of(reach, self.result.flat.df)
        residual = quantile_of(self.result, values, uniform)
        h = reach.leverage
        fine = values.used & self.fitted & cook.isfinite() & residual.isfinite()

        def cases(index: Tensor) -> Cases:
            model, row = index // cook.shape[-1], index % cook.shape[-1]
            step = reach.step(reach.left(1, True))[model, row]
            error = self.result.flat.root.inverse_diagonal().sqrt()[model]
            shift = torch.where(self.result.flat.keep[model], step / error, torch.nan)
            event = values.rows.event
            late = torch.zeros_like(fine) if event is None else ~event
            columns = (values.rows.y, late, self._means(reach), h, residual, cook)
            y, late, mu, own, score, far = (value.expand(cook.shape)[model, row] for value in columns)
            return Cases(model, row + self.seen, y, late, mu, own, score, far, shift)

        self.take(fine, cook, torch.stack([h, residual]), cases)

    def _means(self, reach: Reach) -> Tensor:
        family = family_of(self.result)
        mean = family.mean(reach.values.eta)
        if not isinstance(family, Classes):
            return mean
        code = reach.values.rows.y.long().expand(mean.shape[1:]).unsqueeze(0)
        return mean.gather(0, code).squeeze(0)
