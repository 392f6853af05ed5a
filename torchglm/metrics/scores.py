"""Scores of predicted means as torchmetrics: sums in float64 that add over batches, files and ranks.

    metric = Deviance("poisson")
    for batch in batches:
        metric.update(model(batch.x, batch.offset), batch.y, weights=batch.weights)
    metric.compute()

Every `update` takes `mu`, `y` of one shape `(*N,)`, and by name what stands beside them: `weights`, `freq`, `offset`
and `exposure` (which count for a null model and for rates), `trials`, `event`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from torchglm.families import Family
from torchglm.links import Link
from torchglm.metrics import sums
from torchglm.metrics.base import FamilyMetric
from torchglm.metrics.rows import Scored, count


class Deviance(FamilyMetric):
    """The weighted mean unit deviance `sum w d(y, mu) / sum w`: twice the log-likelihood lost, per row."""

    higher_is_better = False
    plot_lower_bound = 0.0

    def _part(self, rows: Scored) -> Tensor:
        return sums.deviance_sums(rows, self.family)

    def compute(self) -> Tensor:
        """The mean deviance, a float64 scalar; NaN before any row of positive weight."""
        return sums.ratio(self.sums)


class D2(FamilyMetric):
    """The share of deviance explained, `1 - D(model) / D(null)`: R-squared where the family is Gaussian.

    The null model is an intercept refitted to the scored rows with their weights. With an offset, sums alone
    suffice for the log link with `V(mu) = mu^p` and for Gaussian identity; elsewhere `update` raises a
    `ValueError` that asks for `null`, the intercept of a null model fitted before (on training rows, for
    instance), which works for every family and link: `mu0 = link(null + offset)`.
    """

    higher_is_better = True
    plot_upper_bound = 1.0
    size = (4,)
    offset_counts = True

    def __init__(
        self, family: str | Family, link: str | Link | None = None, null: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(family, link, given=("null", null), **kwargs)
        self.null = null

    def takes(self, offset: Tensor | None) -> bool:
        """Whether rows with this offset can be scored: see above."""
        return offset is None or self.null is not None or sums.null_is_closed(self.family, self.link)

    def _merge(self) -> Any:
        return partial(sums.merge_d2, family=self.family)

    def _part(self, rows: Scored) -> Tensor:
        return sums.d2_sums(rows, self.family, self.link, self.null)

    def compute(self) -> Tensor:
        """D-squared, a float64 scalar."""
        return sums.d2_value(self.sums)


class PearsonDispersion(FamilyMetric):
    """`sum w (y - mu)^2 / V(mu)` over `n - n_coef`: about 1 for counts that are not over-dispersed.

    `n` counts rows of positive weight with their repeats; `n_coef` is the number of coefficients these rows were used
    to estimate (0 on held-out rows). A censored time counts as it stands, as in `Result.pearson_chi2`.
    """

    higher_is_better = None
    plot_lower_bound = 0.0

    def __init__(self, family: str | Family, n_coef: int = 0, link: str | Link | None = None, **kwargs: Any) -> None:
        super().__init__(family, link, **kwargs)
        self.n_coef = count("n_coef", n_coef, 0)

    def _part(self, rows: Scored) -> Tensor:
        return sums.pearson_sums(rows, self.family)

    def compute(self) -> Tensor:
        """The dispersion, a float64 scalar."""
        return sums.pearson_value(self.sums, self.n_coef)


class ObservedExpected(FamilyMetric):
    """`sum w y / sum w mu`: 1 where the mean is right on the whole.

    For times to an event, events observed over events expected, `sum w event / sum w t / mu`.
    """

    higher_is_better = None
    plot_lower_bound = 0.0

    def _part(self, rows: Scored) -> Tensor:
        return sums.observed_expected_sums(rows, self.family)

    def compute(self) -> Tensor:
        """The ratio, a float64 scalar."""
        return sums.ratio(self.sums)
