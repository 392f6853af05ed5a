"""Diagnostic plots as matplotlib figures without pyplot: each takes rows, or sums over bins of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.report import words
from torchglm.report.axes import (
    AMBER,
    BLUE,
    GRID,
    INK,
    PALE,
    QUIET,
    faint,
    numbered,
    quiet_axes,
    ratio_axis,
    spread_axis,
)
from torchglm.report.binned import Calibration, QuantilePairs, Residuals, Rootogram, columns
from torchglm.report.coefficients import Coefficient, coefficients
from torchglm.report.fonts import families, reserved
from torchglm.report.overview import ModelBatch
from torchglm.report.smooths import smooth_places
from torchglm.writing import numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from torchglm.families import Family

_UNBOUNDED = 40.0  # width of an interval on a log, logit or probit scale past which it says nothing
_FARTHEST = 5.0  # where the axis ends if no interval is bounded
MOST_DRAWN = 40  # coefficients of a plot
_LABEL = 24  # characters of a coefficient's name beside a plot
_POINTS = 2000  # rows up to which residuals are drawn one by one


def forest(result: Fitted, level: float = 0.95, most: int = MOST_DRAWN) -> Figure:
    """Estimates with intervals, one line per coefficient but the intercept; ratios on a log axis.

    Beyond `most` coefficients those of largest |statistic| are drawn, in the order of the table. Every interval is
    drawn whole, but those that the rows do not bound (separation): an arrow stands where they leave the axis. Ratios
    too large to be read are drawn as coefficients. Where intervals differ in length by more than 300 times, the axis is
    linear about zero and logarithmic beyond.
    """
    rows = _shown(result, level, most)
    return forest_of(rows, words.ratio_name(result.family, result.link), level, _cuts(result))


def forest_of(rows: list[Coefficient], ratio: str | None, level: float, cut: bool = False) -> Figure:
    """The same of coefficients; `ratio` is what exp(coef) is, `cut` says that some may run to infinity."""
    figure, axes = quiet_axes(height=1.1 + 0.27 * max(len(rows), 2))
    axes.axvline(0.0, color=QUIET, linewidth=1, zorder=1)
    place = list(range(len(rows), 0, -1))
    low, high = _reach(cut, rows)
    ends = [(_or(c.low, c.estimate), _or(c.high, c.estimate)) for c in rows]
    inside = [(min(max(a, low), high), min(max(b, low), high)) for a, b in ends]
    axes.hlines(place, [a for a, _ in inside], [b for _, b in inside], color=BLUE, linewidth=2, zorder=2)
    for spot, c, (a, b) in zip(place, rows, ends, strict=True):
        for end, marker, leaves in ((low, "<", a < low), (high, ">", b > high)):
            if leaves:
                axes.plot([end], [spot], marker, color=BLUE, markersize=5, zorder=3)
        if low <= c.estimate <= high:
            axes.plot([c.estimate], [spot], "o", color=BLUE, markersize=5, zorder=3)
    _named(axes, place, [c.name for c in rows])
    axes.grid(False, axis="y")
    if ratio is None or max(-low, high) > _UNBOUNDED:
        spread_axis(axes, ends)
        log = "" if ratio is None else f" (log of the {ratio})"
        axes.set_xlabel(f"coefficient{log}, {numbers.percent(level)} interval")
    else:
        ratio_axis(axes)
        axes.set_xlabel(f"{ratio}, {numbers.percent(level)} interval")
    return figure


def _named(axes: Axes, place: list[int], names: list[str]) -> None:
    """Names of coefficients down the left side, each in fonts that have its characters."""
    labels = [words.label(name, _LABEL) for name in names]
    axes.set_yticks(place, [reserved(text) for text in labels])
    for tick, text in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_fontfamily(families(text))
    axes.set_ylim(0.4, max(len(place), 1) + 0.6)


def calibration(
    y: Tensor | Calibration,
    mu: Tensor | None = None,
    weight: Tensor | None = None,
    exposure: Tensor | None = None,
    family: Family | None = None,
    dispersion: float | Tensor = 1.0,
    bins: int = 10,
) -> Figure:
    """Observed against predicted rate by decile of prediction, with ± 2 standard errors."""
    sums = (
        y if isinstance(y, Calibration) else Calibration.of(y, _given(mu), weight, exposure, family, dispersion, bins)
    )
    observed, predicted, error = (t.cpu().numpy() for t in sums.rates())
    figure, axes = quiet_axes()
    reach = [float(min(observed.min(), predicted.min())), float(max(observed.max(), predicted.max()))]
    axes.plot(reach, reach, color=QUIET, linewidth=1, zorder=1)
    axes.errorbar(
        predicted,
        observed,
        yerr=None if math.isnan(float(error.sum())) else 2 * error,
        fmt="o",
        color=BLUE,
        ecolor=PALE,
        elinewidth=2,
        markersize=5,
        zorder=2,
    )
    if reach[0] > 0 and reach[1] / reach[0] > 30:
        axes.set_xscale("log")
        axes.set_yscale("log")
        numbered(axes.xaxis)
        numbered(axes.yaxis)
    axes.set_xlabel("predicted rate" if sums.exposed else "mean prediction")
    axes.set_ylabel("observed rate" if sums.exposed else "mean response")
    return figure


def lift(
    y: Tensor | Calibration,
    mu: Tensor | None = None,
    weight: Tensor | None = None,
    exposure: Tensor | None = None,
    bins: int = 10,
) -> Figure:
    """Observed (bars) and predicted (line) rate by decile of prediction, relative to the overall rate."""
    sums = y if isinstance(y, Calibration) else Calibration.of(y, _given(mu), weight, exposure, bins=bins)
    observed, predicted, _ = (t.cpu().numpy() for t in sums.rates())
    overall = float(sums.observed.sum() / sums.weight.sum())
    overall = overall if overall != 0 else 1.0
    figure, axes = quiet_axes()
    place = range(1, len(observed) + 1)
    axes.bar(place, observed / overall, color=PALE, width=0.8, label="observed")
    axes.plot(place, predicted / overall, "o-", color=BLUE, markersize=4, linewidth=1.5, label="predicted")
    axes.axhline(1.0, color=QUIET, linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False, axis="x")
    axes.set_xlabel("bin of prediction, lowest first")
    axes.set_ylabel("relative to the overall rate")
    axes.legend(frameon=False, loc="upper left")
    return figure


def lorenz(
    y: Tensor | Calibration,
    mu: Tensor | None = None,
    weight: Tensor | None = None,
    exposure: Tensor | None = None,
    family: Family | None = None,
) -> Figure:
    """Lorenz curve of the response ordered by prediction, with its Gini coefficient."""
    sums = y if isinstance(y, Calibration) else Calibration.of(y, _given(mu), weight, exposure, family)
    share, response = (t.cpu().numpy() for t in sums.lorenz())
    figure, axes = quiet_axes()
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1)
    axes.fill_between(share, response, share, color=PALE, alpha=0.5, linewidth=0)
    axes.plot(share, response, color=BLUE, linewidth=1.8)
    axes.text(0.04, 0.92, f"Gini {sums.gini():.3f}", transform=axes.transAxes, color=INK)
    axes.set_xlabel(f"share of {'exposure' if sums.exposed else 'rows (weight)'}, lowest prediction first")
    axes.set_ylabel("share of response")
    axes.set_xlim(0, 1)
    axes.set_ylim(min(0.0, float(response.min())), 1)
    return figure


def residuals(
    fitted: Tensor | Residuals,
    residual: Tensor | None = None,
    kind: str = "residual",
    scale: str = "fitted value",
    reference: float = 0.0,
) -> Figure:
    """Residuals against fitted values with their local mean ± 2 standard errors.

    Up to 2000 rows are drawn as points; more rows, or sums over bins, as a map of counts. `kind` and `scale`
    name the axes; a grey line stands at `reference`.
    """
    figure, axes = quiet_axes()
    axes.axhline(reference, color=QUIET, linewidth=1, zorder=2)
    if isinstance(fitted, Residuals):
        sums = fitted
        _count_map(axes, sums)
    else:
        f, r = columns(fitted, _given(residual))
        sums = Residuals.of(f, r)
        if len(f) > _POINTS:
            _count_map(axes, sums)
        else:
            x, y = f.cpu().numpy(), r.cpu().numpy()
            axes.plot(x, y, "o", color=BLUE, alpha=faint(len(f)), markersize=3.5, markeredgewidth=0, zorder=1)
    where, mean, error = (t.cpu().numpy() for t in sums.trend())
    low, high = mean - 2 * error, mean + 2 * error
    axes.fill_between(where, low, high, color=AMBER, alpha=0.25, linewidth=0, zorder=3)
    axes.plot(where, mean, color=AMBER, linewidth=1.8, zorder=4)
    axes.set_xlabel(scale)
    axes.set_ylabel(kind)
    return figure


def spread(fitted: Tensor, residual: Tensor, kind: str = "residual", scale: str = "fitted value") -> Figure:
    """√|residual| against fitted values; a right spread follows the grey line, its mean if normal."""
    figure = residuals(fitted, residual.abs().sqrt(), f"√|{kind}|", scale, reference=0.82218)
    figure.axes[0].set_ylim(bottom=0)
    return figure


def quantiles(residual: Tensor | QuantilePairs, kind: str = "residual") -> Figure:
    """Normal Q–Q plot of residuals, with the band that holds 95 % of samples at each point."""
    pairs = residual if isinstance(residual, QuantilePairs) else QuantilePairs.of(residual)
    theory, sample, low, high = (t.cpu().numpy() for t in (pairs.theory, pairs.sample, pairs.low, pairs.high))
    figure, axes = quiet_axes()
    axes.fill_between(theory, low, high, color=GRID, linewidth=0, zorder=1)
    axes.plot([theory[0], theory[-1]], [theory[0], theory[-1]], color=QUIET, linewidth=1, zorder=2)
    axes.plot(theory, sample, "o", color=BLUE, markersize=3, markeredgewidth=0, zorder=3)
    axes.set_xlabel("normal quantile")
    axes.set_ylabel(kind)
    return figure


def rootogram(
    y: Tensor | Rootogram, mu: Tensor | None = None, family: Family | None = None, weight: Tensor | None = None
) -> Figure:
    """Hanging rootogram: bars of √observed hang from the curve of √expected; a good fit ends at zero."""
    if isinstance(y, Rootogram):
        sums = y
    elif family is None:
        raise ValueError("A rootogram of rows needs family=, whose probabilities it compares with; got None.")
    else:
        sums = Rootogram.of(y, _given(mu), family, weight)
    observed, expected = (t.sqrt().cpu().numpy() for t in (sums.observed, sums.expected))
    figure, axes = quiet_axes()
    place = range(len(observed))
    axes.bar(place, observed, bottom=expected - observed, color=PALE, width=0.85, zorder=1)
    axes.axhline(0.0, color=QUIET, linewidth=1, zorder=2)
    axes.plot(place, expected, "o-", color=AMBER, markersize=3, linewidth=1.5, zorder=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False, axis="x")
    axes.set_xlabel("count (the last bar: that many or more)")
    axes.set_ylabel("√ frequency")
    return figure


def quartiles(result: Fitted, show: int = MOST_DRAWN) -> Figure:
    """Each slope over the converged models of a batch: range (thin), quartiles (thick) and median."""

    found = ModelBatch(result, 0.95).plain()
    rows = [(name, row[1:]) for name, row in found.items() if row[0] > 0 and name != words.INTERCEPT][:show]
    figure, axes = quiet_axes(height=1.1 + 0.27 * max(len(rows), 2))
    place = list(range(len(rows), 0, -1))
    axes.axvline(0.0, color=QUIET, linewidth=1, zorder=1)
    least, lower, median, upper, most = ([v[k] for _, v in rows] for k in range(5))
    axes.hlines(place, least, most, color=PALE, linewidth=2, zorder=2)
    axes.hlines(place, lower, upper, color=BLUE, linewidth=5, zorder=3)
    axes.plot(median, place, "o", color="white", markeredgecolor=BLUE, markersize=5, zorder=4)
    _named(axes, place, [name for name, _ in rows])
    axes.grid(False, axis="y")
    axes.set_xlabel("coefficient")
    return figure


def deviances(result: Fitted) -> Figure:
    """Histogram over the converged models of a batch of deviance per residual degree of freedom."""

    ratio = ModelBatch(result, 0.95).deviance_per_df(converged=True)
    figure, axes = quiet_axes()
    if len(ratio):
        bins = min(40, max(5, round(len(ratio) ** 0.5)))
        axes.hist(ratio.numpy(), bins=bins, color=PALE, edgecolor="white")
    axes.set_xlabel("deviance / residual df")
    axes.set_ylabel("models")
    axes.grid(False, axis="x")
    return figure


def _count_map(axes: Axes, sums: Residuals) -> None:
    """The grid of counts as shades, faint to dark on a log scale, drawn as one image inside vector output."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    counts = torch.where(sums.counts > 0, sums.counts, torch.nan).T.cpu().numpy()
    shades = LinearSegmentedColormap.from_list("quiet", ["#dce8f4", BLUE, "#12355b"])
    axes.pcolormesh(
        _outer(sums.fitted_edges),
        _outer(sums.residual_edges),
        counts,
        cmap=shades,
        norm=LogNorm(1, max(2.0, float(sums.counts.max()))),
        rasterized=True,
        zorder=1,
    )


