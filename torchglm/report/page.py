"""One self-contained HTML page about a fit."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from torchglm.inference.adequacy.check import check
from torchglm.inference.adequacy.findings import Check
from torchglm.inference.adequacy.screening import run as screen
from torchglm.inference.fitted import Fitted
from torchglm.inference.vector.columns import refuse_part
from torchglm.report import several_panels, tables
from torchglm.report.document import Facts, Grid
from torchglm.report.gathered import Gathered
from torchglm.report.influence import Influence
from torchglm.report.observations import Observations, chunks
from torchglm.report.overview import ModelBatch
from torchglm.report.panels import Panel, coefficient_panels, influence_panels, predictions, residual_panels
from torchglm.report.path_panels import path_panels
from torchglm.report.random_plots import random_panels
from torchglm.report.seen import seen
from torchglm.report.several_influence import SeveralInfluence
from torchglm.report.several_rows import SeveralRows
from torchglm.report.views import View, view_of
from torchglm.version import VERSION
from torchglm.writing.answering import answering
from torchglm.writing.files import replaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

_WIDE = 10_000  # characters
_PAGE = 112  # characters of a table that a page shows whole on a desk
_NAMED_FILES = 3
_MOST_SENTENCES = 40


@answering
def write_page(
    result: Fitted,
    path: str | Path,
    y: Tensor | None = None,
    mu: Tensor | None = None,
    weight: Tensor | None = None,
    exposure: Tensor | None = None,
    title: str | None = None,
    config: Mapping[str, Any] | str | None = None,
    level: float = 0.95,
    new_rows: bool = False,
    run: str | None = None,
    data: str | Sequence[str] | None = None,
) -> Path:
    """Write the report of a fit, or of a batch of fits, as one HTML file without outside references.

    `y`, `mu`, `weight`, `exposure` (n,) or (*B, n) are the rows to diagnose on, by default those behind the
    result, all of them, in one pass; without rows the page has no diagnostics. Checks and influence need the rows of
    the fit: they are left out for rows given here, and with `new_rows`, which says that other rows stand behind the
    result: the page says so at its top. `config` is shown as it is, or as YAML; `run` and `data` name the run and the
    rows of the page at its top. Returns the path. The file appears complete or not at all. Raises ValueError where
    only one of `y` and `mu` is given, or any for a fit of several predictors.
    """
    refuse_part(result)
    path = Path(path)
    given = y is not None or mu is not None
    if result.plan is not None and given:
        raise ValueError(
            "a report of several predictors shows the rows behind the fit, and takes no y and mu. Attach others: "
            "result.with_rows(data)."
        )
    own = not given and not new_rows and result.has_rows
    if result.plan is not None:
        gathered = SeveralRows.of(result)
        rows = Shown(gathered, SeveralInfluence.made(result) if own and gathered is not None else None, own)
    else:
        rows = Shown.of(result, chunks(result, y, mu, weight, exposure), own)
    text = page(result, rows, title, config, level, origin(result, rows, run, data))
    with replaced(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Shown:
    """The rows of a page: what they hold together, and what single ones do where they are those of the fit."""

    gathered: Gathered | SeveralRows | None
    influence: Influence | None
    own: bool

    @classmethod
    def of(cls, result: Fitted, rows: Iterable[Observations], own: bool) -> Shown:
        """One pass over `rows`, or over those behind the result where they are its `own`."""
        if not own:
            return cls(Gathered.of(result, rows), None, False)
        gathered, influence = Gathered(result), Influence(result)
        screen(result, [gathered, influence])
        return cls(gathered, influence, True) if gathered.count else cls(None, None, True)

    @property
    def other(self) -> bool:
        """Whether the rows are not those of the fit."""
        return self.gathered is not None and not self.own


def origin(result: Fitted, rows: Shown, run: str | None, data: str | Sequence[str] | None) -> str:
    """Which run and which rows a page is of, in a line; empty where nothing is known."""
    named = [data] if isinstance(data, str) else list(data or [])
    files = ", ".join(named[:_NAMED_FILES]) + f" and {len(named) - _NAMED_FILES} more" * (len(named) > _NAMED_FILES)
    said = [f"Run {run}"] if run else []
    if rows.gathered is not None:
        kind = "new rows, not those of the fit" if rows.other else "the rows of the fit"
        said.append(f"{rows.gathered.count:,} rows{' of ' if files else ''}{files}: {kind}")
    elif files:
        said.append(f"rows of {files}")
    whole = "; ".join(said)
    return whole[:1].upper() + whole[1:]


def page(
    result: Fitted,
    rows: Shown,
    title: str | None = None,
    config: Mapping[str, Any] | str | None = None,
    level: float = 0.95,
    origin: str = "",
) -> str:
    """The HTML text of `write_page`."""
    from jinja2 import Environment
    from markupsafe import Markup

    source = resources.files("torchglm.report").joinpath("template.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    view = view_of(result, level)
    kind = view.document(_WIDE).title
    response = None if result.spec is None or result.spec.response is None else result.spec.response.expression.text
    parts = {**_on_rows(result, rows.gathered), **_on_own_rows(result, view, rows)}
    return template.render(
        title=title or (f"{response}: {kind}" if response else kind),
        kind=kind if title else "",
        formula=result.formulas,
        origin=origin,
        other=rows.other,
        sound=view.sound,
        verdict=view.verdict,
        facts=Markup(Facts(view.facts()).html()),
        tables=[_table(t) for t in view.tables(_PAGE)],
        remarks=view.remarks(),
        estimates=[_embedded(p) for p in _estimates(result, level, rows.gathered)],
        config=_yaml(config),
        footer=_footer(rows),
        sentences=_capped(view.sentences()),
        members=Markup(view.members().html()) if isinstance(view, ModelBatch) else None,
        **parts,
    )


def _estimates(result: Fitted, level: float, rows: Gathered | SeveralRows | None) -> list[Panel]:
    """The panels of the coefficients."""
    if result.plan is None:
        own = coefficient_panels(result, level)
    else:
        own = several_panels.estimate_panels(result, level, rows if isinstance(rows, SeveralRows) else None)
    return [*own, *path_panels(result), *random_panels(result)]


def _on_rows(result: Fitted, rows: Gathered | SeveralRows | None) -> dict[str, Any]:
    """What the page says of rows, be they those of the fit or others."""
    if rows is None:
        return {"predictions": [], "deciles": None, "checks": []}
    if isinstance(rows, SeveralRows):
        shown, grids = several_panels.prediction_panels(result, rows)
        return {
            "predictions": [_embedded(p) for p in shown],
            "deciles": _joined([_table(grid) for grid in grids]),
            "checks": [_embedded(p) for p in several_panels.check_panels(result, rows)],
        }
    panels, deciles = predictions(result, rows)
    return {
        "predictions": [_embedded(p) for p in panels],
        "deciles": _table(deciles),
        "checks": [_embedded(p) for p in residual_panels(result, rows)],
    }


def _on_own_rows(result: Fitted, view: View, rows: Shown) -> dict[str, Any]:
    """The checks in words, what single rows do, and what a reader must know at once."""
    nothing = {
        "warnings": view.warnings(),
        "findings": [],
        "asked": None,
        "check_tables": [],
        "influence": [],
        "influential": None,
        "influence_note": "",
        "checked": None,
        "silent": True,
    }
    found = rows.influence
    if not rows.own or rows.gathered is None:
        return nothing
    try:
        checked = _check_parts(check(result), result, view)
    except ValueError as error:  # the fit and the rest of its report are worth having without them
        checked = {"warnings": [*view.warnings(), f"The checks could not be made: {error}"]}
    if found is None or not found.count:
        return nothing | checked
    return (
        nothing
        | checked
        | {
            "influence": [_embedded(p) for p in influence_panels(found)],
            "influential": _table(tables.influential(found)),
            "influence_note": tables.influence_note(found),
        }
    )


def _check_parts(check: Check, result: Fitted, view: View) -> dict[str, Any]:
    """What the page says of a check: findings at the top, then the tests."""
    batch = isinstance(view, ModelBatch)
    known = view.warnings() if isinstance(view, ModelBatch) else view.warnings({"fit", "aliased", "dispersion"})
    shown = [*([tables.findings(result, check)] if batch else []), tables.tests(check), *tables.curves(check)]
    return {
        "warnings": known,
        "findings": [] if batch else check.findings[0],
        "asked": _asked(check),
        "check_tables": [_table(t) for t in shown if t.rows],
        "checked": _checked(check),
        "silent": bool(check.silent.all()),
    }


def _checked(check: Check) -> str:
    """How the checks went, in three words."""
    if check.batch:
        return f"{int(check.silent.sum()):,} of {len(check.findings):,} without a finding"
    count = len(check.findings[0])
    return f"{count} finding{'s' * (count != 1)}" if count else "no finding by the checks"


def _asked(check: Check) -> str:
    """What was asked of the model or the models, and how it went, in a sentence."""
    if not check.tests and not check.batch:
        count = len(check.findings[0])
        found = f"{count} finding{'s' * (count != 1)}, named at the top of this page," if count else "Nothing found"
        if check.smooths is not None:
            return f"{found} in how the fit ended, its columns, the k-check and the concurvity of its smooth terms."
        return f"{found} in how the fit ended, its columns and its classes; no score test was made."
    asked = f"{len(check.tests)} test{'s' * (len(check.tests) != 1)} ({', '.join(check.tests)})"
    held = f"held together at {check.level:g} by Holm's adjustment"
    if check.batch:
        quiet = int(check.silent.sum())
        return f"{quiet:,} of {len(check.findings):,} models without a finding by {asked}, {held} for each."
    count = len(check.findings[0])
    if all(bool(test.p_value.isnan()) for test in check.tests.values()):
        return "The fit did not end at a maximum, so that it was not tested."
    if count:
        return f"{count} finding{'s' * (count != 1)}, named at the top of this page, by {asked}, {held}."
    return f"Nothing found by {asked}, {held}, nor in the columns and single rows."


def _joined(parts: list[Any]) -> Any:
    from markupsafe import Markup

    return Markup("").join(parts)


def _table(table: Grid) -> Any:
    from markupsafe import Markup

    return Markup(table.html())


def _embedded(panel: Panel) -> dict[str, Any]:
    width, height = (round(100 * inches) for inches in panel.figure.get_size_inches())
    return {
        "title": panel.title,
        "reading": panel.reading,
        "seen": seen(panel.figure),
        "source": svg_uri(panel.figure),
        "width": width,
        "height": height,
    }


def svg_uri(figure: Figure) -> str:
    """The figure as an SVG data URI, for the `src` of an image; its text is text, for the reader's fonts to write."""
    import matplotlib

    held = io.BytesIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "torchglm"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # the browser has it
        figure.savefig(held, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def _capped(sentences: list[str]) -> list[str]:
    if len(sentences) <= _MOST_SENTENCES:
        return sentences
    more = len(sentences) - _MOST_SENTENCES
    return [*sentences[:_MOST_SENTENCES], f"… and {more} more, in the table above."]


def _yaml(config: Mapping[str, Any] | str | None) -> str:
    if config is None or isinstance(config, str):
        return config or ""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def _footer(rows: Shown) -> str:
    if rows.gathered is None:
        return f"torchglm {VERSION}; no rows at hand, so no diagnostic plots."
    other = " that were handed in, so without checks and influence" if rows.other else ""
    return f"torchglm {VERSION}; diagnostics on {rows.gathered.count:,} rows{other}."
