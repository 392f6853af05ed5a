"""Intervals for new rows of several predictors: of every quantity of the law, and of responses yet to be seen.

The law of a new response mixes the family's own over the predictors, normal with the covariance they have by the delta
method. The mixture is a sum over Gauss-Hermite nodes of the K predictors, and its distribution function is inverted
in either tail.
Source: Bjornstad (1990), Predictive likelihood: a review, Stat. Sci. 5.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from torchglm.families import Family
from torchglm.families.several import BetaBinomial, Classes, VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.inference.for_each import for_each
from torchglm.inference.levels import check_level
from torchglm.inference.new_groups import variance_between
from torchglm.inference.several import family_of, new_rows, predict_several
from torchglm.inference.vector.quantities import limits_of, quantity
from torchglm.inputs import Roles
from torchglm.rows.planned import expanded, predictors
from torchglm.rows.responses import Counts, Response
from torchglm.rows.rows import Rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

MOST = 1 << 40  # a count beyond which no limit is looked for
CELLS = 1 << 21  # values of the distribution function taken at once
STEPS = 60  # of a search for a quantile, at most
REACH, EVEN = 6.5, 61  # standard deviations to which nodes in even steps go, and how many these are between groups
CLOSE, SLACK = 1e-11, 1e-12  # of a quantile on its scale, and of a probability


@torch.no_grad()
def predict_interval_several(
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
    """(*B, m, 2) limits of a quantity of the law of new rows, for classes (*B, m, C, 2); see `predict_interval`."""
    check_level(level)
    family = family_of(result)
    if kind == "response":
        return _responses(result, x, level, predictors or {}, unseen, roles)
    asked = quantity(family, kind, at)
    beside = Roles.of(roles, f"predict_interval of kind {kind}", ("offset", "exposure"))
    value, error = predict_several(result, x, kind, True, predictors, unseen, at, **beside.given)
    half = result.quantile(level)
    half = half.reshape(*half.shape, *[1] * (value.dim() - half.dim()))
    return torch.stack(limits_of(asked, value, error, half), -1)


def _responses(
    result: Fitted, x: Any, level: float, given: Mapping[str, Any], unseen: str | None, roles: Mapping[str, Any]
) -> Tensor:
    family = family_of(result)
    if isinstance(family, Classes):
        raise ValueError("a class has no interval. Use kind='probability', for limits of each class's probability.")
    takes = ("offset", "exposure", *roles_of_response(family))
    beside = Roles.of(roles, "predict_interval of a response", takes)
    rows = new_rows(result, x, given, Roles(offset=beside.offset, exposure=beside.exposure), unseen)
    like = result.shaped(rows.weight)
    prior, trials = (
        _positive(name, getattr(beside, name), like, x).reshape(rows.y.shape) for name in ("weights", "trials")
    )
    groups = variance_between(result, x, rows.y.shape[1], unseen)
    nodes, shares = _nodes(len(family.predictors), groups is not None)
    step = max(1, CELLS // (len(shares) * rows.y.shape[0]))
    parts = []
    for start in range(0, rows.y.shape[1], step):
        piece = slice(start, start + step)
        eta = _spread(result, rows.between(start, start + step), nodes, None if groups is None else groups[:, piece])
        if family.weighted is not None:
            eta[family.predictors.index(family.weighted)] -= prior[:, piece].log()
        parts.append(_limits(family, eta, shares, trials[:, piece], 0.5 - level / 2))
    return result.shaped(torch.cat(parts, -2))


def roles_of_response(family: Family) -> tuple[str, ...]:
    """The roles of new rows that say something of the law of a response."""
    if not isinstance(family, VectorFamily):
        return ("weights", "trials")
    return (*(("weights",) if family.weighted else ()), *(("trials",) if isinstance(family, BetaBinomial) else ()))


def _positive(name: str, value: Any, like: Tensor, x: Any) -> Tensor:
    """(*B, m) a role of new rows, 1 where it is not given. Raises `ValueError` where it is not above 0."""
    if value is None:
        return torch.ones_like(like)
    given = for_each(name, value, like, x).expand(like.shape)
    if not bool((given > 0).all()):
        raise ValueError(f"{name} of new rows must be > 0; got {float(given.min()):g}. Drop rows of weight 0.")
    return given


def _nodes(size: int, wide: bool = False) -> tuple[Tensor, Tensor]:
    """Nodes (J, K) and weights (J,) of a standard normal expectation in K dimensions.

    Of one that is `wide` beside the law of a response the last axis has even steps.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss({1: 9, 2: 7}.get(size, 5))
    axes = [(nodes, weights)] * size
    if wide:
        at, of = even_nodes(EVEN)
        axes[-1] = (at.numpy(), of.numpy())
    grid = torch.tensor(list(itertools.product(*(at.tolist() for at, _ in axes))), dtype=torch.float64)
    share = torch.tensor(list(itertools.product(*(of.tolist() for _, of in axes))), dtype=torch.float64).prod(-1)
    return grid, share / share.sum()


