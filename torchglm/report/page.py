"""One self-contained HTML page about a fit."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchglm.report.document import Facts
from torchglm.report.observations import Observations
from torchglm.report.overview import ModelBatch
from torchglm.report.panels import Panel, coefficient_panels, diagnostic_panels
from torchglm.report.single import SingleModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from torchglm.inference.result import Result

_WIDE = 10_000  # characters: tables scroll, so none is split
_MOST_SENTENCES = 40


def write_page(result: Result, path: str | Path, y: Tensor | None = None, mu: Tensor | None = None,
               weight: Tensor | None = None, exposure: Tensor | None = None, title: str | None = None,
               config: Mapping[str, Any] | str | None = None, level: float = 0.95) -> Path:
    """Write the report of a fit, or of a batch of fits, as one HTML file without outside references.

    `y`, `mu`, `weight`, `exposure` (n,) or (*B, n) are the rows to diagnose on, by default those the result
    still holds; without rows the page has no diagnostic plots. `config` is shown as it is, or as YAML.
    Returns the path. The file appears complete or not at all.
    """
    path = Path(path)
    text = page(result, Observations.of(result, y, mu, weight, exposure), title, config, level)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def page(result: Result, rows: Observations | None, title: str | None = None,
         config: Mapping[str, Any] | str | None = None, level: float = 0.95) -> str:
    """The HTML text of `write_page`."""
    from jinja2 import Environment
    from markupsafe import Markup

    source = resources.files("torchglm.report").joinpath("template.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    view: SingleModel | ModelBatch = (SingleModel if result.coef.ndim == 1 else ModelBatch)(result, level)
    kind = view.document(_WIDE).title
    return template.render(
        title=title or kind, kind=kind, formula=result.formula, sound=view.sound, verdict=view.verdict,
        warnings=view.warnings(), facts=Markup(Facts(view.facts()).html()),
        tables=[Markup(t.html()) for t in view.tables(_WIDE)], remarks=view.remarks(),
        estimates=[_embedded(p) for p in coefficient_panels(result, level)],
        checks=[] if rows is None else [_embedded(p) for p in diagnostic_panels(result, rows)],
        config=_yaml(config), footer=_footer(rows),
        sentences=_capped(view.sentences()),
        members=Markup(view.members().html()) if isinstance(view, ModelBatch) else None)


def _embedded(panel: Panel) -> dict[str, Any]:
    width, height = (round(100 * inches) for inches in panel.figure.get_size_inches())
    return {"title": panel.title, "reading": panel.reading, "source": svg_uri(panel.figure), "width": width,
            "height": height}


def svg_uri(figure: Figure) -> str:
    """The figure as an SVG data URI, for the `src` of an image; text is drawn, so that no font is needed."""
    import matplotlib

    held = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "torchglm"}):
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
    import yaml  # type: ignore[import-untyped]

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def _footer(rows: Observations | None) -> str:
    from torchglm import __version__

    on = "no rows at hand, so no diagnostic plots" if rows is None else f"diagnostics on {rows.count:,} rows"
    return f"torchglm {__version__}; {on}."
