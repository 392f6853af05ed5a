"""Metrics of generalised linear models: torchmetrics classes, and a function of the same arguments for each.

A metric is a formula in two halves, sums of rows and their value (`sums`, `ranked`), a class that holds the sums
(`base`, `scores`, `ranked`, `predictive`), and a function that gives the value of one set of rows (`functional`).
"""

from __future__ import annotations

from torchglm.metrics.base import FamilyMetric
from torchglm.metrics.functional import (
    calibration_error,
    coverage,
    crps,
    d2,
    deviance,
    gini,
    lift_table,
    nll,
    observed_expected,
    pearson_dispersion,
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
]
