"""An evaluation for people: facts, calibration by decile, observed against expected."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torchglm.cli.several_ratios import by_grid, ratio
from torchglm.report.document import Block, Document, Facts, Grid, Notes
from torchglm.writing import numbers


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
        return {
            "run": self.run,
            "data": self.data,
            "model": self.model,
            "rows_of_the_fit": self.own,
            **self.scores,
            "coverage": self.coverage,
            "deciles": self.deciles,
            "by": self.by,
            "policies": self.said,
        }

    def document(self) -> Document:
        """The scores as a page of facts and tables."""
        return document(self)


def document(found: Evaluation) -> Document:
    """Title, facts, tables and how to read them."""
    blocks: list[Block] = [Facts(_facts(found)), _deciles(found)]
    if found.by is not None:
        blocks.append(by_grid(found.by["column"], found.by["rows"]))
    return Document(f"{'Rows of the fit' if found.own else 'New rows'}: {found.data}", [*blocks, Notes(_notes(found))])


def _facts(found: Evaluation) -> list[tuple[str, str]]:
    s = found.scores
    facts = [
        ("Run", found.run),
        ("Model", found.model),
        ("Rows", numbers.number(s["rows"])),
        *([("Weight", numbers.number(s["weight"]))] if s["weight"] != s["rows"] else []),
        ("Deviance", numbers.number(s["deviance"])),
        ("Mean deviance", numbers.short(s["mean_deviance"], 5)),
        ("D² (explained)", _short(s["d_squared"])),
        ("Mean NLL", _short(s["nll"])),
        *([] if math.isnan(s["crps"]) else [("Mean CRPS", _short(s["crps"]))]),
        ("Pearson dispersion", _short(s["pearson_dispersion"])),
        ("Observed", numbers.number(s["observed"])),
        ("Expected", numbers.number(s["expected"])),
        ("Observed / expected", ratio(s["observed_expected"], s["observed_expected_se"])),
        ("Calibration error", _short(s["calibration_error"])),
        ("Gini", _short(s["gini"])),
    ]
    if found.coverage is not None:
        level, covered = (found.coverage[key] for key in ("level", "share"))
        facts.append((f"Coverage of {numbers.percent(level)}", f"{100 * covered:.2f} %"))
    return facts


def _deciles(found: Evaluation) -> Grid:
    full = [row for row in found.deciles if row["weight"] > 0]
    rows = [
        (
            str(i),
            numbers.number(row["weight"]),
            _short(row["predicted"]),
            _short(row["observed"]),
            _short(row["observed"] / row["predicted"]) if row["predicted"] else numbers.MISSING,
            _short(row["lift"]),
        )
        for i, row in enumerate(full, 1)
    ]
    name = "decile" if len(found.deciles) == 10 else "bin"
    return Grid(f"By {name} of prediction", (name, "weight", "predicted", "observed", "ratio", "lift"), rows)


def _notes(found: Evaluation) -> list[str]:
    lines = [f"{said[0].upper()}{said[1:]}." for said in found.said]
    lines.append(
        "Ratios are observed over expected, ± two standard errors under the model with its own dispersion. "
        "Weight is that of the rows, times exposure where there is one."
    )
    if math.isnan(found.scores["d_squared"]):
        lines.append("D² is left out: the null models of groups with an offset take a fit of each.")
    return lines


def _short(value: float) -> str:
    return numbers.MISSING if math.isnan(value) else numbers.short(value, 5)
