"""How well a fit of several predictors predicts the rows of files: log score, and what the kind of its law has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import metrics
from torchglm.cli.progress import waiting
from torchglm.cli.run_rows import Batch, Reader, alike
from torchglm.cli.several_ratios import SeveralRatios, by_grid, check_coverage, cover
from torchglm.families.several import Classes, Ordinal
from torchglm.inference.several import family_of
from torchglm.metrics.class_scores import ClassSums
from torchglm.report import laws
from torchglm.report.binned import Calibration
from torchglm.report.document import Block, Document, Facts, Grid, Notes
from torchglm.report.several_rows import MOST_CELLS, SeveralRows, concordance_of, confusion
from torchglm.rows.planned import predictors
from torchglm.rows.rows import to_float64
from torchglm.writing import numbers

if TYPE_CHECKING:
    import pyarrow as pa

    from torchglm.model.face import Result

_TITLES = {
    "nll": "Mean NLL",
    "log_score": "Log score",
    "brier": "Brier score",
    "ranked_probability": "Ranked probability score",
    "accuracy": "Accuracy",
    "observed": "Observed mean",
    "expected": "Expected mean",
    "observed_expected": "Observed / expected",
    "gini": "Gini",
    "concordance": "Concordance (Harrell)",
}


@dataclass(frozen=True)
class SeveralEvaluation:
    """The scores of a fit of several predictors on rows; `own` says that they are the rows of the fit itself.

    `classes` are the lines of a table for each class, `weights` (C, C) the rows of each by the class predicted, and
    `deciles` the calibration of means.
    """

    run: str
    data: str
    model: str
    own: bool
    scores: dict[str, float]
    said: list[str]
    classes: list[dict[str, Any]] = field(default_factory=list)
    weights: Tensor | None = None
    deciles: list[dict[str, float]] = field(default_factory=list)
    by: dict[str, Any] | None = None
    coverage: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "run": self.run,
            "data": self.data,
            "model": self.model,
            "rows_of_the_fit": self.own,
            **self.scores,
            "classes": self.classes,
            "confusion": None if self.weights is None else self.weights.tolist(),
            "coverage": self.coverage,
            "deciles": self.deciles,
            "by": self.by,
            "policies": self.said,
        }

    def document(self) -> Document:
        """The scores as a page of facts and tables."""
        facts = [("Run", self.run), ("Model", self.model), ("Rows", numbers.number(self.scores["rows"]))]
        facts += [
            (title, numbers.short(self.scores[name], 5)) for name, title in _TITLES.items() if name in self.scores
        ]
        if self.coverage is not None:
            level, covered = (self.coverage[key] for key in ("level", "share"))
            facts.append((f"Coverage of {numbers.percent(level)}", f"{100 * covered:.2f} %"))
        blocks: list[Block] = [Facts(facts)]
        if self.classes:
            blocks.append(Grid("By class", tuple(self.classes[0]), [_cells(line) for line in self.classes]))
        if self.weights is not None and len(self.weights) <= MOST_CELLS:
            blocks.append(confusion(self.weights, [str(line["class"]) for line in self.classes]))
        if self.deciles:
            blocks.append(Grid("By bin of prediction", tuple(self.deciles[0]), [_cells(line) for line in self.deciles]))
        if self.by is not None:
            blocks.append(by_grid(self.by["column"], self.by["rows"]))
        lines = [f"{said[0].upper()}{said[1:]}." for said in self.said]
        return Document(f"{'Rows of the fit' if self.own else 'New rows'}: {self.data}", [*blocks, Notes(lines)])


class SeveralScorer:
    """Takes in pieces of the rows, one after the other, and keeps sums of them alone; see `Scorer`."""

    def __init__(self, result: Result, by: str | None, coverage: float | None) -> None:
        self.by, self.ratios = by, SeveralRatios(family_of(result))
        self.level, self.coverage = coverage, metrics.Coverage()
        self.result = result
        self.models: dict[int, SeveralRows] = {}
        self.nll = torch.zeros_like(result.flat.deviance)
        self.rows = torch.zeros_like(result.flat.deviance)

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Take in the rows of a piece."""
        for model, result, where in batch.parts():
            own, family = self.models.setdefault(model, SeveralRows(result)), family_of(result)
            column, start = self._column(batch, where), 0
            part = batch.of(result, where)
            if self.level is not None:
                cover(self.coverage, self.level, batch, part, result, where)
            for rows in to_float64(part).pieces():
                eta = predictors(rows, result.flat.coef)
                if column is not None:
                    self.ratios.add(family, rows, eta, column.slice(start, rows.y.shape[-1]))
                start += rows.y.shape[-1]
                own.take(rows, eta)
                used = rows.weight > 0
                self.nll[model] += torch.where(used, family.nll(rows.response, eta) * rows.weight, 0.0).sum()
                repeats = torch.ones_like(rows.weight) if rows.repeats is None else rows.repeats.to(rows.weight)
                self.rows[model] += torch.where(used, repeats, 0.0).sum()

    def _column(self, batch: Batch, where: Tensor | None) -> pa.ChunkedArray | None:
        column = None if self.by is None else batch.table.column(self.by)
        return column if where is None or column is None else column.take(where.numpy())

    @property
    def own(self) -> bool:
        """Whether the rows are those of the fit, in every model."""
        return bool(alike(2 * self.nll, self.rows, self.result).all())

    @property
    def classes(self) -> ClassSums | None:
        """The sums of classes over all models."""
        parts = [one.classes for one in self.models.values() if one.classes is not None]
        return sum(parts[1:], parts[0]) if parts else None

    @property
    def means(self) -> Calibration | None:
        """The sums of means over all models."""
        parts = [one.calibrations["mean"] for one in self.models.values() if "mean" in one.calibrations]
        return sum(parts[1:], parts[0]) if parts else None

    def scores(self) -> dict[str, float]:
        """The numbers by name."""
        rows = float(self.rows.sum())
        found = {"rows": rows}
        sums, means = self.classes, self.means
        if sums is not None:
            found |= sums.scores()
            if not isinstance(self.result.family, Ordinal):
                del found["ranked_probability"]
            return found
        found["nll"] = float(self.nll.sum()) / rows
        order = concordance_of([part for one in self.models.values() for part in one.times])
        if order is not None:
            found["concordance"] = order
        if means is not None:
            observed, expected, weight = (float(t.sum()) for t in (means.observed, means.predicted, means.weight))
            found |= {"observed": observed / weight, "expected": expected / weight}
            found |= {"observed_expected": observed / expected if expected else float("nan"), "gini": means.gini()}
        return found

    def lines(self) -> list[dict[str, Any]]:
        """A line for each class: rows, the share observed and expected, and how well it is told."""
        sums = self.classes
        if sums is None or not isinstance(self.result.family, Classes):
            return []
        seen = sums.confusion.sum(-1)
        columns = (seen, seen / seen.sum(), sums.recall(), sums.precision())
        return [
            {"class": name, "weight": w, "share": share, "recall": recall, "precision": precision}
            for name, w, share, recall, precision in zip(
                map(str, self.result.family.known), *(column.tolist() for column in columns), strict=True
            )
        ]

    def deciles(self, bins: int) -> list[dict[str, float]]:
        """The calibration of means, lowest prediction first."""
        if self.means is None:
            return []
        sums = Calibration(self.means.sums, bins, self.means.exposed)
        observed, predicted, _ = (t.tolist() for t in sums.rates())
        weight = sums.weight[sums.weight > 0].tolist()
        return [
            {"bin": i, "weight": w, "predicted": m, "observed": o}
            for i, (w, m, o) in enumerate(zip(weight, predicted, observed, strict=True), 1)
        ]


