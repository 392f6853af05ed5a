"""Draws from a fit: they have its moments, and a fit of them finds its coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import torchglm as tg

G = np.random.default_rng(4)
N, TIMES = 800, 40
X, W, OFFSET = G.normal(size=(N, 2)), G.uniform(0.5, 3, N), 0.2 * G.normal(size=N)
MU = np.exp(0.3 + X @ [0.3, -0.2] + OFFSET)
CASES: dict[str, tuple[Any, np.ndarray, dict[str, Any]]] = {
    "gaussian": ("gaussian", G.normal(MU), {"weights": W}),
    "poisson": ("poisson", G.poisson(MU), {"offset": OFFSET}),
    "gamma": ("gamma", G.gamma(2, MU / 2), {"link": "log", "weights": W, "offset": OFFSET}),
    "inverse_gaussian": ("inverse_gaussian", G.wald(MU, 3), {"link": "log", "weights": W}),
    "negative_binomial": ("negative_binomial", G.poisson(MU * G.gamma(2, 0.5, N)), {}),
    "binomial": ("binomial", G.binomial(7, 0.3, N), {"trials": np.full(N, 7.0)}),
    "bernoulli": ("bernoulli", G.binomial(1, 0.3, N), {}),
    "exponential": ("exponential", G.exponential(MU), {"event": G.integers(0, 2, N)}),
    "tweedie": (tg.Tweedie(1.5), np.where(G.random(N) < 0.3, 0, G.gamma(2, MU / 2)), {"weights": W}),
    "zero_inflated": (tg.ZeroInflated("poisson"), G.poisson(MU) * (G.random(N) > 0.3), {}),
    "beta": (tg.Beta(), G.beta(2, 3, N), {}),
    "beta_binomial": (tg.BetaBinomial(), G.binomial(7, G.beta(2, 3, N)), {"trials": np.full(N, 7.0)}),
    "dispersion": ("gamma", G.gamma(2, MU / 2), {"link": "log", "predictors": {"dispersion": X}, "weights": W}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fit_of_the_draws_finds_the_fit(name: str) -> None:
    family, y, options = CASES[name]
    fit = tg.fit(X, y, family=family, **options)
    drawn = fit.simulate(TIMES, seed=1)
    assert drawn.shape == (TIMES, N)
    trials = options.get("trials", 1.0)
    off = (drawn.mean(0) - fit.fitted * torch.as_tensor(trials)).square() * TIMES
    assert float(off.sum() / drawn.var(0).sum()) == pytest.approx(1.0, abs=0.35)  # the mean of each row
    if fit.plan is not None:
        return
    roles = {key: value for key, value in options.items() if key not in ("event", "trials")}
    if "trials" in options:
        roles["trials"] = np.broadcast_to(trials, (TIMES, N))
    again = tg.fit(X, drawn, family=family, **roles)
    z = (again.coef.mean(0) - fit.coef) / again.coef.std(0) * TIMES**0.5
    assert float(z.abs().max()) < 4.5


def test_classes_are_drawn_by_their_places() -> None:
    y = np.array(["low", "mid", "top"])[np.digitize(X[:, 0] + G.logistic(size=N), [-1, 1])]
    for family in (tg.Ordinal(classes=["low", "mid", "top"]), tg.Multinomial()):
        fit = tg.fit(X, y, family=family)
        drawn = fit.simulate(200)
        for place in range(len(fit.classes)):
            share = (drawn == place).to(torch.float64).mean(0)
            off = (share - fit.fitted[:, place]) / (fit.fitted[:, place] * (1 - fit.fitted[:, place]) / 200).sqrt()
            assert float(off.square().mean()) == pytest.approx(1.0, abs=0.2)


def test_batches_seeds_and_rows_without_weight() -> None:
    weights = np.where(np.arange(N) % 5 == 0, 0.0, 1.0)
    y = torch.as_tensor(np.stack([G.poisson(MU), G.poisson(2 * MU), G.poisson(MU)]))
    fit = tg.fit(X, y, family="poisson", weights=weights)
    state = torch.random.get_rng_state()
    drawn = fit.simulate(3, seed=7)
    assert torch.equal(state, torch.random.get_rng_state())
    assert drawn.shape == (3, 3, N) and torch.equal(drawn.isnan(), torch.as_tensor(weights == 0).expand_as(drawn))
    torch.testing.assert_close(drawn, fit.simulate(3, seed=7), rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(drawn.nan_to_num(), fit.simulate(3, seed=8).nan_to_num())


def test_what_has_no_law_is_refused() -> None:
    y = G.poisson(MU)
    with pytest.raises(ValueError, match="draws need a distribution"):
        tg.fit(X, y, family="poisson", dispersion="pearson").simulate()
    with pytest.raises(ValueError, match="times must be a whole number, at least 1; got 0"):
        tg.fit(X, y, family="poisson").simulate(0)
    with pytest.raises(ValueError, match="counts of classes"):
        tg.fit(X, G.multinomial(5, [0.2, 0.3, 0.5], N), family=tg.Multinomial()).simulate()
    with pytest.raises(ValueError, match="weights= beside trials="):
        tg.fit(X, G.binomial(7, 0.3, N), family="binomial", trials=np.full(N, 7), weights=W).simulate()
