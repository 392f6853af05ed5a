"""Metrics of classes, of their predicted probabilities, and the concordance of predicted times.

metric = BrierScore(3)
metric.update(head(x), y, weights=w)
metric.compute()
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from torchglm.families.several import Classes
from torchglm.inputs import Roles
from torchglm.metrics import class_sums
from torchglm.metrics.class_sums import ScoredClasses, concordance_value, scored_classes
from torchglm.metrics.rows import Column, count, wide
from torchglm.metrics.sums import ratio

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


class ClassMetric(Metric):
    """A metric of probabilities `(*N, C)`, or `(*N, 1, C)` as heads give them, and codes `y` `(*N,)`.

    `classes` is their number, the classes, or a family of classes. Rows of weight 0 count as dropped; a NaN, or what
    is no code, in another row makes the value NaN. The sums are float64 and add over batches and ranks.
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better: bool | None = False

    def __init__(self, classes: int | Sequence[Any] | Classes, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        known = classes.known if isinstance(classes, Classes) else classes
        self.classes = count("classes", known if isinstance(known, int) else len(known), 2)
        self._state = f"{type(self)._sums.__qualname__.split('.')[0]}_{self.classes}".lower()
        self.add_state(self._state, torch.zeros(self._size(), dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def sums(self) -> Tensor:
        """The sums so far."""
        return getattr(self, self._state)

    def update(self, p: Column, y: Column, **roles: Unpack[RoleValues]) -> None:
        """Take in rows, with `weights` and `freq`; `ValueError` where shapes differ."""
        beside = Roles.of(roles, type(self).__name__, ("weights", "freq"))
        setattr(self, self._state, self.sums + self._sums(scored_classes(p, y, beside, self.classes)))

    def compute(self) -> Tensor:
        """The weighted mean, a float64 scalar; NaN before any row of positive weight."""
        return ratio(self.sums)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one value, or a sequence of values over steps, with matplotlib."""
        return self._plot(val, ax)

    def _size(self) -> tuple[int, ...]:
        return (2,)

    def _sums(self, rows: ScoredClasses) -> Tensor:
        raise NotImplementedError


class LogScore(ClassMetric):
    """The mean `-log p_y` of the class that was observed: minus the log-likelihood of a row."""

    def _sums(self, rows: ScoredClasses) -> Tensor:
        return class_sums.log_sums(rows)


class BrierScore(ClassMetric):
    """The mean of `sum_c (p_c - 1{y = c})^2`, between 0 and 2. Source: Brier (1950), Monthly Weather Review 78(1)."""

    def _sums(self, rows: ScoredClasses) -> Tensor:
        return class_sums.brier_sums(rows)


class RankedProbabilityScore(ClassMetric):
    """The mean of `sum_k (P(Y <= k) - 1{y <= k})^2` over the C - 1 cuts: for classes in an order.

    It is the CRPS of codes. Source: Epstein (1969), J. Appl. Meteorology 8(6), there divided by C - 1.
    """

    def _sums(self, rows: ScoredClasses) -> Tensor:
        return class_sums.ranked_probability_sums(rows)


class ConfusionMatrix(ClassMetric):
    """(C, C) the weight of rows of each class (rows) by the class predicted, the most probable one (columns)."""

    higher_is_better: bool | None = None

    def compute(self) -> Tensor:
        """The matrix, float64."""
        return self.sums.clone()

    def _size(self) -> tuple[int, ...]:
        return self.classes, self.classes

    def _sums(self, rows: ScoredClasses) -> Tensor:
        return class_sums.confusion_sums(rows)


class Accuracy(ConfusionMatrix):
    """The share of rows whose most probable class is their own; `by_class` that of each class."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """The share, a float64 scalar."""
        return self.sums.diagonal().sum() / self.sums.sum()

    @property
    def by_class(self) -> Tensor:
        """(C,) the share of the rows of each class that are predicted as that; NaN for a class without rows."""
        return self.sums.diagonal() / self.sums.sum(1)


class Concordance(Metric):
    """Harrell's C of predicted times: the share of pairs of known order that are predicted in that order.

    `mu` are predicted times (or anything that is longer for longer times), `y` times and `event` 1 where the event was
    seen. Weights and repeats multiply in a pair. Four numbers of each row are kept, so that parts merge exactly. See
    `concordance_value` for ties.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    held: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("held", [], dist_reduce_fx="cat")

    def update(self, mu: Column, y: Column, **roles: Unpack[RoleValues]) -> None:
        """Take in rows `(*N,)`, with `event`, `weights` and `freq`; `ValueError` where shapes differ."""
        beside = Roles.of(roles, "Concordance", ("event", "weights", "freq"))
        first = wide("mu", mu)
        columns = {"mu": first, "y": wide("y", y, first.device)}
        columns |= {name: wide(name, value, first.device) for name, value in beside.given.items()}
        for name, value in columns.items():
            if value.numel() != first.numel():
                raise ValueError(f"{name} must have the shape of mu, {tuple(first.shape)}, got {tuple(value.shape)}.")
        flat = {name: value.reshape(-1) for name, value in columns.items()}
        one = torch.ones_like(flat["mu"])
        weight = flat.get("weights", one) * flat.get("freq", one)
        self.held.append(torch.stack([flat["mu"], flat["y"], flat.get("event", one), weight], 1))

    def compute(self) -> Tensor:
        """The share, a float64 scalar; NaN where no order of a pair is known."""
        mu, time, event, weight = dim_zero_cat(self.held).unbind(1)
        return concordance_value(mu, time, event > 0, weight)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one value, or a sequence of values over steps, with matplotlib."""
        return self._plot(val, ax)
