"""Sums over bins from which the plots are drawn: a row is seen once, and the sums of two chunks add."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchglm import families, links
from torchglm.families import Family
from torchglm.metrics.ranking import curve, gini_value, joined, ranked_sums
from torchglm.metrics.rows import Scored
from torchglm.metrics.sums import observed_variance
from torchglm.rows.responses import Response, event_of, size_of

_Sums = TypeVar("_Sums", "Residuals", "Rootogram")


class Calibration:
    """Observed against predicted in bins of about equal weight, lowest predicted rate first: those of `LiftTable`.

    `sums` (5, 2^18) are those of `metrics.ranking`, which add over parts of the rows; the other fields are (bins,):
    `weight` Σ w·e, `observed` Σ w·y, `predicted` Σ w·mu, `variance` Σ w·φ·V(mu), the variance of `observed` (NaN
    without a family), `count` of rows. Of times to an event the response is the event and `e` the time at risk.
    `exposed` says that there was an `e` other than 1.
    """

    def __init__(self, sums: Tensor, bins: int = 10, exposed: bool = False) -> None:
        self.sums, self.bins, self.exposed = sums, bins, exposed
        self.weight, self.observed, self.predicted, self.variance, self.count = joined(sums, bins)

    @classmethod
    def of(
        cls,
        y: Response,
        mu: Tensor,
        weight: Tensor | None = None,
        exposure: Tensor | None = None,
        family: Family | None = None,
        dispersion: float | Tensor = 1.0,
        bins: int = 10,
    ) -> Calibration:
        """The sums of rows `y`, `mu` (*B, n); `dispersion` is φ, () or one that broadcasts with `mu`.

        Bins run over the predicted rate mu / exposure; rows of equal rate share one, so fewer than `bins` may
        be filled. Raises ValueError where lengths differ or an exposure is not positive.
        """
        law = families.Gaussian() if family is None else family
        spread = observed_variance(y, mu, law, math.nan if family is None else dispersion)
        event = event_of(y)
        event = None if event is None else event.expand(size_of(y).shape).reshape(-1)
        y, mu, w, spread = columns(size_of(y), mu, weight, spread)
        e = None if exposure is None else columns(exposure, mu)[0]
        if e is not None and not bool((e > 0).all()):
            raise ValueError(f"Calibration needs exposure > 0; got {float(e.min())}. Drop those rows.")
        rows = Scored(
            mu, y, w, torch.ones_like(mu), None if e is None else e.log(), None if event is None else event.reshape(-1)
        )
        return cls(
            ranked_sums(rows, law, links.Log(), w * spread, (w > 0).double()), bins, e is not None or law.durations
        )

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(self.sums + other.sums, self.bins, self.exposed or other.exposed)

    def rates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Observed rate, predicted rate and standard error of the observed, (filled bins,) each."""
        full = self.weight > 0
        w = self.weight[full]
        return self.observed[full] / w, self.predicted[full] / w, self.variance[full].sqrt() / w

    def lorenz(self) -> tuple[Tensor, Tensor]:
        """Cumulated shares of weight and of observed response, lowest prediction first, to be drawn."""
        return curve(self.sums)

    def gini(self) -> float:
        """1 − 2 × the area under the Lorenz curve: 0 for no order, below 0 for a wrong one."""
        return float(gini_value(self.sums))


@dataclass(frozen=True)
class Residuals:
    """Residuals against fitted values, counted on a grid and summed over the grid's columns.

    `fitted_edges` (a − 1,) and `residual_edges` (b − 1,) divide the plane into `counts` (a, b), the outer
    cells open; `fitted` Σ f, `residual` Σ r and `square` Σ r² are (a,).
    """

    fitted_edges: Tensor
    residual_edges: Tensor
    counts: Tensor
    fitted: Tensor
    residual: Tensor
    square: Tensor

    @classmethod
    def of(
        cls,
        fitted: Tensor,
        residual: Tensor,
        cells: tuple[int, int] = (60, 40),
        edges: tuple[Tensor, Tensor] | None = None,
    ) -> Residuals:
        """The sums of rows `fitted`, `residual` (n,), on `cells` over their central 99.8 %, or on `edges`."""
        fitted, residual = columns(fitted, residual)
        a, b = edges or (_even_edges(fitted, cells[0]), _even_edges(residual, cells[1]))
        column, row = torch.bucketize(fitted, a), torch.bucketize(residual, b)
        shape = (len(a) + 1, len(b) + 1)
        counts = torch.bincount(column * shape[1] + row, minlength=shape[0] * shape[1]).double()
        sums = [_totals(column, shape[0], q) for q in (fitted, residual, residual.square())]
        return cls(a, b, counts.reshape(shape), *sums)

    def __add__(self, other: Residuals) -> Residuals:
        return _added(self, other)

    def trend(self, most: int = 20) -> tuple[Tensor, Tensor, Tensor]:
        """Mean fitted value, mean residual and its standard error over runs of columns; (groups,) each.

        There are at most `most` groups, and some fifty rows to each.
        """
        count = self.counts.sum(-1)
        groups = max(4, min(most, int(count.sum() / 50)))
        run = ((count.cumsum(0) - count / 2) / count.sum() * groups).long().clamp(0, groups - 1)
        n, f, r, s = (_totals(run, groups, q) for q in (count, self.fitted, self.residual, self.square))
        full = n > 1
        n, f, r, s = n[full], f[full], r[full], s[full]
        spread = ((s / n - (r / n).square()).clamp(min=0) / (n - 1)).sqrt()
        return f / n, r / n, spread


