"""Which plots a report shows, each with a title and one sentence on how to read it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.distributions import constraints

from torchglm.inference.fitted import Fitted
from torchglm.report import figures, plots, tables, words
from torchglm.report.binned import Calibration
from torchglm.report.influence import Influence
from torchglm.report.observations import Observations
from torchglm.report.scores import normal_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from torchglm.report.document import Grid

_MOST_SCORED = 50_000  # rows whose residuals are computed; more are sampled, which no reader could see


@dataclass(frozen=True)
class Panel:
    """A figure, its title and how to read it."""

    title: str
    reading: str
    figure: Figure


def coefficient_panels(result: Fitted, level: float = 0.95) -> list[Panel]:
    """The forest of one model (none without slopes), or the spread of a batch's estimates and deviances."""
    if result.coef.ndim > 1:
        return [
            Panel(
                "Distribution of each coefficient",
                f"Over the converged models, their central 98 %. Blue line: median; grey line: zero.{_rest(result)}",
                figures.distributions(result),
            ),
            Panel(
                "Coefficients across models",
                "Thin line: smallest to largest. Thick line: middle half "
                "of the models. Dot: median. Only converged models count.",
                plots.quartiles(result),
            ),
            Panel(
                "Fit across models",
                "Deviance per residual degree of freedom. A model far to the "
                "right fits worse; the table above names the worst.",
                plots.deviances(result),
            ),
        ]
    if not any(name != words.INTERCEPT for name in result.names):
        return []
    neutral = "1" if words.ratio_name(result.family, result.link) else "0"
    return [
        Panel(
            "Coefficients with intervals",
            f"An interval that crosses the line at {neutral} is "
            "compatible with no effect. Effects are per unit of each column, so compare only columns "
            "of like units.",
            plots.forest(result, level),
        )
    ]


def predictions(result: Fitted, rows: Observations) -> tuple[list[Panel], Grid]:
    """Calibration, lift and Lorenz curve with the deciles behind them; events per unit of time for censored times."""
    rate = "rates per unit of exposure" if rows.exposure is not None else "means"
    timed = result.family.durations
    exposure = rows.y if timed else rows.exposure
    rate = "events per unit of time" if timed else rate
    sums = Calibration.of(rows.response, rows.mu, rows.weight, rows.exposure, result.family, rows.dispersion)
    panels = [
        Panel(
            "Calibration by decile",
            f"Observed against predicted {rate}, with ± 2 standard errors under "
            "the model. Points on the line: right on average at every level of prediction.",
            plots.calibration(sums, exposure=exposure),
        ),
        Panel(
            "Lift by decile",
            "Bars that rise from left to right: the model tells low from high. Bars that "
            "leave the line: it over- or understates there.",
            plots.lift(sums),
        ),
    ]
    if (timed or float(rows.y[rows.kept].min()) >= 0) and float(sums.observed.sum()) > 0:
        panels.append(
            Panel(
                "Lorenz curve and Gini",
                "How unequally the response falls when rows are ordered "
                "by prediction. The diagonal is a model that orders nothing.",
                plots.lorenz(sums, exposure=exposure),
            )
        )
    weighted = bool((rows.weight[rows.kept] != 1).any())
    return panels, tables.deciles(sums, exposure is not None, weighted)


def residual_panels(result: Fitted, rows: Observations) -> list[Panel]:
    """Residuals and their spread against fitted values, normal Q–Q plot, and a rootogram for counts or a histogram."""
    # a fit without residual degrees of freedom, or an exact one, has no scale to divide by
    rows = replace(rows, dispersion=torch.where(rows.dispersion > 0, rows.dispersion, 1.0))
    some = rows.sample(_MOST_SCORED)
    every, kind = normal_scores(some.response, some.mu, result.family, some.dispersion, some.prior)
    fine = result.converged.reshape(-1, 1)  # means of a model that ran away would stretch every axis
    shown = some.kept & fine if bool((some.kept & fine).any()) else some.kept
    scores, eta = every[shown], result.link.link(some.mu)[shown]
    note = "" if some is rows else f" A random {some.count:,} of {rows.count:,} rows."
    note += " Converged models only." * bool((some.kept & ~shown).any())
    scale = f"linear predictor ({words.link_title(result.link.name)} scale)"
    normal = "Deviance residuals are only roughly normal; look for single points far out."
    if kind.startswith("quantile"):
        normal = "Points in the grey band: the family fits. Steeper than the line: more spread than that."
    panels = [
        Panel(
            "Residuals against fitted",
            "The amber line is the local mean: flat at zero when link and "
            f"terms are right, curved when one is missing.{note}",
            plots.residuals(eta, scores, kind, scale),
        ),
        Panel("Normal Q–Q", normal + note, plots.quantiles(scores, kind)),
        Panel(
            "Spread against fitted",
            "Flat on the grey line: the variance grows with the mean as the family says. "
            f"Rising: faster than that.{note}",
            plots.spread(eta, scores, kind, scale),
        ),
    ]
    if _counts(result, rows):
        panels.append(
            Panel(
                "Rootogram",
                "Bars hang from the expected frequencies. A bar that ends above "
                "zero: fewer such counts than expected; below: more, as with excess zeros.",
                plots.rootogram(rows.y, rows.mu, result.family, rows.weight),
            )
        )
    else:
        panels.append(
            Panel(
                "Distribution of residuals",
                f"Bars that follow the amber curve, the standard normal: the family fits.{note}",
                figures.histogram(scores, kind),
            )
        )
    return panels


def influence_panels(found: Influence) -> list[Panel]:
    """What single rows do: residuals against leverage, and Cook's distance."""
    batch = bool(found.result.batch_shape)
    curves = "" if batch else " Dashed: Cook's distance of 0.5 and 1."
    return [
        Panel(
            "Leverage and residual",
            "Rows far to the right are unusual in their columns, rows far up or down in "
            f"their response; those that are both move the fit. Blue: the most influential.{curves}",
            figures.leverage(found),
        ),
        Panel(
            "Cook's distance",
            "How far the coefficients move together when a row is taken in. A row above 1, or "
            f"far above all others, is worth a look.{' Numbers: model: row.' if batch else ''}",
            figures.cooks_distance(found),
        ),
    ]


def _rest(result: Fitted) -> str:
    return f" The first 12 of {len(result.names)}." if len(result.names) > 12 else ""


def _counts(result: Fitted, rows: Observations) -> bool:
    """Whether responses are whole numbers without an upper end, and the family gives them probabilities."""
    law = result.family.distribution(rows.mu, rows.dispersion)
    whole = bool((rows.y == rows.y.round()).all())
    return whole and law.support is constraints.nonnegative_integer
