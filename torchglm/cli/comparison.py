"""Runs side by side: what `torchglm compare` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchglm.cli.loading import load_run
from torchglm.cli.run_rows import attached, of_the_fit
from torchglm.inference.compare import compare
from torchglm.report.document import Grid
from torchglm.report.views import view_of
from torchglm.store import runs
from torchglm.writing import numbers

if TYPE_CHECKING:
    from torchglm.model.face import Result

SUMS = ("df", "deviance", "aic", "bic")
COLUMNS = {
    "df": "df",
    "deviance": "deviance",
    "aic": "AIC",
    "bic": "BIC",
    "D2": "D²",
    "LR_df": "LR df",
    "LR": "LR",
    "p": "p-value",
}


def comparison(folders: Sequence[str]) -> dict[str, Any]:
    """The runs, and the columns of `torchglm.compare` over them; of grouped runs the sums over their models.

    Raises ValueError for other rows, other groups, or fits that cannot be compared.
    """
    fits = [load_run(runs.open_run(folder)) for folder in folders]
    with_rows = [_with_rows(fit, folder) for fit, folder in zip(fits, folders, strict=True)]
    seen = all(fit is not None for fit in with_rows)
    if seen:
        fits = [fit for fit in with_rows if fit is not None]
    _check_groups(fits, folders)
    table = compare(*fits, names=list(folders))
    models = [
        {"run": folder, "model": view_of(fit, 0.95).title, "formula": fit.formulas or None}
        for folder, fit in zip(folders, fits, strict=True)
    ]
    found: dict[str, Any] = {"runs": models, "rows_read": seen, "models": max(1, fits[0].batch_shape.numel())}
    if not fits[0].batch_shape:
        return found | {"table": {name: column.tolist() for name, column in table.columns.items()}}
    flat = {name: column.reshape(-1, len(fits)) for name, column in table.columns.items()}
    best = flat["aic"].nan_to_num(math.inf).argmin(-1)
    sums = {name: flat[name].nansum(0).tolist() for name in SUMS}
    return found | {"table": sums | {"best": [int((best == i).sum()) for i in range(len(fits))]}}


def to_text(found: dict[str, Any]) -> str:
    """The comparison as lines: what each run is, the table, and how to read it."""
    names = [run["run"] for run in found["runs"]]
    lines = [f"{run['run']}: {run['model']}, {run['formula'] or 'on arrays'}" for run in found["runs"]]
    table = found["table"]
    heads = {**COLUMNS, "best": "lowest AIC in"}
    cells = {name: [_cell(name, value) for value in column] for name, column in table.items()}
    rows = [[run, *(cells[name][i] for name in cells)] for i, run in enumerate(names)]
    notes = [
        "LR: likelihood ratio against the run before, F where the dispersion is estimated, else χ²; blank where "
        "the two are not nested."
    ]
    if "best" in table:
        notes = [f"Sums over {found['models']:,} models; the last column counts the models in which AIC is lowest."]
    if not found["rows_read"]:
        notes.append(
            "The rows are no longer where the runs had them, or have changed: compared by the saved numbers alone."
        )
    return "\n".join([*lines, "", Grid("", ("", *(heads[name] for name in cells)), rows).text(100), *notes])


def _with_rows(fit: Result, folder: str) -> Result | None:
    """The fit with its rows, or None where they cannot be found or have changed."""
    try:
        found = attached(fit, runs.open_run(folder), None)
        return found if of_the_fit(found) else None
    except (ValueError, OSError):
        return None


def _check_groups(fits: Sequence[Result], folders: Sequence[str]) -> None:
    """Raise ValueError where grouped runs have other groups, or only some are grouped."""
    first = fits[0]
    for fit, folder in zip(fits[1:], folders[1:], strict=True):
        if (fit.group_names, fit.groups) != (first.group_names, first.groups):
            raise ValueError(
                f"{folders[0]} and {folder} have other groups ({_by(first)} and {_by(fit)}). Compare runs "
                "of the same data.by."
            )


def _by(fit: Result) -> str:
    if not fit.group_names:
        return "none"
    return f"{fit.batch_shape.numel()} by {', '.join(fit.group_names)}"


def _cell(name: str, value: float) -> str:
    if value != value:
        return ""
    if name == "p":
        return numbers.p_value(value)
    if name == "D2":
        return f"{value:.4f}"
    return numbers.statistic(value) if name == "LR" else numbers.number(value)
