"""Plots of single rows that move a fit, of the residuals' distribution, and of the coefficients of many models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.report import words
from torchglm.report.axes import AMBER, BLUE, GRID, INK, PALE, QUIET, faint, numbered, quiet_axes
from torchglm.report.fonts import families
from torchglm.report.influence import Influence
from torchglm.report.overview import ModelBatch
from torchglm.report.smooths import smooth_places

if TYPE_CHECKING:
    pass


_NAMED = 3  # rows that carry their number
_ACROSS = 2  # histograms in a line
CONTOURS = (0.5, 1.0)  # Cook's distances


def cooks_distance(found: Influence) -> Figure:
    """Cook's distance of the most influential rows by their number; the largest carry theirs."""
    figure, axes = quiet_axes()
    top = found.top
    if top is not None and len(top):
        row, cook = top.row.cpu().numpy(), top.cook.cpu().numpy()
        axes.vlines(row, 0, cook, color=BLUE, linewidth=1, zorder=2)
        axes.plot(row, cook, "o", color=BLUE, markersize=2.5, zorder=3)
        axes.margins(x=0.06, y=0.12)
        for at, height, name in zip(row[:_NAMED], cook[:_NAMED], _labels(found), strict=False):
            axes.annotate(name, (at, height), (0, 3), textcoords="offset points", ha="center", fontsize=8.5, color=INK)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("rows in their order")
    axes.set_ylabel("Cook's distance")
    return figure


def leverage(found: Influence) -> Figure:
    """Standardised Pearson residuals against leverage (log axis), with contours of Cook's distance for one model."""
    figure, axes = quiet_axes()
    if found.count:
        h, r = found.drawn.columns().cpu().numpy()
        axes.plot(
            h, r, "o", color=PALE, alpha=faint(len(h)), markersize=3, markeredgewidth=0, zorder=2, rasterized=True
        )
    top = found.top
    if top is not None and len(top):
        h, r = top.leverage.cpu().numpy(), top.residual.cpu().numpy()
        axes.plot(h, r, "o", color=BLUE, markersize=3, markeredgewidth=0, zorder=3)
        for at, height, name in zip(h[:_NAMED], r[:_NAMED], _labels(found), strict=False):
            axes.annotate(name, (at, height), (4, 3), textcoords="offset points", fontsize=8.5, color=INK)
        axes.set_xscale("log")
    axes.axhline(0.0, color=QUIET, linewidth=1, zorder=1)
    axes.margins(0.08)
    if axes.get_xscale() == "log":
        numbered(axes.xaxis)
    plain = found.result.plan is None
    if plain and not found.result.batch_shape and found.count:
        _contours(figure, float(found.result.flat.df))
    axes.set_xlabel("leverage (log axis)")
    axes.set_ylabel("standardised Pearson residual" if plain else "quantile residual")
    return figure


def _contours(figure: Figure, rank: float) -> None:
    """Curves of equal Cook's distance, `r^2 h / ((1 - h) rank)`, where they cross the axes as they are."""
    axes = figure.axes[0]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    h = torch.logspace(math.log10(max(left, 1e-12)), math.log10(min(max(right, 2e-12), 0.999)), 200)
    for distance in CONTOURS:
        r = (distance * rank * (1 - h) / h).sqrt()
        for side in (r, -r):
            inside = (side < high) & (side > low)
            if bool(inside.any()):
                axes.plot(h[inside].numpy(), side[inside].numpy(), "--", color=AMBER, linewidth=1, zorder=1)
                start = int(inside.nonzero()[0])
                axes.annotate(
                    f"{distance:g}",
                    (float(h[start]), float(side[start])),
                    (5, -4 if side is r else 0),
                    textcoords="offset points",
                    fontsize=8.5,
                    color=AMBER,
                )
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def histogram(residual: Tensor, kind: str = "residual", reach: float = 6.0) -> Figure:
    """The distribution of residuals beside the standard normal density; what lies past `reach` is in the end bars."""
    figure, axes = quiet_axes()
    values = residual.detach().double().reshape(-1).clamp(-reach, reach).cpu()
    bins = int(min(60, max(8, 2 * len(values) ** (1 / 3))))
    span = max(3.5, float(values.abs().max()))
    counts, edges = torch.histogram(values, bins, range=(-span, span))
    width = 2 * span / bins
    axes.bar(
        edges[:-1].numpy(),
        (counts / len(values) / width).numpy(),
        width,
        align="edge",
        color=PALE,
        edgecolor="white",
        linewidth=0.4,
        zorder=1,
    )
    z = torch.linspace(-span, span, 200)
    axes.plot(z.numpy(), (torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)).numpy(), color=AMBER, linewidth=1.5)
    axes.grid(False, axis="x")
    axes.set_xlabel(kind)
    axes.set_ylabel("density")
    return figure


def distributions(result: Fitted, most: int = 12) -> Figure:
    """A histogram of each coefficient over the converged models of a batch, over their central 98 %."""

    view = ModelBatch(result, 0.95)
    kept = view.coef[view.converged]
    curves = smooth_places(result)
    plain = [(j, name) for j, name in enumerate(result.names) if j not in curves]
    columns = [(name, kept[:, j][kept[:, j].isfinite()]) for j, name in plain][:most]
    columns = [(name, values) for name, values in columns if len(values)]
    down = max(1, -(-len(columns) // _ACROSS))
    figure = Figure(figsize=(4.3, 0.2 + 1.45 * down), layout="constrained", facecolor="white")
    cells = figure.subplots(down, _ACROSS, squeeze=False).ravel()
    for axes in cells[len(columns) :]:
        axes.set_visible(False)
    for axes, (name, values) in zip(cells, columns, strict=False):
        ends = values.sort().values  # torch.quantile stops at 2^24 values
        low, high = (ends[round(share * (len(ends) - 1))] for share in (0.01, 0.99))
        inside = values[(values >= low) & (values <= high)]
        axes.hist(
            inside.numpy(),
            bins=min(40, max(5, round(len(values) ** 0.5))),
            color=PALE,
            edgecolor="white",
            linewidth=0.4,
        )
        axes.axvline(float(values.median()), color=BLUE, linewidth=1.5)
        if low < 0 < high:
            axes.axvline(0.0, color=QUIET, linewidth=1)
        axes.set_title(words.label(name, 24), fontsize=9, color=INK, loc="left", fontfamily=families(name))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(QUIET)
        axes.tick_params(colors=INK, labelsize=8.5, color=QUIET)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(True, axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    return figure


def _labels(found: Influence) -> list[str]:
    """The numbers of the first rows, with that of their model in a batch."""
    assert found.top is not None
    batch = bool(found.result.batch_shape)
    rows = zip(found.top.model[:_NAMED].tolist(), found.top.row[:_NAMED].tolist(), strict=True)
    places = [(model, found.result.place(row, model).row) for model, row in rows]
    return [f"{model}: {row}" if batch else str(row) for model, row in places]
