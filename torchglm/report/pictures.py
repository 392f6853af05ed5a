"""One picture of a fit, asked for by its kind and, where a kind has several, by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torchglm.inference.effects import variables
from torchglm.inference.fitted import Fitted
from torchglm.inference.levels import check_level
from torchglm.inference.vector.columns import refuse_part
from torchglm.report import plots, several_panels, words
from torchglm.report.coefficients import Coefficient
from torchglm.report.effect_plots import effect
from torchglm.report.gathered import Gathered
from torchglm.report.influence import Influence
from torchglm.report.observations import chunks
from torchglm.report.panels import (
    Panel,
    batch_panels,
    curves_of_batch,
    forest_panels,
    influence_panels,
    predictions,
    residual_panels,
    smooth_panels,
)
from torchglm.report.path_panels import path_panels
from torchglm.report.random_plots import random_panels
from torchglm.report.sections import whole
from torchglm.report.several import SeveralModel
from torchglm.report.several_influence import SeveralInfluence
from torchglm.report.several_rows import SeveralRows
from torchglm.writing.nearest import nearest, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_SLOPES = "this fit has no slopes to draw: only an intercept, or curves, which plot('smooth') draws."


def picture(result: Fitted, kind: str, of: str | None, level: float) -> Figure:
    """The picture of a kind, see `torchglm.report.plot`."""
    check_level(level)
    if kind not in KINDS:
        raise ValueError(unknown("kind", kind, KINDS))
    if kind != "coefficients":
        refuse_part(result)
    return KINDS[kind](result, of, level)


def _coefficients(result: Fitted, of: str | None, level: float) -> Figure:
    if result.batch_shape:
        plain = result if result.plan is None else whole(result)
        return _one(batch_panels(plain), "coefficients", of, none=_NO_SLOPES)
    if result.plan is None:
        panels = forest_panels(result, level)
        if not panels:  # the curves or effects that the fit consists of
            found = smooth_panels(result, level) or random_panels(result)
            panels = found[:1] if of is None else found
        return _one(panels, "coefficients", of, none=_NO_SLOPES)
    if of is None:
        return _all_predictors(result, level)
    rows = SeveralRows.of(result) if of == "thresholds" else None
    return _one(several_panels.forest_panels(result, level, rows), "coefficients", of, none=_NO_SLOPES)


def _all_predictors(result: Fitted, level: float) -> Figure:
    """The slopes of all predictors on one axis, by their whole names; as ratios where all are of one kind."""
    view = SeveralModel(result, level)
    found, kinds = list[Coefficient](), set[str | None]()
    for section in view.sections:
        places = [j for j, own in zip(section.places, section.names, strict=True) if own != words.INTERCEPT]
        own = [] if section.thresholds else [view.coefficients[j] for j in places if j not in view.inside]
        found += own
        kinds |= {section.quantity.ratio} if own else set()
    if not found:
        raise ValueError(_NO_SLOPES)
    ratio = kinds.pop() if len(kinds) == 1 else None
    return plots.forest_of(plots.drawn(found), ratio, level, not bool(result.converged))


def _effect(result: Fitted, of: str | None, level: float) -> Figure:
    if result.batch_shape:
        raise ValueError(
            "this is a batch of models, and an effect is drawn of one: attach its rows, as in "
            "result[i].with_rows(table).plot('effect', ...)."
        )
    known = variables(result)
    if not known:
        raise ValueError("this fit has no variable but its intercept. See plot('calibration') for its mean.")
    if of is None and len(known) != 1:
        raise ValueError(f"say whose effect, as in plot('effect', {known[0]!r}). Known: {', '.join(known)}.")
    if result.spec is not None and (result.rows is None or result.context.get("table") is None):
        raise ValueError(
            "an effect is averaged over a table, and this fit holds none: it was loaded, its rows are in files, or it "
            "has a model for each group. Attach one: result.with_rows(table).plot('effect', ...)."
        )
    return effect(result, known[0] if of is None else of, level)


def _smooth(result: Fitted, of: str | None, level: float) -> Figure:
    panels = curves_of_batch(result) if result.batch_shape else smooth_panels(result, level)
    return _one(panels, "smooth", of, several=True, none="this fit has no smooth terms. Terms such as s(x) make them.")


def _random(result: Fitted, of: str | None, level: float) -> Figure:
    if result.batch_shape and result.flat.modes is not None:
        raise ValueError("the effects of levels are drawn of one model. Draw that: result[i].plot('random').")
    none = "this fit has no random effects. Terms such as (1 | g) make them."
    return _one(random_panels(result), "random", of, several=True, none=none)


def _residuals(result: Fitted, of: str | None, level: float) -> Figure:
    rows = _rows(result)
    if isinstance(rows, SeveralRows):
        panels = several_panels.check_panels(result, rows)
    else:
        panels = residual_panels(result, rows)
    none = "the classes of this model have no order, and so no residuals. See plot('calibration')."
    return _one(panels, "residuals", of, none=none)


def _calibration(result: Fitted, of: str | None, level: float) -> Figure:
    rows = _rows(result)
    if isinstance(rows, SeveralRows):
        panels, _ = several_panels.prediction_panels(result, rows)
    else:
        panels, _ = predictions(result, rows)
    none = "intervals of times are not compared with predictions. See plot('residuals')."
    return _one(panels, "calibration", of, none=none)


def _influence(result: Fitted, of: str | None, level: float) -> Figure:
    found = Influence.of(result) if result.plan is None else SeveralInfluence.made(result)
    panels = [] if found is None or not found.count else influence_panels(found)
    return _one(panels, "influence", of, none="no row of this fit has a residual: it has as many coefficients as rows.")


def _path(result: Fitted, of: str | None, level: float) -> Figure:
    none = "this fit was not chosen from the path of one model. See torchglm.path(...).select()."
    return _one(path_panels(result), "path", of, none=none)


KINDS: dict[str, Callable[[Fitted, str | None, float], Figure]] = {
    "coefficients": _coefficients,
    "effect": _effect,
    "smooth": _smooth,
    "random": _random,
    "residuals": _residuals,
    "calibration": _calibration,
    "influence": _influence,
    "path": _path,
}


def _rows(result: Fitted) -> Gathered | SeveralRows:
    """The rows behind the fit, in one pass. Raises ValueError where none are, or none counts."""
    _ = result.source  # says where there are none
    found = SeveralRows.of(result) if result.plan is not None else Gathered.of(result, chunks(result, *[None] * 4))
    if found is None:
        raise ValueError("no row behind this fit counts: all weights are 0. Attach others: result.with_rows(...).")
    return found


def _one(panels: list[Panel], kind: str, of: str | None, none: str, several: bool = False) -> Figure:
    """The picture that `of` names; without a name the first, or the only one where none of `several` is first."""
    if not panels:
        raise ValueError(none)
    known = {panel.name: panel for panel in panels}
    if of is None and (not several or len(known) == 1):
        return panels[0].figure
    if of not in known:
        asked = "say which" if of is None else f"no {of!r} among the pictures of {kind}{nearest(of, known)}"
        raise ValueError(f"{asked}, as in plot({kind!r}, {panels[0].name!r}). Known: {', '.join(known)}.")
    return known[of].figure
