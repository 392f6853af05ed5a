"""Pictures of smooth terms: curves with their bands, surfaces, effects of levels with their errors."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from torchglm.design.smooths.factor import Smooth
from torchglm.inference.smooths import SmoothTerm
from torchglm.report.axes import BLUE, INK, PALE, QUIET, quiet_axes

NONE = 1e-3  # degrees of freedom of a curve that is zero
MOST_CURVES = 50  # of a batch that are drawn one by one
MOST_LEVELS = 60  # effects that are drawn, those farthest from zero


def curve(term: SmoothTerm, level: float = 0.95) -> Figure:
    """A curve over its variable with its band at each value, and a paler one that holds for the whole curve."""
    figure, axes = quiet_axes()
    x = term.grid[:, 0]
    value = term.curve()[0].cpu().numpy()
    for simultaneous, opacity in ((True, 0.35), (False, 0.6)):
        low, high = term.band(level=level, simultaneous=simultaneous).unbind(-1)
        axes.fill_between(x, low.cpu(), high.cpu(), color=PALE, alpha=opacity, linewidth=0, zorder=1)
    axes.axhline(0, color=QUIET, linewidth=1, zorder=2)
    axes.plot(x, value, color=BLUE, linewidth=1.6, zorder=3)
    axes.set_xlabel(_factor(term).call.variables[0].text)
    axes.set_ylabel(f"{term.label}, edf {float(term.edf):.2f}")
    axes.margins(x=0)
    if float(term.edf) < NONE:
        axes.set_ylim(-1, 1)
    return figure


def many(term: SmoothTerm) -> Figure:
    """A curve over its variable in the models of a batch: some of them, their median, and their middle nine tenths."""
    figure, axes = quiet_axes()
    x = term.grid[:, 0]
    fine = term.result.converged.reshape(-1).cpu()
    value = term.curve()[0].reshape(len(fine), -1).cpu()[fine].numpy()
    low, middle, high = np.quantile(value, (0.05, 0.5, 0.95), axis=0)
    axes.fill_between(x, low, high, color=PALE, alpha=0.5, linewidth=0, zorder=1)
    axes.plot(x, value[:: max(1, -(-len(value) // MOST_CURVES))].T, color=QUIET, linewidth=0.5, alpha=0.6, zorder=2)
    axes.plot(x, middle, color=BLUE, linewidth=1.6, zorder=3)
    axes.set_xlabel(_factor(term).call.variables[0].text)
    axes.set_ylabel(term.label)
    axes.margins(x=0)
    return figure


def surface(term: SmoothTerm) -> Figure:
    """The contours of a term of two variables."""
    figure, axes = quiet_axes()
    many = round(len(term.grid) ** 0.5)
    x, y = (side.reshape(many, many) for side in term.grid.T)
    z = term.curve()[0].cpu().numpy().reshape(many, many)
    most = max(float(np.abs(z).max()), 1e-12)
    axes.grid(False)
    axes.contourf(x, y, z, levels=np.linspace(-most, most, 21), cmap="RdBu_r", alpha=0.75)
    lines = axes.contour(x, y, z, levels=9, colors=INK, linewidths=0.6)
    axes.clabel(lines, fontsize=7.5, fmt="%.3g")
    names = [one.text for one in _factor(term).call.variables]
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    return figure


def effects(term: SmoothTerm, level: float = 0.95) -> Figure:
    """The effects of levels in their order of size, with their intervals."""
    value, error = (one.cpu().numpy() for one in term.curve())
    names = [str(one) for one in term.levels]
    chosen = np.argsort(-np.abs(value))[:MOST_LEVELS]
    chosen = chosen[np.argsort(value[chosen])]
    figure, axes = quiet_axes(max(1.6, 0.6 + 0.17 * len(chosen)))
    at, half = np.arange(len(chosen)), float(term.result.quantile(level)) * error[chosen]
    axes.hlines(at, value[chosen] - half, value[chosen] + half, color=PALE, linewidth=2, zorder=2)
    axes.plot(value[chosen], at, "o", color=BLUE, markersize=3.5, zorder=3)
    axes.axvline(0, color=QUIET, linewidth=1, zorder=1)
    axes.set_yticks(at, [names[i] for i in chosen])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(-0.8, len(chosen) - 0.2)
    axes.set_xlabel(f"{term.label}, edf {float(term.edf):.2f}")
    return figure


def _factor(term: SmoothTerm) -> Smooth:
    assert isinstance(term.factor, Smooth)
    return term.factor
