"""Which plots a report shows, each with a title and one sentence on how to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch.distributions import constraints

from torchglm.design.smooths.factor import Smooth
from torchglm.inference.fitted import Fitted
from torchglm.inference.smooths import smooths
from torchglm.report import curves, figures, plots, tables, words
from torchglm.report.gathered import Gathered
from torchglm.report.influence import Influence
from torchglm.report.scores import normal_scores
from torchglm.report.smooths import smooth_places
from torchglm.writing import numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from torchglm.report.document import Grid
    from torchglm.report.observations import Observations


@dataclass(frozen=True)
class Panel:
    """A title, how to read the figure, and what draws it; `name` says which it is of those of its kind."""

    title: str
    reading: str
    draw: Callable[[], Figure]
    name: str

    @cached_property
    def figure(self) -> Figure:
        """The figure, drawn when it is first asked for."""
        return self.draw()


def coefficient_panels(result: Fitted, level: float = 0.95) -> list[Panel]:
    """The forest of one model (none without slopes) and its curves, or the spread of a batch's estimates and fit."""
    if result.coef.ndim > 1:
        across, each, fit = batch_panels(result)
        return [each, across, fit, *curves_of_batch(result)]
    return [*forest_panels(result, level), *smooth_panels(result, level)]


def batch_panels(result: Fitted) -> list[Panel]:
    """The coefficients of a batch across its models, the distribution of each, and how well the models fit."""
    return [
        Panel(
            "Coefficients across models",
            "Thin line: smallest to largest. Thick line: middle half "
            f"of the models. Dot: median. Only converged models count.{_most(result)}",
            partial(plots.quartiles, result),
            name="across",
        ),
        Panel(
            "Distribution of each coefficient",
            f"Over the converged models, their central 98 %. Blue line: median; grey line: zero.{_rest(result)}",
            partial(figures.distributions, result),
            name="distribution",
        ),
        Panel(
            "Fit across models",
            "Deviance per residual degree of freedom. A model far to the "
            "right fits worse; the table above names the worst.",
            partial(plots.deviances, result),
            name="fit",
        ),
    ]


def forest_panels(result: Fitted, level: float = 0.95) -> list[Panel]:
    """The forest of one model; none without slopes."""
    inside = smooth_places(result)
    if not any(name != words.INTERCEPT for j, name in enumerate(result.names) if j not in inside):
        return []
    figure = plots.forest(result, level)
    neutral = "0" if figure.axes[0].get_xlabel().startswith("coefficient") else "1"
    bent = " The axis is linear about zero and logarithmic beyond, for units that differ so much."
    return [
        Panel(
            "Coefficients with intervals",
            f"An interval that crosses the line at {neutral} is "
            "compatible with no effect. Effects are per unit of each column, so compare only columns "
            f"of like units.{bent * (figure.axes[0].get_xscale() == 'symlog')}{_drawn(result, level)}",
            lambda: figure,
            name="slopes",
        )
    ]


def smooth_panels(result: Fitted, level: float = 0.95) -> list[Panel]:
    """A picture of every smooth term of one or two variables, and of every set of effects."""
    found = []
    sure = numbers.percent(level)
    link = f" ({result.link.name} link)" if result.plan is None else ""
    scale = f"On the scale of the linear predictor{link}, without the intercept."
    for name, term in smooths(result).items():
        if not isinstance(term.factor, Smooth):
            reading = f"Effects of levels drawn from one normal law, with {sure} intervals. {scale}"
            found.append(Panel(name, reading, partial(curves.effects, term, level), name))
        elif len(term.factor.ranges) == 1:
            reading = (
                f"Dark band: {sure} at each value. Pale band: {sure} for the whole curve at once. A curve whose bands "
                f"hold zero throughout may be none. {scale}"
            )
            found.append(Panel(name, reading, partial(curves.curve, term, level), name))
        elif len(term.factor.ranges) == 2:
            reading = f"Contours of the surface; red above zero, blue below. {scale}"
            found.append(Panel(name, reading, partial(curves.surface, term), name))
    return found


def curves_of_batch(result: Fitted) -> list[Panel]:
    """A picture of every smooth term of one variable over the models of a batch."""
    reading = (
        f"Grey: single models, at most {curves.MOST_CURVES}. Blue: the median of all that converged at each value; the "
        "band holds the middle nine tenths of them. On the scale of the linear predictor, without the intercept."
    )
    return [
        Panel(name, reading, partial(curves.many, term), name)
        for name, term in smooths(result).items()
        if isinstance(term.factor, Smooth) and len(term.factor.ranges) == 1 and bool(result.converged.any())
    ]


def _drawn(result: Fitted, level: float) -> str:
    """Which coefficients a forest leaves out or cuts, in sentences."""
    inside = smooth_places(result)
    slopes = [
        (name, bool(coef.isnan()))
        for j, (name, coef) in enumerate(zip(result.names, result.coef, strict=True))
        if name != words.INTERCEPT and j not in inside
    ]
    aliased = sum(missing for _, missing in slopes)
    some, cut = len(slopes) - aliased, plots.unbounded(result, level)
    said = ""
    if some > plots.MOST_DRAWN:
        said += (
            f" Drawn are the {plots.MOST_DRAWN} of {some} with the largest |{result.statistic_name}|; "
            "the table above holds all."
        )
    if aliased:
        said += f" {aliased} without an estimate (aliased) {'is' if aliased == 1 else 'are'} not drawn."
    if cut:
        said += " An arrow: the interval goes on past the axis, as far as the rows do not bound it."
    return said


