"""How well a run predicts the rows of files, scored in pieces of bounded size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.cli.ratios import Ratios
from torchglm.cli.rows import Batch, Reader, RunRows, alike, check_formula

if TYPE_CHECKING:
    import pyarrow as pa

    from torchglm.families import Family
    from torchglm.fitting.rows import Rows
    from torchglm.inference.result import Result
    from torchglm.report.document import Document


@dataclass(frozen=True)
class Evaluation:
    """The scores of a fit on rows: plain numbers, NaN where one has no value.

    `own` says that they are the rows of the fit itself; `deciles` and `by` are tables as lists of dicts; `said` is
    what the policies left out or took in.
    """

    run: str
    data: str
    model: str
    own: bool
    scores: dict[str, float]
    deciles: list[dict[str, float]]
    by: dict[str, Any] | None
    coverage: dict[str, float] | None
    said: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"run": self.run, "data": self.data, "model": self.model, "rows_of_the_fit": self.own, **self.scores,
                "coverage": self.coverage, "deciles": self.deciles, "by": self.by, "policies": self.said}

    def document(self) -> Document:
        """The scores as a page of facts and tables."""
        from torchglm.cli.scorecard import document

        return document(self)


class Scorer:
    """Takes in pieces of the rows, one after the other, and keeps sums of them alone.

    `coverage` is the level of the prediction intervals whose coverage is counted, `by` the column of a table of
    observed against expected, `null` the intercept of the null model where sums cannot tell it.
    """

    def __init__(self, result: Result, bins: int, by: str | None, coverage: float | None, null: float | None) -> None:
        from torchglm import metrics

        self.result, self.coverage = result, coverage
        family, link = result.family, result.link
        self.shared = not _varies(family)
        self.d2 = metrics.D2(family, link, null=null)
        self.ranked = {"gini": metrics.Gini(family, link), "lift": metrics.LiftTable(family, link, bins),
                       "calibration": metrics.CalibrationError(family, link, bins)}
        self.models: dict[int, tuple[Any, Any, Any]] = {}
        self.ratios: dict[str | None, Ratios] = {name: Ratios() for name in (None, by)}
        self.loglik, self.rows, self.inside = torch.zeros((), dtype=torch.float64), 0.0, 0.0
        models = result._state["nobs"].shape[0]
        self.sums = {name: torch.zeros(models, dtype=torch.float64) for name in ("deviance", "count")}

    def add(self, batch: Batch) -> None:
        """Take in the rows of a piece."""
        rows = batch.rows
        mu = torch.empty(rows.y.shape[-1], dtype=torch.float64)
        variance = torch.empty_like(mu)
        offset = batch.offset
        for model, result, where in batch.parts():
            at = slice(None) if where is None else where
            part = batch.new(where), None if offset is None else offset[at]
            mu[at] = torch.as_tensor(result.predict(*part)).to(torch.float64)
            variance[at] = result.dispersion * result.family.variance(mu[at])
            self._score(model, result, batch, rows, mu, at)
            if self.coverage is not None:
                self._cover(result, batch, rows, part, self.coverage, at)
        given = _given(batch.roles)
        if self.shared:
            self.d2.update(mu, batch.y, **given)
        for metric in self.ranked.values():
            metric.update(mu, batch.y, **given)
        for name, ratios in self.ratios.items():
            column = None if name is None else batch.table.column(name)
            ratios.add(rows, mu, variance, self.result.family.signed, column)

    def _score(self, model: int, result: Result, batch: Batch, rows: Rows, mu: Tensor, at: Any) -> None:
        """Deviance, Pearson and likelihood, by the family of the model, whose shape may be its own."""
        from torchglm import metrics

        if model not in self.models:
            self.models[model] = metrics.Deviance(result.family), metrics.PearsonDispersion(result.family), result
        deviance, pearson, _ = self.models[model]
        given = {name: value[at] for name, value in _given(batch.roles).items() if name not in ("offset", "exposure")}
        for metric in (deviance, pearson):
            metric.update(mu[at], batch.y[at], **given)
        weight, repeats = rows.weight[0, at], _repeats(rows)[at]
        used = weight > 0
        prior = torch.where(used, weight / torch.where(used, repeats, 1.0), 1.0)
        logs = result.family.log_prob(rows.y[0, at], mu[at], result.dispersion, prior)
        self.loglik = self.loglik + torch.where(used, repeats * logs, 0.0).sum()
        count = torch.where(used, repeats, 0.0).sum()
        self.sums["count"][model] += count
        self.rows += float(count)

    def _cover(self, result: Result, batch: Batch, rows: Rows, part: tuple[Any, Tensor | None], level: float,
               at: Any) -> None:
        """Count the responses inside their prediction intervals."""
        weights, trials = (batch.roles[role][at] if role in batch.roles else None for role in ("weights", "trials"))
        ends, y = result.predict_interval(*part, "response", level, weights, trials), batch.y[at]
        inside = (y >= ends[..., 0]) & (y <= ends[..., 1]) & (rows.weight[0, at] > 0)
        self.inside += float(torch.where(inside, _repeats(rows)[at], 0.0).sum())

    def scores(self) -> tuple[dict[str, float], bool]:
        """The numbers by name, and whether the rows are those of the fit."""
        totals = torch.stack([deviance.sums for deviance, _, _ in self.models.values()]).sum(0)
        for model, (deviance, _, _) in self.models.items():
            self.sums["deviance"][model] = deviance.sums[0]
        own = bool(alike(self.sums["deviance"], self.sums["count"], self.result).all())
        used = sum(float(result.rank) for _, _, result in self.models.values()) if own else 0.0
        pearson = torch.stack([pearson.sums for _, pearson, _ in self.models.values()]).sum(0)
        quasi = not self.result.family.has_dispersion and self.result.dispersion_kind != "fixed"
        whole = self.ratios[None].table()[0]
        return {
            "rows": self.rows, "weight": float(totals[1]), "deviance": float(totals[0]),
            "mean_deviance": float(totals[0] / totals[1]),
            "d_squared": float(self.d2.compute()) if self.shared else math.nan,
            "nll": math.nan if quasi else float(-self.loglik / self.rows),
            "pearson_dispersion": float(pearson[0]) / (self.rows - used) if self.rows > used else math.nan,
            "observed": whole["observed"], "expected": whole["expected"], "observed_expected": whole["ratio"],
            "observed_expected_se": whole["se"], "gini": float(self.ranked["gini"].compute()),
            "calibration_error": float(self.ranked["calibration"].compute())}, own

    def deciles(self) -> list[dict[str, float]]:
        """The table of calibration, lowest prediction first."""
        table = {name: column.tolist() for name, column in self.ranked["lift"].compute().items()}
        return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def evaluation(run: Path, data: Sequence[str], by: str | None = None, bins: int = 10, coverage: float | None = None,
               missing: str = "error", unseen: str | None = None) -> Evaluation:
    """Score a run on the rows of files, in one pass; two more find the null model where sums do not tell it.

    Raises ValueError for a fit without a formula, files that lack a column, and rows that do not suit the fit.
    """
    import torchglm
    from torchglm.cli.waiting import waiting
    from torchglm.inference.quantile import refuse_quasi
    from torchglm.report import words

    result = torchglm.load(run)
    check_formula(result, run, "with_rows(x, y)")
    if bins < 1:
        raise ValueError(f"--bins must be at least 1, got {bins}. The default is 10.")
    if coverage is not None:
        if result.context.get("event"):
            raise ValueError("--coverage needs every response, and this fit has censored times.")
        refuse_quasi(result, "prediction intervals")
    reader = Reader(result, True, (), () if by is None else (by,), missing, unseen)
    scan = reader.scan(data)
    with waiting(f"Scoring {' '.join(data)}") as progress:
        scorer = Scorer(result, bins, by, coverage, _null(result, data, missing, unseen))

        def add(table: pa.Table, first: int) -> None:
            batch = reader.read(table, first)
            if len(batch.table):
                scorer.add(batch)
            progress.advance(progress.task_ids[0], table.num_rows)

        for _ in scan.each(add):
            pass
    if not scorer.rows:
        raise ValueError("Every row has weight 0 or a missing value; none is left to score.")
    scores, own = scorer.scores()
    table = None if by is None else {"column": by, "rows": scorer.ratios[by].table()}
    share = None if coverage is None else {"level": coverage, "share": scorer.inside / scorer.rows}
    return Evaluation(str(run), ", ".join(data), words.model_title(result.family.name, result.link.name), own, scores,
                      scorer.deciles(), table, share, reader.said)


def _null(result: Result, data: Sequence[str], missing: str, unseen: str | None) -> float | None:
    """The intercept of the null model of the rows, where the metric cannot tell it from sums; else None."""
    from torchglm import metrics
    from torchglm.fitting.irls import irls
    from torchglm.fitting.rows import WithoutColumns

    family = result.family
    if not result.context.get("offset") or _varies(family) or metrics.D2(family, result.link).takes(torch.zeros(1)):
        return None
    source = RunRows(result, list(data), missing, unseen)
    return float(irls(WithoutColumns(source, True), family, result.link).coef[0, 0])


def _varies(family: Family) -> bool:
    """Whether each model of a batch has a shape of its own."""
    return any(value.numel() > 1 for value in family.parameters())


def _given(roles: dict[str, Tensor]) -> dict[str, Tensor]:
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


def _repeats(rows: Rows) -> Tensor:
    return torch.ones_like(rows.weight[0]) if rows.repeats is None else rows.repeats[0].to(rows.weight.dtype)
