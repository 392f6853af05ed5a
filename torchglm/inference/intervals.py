"""Intervals for new rows: of their means, and of responses yet to be seen with the uncertainty of the fit in them.

The law of a new response mixes the family's own law over what is not known: the linear predictor, normal with its
standard error, and the dispersion, `df phi / chi2(df)` where it was estimated. The mixture is taken by quadrature
with as many nodes as the data ask for, and its distribution function inverted in either tail. For least squares this
is the classical interval by Student's t; a shape parameter (alpha, power) counts as known.
Source: Bjornstad (1990), Predictive likelihood: a review, Stat. Sci. 5; Barndorff-Nielsen & Cox (1996), Bernoulli 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from torchglm import special
from torchglm.distributions import log_tails, quantile
from torchglm.distributions.tails import count_quantile
from torchglm.families import Family
from torchglm.inference.by_plan import answered_by
from torchglm.inference.fitted import Fitted
from torchglm.inference.for_each import for_each
from torchglm.inference.levels import check_level
from torchglm.inference.new_groups import variance_between
from torchglm.inference.predict import predict
from torchglm.inference.quantile import refuse_quasi
from torchglm.inference.vector.intervals import REACH, even_nodes, predict_interval_several
from torchglm.inference.vector.quantities import OF_TIMES, places_of
from torchglm.inputs import Roles
from torchglm.links import Link
from torchglm.special.roots import root
from torchglm.writing.nearest import unknown

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

KINDS = ("mean", "link", "response")
WITHIN, CLOSE = (-36.0, 8.0), 1e-9  # of the search for a quantile, on the scale of normal quantiles
CELLS = 1 << 21  # values of the distribution function taken at once
Nodes = tuple[Tensor, Tensor]  # where, and with which weights


@answered_by(predict_interval_several)
@torch.no_grad()
def predict_interval(
    result: Fitted,
    x: Any,
    *,
    kind: str = "mean",
    level: float = 0.95,
    unseen: str | None = None,
    predictors: Mapping[str, Any] | None = None,
    at: Any = None,
    **roles: Unpack[RoleValues],
) -> Tensor:
    """(*B, m, 2) limits for new rows `x` (m, columns): of the mean, the linear predictor or a new response.

    `mean`: the limits on the link scale, `eta -/+ q se` with the t or z quantile of the fit, mapped back; where one
    leaves the range of the link it is the edge of the means. `response`: quantiles of the law of a new response, of
    prior weight `weights` or in `trials` trials (default 1), with the uncertainty of the fit. Beside random effects it
    is one of groups that are new, with the variance between groups, which counts as known; means and predictors are
    those of effects of 0. Limits of counts are counts, so that they cover at least `level`. Of times `kind` may be
    `"survival"` or `"quantile"`, `at` as in `predict`. Of several predictors it is any kind of `predict`: limits are
    those on the link of the parameter, for probabilities of classes (*B, m, C, 2) on the logit. `offset`, `exposure`
    and `unseen` are as in `predict`. Raises `ValueError` for an unknown kind, a level outside (0, 1), or a response of
    a quasi-likelihood, and `TypeError` for roles that say nothing of what is asked for: `weights` and `trials` where
    it is no response, `freq` and `event`.
    """
    known = [*KINDS, *(OF_TIMES if result.family.durations else ())]
    if kind not in known:
        raise ValueError(unknown("kind", kind, known))
    check_level(level)
    takes = ("offset", "exposure", "weights", "trials") if kind == "response" else ("offset", "exposure")
    beside = Roles.of(roles, f"predict_interval of a {kind}", takes)
    pair = predict(
        result,
        x,
        kind="link",
        se=True,
        unseen=unseen,
        predictors=predictors,
        at=None if kind in OF_TIMES else at,
        offset=beside.offset,
        exposure=beside.exposure,
    )
    eta, error = pair[0], pair[1]
    if kind == "response":
        between = variance_between(result, x, eta.shape[-1], unseen)
        if between is not None:
            error = (error.square() + result.shaped(between[..., 0, 0].expand(*result.flat.coef.shape[:1], -1))).sqrt()
        return _response(result, eta, error, level, _divisor(beside, eta, x))
    half = result.quantile(level).unsqueeze(-1) * error
    ends = torch.stack([eta - half, eta + half], -1)
    if kind == "link":
        return ends
    limits = mean_limits(ends, eta, result.link, result.family)
    return _of_times(limits, kind, places_of(kind, at)) if kind in OF_TIMES else limits


def _of_times(mean: Tensor, kind: str, places: Tensor) -> Tensor:
    """(*B, m, 2) or (*B, m, T, 2) the survival or the quantiles of exponential times of these means."""
    if places.dim():
        mean, places = mean.unsqueeze(-2), places.unsqueeze(-1)
    return -torch.log1p(-places) * mean if kind == "quantile" else torch.exp(-places / mean)


def mean_limits(ends: Tensor, eta: Tensor, link: Link, family: Family) -> Tensor:
    """Limits `ends` (..., 2) of linear predictors as limits of means, in order, at the edge where they leave it.

    `eta` (...) are the predictors inside, whose slope says which end is the upper one.
    """
    rising = (link.inverse_deriv(eta) >= 0).unsqueeze(-1)
    mean = link(ends)
    inside = link.inside(ends) & family.valid_mean(mean)
    below = torch.tensor([True, False], device=ends.device)
    edge = torch.where(rising == below, family.mean_lower, family.mean_upper)
    mean = torch.where(inside | torch.isnan(ends), mean, edge)
    return torch.where(rising, mean, mean.flip(-1))


def _divisor(roles: Roles, like: Tensor, x: Any) -> Tensor:
    """The prior weight of every new row: that given, its trials, or 1."""
    total = torch.ones_like(like)
    for name, value in roles.without("offset", "exposure").given.items():
        given = for_each(name, value, like, x)
        if not bool((given > 0).all()):
            raise ValueError(f"{name} of new rows must be > 0; got {float(given.min()):g}. Drop rows of weight 0.")
        total = total * given
    return total


def _response(result: Fitted, eta: Tensor, error: Tensor, level: float, divisor: Tensor) -> Tensor:
    refuse_quasi(result, "prediction intervals")
    m = eta.shape[-1]
    if not eta.numel():
        return eta.new_zeros(*eta.shape, 2)
    flat = [value.reshape(-1, m) for value in (eta, error, divisor)]
    predictors, dispersions = _predictor_nodes(result, *flat), _dispersion_nodes(result)
    step = max(1, CELLS // (len(predictors[0]) * len(dispersions[0]) * flat[0].shape[0]))
    parts = []
    for start in range(0, m, step):
        law = Mixture.of(result, predictors, dispersions, *(value[:, start : start + step] for value in flat))
        parts.append(torch.stack([law.quantile(0.5 - level / 2, True), law.quantile(0.5 - level / 2, False)], -1))
    ends = torch.cat(parts, -2).reshape(*eta.shape, 2)
    return torch.where(torch.isnan(error).unsqueeze(-1), torch.nan, ends)  # nothing is known of such a mean


def _predictor_nodes(result: Fitted, eta: Tensor, error: Tensor, divisor: Tensor) -> Nodes:
    """Nodes for the linear predictor: few where the noise of a response hides its error, even steps where not.

    With `r` the largest ratio of the two, even steps of `0.9 / sqrt(1 + r^2)` are right to 1e-8.
    """
    ratio = _ratio(result, eta, error, divisor)
    largest = float(ratio.max().clamp(max=50.0)) if ratio.numel() else 0.0
    if largest < 0.5:
        return _hermite(5 if largest < 0.15 else 9, eta)
    z, share = even_nodes(1 + math.ceil(2 * REACH * math.sqrt(1 + largest**2) / 0.9))
    return z.to(eta), share.to(eta)


def _ratio(result: Fitted, eta: Tensor, error: Tensor, divisor: Tensor) -> Tensor:
    """(B, m) the standard error of a mean beside the standard deviation of a response."""
    noise = (result.dispersion.reshape(-1, 1) / divisor * result.family.variance(result.link(eta))).sqrt()
    return (error * result.link.inverse_deriv(eta).abs() / noise).nan_to_num(0.0, 0.0, 0.0)


def _dispersion_nodes(result: Fitted) -> Nodes:
    """Nodes for the normal score of the dispersion; the one node 0 where it is known."""
    if result.statistic_name == "z":
        return _hermite(1, result.dispersion)
    freedom = result.df_resid.nan_to_num(1.0)
    count = 5 if bool((freedom > 150).all()) else 9 if bool((freedom > 20).all()) else 31
    return _hermite(count, result.dispersion)


def _hermite(count: int, like: Tensor) -> Nodes:
    """Nodes and weights of a standard normal expectation."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    some = weights > 1e-14 * weights.sum()
    return torch.from_numpy(nodes[some]).to(like), torch.from_numpy(weights[some] / weights[some].sum()).to(like)