@dataclass(frozen=True)
class Rootogram:
    """How often each count 0, 1, ..., K − 1, and K or more, was observed and is expected; (K + 1,) each."""

    observed: Tensor
    expected: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls, y: Tensor, mu: Tensor, family: Family, weight: Tensor | None = None, largest: int | None = None
    ) -> Rootogram:
        """The frequencies of counts `y` (*B, n) and their expectation Σ P(Y = k | mu).

        Every row of positive weight counts once. `largest` is K; by default the largest count, but at most 40
        and no further than the upper 0.5 %.
        """
        mu = mu.detach().double()
        kept = torch.ones_like(mu) if weight is None else (weight > 0).double()
        seen, _, once = columns(y, mu, kept)
        seen = seen[once > 0]
        if largest is None:
            reach = float(weighted_quantiles(seen, torch.ones_like(seen), torch.tensor([0.995])))
            largest = int(min(float(seen.max()), max(reach, 10.0), 40.0))
        at = [(kept * family.log_prob(torch.full_like(mu, k), mu).exp()).sum() for k in range(largest)]
        expected = torch.stack([*at, kept.sum() - sum(at)]).clamp(min=0)
        return cls(torch.bincount(seen.clamp(max=largest).long(), minlength=largest + 1).double(), expected)

    def __add__(self, other: Rootogram) -> Rootogram:
        return _added(self, other)


@dataclass(frozen=True)
class QuantilePairs:
    """Sorted residuals against normal quantiles, thinned; `low` to `high` holds 95 % at each point."""

    theory: Tensor
    sample: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, residual: Tensor, points: int = 400) -> QuantilePairs:
        """At most `points` of the n pairs, evenly spaced in normal quantiles, so that tails keep theirs."""
        sample = residual.detach().double().reshape(-1).sort().values
        n = len(sample)
        z = torch.special.ndtri((torch.arange(n, dtype=torch.float64, device=sample.device) + 0.5) / n)
        grid = torch.linspace(float(z[0]), float(z[-1]), points, dtype=torch.float64, device=z.device)
        keep = torch.arange(n) if n <= points else torch.searchsorted(z, grid).clamp(max=n - 1).unique()
        theory = z[keep]
        p = torch.special.ndtr(theory)
        density = torch.exp(-theory.square() / 2) / math.sqrt(2 * math.pi)
        spread = 1.96 * (p * (1 - p) / n).sqrt() / density
        return cls(theory, sample[keep], theory - spread, theory + spread)


def columns(*values: Tensor | None) -> list[Tensor]:
    """Flat float64 vectors (n,); None becomes ones. Raises ValueError where lengths differ or n is 0."""
    first = next(v for v in values if v is not None)
    parts = [(torch.ones_like(first) if v is None else v).detach().double().reshape(-1) for v in values]
    if len({len(p) for p in parts}) != 1 or len(parts[0]) == 0:
        raise ValueError(
            "A plot needs at least one row and columns of one length; got "
            f"{', '.join(str(len(p)) for p in parts)} values. Pass the rows of one data set."
        )
    return parts


def weighted_quantiles(values: Tensor, weight: Tensor, shares: Tensor) -> Tensor:
    """The smallest values at which the cumulated weight reaches each of `shares` (k,) of the total."""
    order = values.argsort()
    reached = weight[order].cumsum(0)
    where = torch.searchsorted(reached, shares.to(reached) * reached[-1])
    return values[order][where.clamp(max=len(values) - 1)]


def _even_edges(values: Tensor, cells: int) -> Tensor:
    """Inner edges of `cells` cells of equal width over the central 99.8 % of `values`."""
    ends = weighted_quantiles(values, torch.ones_like(values), torch.tensor([0.001, 0.999]))
    low, high = float(ends[0]), float(ends[1])
    room = max((high - low) * 1e-9, abs(low) * 1e-9, 1e-12)  # a constant column still gets edges that differ
    return torch.linspace(low - room, high + room, cells + 1, dtype=torch.float64, device=values.device)[1:-1]


def _totals(where: Tensor, bins: int, values: Tensor) -> Tensor:
    return torch.zeros(bins, dtype=torch.float64, device=values.device).index_add_(0, where, values)


def _added(first: _Sums, second: _Sums) -> _Sums:
    """Field by field sums; fields named edges must agree."""
    parts: dict[str, Any] = {}
    for name in (f.name for f in fields(first)):
        a, b = getattr(first, name), getattr(second, name)
        if a.shape != b.shape or name.endswith("edges") and not torch.equal(a, b):
            raise ValueError(
                f"{type(first).__name__} sums add only over the same bins; {name} differs. "
                "Pass the edges of the first to `of` for the second."
            )
        parts[name] = a if name.endswith("edges") else a + b
    return type(first)(**parts)
