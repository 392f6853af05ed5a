"""Intervals for new rows: against least squares, against simulation, and the laws they obey."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
import torch

import torchglm
from torchglm import families

G = np.random.default_rng(7)
X = G.normal(size=(40, 2))
NEW = G.normal(size=(5, 2))
ETA = 0.5 + X @ [0.3, -0.2]


@pytest.mark.parametrize("rows", [6, 15, 40])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_least_squares_has_the_classical_intervals(rows: int, level: float) -> None:
    x, y, new = X[:rows], ETA[:rows] + G.normal(size=rows), NEW * [10, 1]  # far out: the line is the uncertain part
    judge = sm.OLS(y, sm.add_constant(x)).fit().get_prediction(sm.add_constant(new))
    r = torchglm.fit(x, y, family="gaussian")
    np.testing.assert_allclose(r.predict_interval(new, level=level), judge.conf_int(alpha=1 - level), rtol=1e-9)
    np.testing.assert_allclose(
        r.predict_interval(new, kind="response", level=level),
        judge.conf_int(obs=True, alpha=1 - level),
        rtol=1e-4,
        atol=1e-5,
    )


def test_weights_of_new_rows_divide_the_variance_of_the_response() -> None:
    r = torchglm.fit(X, ETA + G.normal(size=40), family="gaussian")
    mean, error = r.predict(NEW, se=True)
    half = r.quantile(0.9) * (error**2 + r.dispersion / 4).sqrt()
    got = r.predict_interval(NEW, kind="response", level=0.9, weights=4.0)
    torch.testing.assert_close(got, torch.stack([mean - half, mean + half], -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("link", ["log", "inverse", "sqrt", "inverse_squared"])
def test_limits_of_means_are_limits_of_predictors_mapped_back_in_order(link: str) -> None:
    r = torchglm.fit(X, np.exp(ETA) * G.gamma(20, 1 / 20, 40), family="gamma", link=link)
    ends, mean = r.predict_interval(NEW, kind="link"), r.predict_interval(NEW)
    torch.testing.assert_close(mean.sort(-1).values, mean)
    torch.testing.assert_close(r.link(ends).sort(-1).values, mean)
    eta, error = r.predict(NEW, kind="link", se=True)
    torch.testing.assert_close(ends[:, 1] - eta, r.quantile(0.95) * error)


@pytest.mark.parametrize(
    ("family", "link", "y", "limits"),
    [
        ("gamma", "inverse", [1.0, 30.0, 2.0, 50.0], (None, float("inf"))),
        ("poisson", "sqrt", [0, 0, 1.0, 0], (0.0, None)),
        ("poisson", "identity", [0, 1.0, 0, 1], (0.0, None)),
    ],
)
def test_a_limit_that_leaves_the_link_is_the_edge_of_the_means(
    family: str, link: str, y: list[float], limits: tuple[float, float]
) -> None:
    r = torchglm.fit(np.zeros((4, 0)), np.array(y), family=family, link=link)
    low, high = r.predict_interval(np.zeros((1, 0)), level=0.999)[0].tolist()
    mean = float(r.predict(np.zeros((1, 0))))
    assert low < mean < high
    assert limits[0] is None or low == limits[0]
    assert limits[1] is None or high == limits[1]


CASES: list[tuple[Any, str, dict[str, Any]]] = [
    (families.Poisson(), "log", {}),
    (families.NegativeBinomial(0.5), "log", {}),
    (families.Gamma(), "log", {}),
    (families.InverseGaussian(), "log", {}),
    (families.Exponential(), "log", {}),
    (families.Bernoulli(), "logit", {}),
    (families.Tweedie(1.5), "log", {}),
    (families.Binomial(), "logit", {"trials": 9.0}),
]


def fitted(family: families.Family, link: str, models: int = 0, rows: int = 40) -> torchglm.Result:
    torch.manual_seed(3)
    eta = torch.from_numpy(ETA[:rows]).expand(models, rows) if models else torch.from_numpy(ETA[:rows])
    mu = torchglm.links.get(link)(eta)
    counts = {"trials": 9.0 * torch.ones_like(mu)} if family.name == "binomial" else {}
    y = family.distribution(mu, 1 / 9 if counts else 0.5).sample()
    return torchglm.fit(torch.from_numpy(X[:rows]), y, family=family, link=link, **counts)


@pytest.mark.parametrize(("family", "link", "new"), CASES, ids=lambda v: getattr(v, "name", ""))
def test_limits_are_quantiles_of_simulated_responses(family: families.Family, link: str, new: dict[str, Any]) -> None:
    r, draws = fitted(family, link), 200_000
    eta, error = r.predict(NEW[:2], kind="link", se=True)
    g = torch.Generator().manual_seed(1)
    freedom = float(r.df_resid)
    chi2 = 2 * torch._standard_gamma(torch.full((draws, 1), freedom / 2, dtype=torch.float64), generator=g)
    factor = freedom / chi2 if r.statistic_name == "t" else torch.ones(draws, 1, dtype=torch.float64)
    mu = r.link(eta + error * factor.sqrt() * torch.randn(draws, 2, generator=g, dtype=torch.float64))
    torch.manual_seed(2)
    y = r.family.distribution(mu, r.dispersion * factor / new.get("trials", 1.0)).sample().sort(0).values
    low, high = r.predict_interval(NEW[:2], kind="response", level=0.9, **new).unbind(-1)
    for limit, share in ((low, 0.05), (high, 0.95)):  # P(Y < q) <= share <= P(Y <= q), up to the noise of the draws
        assert bool(((y < limit - 1e-9).double().mean(0) <= share + 0.0025).all())
        assert bool(((y <= limit + 1e-9).double().mean(0) >= share - 0.0025).all())


@pytest.mark.parametrize(("family", "link", "new"), CASES[:-2], ids=lambda v: getattr(v, "name", ""))
def test_a_batch_has_the_intervals_of_its_members(family: families.Family, link: str, new: dict[str, Any]) -> None:
    batch = fitted(family, link, 2)
    for kind in ("mean", "response"):
        alone = torch.stack([batch[k].predict_interval(NEW, kind=kind, **new) for k in range(2)])
        torch.testing.assert_close(batch.predict_interval(NEW, kind=kind, **new), alone, rtol=1e-5, atol=1e-6)


def test_an_atom_at_zero_is_a_limit() -> None:
    r = fitted(families.Tweedie(1.2), "log", rows=30)
    low, high = r.predict_interval(NEW, kind="response").unbind(-1)
    none = torchglm.distributions.cdf(r.family.distribution(r.predict(NEW), r.dispersion), torch.zeros(5))
    # what is not known adds to the probability of zero, which is convex in the predictor
    assert bool((low[none > 0.025] == 0).all()) and bool((high > 0).all())
    assert bool((none > 0.025).any()) and bool((low > 0).any())


def test_a_wider_level_contains_a_narrower_one() -> None:
    for family, link, new in CASES[:6]:
        r = fitted(family, link)
        narrow, wide = (r.predict_interval(NEW, kind="response", level=level, **new) for level in (0.8, 0.95))
        assert bool((wide[:, 0] <= narrow[:, 0]).all()) and bool((wide[:, 1] >= narrow[:, 1]).all())


def test_bad_requests_are_refused() -> None:
    r = torchglm.fit(X, G.poisson(np.exp(ETA)), family="poisson", dispersion="pearson")
    with pytest.raises(ValueError, match="Known: mean, link, response"):
        r.predict_interval(NEW, kind="median")
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        r.predict_interval(NEW, level=95)
    with pytest.raises(ValueError, match="quasi-likelihood"):
        r.predict_interval(NEW, kind="response")
    with pytest.raises(ValueError, match=r"trials has shape \(2,\)"):
        fitted(families.Binomial(), "logit").predict_interval(NEW, kind="response", trials=[1, 2])
    with pytest.raises(ValueError, match="trials of new rows must be > 0; got -1"):
        fitted(families.Binomial(), "logit").predict_interval(NEW, kind="response", trials=-1)
    with pytest.raises(TypeError, match="predict_interval of a mean takes no weights=.*offset, exposure"):
        r.predict_interval(NEW, weights=2.0)
