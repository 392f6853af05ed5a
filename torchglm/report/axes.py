"""Axes as all plots have them: quiet, with numbers that can be read, linear or by ratios."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK, QUIET, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, AMBER, PALE = "#2563a8", "#c2631c", "#b9d0e8"
_WIDTH, _HEIGHT = 4.3, 3.2  # inches: small, so that text stays readable on a phone
_FAR_APART = 300.0  # lengths of intervals too different for one linear axis
_CLEAR = 100  # rows up to which no two need be seen through each other


def quiet_axes(height: float = _HEIGHT) -> tuple[Figure, Axes]:
    """A quiet figure of one pair of axes, none of it registered with pyplot, as all plots here have it."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9, color=QUIET)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.label.set(color=INK, fontsize=9.5)
    axes.yaxis.label.set(color=INK, fontsize=9.5)
    return figure, axes


def faint(points: int) -> float:
    """How opaque points are drawn: the more there are, the fainter, so that crowds show and single ones too."""
    return max(0.25, 0.85 * min(1.0, (_CLEAR / max(points, 1)) ** 0.4))


def numbered(axis: Axis) -> None:
    """Plain numbers on a log axis as it is, at least two however short it is."""
    low, high = axis.get_view_interval()
    ticks = _round_values(low, high)
    axis.set_ticks(ticks, [f"{t:.6g}" for t in ticks])
    axis.set_minor_locator(NullLocator())
    axis.set_view_interval(low, high, ignore=True)


def _round_values(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones: powers of ten, then 1, 2, 5, then even steps."""
    for subs in ((1.0,), (1.0, 2.0, 5.0)):
        found = [t for t in LogLocator(subs=subs, numticks=8).tick_values(low, high) if low <= t <= high]
        if 3 <= len(found) <= 8:
            return found
    even = [t for t in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if max(low, 0) < t <= high]
    return even if len(even) > 1 else [low, high]


def ratio_axis(axes: Axes) -> None:
    """Tick labels exp(x) at round ratios, on an axis that stays linear in the coefficient."""
    low, high = axes.get_xlim()
    ticks = _round_values(math.exp(low), math.exp(high))
    axes.set_xticks([math.log(t) for t in ticks], [f"{t:g}" for t in ticks])
    axes.set_xlim(low, high)


def spread_axis(axes: Axes, ends: list[tuple[float, float]]) -> None:
    """An axis on which intervals of very different lengths can all be seen: linear about zero, logarithmic beyond."""
    lengths = sorted(b - a for a, b in ends if b > a)
    if not lengths or lengths[-1] <= _FAR_APART * lengths[0]:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return
    inner = lengths[0]
    sides = [max([inner, *(sign * v for pair in ends for v in pair)]) for sign in (-1, 1)]
    axes.set_xscale("symlog", linthresh=inner)
    axes.set_xlim(-2 * sides[0] if sides[0] > inner else -inner, 2 * sides[1] if sides[1] > inner else inner)
    ticks = [0.0]
    for sign, far in zip((-1, 1), sides, strict=True):
        powers = range(math.ceil(math.log10(inner)) + 1, math.floor(math.log10(2 * far)) + 1)
        ticks += [sign * 10.0**k for k in powers[:: -max(1, -(-len(powers) // 3))]]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
