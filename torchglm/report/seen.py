"""What a picture shows, in words for those who do not see it, read off its axes and what is drawn on them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.contour import ContourSet
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_NAMED = 12  # names along an axis that are read out
_MOST = 10  # things on one pair of axes that are told
_POINTS = 3  # a line of fewer points is a rule, not a course


def seen(figure: Figure) -> str:
    """The axes of a figure with their ranges, and what lies on them: intervals, points, bars, the course of lines."""
    return "; ".join(_of_axes(axes) for axes in figure.axes if axes.get_visible()) + "."


def _of_axes(axes: Axes) -> str:
    title = axes.get_title(loc="left")
    names = _named(axes.yaxis) if axes.get_yscale() == "linear" else []
    sides = [_side(axes.yaxis, axes.get_ylim(), names), _side(axes.xaxis, axes.get_xlim(), [])]
    where = (" along " if names else " against ").join(side for side in sides if side)
    what = ", ".join(islice(_drawn(axes), _MOST))
    return f"{title}{': ' if title and where else ''}{where}{': ' if what else ''}{what}"


def _side(axis: Axis, ends: tuple[float, float], names: list[str]) -> str:
    """An axis by its label and its range, or the names along it."""
    label = axis.get_label_text()
    if names:
        return f"{label}{': ' if label else ''}{', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''}"
    texts = [text for tick in axis.get_ticklabels() if (text := tick.get_text().strip())]
    if not texts:
        return label
    ratios = isinstance(axis.get_major_locator(), FixedLocator)
    low, high = (texts[0], texts[-1]) if ratios else (_number(min(ends)), _number(max(ends)))
    return f"{label or 'values'} from {low} to {high}"


def _named(axis: Axis) -> list[str]:
    """The names along an upright axis from the top, none where it has numbers."""
    if not isinstance(axis.get_major_locator(), FixedLocator):
        return []
    ticks = zip(axis.get_ticklocs(), (tick.get_text().strip() for tick in axis.get_ticklabels()), strict=True)
    return [text for _, text in sorted(ticks, key=lambda pair: -pair[0]) if text]


def _drawn(axes: Axes) -> Iterator[str]:
    intervals = [one for one in axes.collections if isinstance(one, LineCollection)]
    rules = [x[0] for x, y in map(_finite, axes.lines) if len(x) == 2 and x[0] == x[1] and tuple(y) == (0, 1)]
    segments = [one for one in (intervals[-1].get_segments() if intervals else []) if len(one)]
    if segments and all(one[0][1] == one[-1][1] for one in segments):
        ends = np.array([sorted((one[0][0], one[-1][0])) for one in segments])
        yield f"{len(ends)} interval{'s' * (len(ends) != 1)}"
        if rules:
            above, below = int((ends[:, 0] > rules[0]).sum()), int((ends[:, 1] < rules[0]).sum())
            counts = {
                "to the left of the line": below,
                "to the right of the line": above,
                "across it": len(ends) - above - below,
            }
            yield from (f"{count} {where}" for where, count in counts.items() if count)
        return
    for contours in (one for one in axes.collections if isinstance(one, ContourSet) and one.filled):
        levels = np.asarray(contours.levels)
        yield f"contours from {_number(levels[0])} to {_number(levels[-1])}"
    if any(isinstance(one, QuadMesh) for one in axes.collections):
        yield "a map of how many rows lie where"
    bars = [one for one in axes.patches if isinstance(one, Rectangle)]
    if bars:
        tallest = max(bars, key=lambda bar: bar.get_height())
        yield f"{len(bars)} bars, the tallest at {_number(tallest.get_x() + tallest.get_width() / 2)}"
    for line in axes.lines:
        x, y = _finite(line)
        label = str(line.get_label())
        if line.get_linestyle() == "None" and len(x) > 1 and line.get_marker() not in ("|", "None"):
            yield f"{len(x):,} points between {_number(y.min())} and {_number(y.max())}"
        elif line.get_linestyle() != "None" and len(x) >= _POINTS:
            yield f"{'a line' if label.startswith('_') else label} {_course(x, y)}"
    if axes.texts:
        yield f"labelled {', '.join(text.get_text().strip() for text in axes.texts[:_NAMED])}"


def _finite(line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    """The points of a line that have a place."""
    x, y = (np.asarray(part, dtype=float) for part in line.get_data())
    fine = np.isfinite(x) & np.isfinite(y)
    return x[fine], y[fine]


def _course(x: np.ndarray, y: np.ndarray) -> str:
    """Where a line begins and ends, and its turn between where it leaves that range."""
    said = f"from {_number(y[0])} to {_number(y[-1])}"
    room = 0.1 * float(np.ptp(y))
    for word, place in (("least", int(y.argmin())), ("most", int(y.argmax()))):
        if min(abs(y[place] - y[0]), abs(y[place] - y[-1])) > room:
            said += f", {word} {_number(y[place])} at {_number(x[place])}"
    return said


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
