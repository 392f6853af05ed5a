"""The formulas of metrics in two halves: sums that add over parts, and the value of sums.

A weighted sum leaves out rows of weight 0 whatever they hold, so padding never counts. A NaN in any other row, or a
weight that is NaN or below 0, makes the value NaN: looking for it would have to wait for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.families import Binomial, Family
from torchglm.links import Identity, Link
from torchglm.metrics.rows import Scored
from torchglm.rows.responses import Response, Times, event_of, response, size_of


def total(weight: Tensor, value: Tensor) -> Tensor:
    """`sum w v` over rows whose weight is not 0, a float64 scalar."""
    return torch.where(weight == 0, 0.0, weight * value).sum()


def seen(event: Tensor | None, y: Tensor) -> Tensor:
    """1 for the rows whose response is known, 0 where a time is censored, in float64."""
    return torch.ones_like(y) if event is None else event.double()


def ratio(sums: Tensor) -> Tensor:
    """The first sum over the second."""
    return sums[0] / sums[1]


def deviance_sums(rows: Scored, family: Family) -> Tensor:
    """`(sum w d(y, mu), sum w)`."""
    return torch.stack([total(rows.whole, family.unit_deviance(rows.response, rows.mu)), rows.whole.sum()])


def _split(rows: Scored, family: Family) -> tuple[Tensor, Tensor]:
    """The part of the weight that is in a law, and the part that repeats the row.

    Prior weights are in it where it has a place for them: they divide a dispersion, and are the totals of proportions.
    Elsewhere they multiply the log-density, as repeats do.
    """
    if family.has_dispersion or isinstance(family, Binomial):
        return torch.where(rows.prior > 0, rows.prior, 1.0), rows.seen
    return torch.ones_like(rows.prior), rows.whole


def nll_sums(rows: Scored, family: Family, dispersion: Tensor | float) -> Tensor:
    """`(-sum w log f(y; mu, phi / prior), sum w)`, `w` being what repeats a row: minus the log-likelihood, and rows."""
    inside, weight = _split(rows, family)
    nll = -family.log_prob(rows.response, rows.mu, dispersion, inside)
    return torch.stack([total(weight, nll), weight.sum()])


def crps_sums(rows: Scored, family: Family, dispersion: Tensor | float) -> Tensor:
    """`(sum w CRPS, sum w)`, `w` being what repeats a row."""
    inside, weight = _split(rows, family)
    score = family.crps(rows.response, rows.mu, torch.as_tensor(dispersion, device=rows.mu.device) / inside)
    return torch.stack([total(weight, score), weight.sum()])


def pearson_sums(rows: Scored, family: Family) -> Tensor:
    """`(sum w (y - mu)^2 / V(mu), rows of positive weight, with their repeats)`."""
    square = (rows.y - rows.mu).square() / family.variance(rows.mu)
    return torch.stack([total(rows.whole, square), torch.where(rows.seen > 0, rows.seen, 0.0).sum()])


def observed_and_expected(y: Response, mu: Tensor, family: Family) -> tuple[Tensor, Tensor]:
    """What was observed and what was expected in each row: `y` and `mu`, or for times to an event, events.

    A censored time is only known to be longer, so that times themselves cannot be averaged. Its event (1 seen,
    0 not) can: given the time `t`, its expectation is the cumulated hazard `t / mu`.
    Source: Berry (1983), The analysis of mortality by the subject-years method, Biometrics 39; Crowson, Atkinson &
    Therneau (2016), Assessing calibration of prognostic risk scores, Stat. Methods Med. Res. 25.
    """
    if family.durations:
        return seen(event_of(y), size_of(y)), size_of(y) / mu
    return y, mu


def observed_variance(y: Response, mu: Tensor, family: Family, dispersion: Tensor | float) -> Tensor:
    """The variance of what is observed in each row, of weight 1: `phi V(mu)`, or of events their expectation."""
    return size_of(y) / mu if family.durations else dispersion * family.variance(mu)


def observed_expected_sums(rows: Scored, family: Family) -> Tensor:
    """The sums of `w` times `observed_and_expected`."""
    observed, expected = observed_and_expected(rows.response, rows.mu, family)
    return torch.stack([total(rows.whole, observed), total(rows.whole, expected)])


def d2_sums(rows: Scored, family: Family, link: Link, null: float | None) -> Tensor:
    """`(model deviance, W, S, null deviance of these rows)`, the null mean of these rows being `S / W`.

    With a fixed `null` intercept the last is the deviance at `mu = link(null + offset)`, and `W = S = 0`.
    """
    model, zero = total(rows.whole, family.unit_deviance(rows.response, rows.mu)), rows.mu.new_zeros(())
    if null is not None:
        eta = torch.full_like(rows.mu, null) if rows.offset is None else rows.offset + null
        return torch.stack([model, zero, zero, total(rows.whole, family.unit_deviance(rows.response, link(eta)))])
    y, weight = _without_offset(rows, family, link)
    mass, size = total(weight, seen(rows.event, y)), total(weight, y)
    mean = _inside(size / torch.where(mass > 0, mass, 1.0), family)
    own = torch.where(mass > 0, total(weight, family.unit_deviance(response(y, rows.event), mean.expand_as(y))), 0.0)
    return torch.stack([model, mass, size, own])


def merge_d2(parts: Tensor, family: Family) -> Tensor:
    """The `d2_sums` of all rows from those of their parts `(k, 4)`, without cancellation.

    Unit deviances are Bregman divergences: about the joint mean `m`, a part of mean `m_i` and weight `W_i`
    has the deviance it has about `m_i` plus `W_i d(m_i, m)`. For Gaussian `d` this is Chan's variance.
    Source: Banerjee et al. (2005), Clustering with Bregman divergences, J. Machine Learning Research 6.
    """
    model, mass, size, own = parts.unbind(-1)
    mean = _inside(size.sum() / torch.where(mass.sum() > 0, mass.sum(), 1.0), family).expand_as(mass)
    filled = mass > 0
    means = size / torch.where(filled, mass, 1.0)
    moved = mass * family.unit_deviance(torch.where(filled, means, mean), mean)
    if family.durations:  # a part in which every row is censored has no mean of its own
        censored = ~filled & (size > 0) & filled.any()
        moved = torch.where(censored, family.unit_deviance(Times(size, filled), mean), moved)
    return torch.stack([model.sum(), mass.sum(), size.sum(), own.sum() + moved.sum()])


def d2_value(sums: Tensor) -> Tensor:
    """`1 - model deviance / null deviance`."""
    return 1 - sums[0] / sums[3]


def pearson_value(sums: Tensor, n_coef: int) -> Tensor:
    """Pearson's chi-square over `n - n_coef`."""
    return sums[0] / (sums[1] - n_coef)


