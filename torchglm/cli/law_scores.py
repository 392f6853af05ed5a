"""What is scored by the law of one model: deviance, Pearson's statistic, likelihood, CRPS, coverage of intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import metrics
from torchglm.cli.run_rows import Batch
from torchglm.metrics.rows import scored

if TYPE_CHECKING:
    from torchglm.model.face import Result


class LawScores:
    """Sums over the rows of one model, whose family may have a shape of its own.

    `coverage` is the level of the intervals for new responses, None for none; `null` the intercept of the null model
    where sums do not tell it (without it D² is left out there). CRPS is scored where it has a closed
    form and no time is censored; neither it nor the likelihood has a meaning for a quasi-likelihood.
    """

    def __init__(self, result: Result, coverage: float | None, null: float | None) -> None:
        family = result.family
        self.result, self.level = result, coverage
        self.deviance, self.pearson = metrics.Deviance(family), metrics.PearsonDispersion(family)
        closed = metrics.D2(family, result.link, null=null)
        self.d2 = closed if closed.takes(torch.zeros(1) if result.context.get("offset") else None) else None
        self.nll = metrics.NLL(family, result.dispersion)
        self.quasi = not family.has_dispersion and result.dispersion_kind != "fixed"
        self.crps = _crps(result) if not self.quasi and not result.context.get("event") else None
        self.coverage = None if coverage is None else metrics.Coverage()

    @property
    def loglik(self) -> Tensor:
        """The log-likelihood of the rows."""
        return -self.nll.sums[0]

    @property
    def rows(self) -> Tensor:
        """The rows that count, with their repeats."""
        return self.pearson.sums[1]

    def add(self, batch: Batch, mu: Tensor, x: Any, beside: Mapping[str, Any], at: Any) -> None:
        """Take in the rows `at` of a batch, with their means; `x` and `beside` are what predicts them."""
        result, y = self.result, batch.y[at]
        roles = batch.roles.without("offset", "exposure").map(lambda name, value: value[at])
        for metric in (self.deviance, self.pearson, self.nll, self.crps):
            if metric is not None:
                metric.update(mu, y, **roles.given)
        if self.d2 is not None:
            self.d2.update(mu, y, **batch.roles.map(lambda name, value: value[at]).given)
        if self.coverage is not None and self.level is not None:
            # rows of weight 0 have no law, and count nowhere
            law = roles.without("freq", "event").map(lambda name, value: torch.where(value > 0, value, 1.0))
            ends = result.predict_interval(x, kind="response", level=self.level, **beside, **law.given)
            count = scored(result.family, mu, y, roles).seen
            self.coverage.update(ends[..., 0], ends[..., 1], y, freq=count)


def _crps(result: Result) -> Any:
    """The metric, or None where the family has no closed form."""

    try:
        return metrics.CRPS(result.family, result.dispersion)
    except ValueError:
        return None