def several_evaluation(
    result: Result,
    run: Path,
    data: Sequence[str],
    bins: int,
    by: str | None,
    coverage: float | None,
    missing: str | None,
    unseen: str | None,
) -> SeveralEvaluation:
    """Score a fit of several predictors on the rows of files, in one pass.

    Raises ValueError for files that lack a column, rows that do not suit the fit, where none is left, and for a
    `coverage` that a law does not have.
    """
    if coverage is not None:
        check_coverage(result)
    if by is not None and "until" in (result.context.get("columns") or {}):
        raise ValueError("--by counts events until a time, and times in intervals do not tell it. Leave it out.")
    reader = Reader(result, True, (), () if by is None else (by,), missing, unseen)
    scorer = SeveralScorer(result, by, coverage)
    scan = reader.scan(data)
    with waiting(f"Scoring {' '.join(data)}") as progress:
        reader.feed(scan, scorer.add, progress)
    if not float(scorer.rows.sum()):
        raise ValueError("Every row has weight 0 or a missing value; none is left to score.")
    sums = scorer.classes
    return SeveralEvaluation(
        str(run),
        ", ".join(data),
        laws.regression_title(family_of(result)),
        scorer.own,
        scorer.scores(),
        reader.said,
        scorer.lines(),
        None if sums is None else sums.confusion,
        scorer.deciles(bins),
        None if by is None else {"column": by, "rows": scorer.ratios.table()},
        None if coverage is None else {"level": coverage, "share": float(scorer.coverage.compute())},
    )


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        value if isinstance(value, str) else str(value) if isinstance(value, int) else numbers.short(value, 4)
        for value in line.values()
    )
