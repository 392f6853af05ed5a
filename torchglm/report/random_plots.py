"""Pictures of random effects: the modes of a grouping in their order, with their errors."""

from __future__ import annotations

from functools import partial

import torch
from matplotlib.figure import Figure

from torchglm.inference.fitted import Fitted
from torchglm.inference.mixed import RandomEffects, random
from torchglm.report.axes import BLUE, PALE, QUIET, faint, quiet_axes
from torchglm.report.panels import Panel

LABELLED = 40  # levels that are named beside their mode
MOST = 2_000  # levels that are drawn; of more, evenly spaced ones


def caterpillar(effects: RandomEffects, effect: int = 0) -> Figure:
    """The modes of one effect from the least to the largest, two standard errors to each side; 0 is the average level.

    Raises `ValueError` for a batch of fits.
    """
    if effects.modes.dim() > 2:
        raise ValueError("these are the effects of a batch of fits. Draw those of one: result[i].random[name].")
    modes, error = effects.modes[:, effect].cpu(), effects.std_err[:, effect].cpu()
    order = modes.argsort()
    if len(order) > MOST:
        order = order[torch.linspace(0, len(order) - 1, MOST).long()]
    few = len(order) <= LABELLED
    figure, axes = quiet_axes(height=max(2.4, 0.9 + 0.19 * len(order)) if few else 5.0)
    place = torch.arange(len(order))
    value, half = modes[order], 2 * error[order]
    strength = 1.0 if few else faint(len(order))
    axes.hlines(place, value - half, value + half, color=BLUE if few else PALE, linewidth=1.4, alpha=strength, zorder=2)
    axes.plot(value, place, "o", color=BLUE, markersize=4 if few else 1.5, zorder=3)
    axes.axvline(0.0, color=QUIET, linewidth=1, zorder=1)
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_yticks(place.tolist() if few else [], [str(effects.levels[i]) for i in order.tolist()] if few else [])
    axes.set_xlabel(f"{effects.effects[effect]}, on the scale of the linear predictor")
    if not few:
        axes.set_ylabel(f"{len(effects.levels):,} levels, in the order of their effects")
    return figure


def random_panels(result: Fitted) -> list[Panel]:
    """A caterpillar for every random effect of one model; none for a batch."""
    if result.flat.modes is None or result.batch_shape:
        return []
    return [
        Panel(
            f"Effects of {name}" + (f": {effect}" if len(effects.effects) > 1 else ""),
            "Dot: the conditional mode of a level. Line: two standard errors to each side, given the fixed effects and "
            "variances. Modes are drawn towards 0, the more so the less a level's rows say.",
            partial(caterpillar, effects, j),
            name if len(effects.effects) == 1 else f"{name}: {effect}",
        )
        for name, effects in random(result).items()
        for j, effect in enumerate(effects.effects)
    ]
