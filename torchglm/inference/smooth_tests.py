"""Tests of smooth terms, from the rows that they were fitted to: is a curve zero, is the variance of effects?

Source: Wood (2013), Biometrika 100(1), 221-228, and 100(4), 1005-1010.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchglm.special.mixtures import mixture_sf

NULL = 2.0**-46.8  # share of the largest eigenvalue below which one is zero
SMALL = 2.0**-41.6  # and of those that a variance is tested by


class TermTest(NamedTuple):
    """The statistic of a term, over its degrees of freedom `df` where it is an F, and the p-value."""

    statistic: float
    df: float
    p_value: float


NONE = TermTest(math.nan, math.nan, math.nan)


class Smoothed(NamedTuple):
    """The coefficients (p,) of a model, what the rows tell of them (p, p), its inverse with the penalty, and that.

    `given` (p, p) is what the rows tell of them beside random effects as they are, which `gram` integrates over (where
    a strength is infinite that is nothing but rounding). `resid` are the residual degrees of freedom of an estimated
    dispersion, or None.
    """

    coef: Tensor
    gram: Tensor
    inverse: Tensor
    penalty: Tensor
    given: Tensor
    resid: float | None


def variance_test_of(model: Smoothed, own: Tensor, drawn: Tensor, phi: float) -> TermTest:
    """Whether the coefficients at `own` (q,), all drawn from a normal law, are zero: whether its variance is.

    `drawn` are the places of other effects of levels, whose variance is one of the rows as well. The statistic is the
    square of the coefficients by the curvature that is theirs alone, over the dispersion `phi`; its law is that of the
    mixture of chi-squared which it has where they are zero.
    """
    coef, gram, inverse, penalty, _, resid = model
    ridge = penalty.diagonal()[drawn]
    spread = torch.where(ridge > 0, 1 / torch.where(ridge > 0, ridge, 1.0), 0.0)
    wide = gram + (gram[:, drawn] * spread) @ gram[drawn]
    others = torch.ones_like(coef, dtype=torch.bool).index_fill(0, torch.cat([own, drawn]), False).nonzero()[:, 0]
    order = torch.cat([others, own])
    root = _root((wide + penalty)[order][:, order])[-len(own) :, -len(own) :]
    varied = root.mT @ (inverse @ wide @ inverse)[own][:, own] @ root
    values = torch.linalg.eigvalsh((varied + varied.mT) / 2).clamp(min=0)
    largest, size = float(values.max()), float((root.mT @ coef[own]).square().sum()) / phi
    if not largest > 0:
        return NONE
    df = float((values > largest * SMALL).sum())
    p = _tail(size, values, torch.ones_like(values), resid)
    return TermTest(size / (df if resid is not None else 1.0), df, min(p, 1.0))


def _root(whole: Tensor) -> Tensor:
    """The lower root of a matrix that is positive but for rounding."""
    size = whole.diagonal().sqrt()
    scaled = whole / size / size.unsqueeze(-1) + 1e-13 * torch.eye(len(whole), dtype=whole.dtype)
    return torch.linalg.cholesky(scaled) * size.unsqueeze(-1)


def curve_test_of(model: Smoothed, own: Tensor, covariance: Tensor) -> TermTest:
    """Whether the coefficients at `own` (q,) are zero, by a quasi-inverse of their covariance (q, q).

    Its rank is fractional: the degrees of freedom of the term, those of a fit that is smoothed twice.
    """
    coef, gram, resid = model.coef[own], model.given[own][:, own], model.resid
    share = model.inverse @ model.gram
    df = float((2 * share.diagonal() - (share * share.mT).sum(-1))[own].sum())
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
    p = sum(_tail(one, *_law(max(whole, 1), rest), resid) for one in sizes) / 2
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


def _law(whole: int, rest: float) -> tuple[Tensor, Tensor]:
    """The weights and degrees of freedom of the chi-squared variables whose sum a statistic of a fractional rank is."""
    half = rest + 1.0
    one = (half + math.sqrt(half * (2 - half))) / 2
    weights, df = [1.0, one, half - one], [whole - 1.0, 1.0, 1.0]
    if not rest:
        weights, df = [1.0], [float(whole)]
    return torch.tensor(weights, dtype=torch.float64), torch.tensor(df, dtype=torch.float64)


def _tail(statistic: float, weights: Tensor, df: Tensor, resid: float | None) -> float:
    """The probability of a larger statistic, over an estimated dispersion of `resid` degrees of freedom or not."""
    if resid is None:
        return mixture_sf(statistic, weights, df)
    k = max(1.0, float(round(resid)))
    below = torch.tensor([-statistic / k, k], dtype=torch.float64)
    return mixture_sf(0.0, torch.cat([weights, below[:1]]), torch.cat([df, below[1:]]))
