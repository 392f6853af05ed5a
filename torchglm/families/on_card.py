"""Formulas for kernels on a CUDA device, written for Triton: a function and a line of `PAIRS` for each family and link.

A function is given the responses `y`, the linear predictors `eta`, 1 or 0 for `observed` information, and the `shape`
of the family, all in float64, and returns of each row for `phi = w = 1` the mean, the score `dl/deta`, the information
and half the unit deviance, the last up to rounding of the terms it is the difference of (`Family.cheap`). The formulas
in words, and for every other device, are those of the families and links themselves; the tests hold these to them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from torchglm import links
from torchglm.families.base import Family
from torchglm.families.counts import NegativeBinomial, Poisson
from torchglm.families.positive import Gamma, InverseGaussian
from torchglm.families.proportions import Bernoulli, Binomial
from torchglm.families.real import Gaussian
from torchglm.families.tweedie import Tweedie
from torchglm.links import Link


class Pair(NamedTuple):
    """A family with a link: its `formulas`, and the attribute of the family that is its `shape`, if it has one."""

    formulas: Any
    shape: str | None = None


@triton.jit
def _log_of(y):
    """`log y`, and 0 where `y` is 0."""
    return tl.log(tl.where(y > 0, y, 1.0))


@triton.jit
def _log1p(t):
    """`log(1 + t)` for `t > -1`; the rounding of `1 + t` divides out (Kahan)."""
    u = 1 + t
    near = u == 1
    return tl.where(near, t, tl.log(u) * (t / tl.where(near, 1.0, u - 1)))


@triton.jit
def _expm1_minus_over_square(z):
    """`(exp(z) - 1 - z) / z^2`; 1/2 at zero."""
    near = tl.abs(z) < 0.5
    t = tl.where(near, z, 0.0)
    series = t / 14 + 1  # 1/2! + z/3! + ... + z^12/14!, from behind
    for k in tl.static_range(13, 2, -1):
        series = series * (t / k) + 1
    far = tl.where(near, 1.0, z)
    return tl.where(near, series / 2, (tl.exp(far) - 1 - far) / (far * far))


@triton.jit
def gaussian_identity(y, eta, observed, shape):
    score = y - eta
    return eta, score, score * 0 + 1, score * score / 2


@triton.jit
def poisson_log(y, eta, observed, shape):
    mu = tl.exp(eta)
    return mu, y - mu, mu, y * (_log_of(y) - eta) - (y - mu)


@triton.jit
def proportion_logit(y, eta, observed, shape):
    less = tl.exp(-tl.abs(eta))
    near, far = 1 / (1 + less), less / (1 + less)  # exact at both ends
    mu, other = tl.where(eta > 0, near, far), tl.where(eta > 0, far, near)
    log = _log1p(less)
    half = y * (log + tl.where(eta < 0, -eta, 0.0)) + (1 - y) * (log + tl.where(eta > 0, eta, 0.0))
    half += y * _log_of(y) + (1 - y) * _log_of(1 - y)
    return mu, y * other - (1 - y) * mu, mu * other, half


@triton.jit
def gamma_log(y, eta, observed, shape):
    mu = tl.exp(eta)
    ratio = y / mu
    return mu, ratio - 1, tl.where(observed > 0, ratio, 1.0), ratio - 1 - (_log_of(y) - eta)


@triton.jit
def inverse_gaussian_log(y, eta, observed, shape):
    mu = tl.exp(eta)
    excess = (y - mu) / mu
    score = excess / mu
    return mu, score, tl.where(observed > 0, 1 / mu + 2 * score, 1 / mu), excess * (excess / y) / 2


@triton.jit
def negative_binomial_log(y, eta, observed, shape):
    mu = tl.exp(eta)
    spread = 1 + shape * mu
    score = (y - mu) / spread
    weight = tl.where(observed > 0, mu / spread * ((1 + shape * y) / spread), mu / spread)
    over = shape * score
    near, none = tl.abs(over) < 0.5, over == 0
    log = tl.where(near, _log1p(tl.where(near, over, 0.0)), tl.log((1 + shape * y) / spread))
    over = score * tl.where(none, 1.0, log / tl.where(none, 1.0, over))  # log / alpha
    return mu, score, weight, y * (_log_of(y) - eta - log) - over


@triton.jit
def tweedie_log(y, eta, observed, shape):
    mu, slope = tl.exp(eta), tl.exp((1 - shape) * eta)
    score = (y - mu) * slope
    rest = 2 - shape
    weight = tl.exp(rest * eta)
    log = eta - _log_of(y)  # log(mu / y)
    bend = rest * _expm1_minus_over_square(rest * log) + (shape - 1) * _expm1_minus_over_square((1 - shape) * log)
    half = tl.where(y > 0, tl.exp(rest * _log_of(y)) * log * log * bend, weight / rest)
    return mu, score, tl.where(observed > 0, weight + (shape - 1) * score, weight), half


PAIRS: dict[tuple[type[Family], type[Link]], Pair] = {
    (Gaussian, links.Identity): Pair(gaussian_identity),
    (Poisson, links.Log): Pair(poisson_log),
    (Bernoulli, links.Logit): Pair(proportion_logit),
    (Binomial, links.Logit): Pair(proportion_logit),
    (Gamma, links.Log): Pair(gamma_log),
    (InverseGaussian, links.Log): Pair(inverse_gaussian_log),
    (NegativeBinomial, links.Log): Pair(negative_binomial_log, "alpha"),
    (Tweedie, links.Log): Pair(tweedie_log, "power"),
}


def pair_of(family: Family, link: Link) -> Pair | None:
    """The pair of a family and a link, which are what their classes are; None where there is none.

    A Tweedie family whose power is not between 1 and 2 has other formulas.
    """
    known = PAIRS.get((type(family), type(link)))
    return known if not isinstance(family, Tweedie) or not family.arguments() else None
