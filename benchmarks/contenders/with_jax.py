"""Fisher scoring written by hand in JAX: one compiled step, mapped over many models in chunks that stay in a cache.

What a user without a GLM library would write; coefficients only, and no care for models that need some.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problem import Fit, Problem

jax.config.update("jax_enable_x64", True)
CHUNK = 250  # models at a time: the best of 50 to 10,000 on two cores
STEPS = 50
TOL = 1e-8  # of the mean score: the loosest power of ten at which Fisher steps under Gamma pass the accuracy check


def fit(problem: Problem) -> Fit:
    solve = _solver(problem.family, problem.link, problem.x.ndim, problem.y.ndim)
    if problem.y.ndim == 1:
        return Fit(np.asarray(solve(problem.x, problem.y)))
    parts = [slice(start, start + CHUNK) for start in range(0, len(problem.y), CHUNK)]
    own = problem.x.ndim == 3
    return Fit(np.concatenate([np.asarray(solve(problem.x[p] if own else problem.x, problem.y[p])) for p in parts]))


@cache
def _solver(family: str, link: str, x_dim: int, y_dim: int) -> Callable[..., Any]:
    """The compiled solver of a family, over one model or over a chunk of them."""

    def one(x: Any, y: Any) -> Any:
        mean = y.mean()
        first = jnp.zeros(x.shape[1]).at[0].set(jnp.log(mean) if link == "log" else jnp.log(mean / (1 - mean)))

        def step(state: Any) -> Any:
            coef, _, turn = state
            eta = x @ coef
            mu = jnp.exp(eta) if link == "log" else jax.nn.sigmoid(eta)
            # under the log link and Gamma the Fisher weight is 1, and the score (y - mu) / mu
            weight = {"poisson": mu, "gamma": jnp.ones_like(mu), "bernoulli": mu * (1 - mu)}[family]
            score = x.T @ ((y - mu) / mu if family == "gamma" else y - mu)
            delta = jnp.linalg.solve((x * weight[:, None]).T @ x, score)
            return coef + delta, jnp.abs(score).max() / x.shape[0], turn + 1

        return jax.lax.while_loop(lambda state: (state[1] > TOL) & (state[2] < STEPS), step, (first, jnp.inf, 0))[0]

    return jax.jit(one if y_dim == 1 else jax.vmap(one, (0 if x_dim == 3 else None, 0)))
