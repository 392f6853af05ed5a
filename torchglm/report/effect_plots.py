"""The picture of what one variable does to the mean, or to the probability of each class, the others as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from torchglm.families.several import Classes
from torchglm.inference.effects import predictions, variable_values
from torchglm.inference.estimates import Estimates
from torchglm.inference.fitted import Fitted
from torchglm.inference.margins import labelled
from torchglm.report import words
from torchglm.report.axes import AMBER, BLUE, INK, QUIET, quiet_axes
from torchglm.report.fonts import families, reserved

_POINTS = 40  # values of a curve
_FEW = 5  # values of a variable that are drawn one by one
_MARKS = 200  # values of rows that are marked below a curve
_MOST_CELLS = 20_000_000  # of designs held at once
_STYLES = ((BLUE, "-"), (AMBER, "-"), (INK, "-"), (QUIET, "-"), (BLUE, "--"), (AMBER, "--"), (INK, "--"), (QUIET, "--"))
MOST_CLASSES = len(_STYLES)


@dataclass(frozen=True)
class Effect:
    """Averages (C, k) over the rows with a variable set to each of `values`, and their limits; one line for a label."""

    values: Sequence[Any]
    labels: Sequence[str]
    mean: Tensor
    low: Tensor
    high: Tensor
    marks: np.ndarray | None  # where rows lie, of a variable that is drawn as a curve

    @classmethod
    def of(cls, result: Fitted, variable: str, level: float) -> Effect:
        """The averages of the rows of the fit, for as many values at once as memory takes."""
        held = variable_values(result, variable)
        values, marks = _chosen(held)
        each = max(1, int(_MOST_CELLS / max(float(result.nobs) * len(result.names), 1.0)))
        parts = [
            predictions(result, {variable: values[i : i + each]}, level=level) for i in range(0, len(values), each)
        ]
        first = [one for one in parts[0].names if one.endswith(labelled({variable: values[0]}))]
        labels = [one.removesuffix(labelled({variable: values[0]})).removesuffix(":") for one in first]
        mean, low, high = (_joined(parts, name, len(labels)) for name in ("value", "low", "high"))
        return cls(values, labels, mean, low, high, marks)


def _chosen(held: list[Any] | np.ndarray) -> tuple[list[Any], np.ndarray | None]:
    """The values that an effect is drawn at, and those of rows where these make a curve."""
    if isinstance(held, list):
        return held, None
    found = np.unique(held[np.isfinite(held)])
    if len(found) <= _FEW:
        return found.tolist(), None
    marks = found if len(found) <= _MARKS else np.quantile(held[np.isfinite(held)], np.linspace(0, 1, _MARKS))
    return np.linspace(found[0], found[-1], _POINTS).tolist(), marks


def _joined(parts: Sequence[Estimates], name: str, lines: int) -> Tensor:
    return torch.cat([getattr(part, name).reshape(lines, -1) for part in parts], -1).cpu()


def effect(result: Fitted, variable: str, level: float = 0.95) -> Figure:
    """The mean of one model averaged over its rows, with a variable set to values over its range, and its limits.

    A category or a variable of few values has a point for each; of classes the first eight have a line. Raises
    `ValueError` for a batch, for unknown variables, and where a formula fit holds no table.
    """
    found = Effect.of(result, variable, level)
    figure, axes = quiet_axes(height=3.2 if found.marks is not None else max(2.0, 1.1 + 0.3 * len(found.values)))
    shown = list(zip(found.labels, found.mean, found.low, found.high, strict=True))[:MOST_CLASSES]
    for i, ((label, *lines), (colour, style)) in enumerate(zip(shown, cycle(_STYLES), strict=False)):
        mean, low, high = (line.numpy() for line in lines)
        if found.marks is None:
            place = np.arange(len(mean))[::-1] - 0.12 * (i - (len(shown) - 1) / 2)
            axes.hlines(place, low, high, color=colour, alpha=0.45, linewidth=2, zorder=2)
            axes.plot(mean, place, "o", color=colour, markersize=5, zorder=3, label=label)
        else:
            axes.fill_between(found.values, low, high, color=colour, alpha=0.18, linewidth=0, zorder=1)
            axes.plot(found.values, mean, style, color=colour, linewidth=1.8, zorder=2, label=label)
    what = "probability" if isinstance(result.family, Classes) else "mean"
    quantity, name = f"{what}, averaged over the rows", words.label(variable)
    if found.marks is None:
        names = [words.label(f"{value:g}" if isinstance(value, float) else str(value)) for value in found.values]
        axes.set_yticks(np.arange(len(names))[::-1], [reserved(text) for text in names])
        for tick, text in zip(axes.get_yticklabels(), names, strict=True):
            tick.set_fontfamily(families(text))
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(False, axis="y")
        quantity, name = name, quantity
    else:
        axes.plot(
            found.marks,
            np.zeros(len(found.marks)),
            "|",
            color=QUIET,
            transform=axes.get_xaxis_transform(),
            markersize=7,
        )
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=bool((found.marks == found.marks.round()).all())))
    axes.set_xlabel(name, fontfamily=families(name))
    axes.set_ylabel(quantity, fontfamily=families(quantity))
    if len(shown) > 1:
        figure.legend(
            *axes.get_legend_handles_labels(),
            frameon=False,
            fontsize=8.5,
            loc="outside upper center",
            ncols=min(4, len(shown)),
        )
    return figure
