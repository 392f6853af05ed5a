"""The continuous ranked probability score of the laws for which it is known in closed form.

    CRPS(F, y) = integral (F(x) - 1{y <= x})^2 dx = E|X - y| - E|X - X'| / 2

Arguments broadcast. Sources: Gneiting & Raftery (2007), Strictly proper scoring rules, prediction, and estimation,
J. Am. Stat. Assoc. 102, section 4.2; Jordan, Krueger & Lerch (2019), Evaluating probabilistic forecasts with
scoringRules, J. Stat. Softw. 90(12), appendix A.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchglm.special.counts import binomial_log_prob
from torchglm.special.incomplete import log_betainc
from torchglm.special.tails import betainc, gammainc, gammaincc

STEP, NODES = 1 / 6, 181  # of the trapezoidal rule of `_mean_difference`: 1e-13, for counts of any size
CHUNK = 1 << 14  # elements taken together, so that they stay in a cache from node to node


def normal_crps(y: Tensor, mu: Tensor, variance: Tensor) -> Tensor:
    """`s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))`, `z = (y - mu) / s`."""
    sd = variance.sqrt()
    z = (y - mu) / sd
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return sd * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def exponential_crps(y: Tensor, mu: Tensor) -> Tensor:
    """`y - 2 mu (1 - exp(-y / mu)) + mu / 2` for `y >= 0`."""
    return y + 2 * mu * torch.expm1(-y / mu) + mu / 2


def gamma_crps(y: Tensor, mu: Tensor, dispersion: Tensor) -> Tensor:
    """The score for the mean `mu` and the shape `a = 1 / dispersion`: `E|X - X'| / 2 = mu / (a B(1/2, a))`."""
    shape = 1 / dispersion
    x = y * shape / mu
    far = y * (2 * gammainc(shape, x) - 1) - mu * (2 * gammainc(shape + 1, x) - 1)
    log_beta = math.lgamma(0.5) + torch.lgamma(shape) - torch.lgamma(shape + 0.5)
    return far - mu / shape * torch.exp(-log_beta)


def poisson_crps(y: Tensor, mu: Tensor) -> Tensor:
    """`y (2 F(y) - 1) - mu (2 F(y - 1) - 1) - mu exp(-2 mu) (I0(2 mu) + I1(2 mu))` for a count `y`."""
    below = torch.where(y > 0, gammaincc(y.clamp(min=1), mu), 0.0)
    near = mu * (torch.special.i0e(2 * mu) + torch.special.i1e(2 * mu))
    return y * (2 * gammaincc(y + 1, mu) - 1) - mu * (2 * below - 1) - near


def negative_binomial_crps(y: Tensor, mu: Tensor, alpha: Tensor) -> Tensor:
    """The score of a count `y` for the mean `mu` and the variance `mu + alpha mu^2`, `alpha >= 0`.

    `E|X - X'| / 2 = mu / q 2F1(n + 1, 1/2; 2; -4 (1 - q) / q^2)`, `n = 1 / alpha`, `q = 1 / (1 + alpha mu)`.
    """
    alpha = alpha.clamp(min=1e-30)  # Poisson to the last digit
    size, spread = 1 / alpha, 1 + alpha * mu
    failure = 1 / spread, alpha * mu / spread
    below = torch.where(y > 0, torch.exp(log_betainc(size + 1, y.clamp(min=1), *failure)[0]), 0.0)
    far = y * (2 * torch.exp(log_betainc(size, y + 1, *failure)[0]) - 1) - mu * (2 * below - 1)
    return far - mu * spread * _mean_difference(-size - 1, 4 * alpha * mu * spread)


def binomial_crps(y: Tensor, trials: Tensor, probability: Tensor) -> Tensor:
    """The score of `y` successes out of `trials`.

    `E|X - X'| / 2 = n p q 2F1(1 - n, 1/2; 2; 4 p q)`, as of a negative binomial of size `-n`.
    """
    p, q = probability, 1 - probability
    inside = torch.where(y < trials, betainc((trials - y).clamp(min=1), y + 1, q), 1.0)  # F(y)
    # E(X; X <= y) = n p F(y) - (n - y) p P(X = y)
    part = trials * p * inside - (trials - y) * p * torch.exp(binomial_log_prob(y, trials, p))
    far = y * (2 * inside - 1) + trials * p - 2 * part
    return far - trials * p * q * _mean_difference(trials - 1, -4 * p * q)


def _mean_difference(power: Tensor, c: Tensor) -> Tensor:
    """`2F1(-power, 1/2; 2; -c)` for `power c <= 0` and `c >= -1`, by Euler's integral.

    `4 / pi` times the integral of `(1 + t^2)^-2 (1 + c t^2 / (1 + t^2))^power` over `t > 0`, with `t = s sinh(u)` by
    the trapezoidal rule, whose error falls exponentially; `s` is the width of the integrand.
    """
    power, c = torch.broadcast_tensors(power, c)
    if power.numel() > CHUNK:
        pieces = zip(power.flatten().split(CHUNK), c.flatten().split(CHUNK), strict=True)
        return torch.cat([_mean_difference(*piece) for piece in pieces]).view(power.shape)
    width = torch.rsqrt(2 + (power * c).abs())
    total = torch.full_like(width, 0.5)
    for node in range(1, NODES):
        square = (width * math.sinh(STEP * node)).square()
        log = torch.special.xlog1py(power, c * (square / (1 + square))) - 2 * torch.log1p(square)
        total = total + math.cosh(STEP * node) * torch.exp(log)
    return 4 / math.pi * STEP * width * total
