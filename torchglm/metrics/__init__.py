"""Metrics of generalised linear models: torchmetrics classes, and a function of the same arguments for each.

A metric is sums of rows (`sums`, `ranked`, `predictive`), a class that holds them (`scores` and the last two) on one
base (`base`), and a function that gives the value of one set of rows (`functional`).
"""

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
from torchglm.metrics.predictive import CRPS, Coverage
from torchglm.metrics.ranked import CalibrationError, Gini, LiftTable
from torchglm.metrics.scores import D2, NLL, Deviance, ObservedExpected, PearsonDispersion

__all__ = ["CRPS", "D2", "NLL", "CalibrationError", "Coverage", "Deviance", "FamilyMetric", "Gini", "LiftTable",
           "ObservedExpected", "PearsonDispersion", "calibration_error", "coverage", "crps", "d2", "deviance", "gini",
           "lift_table", "nll", "observed_expected", "pearson_dispersion"]
