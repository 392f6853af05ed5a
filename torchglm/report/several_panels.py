"""Which plots and tables a page shows of a fit of several predictors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from torchglm.families.several import Classes, LogTimes, Multinomial, Ordinal, VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.inference.quantile import between
from torchglm.inference.several import family_of
from torchglm.report import plots, several_figures, tables
from torchglm.report.binned import Rootogram, weighted_quantiles
from torchglm.report.coefficients import Coefficient
from torchglm.report.document import Grid
from torchglm.report.panels import Panel, coefficient_panels, smooth_panels
from torchglm.report.sections import Section, whole
from torchglm.report.several import SeveralModel
from torchglm.report.several_rows import MOST_CELLS, MOST_CLASSES, DrawnRows, SeveralRows, confusion
from torchglm.report.survival import Survival
from torchglm.rows.responses import Times, each, size_of

_MOST_FORESTS = 8
_MOST_COUNT = 40  # the last bar of a rootogram
_GROUPS = ("lowest third of predicted time", "middle third", "highest third")


def estimate_panels(result: Fitted, level: float, rows: SeveralRows | None) -> list[Panel]:
    """A forest for each predictor with slopes, the thresholds of an ordinal model on a line, and curves."""
    if result.batch_shape:
        return coefficient_panels(whole(result), level)[:2]
    found = forest_panels(result, level, rows)
    left = len(found) - _MOST_FORESTS
    if left > 0:
        last, thresholds = found[_MOST_FORESTS - 1], [one for one in found[_MOST_FORESTS:] if one.name == "thresholds"]
        note = f" {left} more predictor{'s' * (left != 1)} in the tables above."
        found = [*found[: _MOST_FORESTS - 1], replace(last, reading=last.reading + note), *thresholds]
    return [*found, *smooth_panels(result, level)]


def forest_panels(result: Fitted, level: float, rows: SeveralRows | None) -> list[Panel]:
    """A forest for each predictor with slopes, and the thresholds of an ordinal model on a line."""
    view = SeveralModel(result, level)
    own = {section: plots.drawn(view.of(section)) for section in view.sections if not section.thresholds}
    forests = [_forest(result, section, found, level) for section, found in own.items() if found]
    return [*forests, *_thresholds(view, rows)]


def _forest(result: Fitted, section: Section, own: list[Coefficient], level: float) -> Panel:
    figure = plots.forest_of(own, section.quantity.ratio, level, not bool(result.converged))
    coefficients = section.quantity.ratio is None or figure.axes[0].get_xlabel().startswith("coefficient")
    neutral = "0" if coefficients else "1"
    reading = (
        f"What moves the {section.quantity.what}. An interval that crosses {neutral} is compatible with no effect."
    )
    return Panel(section.quantity.title, reading, lambda: figure, section.predictor or "slopes")


def _thresholds(view: SeveralModel, rows: SeveralRows | None) -> list[Panel]:
    family = view.law
    cuts = [c for section in view.sections if section.thresholds for c in view.of(section)]
    if not isinstance(family, Ordinal) or not all(c.estimate == c.estimate for c in cuts) or len(cuts) > MOST_CLASSES:
        return []
    latent = None
    if rows is not None and not family.free:
        latent = cuts[0].estimate - rows.drawn().eta[0]
    bars = "" if latent is None else " Grey: where the rows lie."
    figure = several_figures.thresholds(cuts, list(map(str, family.known)), latent)
    reading = "Amber: thresholds with their intervals. A row to the right of a threshold is more likely above it."
    return [Panel("Thresholds of the classes", reading + bars, lambda: figure, "thresholds")]


def prediction_panels(result: Fitted, rows: SeveralRows) -> tuple[list[Panel], list[Grid]]:
    """Predictions against what was observed: of every class, of survival, or of means."""
    family, all_rows = family_of(result), f" All {rows.count:,} rows."
    if isinstance(family, Classes):
        return _of_classes(family, rows, all_rows)
    if isinstance(family, LogTimes):
        return _of_times(family, rows), []
    return _of_means(rows, all_rows)


def _of_classes(family: Classes, rows: SeveralRows, all_rows: str) -> tuple[list[Panel], list[Grid]]:
    known, sums = list(map(str, family.known)), rows.classes
    assert sums is not None  # rows were taken in
    some = f" The first {MOST_CLASSES} of {len(known)} classes." if len(known) > MOST_CLASSES else ""
    panel = Panel(
        "Calibration of each class",
        "Observed share against predicted probability, in bins of it, with ± 2 standard errors. Points on the line: "
        f"right at every level.{some}{all_rows}",
        partial(several_figures.class_calibration, rows.calibrations),
        name="classes",
    )
    found = sums.scores()
    ranked = [("ranked probability score", found["ranked_probability"])] if isinstance(family, Ordinal) else []
    scores = [
        ("log score", found["log_score"]),
        ("Brier score", found["brier"]),
        *ranked,
        ("accuracy", found["accuracy"]),
    ]
    named = Grid("Scores on these rows", ("", "mean"), [(name, f"{value:.4f}") for name, value in scores])
    return [panel], [named, *([confusion(sums.confusion, known)] if len(known) <= MOST_CELLS else [])]


def _of_means(rows: SeveralRows, all_rows: str) -> tuple[list[Panel], list[Grid]]:
    sums = rows.calibrations.get("mean")
    if sums is None:
        return [], []
    panels = [
        Panel(
            "Calibration by decile",
            "Observed against predicted means, in bins of the prediction. Points on the line: right on average at "
            f"every level of prediction.{all_rows}",
            partial(plots.calibration, sums),
            name="deciles",
        ),
        Panel(
            "Lift by decile",
            "Bars that rise from left to right: the model tells low from high. Bars that leave the line: it over- or "
            f"understates there.{all_rows}",
            partial(plots.lift, sums),
            name="lift",
        ),
    ]
    if rows.least >= 0 and float(sums.observed.sum()) > 0:
        panels.append(
            Panel(
                "Lorenz curve and Gini",
                "How unequally the response falls when rows are ordered by prediction. The diagonal is a model that "
                f"orders nothing.{all_rows}",
                partial(plots.lorenz, sums),
                name="lorenz",
            )
        )
    return panels, [tables.deciles(sums, rows.weighted)]


def _of_times(family: LogTimes, rows: SeveralRows) -> list[Panel]:
    """Kaplan and Meier's curve beside the expected one, of all rows and by thirds of the location."""
    some = rows.drawn()
    if rows.kind not in (None, Times):
        return []
    used = _used(rows)
    whole_curve = Survival.of(family, some.response, some.eta, some.weight)
    reading = "Steps: Kaplan–Meier with 95 % limits. Dashed: the survival that the model expects of the same rows."
    panels = [
        Panel(
            "Survival against Kaplan–Meier",
            f"{reading}{used}{_order(rows)}",
            partial(several_figures.survival, [("all rows", whole_curve)]),
            name="survival",
        )
    ]
    ends = weighted_quantiles(some.eta[0], some.weight, torch.tensor([1 / 3, 2 / 3]))
    group = torch.bucketize(some.eta[0].contiguous(), ends)
    curves = [
        (name, Survival.of(family, *_some(some, group == k)))
        for k, name in enumerate(_GROUPS)
        if bool((group == k).any())
    ]
    if len(curves) > 1:
        panels.append(
            Panel(
                "Survival by predicted time",
                "The same for thirds of the rows by their location: curves that follow their steps say that the "
                f"columns tell long times from short ones.{used}",
                partial(several_figures.survival, curves),
                name="thirds",
            )
        )
    return panels


