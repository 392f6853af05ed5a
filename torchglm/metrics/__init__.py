"""Metrics of generalised linear models: torchmetrics classes, and a function of the same formula for each."""

from torchglm.metrics.base import FamilyMetric
from torchglm.metrics.predictive import CRPS, Coverage, coverage, crps
from torchglm.metrics.ranked import CalibrationError, Gini, LiftTable, calibration_error, gini, lift_table
from torchglm.metrics.scores import D2, NLL, Deviance, ObservedExpected, PearsonDispersion
from torchglm.metrics.sums import d2, deviance, nll, observed_expected, pearson_dispersion

__all__ = ["CRPS", "D2", "NLL", "CalibrationError", "Coverage", "Deviance", "FamilyMetric", "Gini", "LiftTable",
           "ObservedExpected", "PearsonDispersion", "calibration_error", "coverage", "crps", "d2", "deviance", "gini",
           "lift_table", "nll", "observed_expected", "pearson_dispersion"]
