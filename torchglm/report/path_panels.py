"""The panels of the path that a fit was chosen from."""

from __future__ import annotations

from functools import partial
from typing import Any

from torchglm.inference.fitted import Fitted
from torchglm.report import path_plots
from torchglm.report.panels import Panel


def path_panels(result: Fitted) -> list[Panel]:
    """The coefficients along the path of one model, and its cross-validation; none where it was not chosen so."""
    path: Any = result.context.get("path")
    if path is None or path.batch_shape:
        return []
    at = int((path.coef[:, : len(result.names)] - result.coef).abs().sum(-1).argmin())
    strength = f"{float(path.strength[at]):.4g}"
    panels = [
        Panel(
            "Coefficients along the path",
            f"From the left the penalty falls, and columns enter as it does. The fit on this page is at strength "
            f"{strength}, of {path.kkt.shape[-1]}, with {int(path.df[at])} columns (amber line).",
            partial(path_plots.coefficients, path, at),
            name="coefficients",
        )
    ]
    if path.cv_mean is not None:
        panels.append(
            Panel(
                "Cross-validated deviance",
                f"Mean deviance of {path.fold_deviance.shape[-2]} folds, each by models without it, and a standard "
                f"error to each side. Dot: the least. The fit on this page is at the amber line.",
                partial(path_plots.validation, path, at),
                name="validation",
            )
        )
    return panels