def _outer(edges: Tensor) -> Any:
    """Inner edges with one cell of equal width added at each end, as numpy."""
    step = edges[1] - edges[0]
    return torch.cat([edges[:1] - step, edges, edges[-1:] + step]).cpu().numpy()


def _shown(result: Fitted, level: float, most: int) -> list[Coefficient]:
    inside = smooth_places(result)
    return drawn([c for j, c in enumerate(coefficients(result, level)) if j not in inside], most)


def drawn(found: list[Coefficient], most: int = MOST_DRAWN) -> list[Coefficient]:
    """The `most` coefficients of largest |statistic| but the intercept, in the order of the table."""
    rows = [c for c in found if c.name != words.INTERCEPT and not c.aliased]
    kept = set(sorted(range(len(rows)), key=lambda i: -_size(rows[i]))[:most])
    return [c for i, c in enumerate(rows) if i in kept]


def _cuts(result: Fitted) -> bool:
    """Whether intervals that say nothing are cut: of a fit without a maximum, on a scale without a unit."""
    return not bool(result.converged) and result.link.exponent in (None, 0)


def _reach(cut: bool, rows: list[Coefficient]) -> tuple[float, float]:
    """Where the axis ends: past every bounded interval, zero within; one that the rows do not bound is cut there.

    Such are the infinite ones, and of a fit without a maximum (separation) those past all lengths on a scale without
    a unit; an identity or a power of the mean has the unit of the response.
    """
    bounded = [c for c in rows if not (cut and c.high - c.low > _UNBOUNDED)]
    ends = [v for c in bounded for v in (c.estimate, c.low, c.high) if math.isfinite(v)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if low == high:
        return -_FARTHEST, _FARTHEST
    room = 0.05 * (high - low)
    return low - room, high + room


def unbounded(result: Fitted, level: float) -> int:
    """How many intervals of a `forest` leave its axis."""
    rows = _shown(result, level, MOST_DRAWN)
    low, high = _reach(_cuts(result), rows)
    return sum(_or(c.low, c.estimate) < low or _or(c.high, c.estimate) > high for c in rows)


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def _size(row: Coefficient) -> float:
    return 0.0 if math.isnan(row.statistic) else abs(row.statistic)


def _given(values: Tensor | None) -> Tensor:
    if values is None:
        raise ValueError(
            "Plots of rows need two columns (response and mean, or fitted and residual); the "
            "second is None. Pass it, or pass the binned sums as the first argument."
        )
    return values