class Mixture(Distribution):
    """The law of new responses: `parts` has the batch shape `(B, nodes m)`, `log_weight` is `(B, nodes, m)`.

    `plain` is one law (B, m) that comes near: that at the estimates, as wide as the mixture.
    """

    def __init__(self, parts: Distribution, log_weight: Tensor, plain: Distribution) -> None:
        self.parts, self.log_weight, self.plain = parts, log_weight, plain
        if hasattr(plain, "total_count"):
            self.total_count = plain.total_count
        super().__init__(torch.Size((log_weight.shape[0], log_weight.shape[-1])), validate_args=False)

    @classmethod
    def of(
        cls, result: Fitted, predictors: Nodes, dispersions: Nodes, eta: Tensor, error: Tensor, divisor: Tensor
    ) -> Mixture:
        """The law of responses with linear predictors `eta`, their errors and prior weights, all (B, m)."""
        phi, freedom = result.dispersion.reshape(-1, 1), result.df_resid.reshape(-1, 1)
        (z, share), (at, other) = predictors, dispersions
        factor = torch.ones_like(phi)
        if result.statistic_name == "t":
            tails = torch.special.log_ndtr(at).expand(phi.shape[0], -1), torch.special.log_ndtr(-at)
            factor = freedom / (2 * special.gamma_quantile(freedom / 2, *tails))
        # (B, predictors, dispersions, m)
        spread = error[:, None, None] * factor.sqrt()[:, None, :, None]
        moved = eta[:, None, None] + z[:, None, None] * spread
        mu = result.link(moved)
        inside = result.link.inside(moved) & result.family.valid_mean(mu)
        centre = result.link(eta)
        mu = torch.where(inside, mu, centre[:, None, None])
        log_weight = (share[:, None] * other).log()[..., None] + torch.where(inside, 0.0, -torch.inf)
        flat = (mu.shape[0], -1)
        scale = (phi * factor)[:, None, :, None] / divisor[:, None, None]
        law = result.family.distribution(mu.reshape(flat), scale.expand(mu.shape).reshape(flat))
        log_weight = log_weight.reshape(mu.shape[0], -1, mu.shape[-1])
        wider = phi / divisor * (1 + _ratio(result, eta, error, divisor).square())
        return cls(
            law,
            log_weight - log_weight.logsumexp(1, keepdim=True),
            result.family.distribution(centre, wider if result.family.has_dispersion else phi / divisor),
        )

    def _over_nodes(self, value: Tensor) -> Tensor:
        return value.reshape(self.log_weight.shape)

    @property
    def mean(self) -> Tensor:
        return (self.log_weight.exp() * self._over_nodes(self.parts.mean)).sum(1)

    @property
    def variance(self) -> Tensor:
        square = self._over_nodes(self.parts.variance + self.parts.mean.square())
        return (self.log_weight.exp() * square).sum(1) - self.mean.square()

    def quantile(self, tail: float, lower: bool) -> Tensor:
        """(B, m) the smallest value below which (or above which at most) the probability `tail` lies."""
        log_tail = torch.full_like(self.log_weight[:, 0], math.log(tail))
        rest = torch.full_like(log_tail, math.log1p(-tail))
        pair = (log_tail, rest) if lower else (rest, log_tail)
        support = self.plain.support
        if support is not None and support.is_discrete:
            return count_quantile(self, partial(log_tails, self), *pair, torch.zeros_like(log_tail))
        return self._continuous(float(torch.special.ndtri(torch.tensor(tail, dtype=torch.float64))), lower)

    def _score(self, value: Tensor, lower: bool) -> Tensor:
        """The normal quantile of the tail beyond `value`, counted from the lower or the upper end."""
        return torch.special.ndtri(log_tails(self, value)[0 if lower else 1].exp())

    def _continuous(self, target: float, lower: bool) -> Tensor:
        """The value whose tail has the normal quantile `target` < 0: by secant steps.

        The unknown is `z`, the value being the quantile of the plain law at the normal tail `z`, so that the support
        is kept and the function is nearly the identity.
        """

        def value_at(z: Tensor) -> Tensor:
            log_tail, rest = torch.special.log_ndtr(z), torch.special.log_ndtr(-z)
            return quantile(self.plain, log_tail, rest) if lower else quantile(self.plain, rest, log_tail)

        z = torch.full_like(self.log_weight[:, 0], target)
        zero = self._at_zero(target, lower)
        before, score_before = z, torch.full_like(z, torch.nan)

        def step(z: Tensor) -> Tensor:
            nonlocal before, score_before
            score = self._score(value_at(z), lower)
            slope = ((score - score_before) / (z - before)).nan_to_num(1.0, 1.0, 1.0).clamp(0.02, 5.0)
            before, score_before = z, score
            return torch.where(zero, 0.0, (target - score) / slope)

        z = root(step, z, limits=WITHIN, close=CLOSE)
        return torch.where(zero, 0.0, value_at(z))

    def _at_zero(self, target: float, lower: bool) -> Tensor:
        """(B, m) True where the quantile is an atom at zero, the end of the support."""
        nothing = torch.zeros_like(self.log_weight[:, 0])
        if not bool((log_tails(self.plain, nothing)[0] > -torch.inf).any()) or bool(
            (log_tails(self.plain, nothing - 1.0)[0] > -torch.inf).any()
        ):
            return nothing.bool()
        score = self._score(nothing, lower)
        return score >= target if lower else score <= target


@log_tails.register
def _(law: Mixture, value: Tensor) -> tuple[Tensor, Tensor]:
    nodes = law.log_weight.shape[1]
    each = value.unsqueeze(1).expand(-1, nodes, -1).reshape(value.shape[0], -1)
    lower, upper = log_tails(law.parts, each)
    return tuple((law.log_weight + law._over_nodes(tail)).logsumexp(1) for tail in (lower, upper))  # type: ignore
