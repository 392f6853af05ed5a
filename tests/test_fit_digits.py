"""How near to the maximum a fit ends that was asked for nothing: a hundred-millionth of a standard error."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import torchglm

LINKS = {
    "gaussian": ["identity", "log", "inverse"],
    "poisson": ["log", "identity", "sqrt"],
    "bernoulli": ["logit", "probit", "cloglog", "loglog", "cauchit", "log"],
    "gamma": ["inverse", "log", "identity"],
    "inverse_gaussian": ["inverse_squared", "inverse", "log", "identity"],
    "negative_binomial": ["log", "sqrt", "identity"],
    "exponential": ["log", "inverse", "identity"],
    "tweedie": ["log", "identity"],
}
LEVEL = {"inverse": 1.0, "inverse_squared": 1.0, "identity": 1.5, "sqrt": 1.5}
SHAPED = {"negative_binomial": torchglm.NegativeBinomial(0.5), "tweedie": torchglm.Tweedie(1.5)}


def data(family: str, link: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows well inside the range of the link."""
    g = np.random.default_rng(seed)
    x = g.uniform(-1, 1, (n, 3))
    level = {"log": -1.0}.get(link, 0.2) if family == "bernoulli" else LEVEL.get(link, 0.3)
    mu = torchglm.links.get(link)(torch.as_tensor(level + x @ [0.3, -0.2, 0.1])).numpy()
    draw = {
        "gaussian": lambda: mu + 0.2 * g.normal(size=n),
        "poisson": lambda: g.poisson(mu),
        "bernoulli": lambda: g.binomial(1, mu.clip(0.01, 0.99)),
        "gamma": lambda: g.gamma(2, mu / 2),
        "exponential": lambda: g.exponential(mu),
        "inverse_gaussian": lambda: g.wald(mu, 3.0),
        "negative_binomial": lambda: g.negative_binomial(2, 2 / (2 + mu)),
        "tweedie": lambda: np.where(g.random(n) < 0.3, 0.0, g.gamma(2, mu / 1.4)),
    }
    return x, draw[family]().astype(float)


def rows(way: str, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any, dict[str, Any]]:
    """The same rows weighted, repeated, as a batch of models or as a stream."""
    g = np.random.default_rng(1)
    if way == "batch":
        return np.stack([x, x[::-1]]), np.stack([y, y[::-1] * 1.01]).clip(max=1.0 if set(y) <= {0, 1} else None), {}
    if way == "stream":
        halves = [slice(0, len(y) // 2), slice(len(y) // 2, None)]
        return [(torch.as_tensor(x[part]), torch.as_tensor(y[part])) for part in halves], None, {}
    beside = {"weights": {"weights": 1e3 * g.uniform(0.2, 3, len(y))}, "freq": {"freq": g.integers(1, 4, len(y))}}
    return x, y, beside.get(way, {})


@pytest.mark.parametrize("way", ["plain", "weights", "freq", "batch", "stream"])
@pytest.mark.parametrize(("family", "link"), [(family, link) for family, links in LINKS.items() for link in links])
def test_a_fit_leaves_less_than_a_hundred_millionth_of_a_standard_error(family: str, link: str, way: str) -> None:
    for n, seed in [(40, 0), (40, 4), (300, 1), (3000, 3)] if way != "stream" else [(300, 2)]:
        x, y, beside = rows(way, *data(family, link, n, seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torchglm.FitWarning)
            law = SHAPED.get(family, family)
            usual = torchglm.fit(x, y, family=law, link=link, **beside)
            tight = torchglm.fit(x, y, family=law, link=link, tol=1e-14, max_iter=200, **beside)
        off = ((usual.coef - tight.coef) / tight.std_err).abs().amax(-1)
        regular = usual.converged & tight.converged
        assert float(torch.where(regular, off, 0.0).max()) < 1e-8, (n, seed, off)


@pytest.mark.parametrize("n", [200, 20_000])
def test_digits_do_not_go_with_the_number_of_rows(n: int) -> None:
    x, y = data("gamma", "identity", n, 7)
    usual = torchglm.fit(x, y, family="gamma", link="identity")
    tight = torchglm.fit(x, y, family="gamma", link="identity", tol=1e-14, max_iter=200)
    assert float(((usual.coef - tight.coef) / tight.std_err).abs().max()) < 1e-9
    assert int(usual.n_iter) <= 6