def even_nodes(count: int) -> tuple[Tensor, Tensor]:
    """Even steps and weights (count,) of a standard normal expectation, for what is wider than the law beside it."""
    z = torch.linspace(-REACH, REACH, count, dtype=torch.float64)
    return z, torch.softmax(-z.square() / 2, 0)


def spread_of(result: Fitted, rows: Rows, at: Tensor | None, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """(K, J, B, m) the predictors of rows at nodes `at` (J, K), or those of a quadrature, and the weights (J,)."""
    if at is None or weights is None:
        at, weights = _nodes(len(family_of(result).predictors))
    eta = _spread(result, rows, at)
    return eta, weights.to(eta)


def _spread(result: Fitted, rows: Rows, nodes: Tensor, groups: Tensor | None = None) -> Tensor:
    """(K, J, B, m) the predictors of rows at the nodes of what the fit leaves open of them.

    `groups` (B, m, K, K) is their covariance between groups. The axes of the nodes are principal ones, the widest last.
    """
    flat, cov = result.flat, result.flat_covariance
    eta = predictors(rows, flat.coef)
    z = expanded(rows)  # (K, m, P) or (K, B, m, P)
    z = (z.unsqueeze(1) if rows.shared else z).movedim(0, -2)
    spread = z @ torch.where(torch.isfinite(cov), cov, 0.0).unsqueeze(1) @ z.mT  # (B, m, K, K)
    values, vectors = torch.linalg.eigh(spread if groups is None else spread + groups)
    root = vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
    moved = eta.unsqueeze(1) + torch.einsum("bmkl,jl->kjbm", root, nodes.to(root))
    family = family_of(result)
    return torch.where(family.valid(moved), moved, eta.unsqueeze(1))


def _limits(family: VectorFamily, eta: Tensor, shares: Tensor, trials: Tensor, tail: float) -> Tensor:
    """(B, m, 2) the quantiles of the mixture with the probability `tail` beyond them."""
    weights, discrete = shares.to(eta)[:, None, None], family.counts or isinstance(family, BetaBinomial)
    ends = []
    for lower in (True, False):

        def beyond(value: Tensor, place: int = 0 if lower else 1) -> Tensor:
            """(B, m) the probability up to a value, or above it."""
            size = value.expand(eta.shape[1:])
            y: Response = Counts(size, trials.expand(size.shape)) if isinstance(family, BetaBinomial) else size
            return (family.tails(y, eta)[1][place] * weights).sum(0)

        if discrete:
            ends.append(_count(beyond, trials, tail, lower))
        else:
            ends.append(_amount(beyond, family, eta, tail, lower))
    return torch.stack(ends, -1)


def quantiles(family: VectorFamily, eta: Tensor, tail: float) -> Tensor:
    """(B, m, 2) the quantiles of a law of amounts at predictors (K, B, m), `tail` and `1 - tail`."""
    trials = torch.ones_like(eta[0])
    return _limits(family, eta.unsqueeze(1), eta.new_ones(1), trials, tail)


def _reached(share: Tensor, tail: float, lower: bool) -> Tensor:
    """Whether a value is at the quantile or above it."""
    return share >= tail * (1 - SLACK) if lower else share <= tail * (1 + SLACK)


def _count(beyond: Callable[[Tensor], Tensor], like: Tensor, tail: float, lower: bool) -> Tensor:
    """The smallest count at which a quantile is reached: a bracket by doubling, then bisection."""
    low, high = torch.full_like(like, -1.0), torch.zeros_like(like)
    while bool((short := ~_reached(beyond(high), tail, lower)).any()) and float(high.max()) < MOST:
        low, high = torch.where(short, high, low), torch.where(short, 2 * high + 1, high)
    while bool((high - low > 1).any()):
        middle = torch.where(high - low > 1, torch.floor((low + high) / 2), high)
        hit = _reached(beyond(middle), tail, lower)
        low, high = torch.where(hit, low, torch.minimum(middle, high - 1)), torch.where(hit, middle, high)
    return high


def _amount(beyond: Callable[[Tensor], Tensor], family: VectorFamily, eta: Tensor, tail: float, lower: bool) -> Tensor:
    """The amount at which a quantile is reached, on the logarithms of positive ones; 0 where that has the share.

    The root of the normal scores of the two probabilities, by false position in a bracket (Illinois).
    """
    real, target = family.support is constraints.real, float(torch.special.ndtri(torch.tensor(tail).double()))
    centre = family.mean(eta).mean(0)
    centre = torch.where(torch.isfinite(centre), centre, 1.0)
    scale = family.variance_at(eta).mean(0).sqrt() if real else torch.ones_like(centre)
    centre = centre if real else centre.clamp(min=1e-300).log()

    def value(u: Tensor) -> Tensor:
        return centre + scale * u if real else (centre + u).exp()

    def excess(u: Tensor) -> Tensor:
        """Below 0 under the quantile, above 0 over it; above all responses that there are it is the largest."""
        at = value(u)
        inside = family.supports(at)
        score = torch.special.ndtri(beyond(torch.where(inside, at, family.inner_mean))) - target
        return torch.where(inside, score if lower else -score, torch.inf).clamp(-40, 40)

    none = torch.zeros_like(centre)
    atom = none.bool() if real or not bool(family.supports(none).all()) else _reached(beyond(none), tail, lower)
    low, high = none - 2, none + 2
    below, above = excess(low), excess(high)
    for _ in range(12):
        wrong_low, wrong_high = (below > 0) & ~atom, above < 0
        if not bool((wrong_low | wrong_high).any()):
            break
        low, high = torch.where(wrong_low, 2 * low, low), torch.where(wrong_high, 2 * high, high)
        below, above = excess(low), excess(high)
    return torch.where(atom, 0.0, value(_root(excess, low, high, below, above)))


def _root(excess: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """The root of a rising function in the bracket, of which `below` and `above` are the values at the ends."""
    at, side = low, torch.zeros_like(low)
    for step in range(STEPS):
        middle = (low * above - high * below) / (above - below)
        inside = (middle > low) & (middle < high)
        at = torch.where(inside & (step % 12 < 11), middle, (low + high) / 2)
        found = excess(at)
        hit = found >= 0
        low, high = torch.where(hit, low, at), torch.where(hit, at, high)
        if bool(((found.abs() < CLOSE) | (high - low <= CLOSE * (1 + at.abs()))).all()):
            break
        # an end that stays twice counts half, so that the other comes near from the far side as well
        now = torch.where(hit, 1.0, -1.0)
        again = side == now
        below = torch.where(hit, torch.where(again, below / 2, below), found)
        above = torch.where(hit, found, torch.where(again, above / 2, above))
        side = now
    return at
