"""Pictures of a regularisation path: its coefficients, and its cross-validated deviance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from torchglm.report.axes import AMBER, BLUE, PALE, QUIET, faint, quiet_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def coefficients(path: Any, chosen: int | None = None) -> Figure:
    """The penalised coefficients of one path over the logarithm of the strength, each times its weight in the penalty.

    That is the spread of its column, where the path standardises, times its factor. Lines mark the
    strengths `one_se` and `best` where the path was cross-validated, and the one at the place `chosen`. Raises
    `ValueError` for a batch.
    """
    figure, axes, strength = _of_path(path, chosen)
    weight = path.weights.absolute[0]
    slopes = (path.coef * weight)[:, weight > 0].cpu().numpy()
    axes.plot(strength, slopes, color=BLUE, linewidth=1, alpha=faint(slopes.shape[1]), zorder=2)
    axes.set_ylabel("coefficient × weight in the penalty")
    return figure


def validation(path: Any, chosen: int | None = None) -> Figure:
    """The cross-validated deviance of one path, a standard error to each side, over the logarithm of the strength.

    Raises `ValueError` for a batch and for a path without folds.
    """
    figure, axes, strength = _of_path(path, chosen)
    best = path.best  # says so where there are no folds
    mean, error = path.cv_mean.cpu().numpy(), path.cv_se.cpu().numpy()
    axes.fill_between(strength, mean - error, mean + error, color=PALE, alpha=0.5, linewidth=0, zorder=1)
    axes.plot(strength, mean, color=BLUE, linewidth=1.5, zorder=2)
    axes.plot(strength[best], mean[best], "o", color=BLUE, markersize=5, zorder=3)
    axes.set_ylabel("mean deviance of the rows left out")
    return figure


def _of_path(path: Any, chosen: int | None) -> tuple[Figure, Axes, Any]:
    if path.kkt.dim() > 1:
        raise ValueError("a batch of paths has no one picture. Draw one path.")
    figure, axes = quiet_axes()
    strength = path.strength.cpu().numpy()
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("strength, falling")
    for place in () if path.cv_mean is None else {path.one_se, path.best}:
        axes.axvline(strength[place], color=QUIET, linewidth=1, linestyle=":", zorder=1)
    if chosen is not None:
        axes.axvline(strength[chosen], color=AMBER, linewidth=1.2, zorder=1)
    return figure, axes, strength
