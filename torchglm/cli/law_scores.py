"""What is scored by the law of one model: deviance, Pearson's statistic, likelihood, CRPS, coverage of intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.cli.rows import Batch

if TYPE_CHECKING:
    from torchglm.model.result import Result
    from torchglm.rows.rows import Rows


class LawScores:
    """Sums over the rows of one model, whose family may have a shape of its own.

    `coverage` is the level of the intervals for new responses, None for none. CRPS is scored where it has a closed
    form and no time is censored; neither it nor the likelihood has a meaning for a quasi-likelihood.
    """

    def __init__(self, result: Result, coverage: float | None) -> None:
        from torchglm import metrics

        family = result.family
        self.result, self.level = result, coverage
        self.deviance, self.pearson = metrics.Deviance(family), metrics.PearsonDispersion(family)
        self.quasi = not family.has_dispersion and result.dispersion_kind != "fixed"
        self.crps = _crps(result) if not self.quasi and not result.context.get("event") else None
        self.coverage = None if coverage is None else metrics.Coverage()
        self.loglik = self.rows = torch.zeros((), dtype=torch.float64)

    def add(self, batch: Batch, rows: Rows, mu: Tensor, part: tuple[Any, Tensor | None], at: Any) -> None:
        """Take in the rows `at` of a batch, with their means; `part` is what predicts them."""
        result, y = self.result, batch.y[at]
        given = {name: value[at] for name, value in as_given(batch.roles).items() if name not in ("offset", "exposure")}
        for metric in (self.deviance, self.pearson):
            metric.update(mu, y, **given)
        weight, repeats = rows.weight[0, at], repeats_of(rows)[at]
        used = weight > 0
        prior = torch.where(used, weight / torch.where(used, repeats, 1.0), 1.0)
        logs = result.family.log_prob(rows.y[0, at], mu, result.dispersion, prior)
        count = torch.where(used, repeats, 0.0)
        self.loglik = self.loglik + torch.where(used, repeats * logs, 0.0).sum()
        self.rows = self.rows + count.sum()
        weights, trials = (batch.roles[role][at] if role in batch.roles else None for role in ("weights", "trials"))
        if self.crps is not None:
            self.crps.dispersion = result.dispersion / (1.0 if weights is None else torch.where(used, weights, 1.0))
            self.crps.update(mu, y, count, trials=trials)
        if self.coverage is not None and self.level is not None:
            ends = result.predict_interval(*part, "response", self.level, _inside(weights, used), _inside(trials, used))
            self.coverage.update(ends[..., 0], ends[..., 1], y, count)


def _crps(result: Result) -> Any:
    """The metric, or None where the family has no closed form."""
    from torchglm import metrics

    try:
        return metrics.CRPS(result.family, result.dispersion)
    except ValueError:
        return None


def _inside(value: Tensor | None, used: Tensor) -> Tensor | None:
    """Weights of rows that count; 1 for the others, which count nowhere."""
    return None if value is None else torch.where(used, value, 1.0)


def as_given(roles: dict[str, Tensor]) -> dict[str, Tensor]:
    """The roles as metrics take them: one weight, one offset."""
    found: dict[str, Tensor] = {name: roles[name] for name in ("trials", "event") if name in roles}
    weights = [roles[name] for name in ("weights", "freq") if name in roles]
    if weights:
        found["weight"] = weights[0] if len(weights) == 1 else weights[0] * weights[1]
    if "offset" in roles and "exposure" in roles:
        found["offset"] = roles["offset"] + roles["exposure"].log()
    else:
        found.update({name: roles[name] for name in ("offset", "exposure") if name in roles})
    return found


def repeats_of(rows: Rows) -> Tensor:
    """How often each row `(n,)` counts."""
    return torch.ones_like(rows.weight[0]) if rows.repeats is None else rows.repeats[0].to(rows.weight.dtype)
