"""The coefficients of one model as plain floats, a line for each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchglm.inference.fitted import Fitted


@dataclass(frozen=True)
class Coefficient:
    """One line of the coefficient table; all NaN where the column is aliased."""

    name: str
    estimate: float
    std_err: float
    statistic: float
    p_value: float
    low: float
    high: float

    @property
    def aliased(self) -> bool:
        """Whether no estimate stands for this column."""
        return math.isnan(self.estimate)

    @property
    def ratio(self) -> tuple[float, float, float]:
        """exp(coef) with the ends of its interval."""
        return _exp(self.estimate), _exp(self.low), _exp(self.high)


def coefficients(result: Fitted, level: float = 0.95) -> list[Coefficient]:
    """The coefficient table of a single model as plain floats, in the order of the design's columns."""
    columns = [
        t.detach().double().cpu().tolist() for t in (result.coef, result.std_err, result.statistic, result.p_value)
    ]
    intervals = result.conf_int(level).detach().double().cpu().tolist()
    signs = result.infinite.tolist()
    columns[0] = [sign * math.inf if sign else value for value, sign in zip(columns[0], signs, strict=True)]
    return [
        Coefficient(name, *values, *ends) for name, *values, ends in zip(result.names, *columns, intervals, strict=True)
    ]


def _exp(value: float) -> float:
    return math.exp(value) if not value > 709 else math.inf
