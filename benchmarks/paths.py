"""Paths of a hundred strengths, beside adelie and skglm where they are installed: python -m benchmarks.paths.

All get the same standardised columns and the same strengths; the largest excess of a slope is recomputed from the rows
for every tenth strength, as a share of the first strength. Seconds are those of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch

import torchglm

Answer = tuple[np.ndarray, np.ndarray]  # intercepts (L,), slopes (L, p)
SIZES = {"poisson": (100_000, 100), "logistic": (2_000, 1_000)}
MEANS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "poisson": np.exp,
    "logistic": lambda eta: 1 / (1 + np.exp(-eta)),
}
FAMILIES = {"poisson": "poisson", "logistic": "bernoulli"}


def drawn(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised columns, of which ten move the response."""
    n, p = SIZES[kind]
    draw = np.random.default_rng(0)
    x = draw.standard_normal((n, p))
    x = (x - x.mean(0)) / x.std(0)
    coef = np.where(np.arange(p) < 10, draw.standard_normal(p) * 0.2, 0.0)
    if kind == "poisson":
        return x, draw.poisson(np.exp(x @ coef)).astype(float)
    return x, (draw.random(n) < MEANS[kind](3 * x @ coef)).astype(float)


def excess(kind: str, x: np.ndarray, y: np.ndarray, strengths: np.ndarray, answer: Answer) -> float:
    """The largest excess of a slope over what the penalty holds."""
    worst = 0.0
    for i in range(0, len(strengths), 10):
        slopes = answer[1][i]
        left = y - MEANS[kind](answer[0][i] + x @ slopes)
        score = x.T @ left / len(y)
        inside = np.maximum(np.abs(score) - strengths[i], 0)
        off = np.where(slopes == 0, inside, np.abs(score - strengths[i] * np.sign(slopes)))
        worst = max(worst, float(off.max()), abs(float(left.mean())))
    return worst / float(strengths[0])


def with_torchglm(kind: str, x: np.ndarray, y: np.ndarray, strengths: np.ndarray, folds: int | None = None) -> Answer:
    """The path, perhaps with its cross-validation."""
    path = torchglm.path(x, y, family=FAMILIES[kind], strength=strengths, folds=folds)
    coef = path.coef.numpy()
    return coef[:, 0], coef[:, 1:]


def with_adelie(kind: str, x: np.ndarray, y: np.ndarray, strengths: np.ndarray, tol: float) -> Answer:
    """The path of adelie, at a tolerance."""
    import adelie

    made = {"poisson": adelie.glm.poisson, "logistic": adelie.glm.binomial}[kind](y)
    options = {"tol": tol, "irls_tol": tol, "early_exit": False, "progress_bar": False, "n_threads": 1}
    state = adelie.grpnet(np.asfortranarray(x), made, lmda_path=strengths, **options)
    return np.asarray(state.intercepts), state.betas.toarray()


def with_skglm(kind: str, x: np.ndarray, y: np.ndarray, strengths: np.ndarray, tol: float) -> Answer:
    """Fits of skglm, each from the last."""
    from skglm import GeneralizedLinearEstimator, datafits, penalties, solvers  # type: ignore[import-not-found]

    fit, response = (datafits.Poisson(), y) if kind == "poisson" else (datafits.Logistic(), 2 * y - 1)
    solver = solvers.ProxNewton(tol=tol * strengths[0], fit_intercept=True, warm_start=True, max_iter=100)
    estimator = GeneralizedLinearEstimator(fit, penalties.L1(strengths[0]), solver)
    design, found = np.asfortranarray(x), []
    for strength in strengths:
        estimator.penalty = penalties.L1(strength)
        estimator.fit(design, response)
        found.append((float(np.ravel(estimator.intercept_)[0]), np.ravel(estimator.coef_).copy()))
    return np.array([one for one, _ in found]), np.stack([slopes for _, slopes in found])


def main() -> None:
    """Time what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paths", description=__doc__)
    parser.add_argument("--kind", choices=[*SIZES], action="append", help="which data (default: all)")
    parser.add_argument("--strengths", type=int, default=100, help="of the hundred, from the first (default: 100)")
    parser.add_argument("--folds", type=int, help="also a cross-validation of torchglm with so many folds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for kind in given.kind or SIZES:
        x, y = drawn(kind)
        first = float(np.abs(x.T @ (y - y.mean())).max() / len(y))
        strengths = (first * np.exp(np.log(1e-4) * np.arange(100) / 99))[: given.strengths]
        data = (kind, x, y, strengths)
        runs: dict[str, Callable[[], Answer]] = {"torchglm": partial(with_torchglm, *data)}
        if given.folds:
            runs[f"torchglm, {given.folds} folds"] = partial(with_torchglm, *data, given.folds)
        if find_spec("adelie"):
            runs |= {f"adelie {tol:g}": partial(with_adelie, *data, tol) for tol in (1e-10, 1e-14)}
        if find_spec("skglm"):
            runs["skglm 1e-10"] = partial(with_skglm, *data, 1e-10)
        for name, run in runs.items():
            began = time.process_time()
            answer = run()
            took = time.process_time() - began
            print(f"{kind:9} {name:22} {took:8.2f} s   excess {excess(kind, x, y, strengths, answer):.1e}", flush=True)


if __name__ == "__main__":
    main()
