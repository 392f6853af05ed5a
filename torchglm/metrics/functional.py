"""Each metric as a function of one set of rows, with the arguments, the value and the errors of its class.

Nothing is kept and no rank is waited for, even where `torch.distributed` is initialised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torchmetrics import Metric

from torchglm.families import Family
from torchglm.families.several import Classes
from torchglm.links import Link
from torchglm.metrics.classes import (
    Accuracy,
    BrierScore,
    Concordance,
    ConfusionMatrix,
    LogScore,
    RankedProbabilityScore,
)
from torchglm.metrics.predictive import CRPS, NLL, Coverage
from torchglm.metrics.ranked import BinColumns, CalibrationError, Gini, LiftTable
from torchglm.metrics.rows import Column
from torchglm.metrics.scores import D2, Deviance, ObservedExpected, PearsonDispersion

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


def deviance(
    mu: Column,
    y: Column,
    family: str | Family,
    *,
    link: str | Link | None = None,
    **roles: Unpack[RoleValues],
) -> Tensor:
    """The weighted mean unit deviance, `sum w d(y, mu) / sum w`: see `Deviance`."""
    return _value(Deviance, (family, link), mu, y, **roles)


def d2(
    mu: Column,
    y: Column,
    family: str | Family,
    *,
    null: float | None = None,
    link: str | Link | None = None,
    **roles: Unpack[RoleValues],
) -> Tensor:
    """The share of the null deviance that is explained, `1 - D / D0`: see `D2`."""
    return _value(D2, (family, link, null), mu, y, **roles)


def nll(
    mu: Column,
    y: Column,
    family: str | Family,
    *,
    dispersion: float | Column = 1.0,
    link: str | Link | None = None,
    **roles: Unpack[RoleValues],
) -> Tensor:
    """The weighted mean negative log-density: see `NLL`."""
    return _value(NLL, (family, dispersion, link), mu, y, **roles)


def pearson_dispersion(
    mu: Column,
    y: Column,
    family: str | Family,
    *,
    n_coef: int = 0,
    link: str | Link | None = None,
    **roles: Unpack[RoleValues],
) -> Tensor:
    """Pearson's chi-square over its degrees of freedom: see `PearsonDispersion`."""
    return _value(PearsonDispersion, (family, n_coef, link), mu, y, **roles)


def observed_expected(
    mu: Column,
    y: Column,
    family: str | Family,
    *,
    link: str | Link | None = None,
    **roles: Unpack[RoleValues],
) -> Tensor:
    """The sum of responses over the sum of means: see `ObservedExpected`."""
    return _value(ObservedExpected, (family, link), mu, y, **roles)


def crps(
    mu: Column,
    y: Column,
    family: str | Family,
    *,
    dispersion: float | Column = 1.0,
    link: str | Link | None = None,
    **roles: Unpack[RoleValues],
) -> Tensor:
    """The mean continuous ranked probability score of the predicted laws: see `CRPS`."""
    return _value(CRPS, (family, dispersion, link), mu, y, **roles)


def gini(
    mu: Column,
    y: Column,
    family: str | Family,
    *,
    link: str | Link | None = None,
    **roles: Unpack[RoleValues],
) -> Tensor:
    """The Gini index of the order of predicted rates: see `Gini`."""
    return _value(Gini, (family, link), mu, y, **roles)


def lift_table(
    mu: Column,
    y: Column,
    family: str | Family,
    *,
    bins: int = 10,
    link: str | Link | None = None,
    **roles: Unpack[RoleValues],
) -> BinColumns:
    """Observed against predicted rates in bins of about equal weight: see `LiftTable`."""
    return _value(LiftTable, (family, link, bins), mu, y, **roles)


def calibration_error(
    mu: Column,
    y: Column,
    family: str | Family,
    *,
    bins: int = 10,
    link: str | Link | None = None,
    **roles: Unpack[RoleValues],
) -> Tensor:
    """The mean distance of observed from predicted rates: see `CalibrationError`."""
    return _value(CalibrationError, (family, link, bins), mu, y, **roles)


def log_score(p: Column, y: Column, classes: int | Sequence[Any] | Classes, **roles: Unpack[RoleValues]) -> Tensor:
    """The mean `-log p_y` of the classes observed: see `LogScore`."""
    return _value(LogScore, (classes,), p, y, **roles)


def brier_score(p: Column, y: Column, classes: int | Sequence[Any] | Classes, **roles: Unpack[RoleValues]) -> Tensor:
    """The mean squared distance of probabilities from the classes observed: see `BrierScore`."""
    return _value(BrierScore, (classes,), p, y, **roles)


def ranked_probability_score(
    p: Column, y: Column, classes: int | Sequence[Any] | Classes, **roles: Unpack[RoleValues]
) -> Tensor:
    """The same of cumulated probabilities, for classes in an order: see `RankedProbabilityScore`."""
    return _value(RankedProbabilityScore, (classes,), p, y, **roles)


def accuracy(p: Column, y: Column, classes: int | Sequence[Any] | Classes, **roles: Unpack[RoleValues]) -> Tensor:
    """The share of rows whose most probable class is their own: see `Accuracy`."""
    return _value(Accuracy, (classes,), p, y, **roles)


def confusion_matrix(
    p: Column, y: Column, classes: int | Sequence[Any] | Classes, **roles: Unpack[RoleValues]
) -> Tensor:
    """(C, C) the weight of each class observed by the class predicted: see `ConfusionMatrix`."""
    return _value(ConfusionMatrix, (classes,), p, y, **roles)


def concordance(mu: Column, y: Column, **roles: Unpack[RoleValues]) -> Tensor:
    """The share of pairs of times of known order that are predicted in that order: see `Concordance`."""
    return _value(Concordance, (), mu, y, **roles)


def coverage(low: Column, high: Column, y: Column, **roles: Unpack[RoleValues]) -> Tensor:
    """The share of responses inside their intervals: see `Coverage`."""
    return _value(Coverage, (), low, high, y, **roles)


def _value(metric: Callable[..., Metric], settings: tuple[Any, ...], *rows: Any, **roles: Any) -> Any:
    """What a metric of these settings says of these rows alone, on their device."""
    made = metric(*settings, sync_on_compute=False)
    if isinstance(rows[0], Tensor):
        made.to(rows[0].device)
    made.update(*rows, **roles)
    return made.compute()