def has_power_variance(family: Family) -> bool:
    """Whether `V(mu) = mu^p`: then, with the log link, an offset only rescales the rows."""
    device = next((value.device for value in family.shapes.values()), torch.device("cpu"))
    mu = torch.tensor([0.25, 0.5], dtype=torch.float64, device=device)
    first, second = (mu * family.variance_log_deriv(mu).detach()).tolist()
    return abs(first - second) <= 1e-12 * abs(second)


def null_is_closed(family: Family, link: Link) -> bool:
    """Whether sums alone refit the intercept of a null model with an offset."""
    if link.multiplies == "mean":
        return has_power_variance(family)
    return type(link) is Identity and family.is_canonical(link)


def _without_offset(rows: Scored, family: Family, link: Link) -> tuple[Tensor, Tensor]:
    """Responses and weights without an offset that have the same null model.

    With `e = exp(offset)` and `V = mu^p`, `d(y, c e) = e^(2 - p) d(y / e, c)`; with the identity link and
    constant variance, `d(y, c + o) = d(y - o, c)`.
    """
    if rows.offset is None:
        return rows.y, rows.whole
    if not null_is_closed(family, link):
        raise ValueError(
            f"D2 cannot refit the null model of {family.name}, {link.name} link, with an offset from sums. "
            "Fit an intercept with the offset once, and give it: D2(family, link, null=intercept)."
        )
    if type(link) is Identity:
        return rows.y - rows.offset, rows.whole
    one = torch.ones((), dtype=torch.float64, device=rows.mu.device)
    power = family.variance_log_deriv(one)
    return rows.y * torch.exp(-rows.offset), rows.whole * torch.exp((2 - power) * rows.offset)


def _inside(mean: Tensor, family: Family) -> Tensor:
    """A mean inside the family's range: 0 and 1, means of rows all alike, move by next to nothing."""
    low = torch.finfo(mean.dtype).tiny if family.mean_lower == 0 else None
    high = 1 - torch.finfo(mean.dtype).eps if family.mean_upper == 1 else None
    return mean if low is None and high is None else mean.clamp(low, high)