def _order(rows: SeveralRows) -> str:
    """How well predicted times are in the order of the times, in a sentence."""
    share = rows.concordance
    if share is None or share != share:
        return ""
    return (
        f" Of pairs of rows whose order is known, {100 * share:.1f} % are predicted in that order (Harrell's C); by "
        "chance it would be 50 %."
    )


def _some(rows: DrawnRows, kept: Tensor) -> tuple[object, Tensor, Tensor]:
    return each(rows.response, lambda part: part[kept]), rows.eta[:, kept], rows.weight[kept]


def check_panels(result: Fitted, rows: SeveralRows) -> list[Panel]:
    """Quantile residuals where the law has tails and its values an order, and a rootogram of counts."""
    family, some = family_of(result), rows.drawn()
    found = _residuals(family, some, _used(rows))
    if not family.counts or rows.kind is not None:
        return found
    return [
        *found,
        Panel(
            "Rootogram",
            "Bars hang from the expected frequencies. A bar that ends above zero: fewer such counts than expected; "
            f"below: more, as with zeros that the model does not know.{_used(rows)}",
            partial(plots.rootogram, rootogram(family, some)),
            name="rootogram",
        ),
    ]


def _residuals(family: VectorFamily, rows: DrawnRows, used: str) -> list[Panel]:
    """Randomised quantile residuals against the first predictor, and their normal Q–Q plot."""
    if isinstance(family, Multinomial):
        return []
    uniform = torch.rand(len(rows.weight), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        found = between(*family.tails(rows.response, rows.eta), uniform.to(rows.eta.device))
    except NotImplementedError:  # a family of one's own that does not say its tails
        return []
    kept, kind = found.isfinite(), "quantile residual"
    if not bool(kept.any()):
        return []
    ordinal = isinstance(family, Ordinal)
    fitted = (-rows.eta[0] if ordinal else rows.eta[0])[kept]
    scale = "x β, from the first threshold on" if ordinal else f"predictor of the {family.predictors[0]}"
    return [
        Panel(
            "Residuals against fitted",
            "The amber line is the local mean: flat at zero when links and terms are right, curved when one is missing."
            f"{used}",
            partial(plots.residuals, fitted, found[kept], kind, scale),
            name="fitted",
        ),
        Panel(
            "Normal Q–Q",
            f"Points in the grey band: the law fits. Steeper than the line: more spread than that.{used}",
            partial(plots.quantiles, found[kept], kind),
            name="normal",
        ),
    ]


@torch.no_grad()
def rootogram(family: VectorFamily, rows: DrawnRows) -> Rootogram:
    """The frequencies of counts beside their expectation by the law of each row; every row counts once."""
    y = size_of(rows.response)
    reach = float(weighted_quantiles(y, torch.ones_like(y), torch.tensor([0.995])))
    largest = int(min(float(y.max()), max(reach, 10.0), float(_MOST_COUNT)))
    at = [torch.exp(-family.nll(torch.full_like(y, float(k)), rows.eta)).sum() for k in range(largest)]
    expected = torch.stack([*at, len(y) - sum(at, y.new_zeros(()))]).clamp(min=0)
    return Rootogram(torch.bincount(y.clamp(max=largest).long(), minlength=largest + 1).double(), expected)


def _used(rows: SeveralRows) -> str:
    if rows.whole:
        return f" All {rows.count:,} rows."
    return f" {rows.sample.most:,} rows drawn evenly from all {rows.count:,}."