def predictions(result: Fitted, rows: Gathered) -> tuple[list[Panel], Grid]:
    """Calibration, lift and Lorenz curve of all rows, with the deciles behind them; censored times as events a time."""
    timed = result.family.durations
    sums = rows.calibration
    rate = "events per unit of time" if timed else "rates per unit of exposure" if sums.exposed else "means"
    all_rows = f" All {rows.count:,} rows."
    panels = [
        Panel(
            "Calibration by decile",
            f"Observed against predicted {rate}, with ± 2 standard errors under "
            f"the model. Points on the line: right on average at every level of prediction.{all_rows}",
            partial(plots.calibration, sums),
            name="deciles",
        ),
        Panel(
            "Lift by decile",
            "Bars that rise from left to right: the model tells low from high. Bars that "
            f"leave the line: it over- or understates there.{all_rows}",
            partial(plots.lift, sums),
            name="lift",
        ),
    ]
    if (timed or rows.least >= 0) and float(sums.observed.sum()) > 0:
        panels.append(
            Panel(
                "Lorenz curve and Gini",
                "How unequally the response falls when rows are ordered "
                f"by prediction. The diagonal is a model that orders nothing.{all_rows}",
                partial(plots.lorenz, sums),
                name="lorenz",
            )
        )
    return panels, tables.deciles(sums, rows.weighted)


def residual_panels(result: Fitted, rows: Gathered) -> list[Panel]:
    """Residuals and their spread against fitted values, normal Q–Q plot, and a rootogram for counts or a histogram."""
    some = rows.drawn.observations()
    # a fit without residual degrees of freedom, or an exact one, has no scale to divide by
    some = replace(some, dispersion=torch.where(some.dispersion > 0, some.dispersion, 1.0))
    every, kind = normal_scores(some.response, some.mu, some.family, some.dispersion, some.prior)
    assert some.model is not None  # a sample knows its models
    fine = result.converged.reshape(-1)[some.model].unsqueeze(-1)  # means that ran away would stretch every axis
    shown = fine if bool(fine.any()) else torch.ones_like(fine)
    scores, eta = every[shown], result.link.link(some.mu)[shown]
    used = (
        f"All {rows.count:,} rows."
        if rows.drawn.whole
        else f"{len(some.y):,} rows drawn evenly from all {rows.count:,}."
    )
    note = f" {used}{' Converged models only.' * (not bool(shown.all()))}"
    scale = f"linear predictor ({words.link_title(result.link.name)} scale)"
    normal = "Deviance residuals are only roughly normal; look for single points far out."
    if kind.startswith("quantile"):
        normal = "Points in the grey band: the family fits. Steeper than the line: more spread than that."
    panels = [
        Panel(
            "Residuals against fitted",
            "The amber line is the local mean: flat at zero when link and "
            f"terms are right, curved when one is missing.{note}",
            partial(plots.residuals, eta, scores, kind, scale),
            name="fitted",
        ),
        Panel("Normal Q–Q", normal + note, partial(plots.quantiles, scores, kind), name="normal"),
        Panel(
            "Spread against fitted",
            "Flat on the grey line: the variance grows with the mean as the family says. "
            f"Rising: faster than that.{note}",
            partial(plots.spread, eta, scores, kind, scale),
            name="spread",
        ),
    ]
    if _counts(rows, some):
        panels.append(
            Panel(
                "Rootogram",
                "Bars hang from the expected frequencies. A bar that ends above "
                f"zero: fewer such counts than expected; below: more, as with excess zeros. {used}",
                partial(plots.rootogram, some.y, some.mu, some.family, some.weight),
                name="rootogram",
            )
        )
    else:
        panels.append(
            Panel(
                "Distribution of residuals",
                f"Bars that follow the amber curve, the standard normal: the family fits.{note}",
                partial(figures.histogram, scores, kind),
                name="histogram",
            )
        )
    return panels


def influence_panels(found: Influence) -> list[Panel]:
    """What single rows do: residuals against leverage, and Cook's distance."""
    batch = bool(found.result.batch_shape)
    curves = "" if batch or found.result.plan is not None else " Dashed: Cook's distance of 0.5 and 1."
    return [
        Panel(
            "Leverage and residual",
            "Rows far to the right are unusual in their columns, rows far up or down in "
            f"their response; those that are both move the fit. Blue: the most influential.{curves}",
            partial(figures.leverage, found),
            name="leverage",
        ),
        Panel(
            "Cook's distance",
            "How far the coefficients move together when a row is taken in. A row above 1, or "
            f"far above all others, is worth a look.{' Numbers: model: row.' if batch else ''}",
            partial(figures.cooks_distance, found),
            name="cook",
        ),
    ]


def _most(result: Fitted) -> str:
    slopes = sum(name != words.INTERCEPT for name in result.names)
    return f" The first {plots.MOST_DRAWN} of {slopes}." if slopes > plots.MOST_DRAWN else ""


def _rest(result: Fitted) -> str:
    return f" The first 12 of {len(result.names)}." if len(result.names) > 12 else ""


def _counts(rows: Gathered, some: Observations) -> bool:
    """Whether responses are whole numbers without an upper end, and the family gives them probabilities."""
    law = some.family.distribution(some.mu, some.dispersion)
    return rows.whole and law.support is constraints.nonnegative_integer
