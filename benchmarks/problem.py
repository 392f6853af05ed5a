"""What every contender is given, what it gives back, and the answer it is held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CHUNK = 50_000  # rows per block of the reference solution


@dataclass(frozen=True)
class Problem:
    """Maximum likelihood for a (*B, p) coefficient array; the column of ones is already in `x`."""

    name: str
    family: str  # poisson | gamma | bernoulli
    link: str  # log | logit
    x: Array  # (n, p), or (B, n, p) where every model has its own
    y: Array  # (n,), or (B, n)
    factors: tuple[NDArray[np.int32], ...] = ()  # codes (n,) of each; treatment columns follow those of x, in order
    exposure: Array = field(default_factory=lambda: np.ones(0))  # (n,), where there are factors
    inference: bool = False  # HC3 errors and the influence of every row are asked for too

    def models(self) -> Iterator[tuple[Array, Array]]:
        """The models one at a time, for peers that know no batch."""
        if self.y.ndim == 1:
            yield self.x, self.y
        else:
            for b in range(len(self.y)):
                yield (self.x[b] if self.x.ndim == 3 else self.x), self.y[b]

    @property
    def gradient_tol(self) -> float:
        """The loosest power of ten at which peers that stop on the gradient pass the accuracy check."""
        return 1e-6 if self.y.ndim == 1 else 1e-8

    @property
    def megabytes(self) -> float:
        return (self.x.nbytes + self.y.nbytes + sum(codes.nbytes for codes in self.factors)) / 1e6


@dataclass(frozen=True)
class Fit:
    coef: Array  # (*B, p)
    std_err: Array | None = None  # (*B, p); None where the contender stops at the coefficients
    hc3: Array | None = None  # (*B, p) robust standard errors; these three where the problem asks for inference
    leverage: Array | None = None  # (*B, n)
    cook: Array | None = None  # (*B, n)


@dataclass(frozen=True)
class Workload:
    """A problem that is made when its turn comes, so that only one is in memory."""

    name: str
    title: str
    make: Callable[[], Problem]


def one_by_one(fit: Callable[[Array, Array], Fit], problem: Problem) -> Fit:
    """Solve the models of `problem` in a Python loop."""
    fits = [fit(x, y) for x, y in problem.models()]
    if problem.y.ndim == 1:
        return fits[0]
    others = [[getattr(f, name) for f in fits] for name in Fit.__dataclass_fields__ if name != "coef"]
    stacked = (None if parts[0] is None else np.stack(parts) for parts in others)
    return Fit(np.stack([f.coef for f in fits]), *stacked)


def mean_of(eta: Array, link: str) -> Array:
    return np.asarray(np.exp(eta) if link == "log" else 1 / (1 + np.exp(-eta)))


def variance_and_slope(mu: Array, family: str, link: str) -> tuple[Array, Array]:
    """V(mu) and dmu/deta."""
    variance = {"poisson": mu, "gamma": mu**2, "bernoulli": mu * (1 - mu)}[family]
    return variance, mu if link == "log" else mu * (1 - mu)


def reference(problem: Problem) -> Fit:
    """Plain Fisher scoring in float64, taken until the step is below 1e-12 of a standard error."""
    if problem.factors:
        return _scoring_with_factors(problem)
    return one_by_one(lambda x, y: _solved(x, y, problem), problem)


def _solved(x: Array, y: Array, problem: Problem) -> Fit:
    fit = _fisher_scoring(x, y, problem.family, problem.link)
    return influence(x, y, fit.coef, problem) if problem.inference else fit


def _fisher_scoring(x: Array, y: Array, family: str, link: str) -> Fit:
    n, p = x.shape
    blocks = [slice(i, i + CHUNK) for i in range(0, n, CHUNK)]
    mean = y.mean()
    coef = np.zeros(p)
    coef[0] = np.log(mean) if link == "log" else np.log(mean / (1 - mean))
    for _ in range(60):
        gram, score, pearson = np.zeros((p, p)), np.zeros(p), 0.0
        for rows in blocks:
            xb = x[rows]
            mu = mean_of(xb @ coef, link)
            variance, slope = variance_and_slope(mu, family, link)
            half = xb * (slope / np.sqrt(variance))[:, None]
            gram += half.T @ half
            score += xb.T @ (slope / variance * (y[rows] - mu))
            pearson += float(((y[rows] - mu) ** 2 / variance).sum())
        step = np.linalg.solve(gram, score)
        std_err = np.sqrt(np.diag(np.linalg.inv(gram)))
        if np.abs(step / std_err).max() < 1e-12 * np.sqrt(n):
            break
        coef = coef + step
    dispersion = pearson / (n - p) if family == "gamma" else 1.0
    return Fit(coef, std_err * np.sqrt(dispersion))


def _scoring_with_factors(problem: Problem) -> Fit:
    """Poisson–log by Fisher scoring on a sparse matrix of all columns."""
    from scipy import sparse

    n = len(problem.y)
    parts = [sparse.csr_matrix(problem.x)]
    for codes in problem.factors:
        table = sparse.csr_matrix((np.ones(n), (np.arange(n), codes)), shape=(n, codes.max() + 1))
        parts.append(table[:, 1:])
    x = sparse.hstack(parts, format="csr")
    offset = np.log(problem.exposure)
    coef = np.zeros(x.shape[1])
    coef[0] = np.log(problem.y.sum() / problem.exposure.sum())
    for _ in range(60):
        mu = np.exp(x @ coef + offset)
        gram = (x.T @ x.multiply(mu[:, None]).tocsr()).toarray()
        step = np.linalg.solve(gram, x.T @ (problem.y - mu))
        std_err = np.sqrt(np.diag(np.linalg.inv(gram)))
        if np.abs(step / std_err).max() < 1e-12 * np.sqrt(n):
            break
        coef = coef + step
    return Fit(coef, std_err)


def influence(x: Array, y: Array, coef: Array, problem: Problem) -> Fit:
    """Standard errors, HC3 errors, leverage and Cook's distance at coefficients, by their formulas."""
    n, p = x.shape
    blocks = [slice(i, i + CHUNK) for i in range(0, n, CHUNK)]
    mu = mean_of(x @ coef, problem.link)
    variance, slope = variance_and_slope(mu, problem.family, problem.link)
    weight = slope**2 / variance
    inverse = np.linalg.inv(sum((x[rows] * weight[rows, None]).T @ x[rows] for rows in blocks))
    leverage = np.concatenate([weight[rows] * ((x[rows] @ inverse) * x[rows]).sum(1) for rows in blocks])
    pearson = (y - mu) / np.sqrt(variance)
    dispersion = float((pearson**2).sum() / (n - p)) if problem.family == "gamma" else 1.0
    score = slope / variance * (y - mu) / (1 - leverage)
    meat = sum((x[rows] * score[rows, None]).T @ (x[rows] * score[rows, None]) for rows in blocks)
    cook = (pearson / (1 - leverage)) ** 2 * leverage / (dispersion * p)
    return Fit(coef, np.sqrt(dispersion * np.diag(inverse)), np.sqrt(np.diag(inverse @ meat @ inverse)), leverage, cook)
