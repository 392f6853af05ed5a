"""How well a run predicts the rows of files, scored in pieces of bounded size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from torchglm import metrics
from torchglm.cli.law_scores import LawScores
from torchglm.cli.loading import load_run
from torchglm.cli.observed_expected import Ratios
from torchglm.cli.progress import waiting
from torchglm.cli.run_rows import Batch, Reader, alike, check_formula, rows_of
from torchglm.cli.scorecard import Evaluation
from torchglm.cli.several_scores import SeveralEvaluation, several_evaluation
from torchglm.fitting.irls import irls
from torchglm.inference.quantile import refuse_quasi
from torchglm.metrics.rows import Scored
from torchglm.metrics.sums import d2_value, observed_variance
from torchglm.report import words
from torchglm.rows.ranks import seen
from torchglm.rows.rows import without_columns

if TYPE_CHECKING:
    from torchglm.model.face import Result


EACH_NULL = "D² measures every model against the null model of its own rows"


class Scorer:
    """Takes in pieces of the rows, one after the other, and keeps sums of them alone.

    `coverage` is the level of the prediction intervals whose coverage is counted, `by` the column of a table of
    observed against expected, `null` the intercept of the null model where sums cannot tell it.
    """

    def __init__(self, result: Result, bins: int, by: str | None, coverage: float | None, null: float | None) -> None:
        self.result, self.coverage, self.null = result, coverage, null
        family, link = result.family, result.link
        self.ranked = {
            "gini": metrics.Gini(family, link),
            "lift": metrics.LiftTable(family, link, bins),
            "calibration": metrics.CalibrationError(family, link, bins),
        }
        self.models: dict[int, LawScores] = {}
        self.ratios: dict[str | None, Ratios] = {name: Ratios() for name in (None, by)}

    def add(self, batch: Batch) -> None:
        """Take in the rows of a piece."""
        rows = batch.rows
        mu = torch.empty(rows.y.shape[-1], dtype=torch.float64)
        variance = torch.empty_like(mu)
        for model, result, where in batch.parts():
            at = slice(None) if where is None else where
            x, beside = batch.new(where), batch.beside(at)
            mu[at] = torch.as_tensor(result.predict(x, **beside)).to(torch.float64)
            variance[at] = observed_variance(rows.y[0, at].double(), mu[at], result.family, result.dispersion)
            if model not in self.models:
                self.models[model] = LawScores(result, self.coverage, self.null)
            self.models[model].add(batch, mu[at], x, beside, at)
        given = batch.roles.given
        for metric in self.ranked.values():
            metric.update(mu, batch.y, **given)
        event = None if rows.event is None else rows.event[0]
        seen = Scored(mu, rows.y[0].double(), rows.weight[0].double(), torch.ones_like(mu), None, event)
        for name, ratios in self.ratios.items():
            column = None if name is None else batch.table.column(name)
            ratios.add(seen, variance, self.result.family, column)

    def scores(self) -> tuple[dict[str, float], bool]:
        """The numbers by name, and whether the rows are those of the fit."""
        models = list(self.models.values())
        totals = torch.stack([one.deviance.sums for one in models]).sum(0)
        rows, own = self.rows, self._own()
        used = sum(float(one.result.rank) for one in models) if own else 0.0
        pearson = float(sum(one.pearson.sums[0] for one in models))
        loglik = float(sum(one.loglik for one in models))
        scored = [one.crps.sums for one in models if one.crps is not None]
        crps = torch.stack(scored).sum(0) if len(scored) == len(models) else torch.full((2,), math.nan)
        whole = self.ratios[None].table()[0]
        return {
            "rows": rows,
            "weight": float(totals[1]),
            "deviance": float(totals[0]),
            "mean_deviance": float(totals[0] / totals[1]),
            "d_squared": self._explained(),
            "nll": math.nan if models[0].quasi else -loglik / rows,
            "crps": float(crps[0] / crps[1]),
            "pearson_dispersion": pearson / (rows - used) if rows > used else math.nan,
            "observed": whole["observed"],
            "expected": whole["expected"],
            "observed_expected": whole["ratio"],
            "observed_expected_se": whole["se"],
            "gini": float(self.ranked["gini"].compute()),
            "calibration_error": float(self.ranked["calibration"].compute()),
        }, own

    @property
    def rows(self) -> float:
        """The rows that count, repeats included."""
        return float(sum(one.rows for one in self.models.values()))

    @property
    def covered(self) -> float:
        """The share of responses inside their intervals."""
        sums = torch.stack([one.coverage.covered for one in self.models.values() if one.coverage is not None]).sum(0)
        return float(sums[0] / sums[1])

    def _explained(self) -> float:
        """D² of all rows, each model measured against its own null model; NaN where one of these is not known."""
        known = [one.d2.sums for one in self.models.values() if one.d2 is not None]
        if len(known) < len(self.models):
            return math.nan
        return float(d2_value(torch.stack(known).sum(0)))

    def _own(self) -> bool:
        """Whether the rows are those of the fit, in every model."""
        deviance = torch.zeros_like(self.result.flat.nobs)
        count = torch.zeros_like(deviance)
        for model, one in self.models.items():
            deviance[model], count[model] = one.deviance.sums[0], one.rows
        return bool(alike(deviance, count, self.result).all())

    def deciles(self) -> list[dict[str, float]]:
        """The table of calibration, lowest prediction first."""
        table = {name: column.tolist() for name, column in self.ranked["lift"].compute().items()}
        return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def evaluation(
    run: Path,
    data: Sequence[str],
    by: str | None = None,
    bins: int = 10,
    coverage: float | None = None,
    missing: str | None = None,
    unseen: str | None = None,
) -> Evaluation | SeveralEvaluation:
    """Score a run on the rows of files, in one pass; two more find the null model where sums do not tell it.

    Raises ValueError for a fit without a formula, files that lack a column, and rows that do not suit the fit.
    """
    result = load_run(run)
    check_formula(result, run, "with_rows(x, y)", networks=True)
    if bins < 1:
        raise ValueError(f"--bins must be at least 1, got {bins}. The default is 10.")
    if result.plan is not None:
        return several_evaluation(result, run, data, bins, by, coverage, missing, unseen)
    if coverage is not None:
        if result.context.get("event"):
            raise ValueError("--coverage needs every response, and this fit has censored times.")
        refuse_quasi(result, "prediction intervals")
        if result.flat.absorbed is not None:
            raise ValueError("effects of absorbed factors have no errors, nor have intervals. Leave out --coverage.")
    reader = Reader(result, True, (), () if by is None else (by,), missing, unseen)
    scan = reader.scan(data)
    with waiting(f"Scoring {' '.join(data)}") as progress:
        scorer = Scorer(result, bins, by, coverage, _null(result, data, missing, unseen))
        reader.feed(scan, scorer.add, progress)
    if not scorer.rows:
        raise ValueError("Every row has weight 0 or a missing value; none is left to score.")
    scores, own = scorer.scores()
    table = None if by is None else {"column": by, "rows": scorer.ratios[by].table()}
    share = None if coverage is None else {"level": coverage, "share": scorer.covered}
    return Evaluation(
        str(run),
        ", ".join(data),
        words.model_title(result.family.name, result.link.name),
        own,
        scores,
        scorer.deciles(),
        table,
        share,
        [*reader.said, *([EACH_NULL] if result.group_names and not math.isnan(scores["d_squared"]) else [])],
    )


def _null(result: Result, data: Sequence[str], missing: str | None, unseen: str | None) -> float | None:
    """The intercept of the null model of the rows, where the metric cannot tell it from sums; else None."""

    family = result.family
    if not result.context.get("offset") or result.group_names:
        return None
    if metrics.D2(family, result.link).takes(torch.zeros(1)):
        return None
    source = rows_of(result, list(data), missing, unseen)
    return float(irls(seen(source, lambda rows: without_columns(rows, True)), family, result.link).coef[0, 0])
