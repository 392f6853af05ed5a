"""Tests of smooth terms: is a curve zero everywhere, when its freedom was estimated from the same rows.

Source: Wood (2013), Biometrika 100(1), 221-228.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchglm.special import tails

NULL = 2.0**-46.8  # share of the largest eigenvalue below which one is zero
ANGLES, STEPS = 32, 64  # of the integrals over two directions and over the rest
NODES = 128  # of the integral over a dispersion


class TermTest(NamedTuple):
    """The statistic of a term, over its degrees of freedom `df` where it is an F, and the p-value."""

    statistic: float
    df: float
    p_value: float


def test_of(coef: Tensor, covariance: Tensor, gram: Tensor, df: float, resid: float | None) -> TermTest:
    """Whether coefficients (q,) are zero, by a quasi-inverse of their covariance (q, q) of the fractional rank `df`.

    `gram` (q, q) is `X'WX` of the columns; `resid` are the residual degrees of freedom of an estimated dispersion.
    """
    root = np.linalg.cholesky(_positive(gram)).T  # upper: R'R = X'WX
    values, vectors = np.linalg.eigh(root @ covariance.numpy() @ root.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors = vectors * np.where(vectors[0] < 0, -1.0, 1.0)
    along = vectors.T @ (root @ coef.numpy())
    rank = min(df, float(len(along)))
    whole = max(0, math.floor(rank))
    rest, found = rank - whole, int((values > values[0] * NULL).sum())
    if found < whole + (rest > 0):
        whole, rest, rank = found, 0.0, float(found)
    if rest > 0 and whole > 0:
        sizes = _fractional(along, values, whole, rest)
    else:
        used = max(whole, 1)
        one = float((along[:used] ** 2 / values[:used]).sum())
        sizes, rank = (one, one), max(rank if not rest else 1.0, 1.0)
        rest = 0.0
    p = sum(_tail(one, whole, rest, rank, resid) for one in sizes) / 2
    return TermTest(sizes[0] / (rank if resid is not None else 1.0), rank, min(p, 1.0))


def _positive(gram: Tensor) -> np.ndarray:
    whole = gram.numpy()
    return whole + np.eye(len(whole)) * 1e-13 * np.trace(whole)


def _fractional(along: np.ndarray, values: np.ndarray, whole: int, rest: float) -> tuple[float, float]:
    """The two statistics of a fractional rank, which differ by a sign that nothing fixes."""
    first = float((along[: whole - 1] ** 2 / values[: whole - 1]).sum())
    cross = math.sqrt(max(0.5 * rest * (1 - rest), 0.0))
    scale = np.diag(values[whole - 1 : whole + 1] ** -0.5)
    inner = scale @ np.array([[1.0, cross], [cross, rest]]) @ scale
    pair = along[whole - 1 : whole + 1]
    other = pair * np.array([-1.0, 1.0])
    return first + float(pair @ inner @ pair), first + float(other @ inner @ other)


def _tail(statistic: float, whole: int, rest: float, rank: float, resid: float | None) -> float:
    """The probability of a larger statistic."""
    p = 2.0
    if rest > 0:
        half = rest + 1.0
        one = (half + math.sqrt(half * (2 - half))) / 2
        pair = (one, half - one)
        p = float(_mixture(statistic, whole - 1, pair)) if resid is None else _ratio(statistic, whole - 1, pair, resid)
    if p > 0.5:  # in the lower tail two moments say it better
        if resid is None:
            return float(_chi2_sf(np.array([statistic]), rank)[0])
        return float(tails.f_sf(*(torch.tensor(v, dtype=torch.float64) for v in (statistic / rank, rank, resid))))
    return p


def _mixture(q: float | np.ndarray, ones: int, pair: tuple[float, float]) -> np.ndarray:
    """`P(chi2_ones + a chi2_1 + b chi2_1 > q)` with `pair` (a, b): an average over the angle of the last two.

    Along an angle they are `c chi2_2`, whose tail is `exp(-q / 2c)`; every term is positive, so small tails are exact.
    """
    q = np.asarray(q, np.float64)
    angle = (np.arange(ANGLES) + 0.5) * math.pi / (2 * ANGLES)
    c = pair[0] * np.cos(angle) ** 2 + pair[1] * np.sin(angle) ** 2
    if ones == 0:
        return np.exp(-q[..., None] / (2 * c)).mean(-1)
    nodes, weights = _legendre(STEPS)
    t = (nodes + 1) / 2
    s = q[..., None] * t**2  # crowded where the density of few degrees of freedom is large
    log = (ones / 2 - 1) * np.log(np.maximum(s, 1e-300)) - s / 2 - ones / 2 * math.log(2) - math.lgamma(ones / 2)
    width = weights * t * q[..., None]  # ds = 2 q t dt, and dt is half of a node's
    tails = np.exp(log[..., None] - (q[..., None] - s)[..., None] / (2 * c)).mean(-1)
    return _chi2_sf(q, float(ones)) + (tails * width).sum(-1)


def _ratio(d: float, ones: int, pair: tuple[float, float], resid: float) -> float:
    """`P(mixture > d chi2_k / k)` with `k` residual degrees of freedom: an average over the dispersion."""
    k = max(1.0, float(round(resid)))
    size = max(pair[0], 1.0)
    spread = math.sqrt(2 / k)
    low = math.log(k / (1 + d / (k * size))) - 12 * max(spread, 0.1 * min(spread * 10, 1.0)) - (4 if k < 10 else 0)
    high = math.log(k) + 12 * spread
    nodes, weights = _legendre(max(NODES, min(1024, int((high - low) / spread * 4))))
    log_v = low + (high - low) * (nodes + 1) / 2
    v = np.exp(log_v)
    density = np.exp(k / 2 * log_v - v / 2 - k / 2 * math.log(2) - math.lgamma(k / 2))
    return float((weights * density * _mixture(d * v / k, ones, pair)).sum() * (high - low) / 2)


@lru_cache(maxsize=16)
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(count)


def _chi2_sf(q: np.ndarray, df: float) -> np.ndarray:
    value = torch.from_numpy(np.atleast_1d(q).astype(np.float64))
    found = tails.chi2_sf(value, torch.full_like(value, df)).numpy()
    return found.reshape(np.shape(q))
