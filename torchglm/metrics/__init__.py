"""Metrics of generalised linear models: torchmetrics classes, and a function of the same arguments for each.

A metric is a formula in two halves, sums of rows and their value (`sums`, `ranking`), a class that holds the sums
(`base`, `scores`, `ranked`, `predictive`, `classes`), and a function that gives the value of one set of rows
(`functional`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchglm.metrics.base import FamilyMetric
    from torchglm.metrics.classes import (
        Accuracy,
        BrierScore,
        Concordance,
        ConfusionMatrix,
        LogScore,
        RankedProbabilityScore,
    )
    from torchglm.metrics.functional import (
        accuracy,
        brier_score,
        calibration_error,
        concordance,
        confusion_matrix,
        coverage,
        crps,
        d2,
        deviance,
        gini,
        lift_table,
        log_score,
        nll,
        observed_expected,
        pearson_dispersion,
        ranked_probability_score,
    )
    from torchglm.metrics.predictive import CRPS, NLL, Coverage
    from torchglm.metrics.ranked import CalibrationError, Gini, LiftTable
    from torchglm.metrics.scores import D2, Deviance, ObservedExpected, PearsonDispersion

__all__ = [
    "CRPS",
    "D2",
    "NLL",
    "CalibrationError",
    "Coverage",
    "Deviance",
    "FamilyMetric",
    "Gini",
    "LiftTable",
    "ObservedExpected",
    "PearsonDispersion",
    "calibration_error",
    "coverage",
    "crps",
    "d2",
    "deviance",
    "gini",
    "lift_table",
    "nll",
    "observed_expected",
    "pearson_dispersion",
    "accuracy",
    "brier_score",
    "concordance",
    "confusion_matrix",
    "log_score",
    "ranked_probability_score",
    "Accuracy",
    "BrierScore",
    "Concordance",
    "ConfusionMatrix",
    "LogScore",
    "RankedProbabilityScore",
]


def __getattr__(name: str) -> Any:
    """Classes and functions bring in torchmetrics when one is first asked for; the formulas need torch alone."""
    if name == "functional":
        return import_module("torchglm.metrics.functional")
    if name in __all__:
        for module in ("base", "scores", "ranked", "predictive", "classes", "functional"):
            known = vars(import_module(f"torchglm.metrics.{module}"))
            if name in known:
                return known[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
