"""Figures of fits of several predictors: thresholds on a line, probabilities of classes, survival curves."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from torchglm.report import words
from torchglm.report.axes import AMBER, BLUE, GRID, INK, PALE, QUIET, quiet_axes
from torchglm.report.binned import Calibration
from torchglm.report.coefficients import Coefficient
from torchglm.report.fonts import families, reserved
from torchglm.report.survival import Survival

_ACROSS = 2  # classes in a line
_BINS = 40


def thresholds(cuts: list[Coefficient], classes: list[str], latent: Tensor | None) -> Figure:
    """The cut points of an ordinal model with their intervals, the classes between them, over the rows' `x beta`."""
    figure, axes = quiet_axes(height=2.6)
    values = [c.estimate for c in cuts]
    if latent is not None:
        span = [float(latent.min()), float(latent.max()), *values]
        counts, edges = torch.histogram(latent.cpu(), _BINS, range=(min(span), max(span) + 1e-9))
        height = 0.55 * counts / counts.max()
        axes.bar(edges[:-1].numpy(), height.numpy(), float(edges[1] - edges[0]), align="edge", color=GRID, zorder=1)
    for c in cuts:
        axes.axvline(c.estimate, color=AMBER, linewidth=1, zorder=2)
        axes.plot([c.low, c.high], [0.66, 0.66], color=AMBER, linewidth=4, solid_capstyle="butt", zorder=3)
    low, high = axes.get_xlim()
    room = 0.12 * (high - low)
    low, high = min(low, values[0] - room), max(high, values[-1] + room)
    axes.set_xlim(low, high)
    for k, (name, a, b) in enumerate(zip(classes, [low, *values], [*values, high], strict=True)):
        label = words.cut(name, 14)
        axes.text(
            (a + b) / 2,
            0.78 + 0.1 * (k % 2) * (len(classes) > 4),
            reserved(label),
            ha="center",
            color=INK,
            fontsize=9,
            fontfamily=families(label),
        )
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("x β" if latent is None else "x β (bars: the rows)")
    return figure


def class_calibration(sums: dict[str, Calibration]) -> Figure:
    """The share of each class against its predicted probability, in bins of it, with ± 2 standard errors."""
    down = -(-len(sums) // _ACROSS)
    figure = Figure(figsize=(4.3, 0.35 + 1.75 * down), layout="constrained", facecolor="white")
    cells = figure.subplots(down, _ACROSS, squeeze=False).ravel()
    for axes in cells[len(sums) :]:
        axes.set_visible(False)
    for axes, (name, one) in zip(cells, sums.items(), strict=False):
        observed, predicted, error = (t.cpu().numpy() for t in one.rates())
        top = 1.08 * max(float((observed + 2 * error).max()), float(predicted.max()), 1e-6)
        axes.plot([0, top], [0, top], color=QUIET, linewidth=1, zorder=1)
        axes.errorbar(
            predicted,
            observed,
            yerr=2 * error,
            fmt="o",
            color=BLUE,
            ecolor=PALE,
            elinewidth=2,
            markersize=3.5,
            zorder=2,
        )
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        _small(axes, name)
    figure.supxlabel("predicted probability", fontsize=9.5, color=INK)
    figure.supylabel("observed share", fontsize=9.5, color=INK)
    return figure


def survival(curves: list[tuple[str, Survival]]) -> Figure:
    """Kaplan and Meier's steps with their band beside the mean survival curve of the model, by group of rows."""
    figure, axes = quiet_axes()
    for (name, one), colour in zip(curves, (BLUE, AMBER, INK), strict=False):
        time, observed, low, high = (t.cpu().numpy() for t in (one.time, one.observed, one.low, one.high))
        axes.fill_between(time, low, high, step="post", color=colour, alpha=0.15, linewidth=0, zorder=1)
        axes.step(time, observed, where="post", color=colour, linewidth=1.2, zorder=2, label=name)
        axes.plot(one.grid.cpu().numpy(), one.expected.cpu().numpy(), "--", color=colour, linewidth=1.5, zorder=3)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.set_xlabel("time")
    axes.set_ylabel("share without the event")
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    return figure


def _small(axes: Any, title: str) -> None:
    """A small pair of axes with its title, as quiet as the others."""
    label = words.cut(title, 22)
    axes.set_title(reserved(label), fontsize=9, color=INK, loc="left", fontfamily=families(label))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=8.5, color=QUIET)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
