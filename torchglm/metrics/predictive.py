"""Scores of whole predicted laws, likelihood and CRPS, and how often intervals hold the response.

metric = CRPS("gamma", dispersion=0.4)
metric.update(mu, y, weights=w)
metric.compute()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from torchglm.families import Family
from torchglm.inputs import Roles
from torchglm.links import Link
from torchglm.metrics.base import FamilyMetric
from torchglm.metrics.rows import Column, Scored, wide
from torchglm.metrics.sums import crps_sums, nll_sums, ratio, total

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


class LawMetric(FamilyMetric):
    """A metric of whole predicted laws, which have a `dispersion` (phi): a number, or one for each row of an update."""

    higher_is_better = False

    def __init__(
        self, family: str | Family, dispersion: float | Column = 1.0, link: str | Link | None = None, **kwargs: Any
    ) -> None:
        phi = dispersion if isinstance(dispersion, (float, int)) else wide("dispersion", dispersion)
        super().__init__(family, link, given=("dispersion", phi), **kwargs)
        self.dispersion = phi


class NLL(LawMetric):
    """The mean negative log-density `-sum w log f(y; mu, phi) / sum w`, fully normalised: its sum is `-Result.loglik`.

    `freq` are weights `w`, and so are prior weights unless they are part of the law: they divide `dispersion` (phi),
    and are the totals of proportions. `trials` enter the binomial density.
    """

    def _part(self, rows: Scored) -> Tensor:
        return nll_sums(rows, self.family, self.dispersion)

    def compute(self) -> Tensor:
        """The mean negative log-density, a float64 scalar."""
        return ratio(self.sums)


class CRPS(LawMetric):
    """The mean continuous ranked probability score of the predicted laws, in units of the response.

    `integral (F(x) - 1{y <= x})^2 dx`: the absolute error of a law, as it is `|y - mu|` where the law is one point.
    In closed form for Gaussian, Bernoulli, binomial (in counts), Poisson, negative binomial, Gamma and exponential;
    `ValueError` for others. `freq` and prior weights are as in `NLL`. NaN where a time is censored.
    Source: Gneiting & Raftery (2007); Jordan, Krueger & Lerch (2019), J. Stat. Softw. 90(12).
    """

    plot_lower_bound = 0.0

    def __init__(
        self, family: str | Family, dispersion: float | Column = 1.0, link: str | Link | None = None, **kwargs: Any
    ) -> None:
        super().__init__(family, dispersion, link, **kwargs)
        if type(self.family).crps is Family.crps:
            raise ValueError(f"CRPS has no closed form for {self.family.name}. Use NLL.")

    def _part(self, rows: Scored) -> Tensor:
        return crps_sums(rows, self.family, self.dispersion)

    def compute(self) -> Tensor:
        """The mean score, a float64 scalar; NaN before any row of positive weight."""
        return ratio(self.sums)


class Coverage(Metric):
    """The weighted share of responses inside their intervals, `sum w 1{low <= y <= high} / sum w`.

    Near the level of the intervals where these are right. Rows of weight 0 count as dropped.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    covered: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("covered", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, low: Column, high: Column, y: Column, **roles: Unpack[RoleValues]) -> None:
        """Take in rows `(*N,)` of one shape, with `weights` and `freq`; `ValueError` where shapes differ."""
        self.covered = self.covered + coverage_sums(low, high, y, Roles.of(roles, "Coverage", ("weights", "freq")))

    def compute(self) -> Tensor:
        """The share, a float64 scalar; NaN before any row of positive weight."""
        return ratio(self.covered)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one value, or a sequence of values over steps, with matplotlib."""
        return self._plot(val, ax)


def coverage_sums(low: Column, high: Column, y: Column, roles: Roles) -> Tensor:
    """`(sum w 1{low <= y <= high}, sum w)`, `w = weights * freq`."""
    low = wide("low", low)
    columns = {"low": low, "high": wide("high", high, low.device), "y": wide("y", y, low.device)}
    columns |= {name: wide(name, value, low.device) for name, value in roles.given.items()}
    flat = {
        name: value[..., 0] if value.dim() > 1 and value.shape[-1] == 1 else value for name, value in columns.items()
    }
    for name, value in flat.items():
        if value.shape != flat["y"].shape:
            raise ValueError(
                f"{name} must have the shape of y, {tuple(columns['y'].shape)}, got {tuple(columns[name].shape)}. "
                "Give one value per row."
            )
    low, high, y = flat["low"], flat["high"], flat["y"]
    w = flat.get("weights", torch.ones_like(y)) * flat.get("freq", 1.0)
    inside = ((low <= y) & (y <= high)).double()
    known = torch.where(low.isnan() | high.isnan() | y.isnan() | (w < 0), torch.nan, inside)
    return torch.stack([total(w, known), w.sum()])
