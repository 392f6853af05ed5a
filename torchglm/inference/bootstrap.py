"""The wild bootstrap of clustered scores: p-values and intervals where clusters are few.

Under `beta_j = b` the other coefficients are fitted anew. With the score sums `s_g` there, and `a` the row of the
inverse information of the coefficient, the statistic is `T = sum_g t_g / sqrt(sum_g t_g^2 - (sum_g t_g)^2 / G)`,
`t_g = a's_g`; its law is that of the same with `e_g t_g`, the `e_g` being random signs, and its p-value the share of
`|T*| >= |T|`. An interval holds the values `b` that are not rejected. No draw is fitted anew. With so few clusters that
all signs are fewer than the draws asked for, each is taken once.
Source: Kline & Santos (2012), A score based approach to wild bootstrap inference, J. Econometric Methods 1; Roodman,
Nielsen, MacKinnon & Webb (2019), Fast and wild, Stata J. 19; Webb (2023), Can. J. Econ. 56 (six points).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.inference.covariance import cluster_codes, clustered
from torchglm.inference.estimates import Estimates
from torchglm.inference.fitted import Fitted
from torchglm.inference.levels import check_level
from torchglm.inference.limits.refit import Held
from torchglm.inference.origin import refuse_beside
from torchglm.inference.row_labels import row_labels
from torchglm.inference.rowwise import row_values
from torchglm.writing.nearest import unknown

POINTS = {
    "rademacher": [-1.0, 1.0],
    "webb": [-(1.5**0.5), -1.0, -(0.5**0.5), 0.5**0.5, 1.0, 1.5**0.5],
}
CLOSE = 1e-4  # of a standard error, to which limits are sought
FARTHEST = 1e4  # standard errors; a limit beyond is infinite
SAME = 1 - 1e-9  # of a statistic, for which another is as large


def wild_bootstrap(
    result: Fitted,
    clusters: Any,
    names: Sequence[str] | None = None,
    *,
    value: float = 0.0,
    draws: int = 999,
    weights: str = "rademacher",
    seed: int = 0,
    level: float | None = 0.95,
) -> Estimates:
    """p-values of `coef = value`, and limits, by the wild bootstrap of the scores of `clusters`, for one model.

    `names` are the coefficients, by default all but the intercept; `weights` the law of the signs, `"rademacher"` or
    `"webb"` (six points, for fewer than a dozen clusters); `level=None` leaves out the limits, which take most of the
    time. The standard errors are clustered (HC0). Raises `ValueError` for a batch, several predictors, a penalty,
    unknown names or weights, and fewer than two clusters.
    """
    _check(result, draws, weights, level)
    refuse_beside(result)
    asked = [name for name in result.names if name != "(Intercept)"] if names is None else list(names)
    unknown = [name for name in asked if name not in result.names]
    if unknown:
        raise ValueError(f"no coefficient {unknown[0]!r}. Known: {', '.join(result.names)}.")
    labels = row_labels(result, clusters, "clusters")
    columns = cluster_codes(labels, result.batch_shape, result.flat.coef.device)
    if len(columns) > 1:
        raise ValueError("the wild bootstrap knows one label. Give one column of clusters=.")
    signs = _signs(int(columns[0].max()) + 1, draws, weights, seed)
    flat, one = result.flat, torch.ones_like(result.flat.rank)  # of one coefficient at a time
    source = result.source
    clustering = clustered(source, result.family, result.link, flat.coef, flat.root, columns, one)
    spread = clustering[0].diagonal().sqrt()
    rows = []
    for name in asked:
        j = result.names.index(name)
        centre, size = float(result.coef[j]), float(spread[j])
        test = _Test(result, j, columns[0], signs)
        ratio, share = test.at(value)
        ends = [math.nan, math.nan]
        if level is not None:
            ends = [test.limit(centre, side * size, 1 - level) for side in (-1.0, 1.0)]
        rows.append([centre, size, *ends, ratio, share])
    found = list(torch.tensor(rows, dtype=torch.float64).T)
    normal = torch.tensor(torch.inf, dtype=torch.float64)
    estimate, error, low, high, statistic, p = found
    return Estimates(asked, estimate, error, low, high, statistic, p, normal, 0.95 if level is None else level)


def _check(result: Fitted, draws: int, weights: str, level: float | None) -> None:
    if result.plan is not None or result.batch_shape or result.penalty is not None or result.bias_reduced:
        raise ValueError(
            "wild_bootstrap is of one model with one predictor and no penalty. Take one of a batch, result[i]; for "
            "others use robust('cluster', clusters)."
        )
    if weights not in POINTS:
        raise ValueError(unknown("weights", weights, POINTS))
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 19:
        raise ValueError(f"draws must be a whole number from 19 on, got {draws!r}. The default is 999.")
    if level is not None:
        check_level(level)


def _signs(groups: int, draws: int, weights: str, seed: int) -> Tensor:
    """(draws, G) the signs of every draw: all there are, where these are no more than the draws."""
    if groups < 2:
        raise ValueError("clusters holds one cluster; the wild bootstrap needs at least two.")
    points = torch.tensor(POINTS[weights], dtype=torch.float64)
    if len(points) ** groups <= draws:
        return torch.tensor(list(itertools.product(points.tolist(), repeat=groups)), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return points[torch.randint(0, len(points), (draws, groups), generator=generator)]


class _Test:
    """The bootstrap test of one coefficient at any value."""

    def __init__(self, result: Fitted, column: int, codes: Tensor, signs: Tensor) -> None:
        self.result, self.column, self.codes, self.signs = result, column, codes, signs
        place = torch.tensor([column], device=result.flat.coef.device)
        self.held = Held(result.source, torch.zeros_like(place), place, result.flat.keep)
        self.rest = torch.cat([result.flat.coef[:, :column], result.flat.coef[:, column + 1 :]], 1)

    def at(self, value: float) -> tuple[float, float]:
        """The statistic and the p-value of a value of the coefficient; NaN where the others have no maximum there."""
        parts = self._parts(value)
        groups = float((self.sizes > 0).sum())
        total, square = parts.sum(), parts.square().sum()
        drawn = self.signs @ parts
        lengths = self.signs.square() @ parts.square() - drawn.square() / groups
        statistic = total / (square - total.square() / groups).clamp(min=0).sqrt()
        others = drawn / lengths.clamp(min=0).sqrt()
        p = (others.abs() >= SAME * statistic.abs()).to(parts).mean()
        return float(statistic), float(torch.where(statistic.isnan(), torch.nan, p))

    def _parts(self, value: float) -> Tensor:
        """(G,) the parts of the clusters in the estimate of the coefficient, from the others at their maximum."""
        result, j = self.result, self.column
        held = self.held.at(torch.zeros(1, dtype=torch.int64), torch.tensor([value], dtype=torch.float64))
        if self.rest.shape[1]:
            found = irls(held, result.family, result.link, start=self.rest, tol=1e-10)
            rest = self.rest = found.coef
        else:
            rest = self.rest
        coef = torch.cat([rest[:, :j], rest.new_tensor([[value]]), rest[:, j:]], 1)
        gram = fold(result.source, Point(coef, False, census=True), result.family, result.link).gram
        along = gram.invert(result.flat.keep).root.inverse()[0, j]
        groups = self.signs.shape[1]
        sums, self.sizes, start = coef.new_zeros(groups), coef.new_zeros(groups), 0
        for values in row_values(result.source, result.family, result.link, coef):
            own = self.codes[start : start + values.used.shape[-1]]
            sums.index_add_(0, own, values.score[0] * (values.x.to(coef.dtype).squeeze(0) @ along))
            self.sizes.index_add_(0, own, values.used[0].to(coef.dtype))
            start += values.used.shape[-1]
        if start != self.codes.shape[-1]:
            raise ValueError(f"clusters has {self.codes.shape[-1]} labels for {start} rows. Give one for each row.")
        return sums

    def limit(self, estimate: float, error: float, alpha: float) -> float:
        """The value on the side of `error` where the p-value falls below `alpha`, by halving."""
        inside, step = estimate, 2 * error
        while self.at(estimate + step)[1] >= alpha:
            inside, step = estimate + step, 2 * step
            if abs(step) > FARTHEST * abs(error):
                return float("inf") if error > 0 else float("-inf")
        outside = estimate + step
        while abs(outside - inside) > CLOSE * abs(error):
            middle = (inside + outside) / 2
            if self.at(middle)[1] >= alpha:
                inside = middle
            else:
                outside = middle
        return (inside + outside) / 2
