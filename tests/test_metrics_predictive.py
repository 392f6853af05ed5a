"""CRPS in closed form is the integral that defines it; coverage is the share of rows inside."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from torchglm import families, metrics, special
from torchglm.metrics import CRPS, Coverage

FAMILIES = ["gaussian", "bernoulli", "binomial", "poisson", "gamma", "exponential", "negative_binomial"]


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def integral(law: Any, y: float) -> float:
    """The score by quadrature, or by a sum over the points of a discrete law."""
    if hasattr(law.dist, "pmf"):
        low, high = min(law.ppf(1e-15), y), max(law.ppf(1 - 1e-15), y) + 2
        x = np.arange(max(low - 1, 0), high)
        return float(((law.cdf(x) - (y <= x)) ** 2).sum())
    ends = law.ppf([1e-16, 1e-4, 0.5, 1 - 1e-4, 1 - 1e-15])
    cuts = sorted({float(np.nan_to_num(ends[0], neginf=-50)), *map(float, ends[1:]), y})
    return sum(
        quad(lambda x: (law.cdf(x) - (y <= x)) ** 2, a, b, epsabs=1e-13, limit=200)[0]
        for a, b in zip(cuts, cuts[1:], strict=False)
    )


@pytest.mark.parametrize(("mu", "phi"), [(0.0, 1.0), (-3.0, 0.04), (100.0, 25.0)])
def test_gaussian(mu: float, phi: float) -> None:
    sd = phi**0.5
    for y in (mu - 4 * sd, mu, mu + 0.3 * sd, mu + 6 * sd):
        found = families.get("gaussian").crps(tensor(y), tensor(mu), tensor(phi))
        assert float(found) == pytest.approx(integral(stats.norm(mu, sd), y), rel=1e-9)


@pytest.mark.parametrize(("mu", "phi"), [(1.0, 1.0), (3.0, 0.05), (200.0, 4.0), (0.01, 0.5)])
def test_gamma_and_exponential(mu: float, phi: float) -> None:
    for y in (0.05 * mu, mu, 5 * mu):
        found = families.get("gamma").crps(tensor(y), tensor(mu), tensor(phi))
        assert float(found) == pytest.approx(integral(stats.gamma(1 / phi, scale=mu * phi), y), rel=1e-7)
        found = families.get("exponential").crps(tensor(y), tensor(mu), tensor(1.0))
        assert float(found) == pytest.approx(integral(stats.expon(scale=mu), y), rel=1e-7)
        as_gamma = families.get("gamma").crps(tensor(y), tensor(mu), tensor(1.0))
        torch.testing.assert_close(found, as_gamma, rtol=1e-11, atol=0)


COUNTS = [
    (mu, alpha) for mu in (1e-3, 0.4, 3.0, 250.0, 1e4) for alpha in (0.0, 1e-8, 0.02, 0.7, 6.0) if mu * alpha < 2000
]  # else the sum that judges takes minutes


@pytest.mark.parametrize(("mu", "alpha"), COUNTS)
def test_counts(mu: float, alpha: float) -> None:
    family = families.get("negative_binomial", alpha=alpha) if alpha else families.get("poisson")
    law = stats.nbinom(1 / alpha, 1 / (1 + alpha * mu)) if alpha else stats.poisson(mu)
    sd = (mu + alpha * mu * mu) ** 0.5
    for y in {0.0, 1.0, float(round(mu)), float(round(mu + 2 * sd))}:
        found = float(family.crps(tensor(y), tensor(mu), tensor(1.0)))
        if alpha > 1e-6:
            expected = integral(law, y)
        else:  # scipy's cdf of a size of 1e8 is off; Poisson is as near
            expected = integral(stats.poisson(mu), y)
        assert found == pytest.approx(expected, rel=max(1e-8, 30 * alpha * mu if alpha < 1e-6 else 0), abs=1e-12)
        if not alpha:
            limit = special.negative_binomial_crps(tensor(y), tensor(mu), tensor(0.0))
            assert found == pytest.approx(float(limit), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("trials", [1, 2, 7, 60, 4000])
@pytest.mark.parametrize("p", [1e-4, 0.2, 0.5, 0.97])
def test_binomial_in_counts(trials: int, p: float) -> None:
    for y in {0, 1, trials // 2, trials}:
        found = metrics.crps(tensor(p), tensor(y), "binomial", trials=tensor(trials))
        assert float(found) == pytest.approx(integral(stats.binom(trials, p), y), rel=1e-9, abs=1e-13)
        if trials == 1:
            torch.testing.assert_close(metrics.crps(tensor(p), tensor(y), "bernoulli"), found)


def test_a_law_that_is_right_scores_best() -> None:
    rng = torch.Generator().manual_seed(0)
    mu = 1 + 4 * torch.rand(20_000, generator=rng, dtype=torch.float64)
    y = torch.poisson(mu, generator=rng)
    right = metrics.crps(mu, y, "poisson")
    for wrong in (0.9 * mu, 1.1 * mu, mu.mean().expand_as(mu)):
        assert metrics.crps(wrong, y, "poisson") > right
    assert metrics.crps(mu, y, families.get("negative_binomial", alpha=0.5)) > right


def rows(name: str, n: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    u, v = torch.rand(2, n, generator=rng, dtype=torch.float64)
    weight = 0.5 + torch.rand(n, generator=rng, dtype=torch.float64)
    weight[::5] = 0.0
    if name in ("bernoulli", "binomial"):
        return 0.1 + 0.8 * u, (v < u).double(), weight
    mu = 0.5 + 3 * u
    return mu, (4 * mu * v * v).floor() if name in ("poisson", "negative_binomial") else mu * (0.2 + 2 * v), weight


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_make_the_whole_and_weight_zero_is_no_row(name: str) -> None:
    mu, y, weight = rows(name)
    whole, first, second, kept = (CRPS(name) for _ in range(4))
    bad = torch.where(weight > 0, mu, torch.nan)
    whole.update(bad, torch.where(weight > 0, y, -7.0), weights=weight)
    first.update(mu[:90], y[:90], weights=weight[:90])
    second.update(mu[90:].float(), y[90:].float(), weights=weight[90:].float())
    first.merge_state(pickle.loads(pickle.dumps(copy.deepcopy(second))))
    some = weight > 0
    kept.update(mu[some], y[some], weights=weight[some])
    assert float(kept.compute()) > 0 and kept.sums.dtype == torch.float64
    torch.testing.assert_close(whole.compute(), kept.compute(), rtol=1e-12, atol=0)
    torch.testing.assert_close(first.compute(), kept.compute(), rtol=1e-5, atol=0)
    torch.testing.assert_close(metrics.crps(mu, y, name, weights=weight), kept.compute(), rtol=1e-12, atol=0)


def test_a_dispersion_counts_and_censored_times_have_no_score() -> None:
    mu, y, weight = rows("gamma")
    narrow, wide = CRPS("gamma", dispersion=0.3), CRPS("gamma", dispersion=torch.tensor(3.0))
    for metric in (narrow, wide):
        metric.update(mu, y, weights=weight)
    assert narrow.compute() != wide.compute()
    times = CRPS("exponential")
    times.update(mu, y, event=(mu > 1).double())
    assert torch.isnan(times.compute())
    for name in ("inverse_gaussian", "tweedie"):
        with pytest.raises(ValueError, match="no closed form"):
            CRPS(families.get(name, power=1.5) if name == "tweedie" else name)


def test_coverage() -> None:
    y, weight = torch.arange(10.0), torch.ones(10)
    weight[9] = 0.0
    low, high = torch.full((10,), 2.0), torch.full((10,), 5.0)
    metric, other = Coverage(), Coverage()
    metric.update(low[:6], high[:6], y[:6], weights=weight[:6])
    other.update(low[6:], high[6:], torch.where(weight > 0, y, torch.nan)[6:], weights=weight[6:])
    metric.merge_state(other)
    assert float(metric.compute()) == pytest.approx(4 / 9) == float(metrics.coverage(low, high, y, weights=weight))
    assert metric.covered.dtype == torch.float64
    weight[2] = 3.0
    assert float(metrics.coverage(low, high, y, weights=weight)) == pytest.approx(6 / 11)
    with pytest.raises(ValueError, match="low must have the shape of y"):
        metric.update(low[:-1], high, y)
    with pytest.raises(ValueError, match="weights must have the shape of y"):
        metric.update(low, high, y, weights=weight[:3])


def test_coverage_is_nan_where_an_end_a_response_or_a_weight_is() -> None:
    y, weight = torch.arange(10.0), torch.ones(10)
    ends = {"low": y - 1, "high": torch.full((10,), torch.inf), "y": y, "weights": weight}
    assert float(metrics.coverage(**ends)) == 1
    for name, number in [
        ("low", torch.nan),
        ("high", torch.nan),
        ("y", torch.nan),
        ("weights", torch.nan),
        ("weights", -1.0),
    ]:
        bad = ends | {name: ends[name].clone().index_fill_(0, torch.tensor([4]), number)}
        assert torch.isnan(metrics.coverage(**bad)), (name, number)
        kept = torch.where(torch.arange(10) == 4, 0.0, weight)
        assert name == "weights" or float(metrics.coverage(**bad | {"weights": kept})) == 1


def test_coverage_of_right_intervals_is_their_level() -> None:
    rng = np.random.default_rng(0)
    mu = rng.uniform(1, 5, 20_000)
    y = rng.gamma(2, mu / 2)
    low, high = stats.gamma(2, scale=mu / 2).ppf([[0.05], [0.95]])
    share = metrics.coverage(*(torch.from_numpy(v) for v in (low, high, y)))
    assert abs(float(share) - 0.9) < 4 * (0.09 / 20_000) ** 0.5


def test_plots() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    mu, y, weight = rows("poisson")
    score, share = CRPS("poisson"), Coverage()
    score.update(mu, y, weights=weight)
    share.update(mu - 2, mu + 2, y, weights=weight)
    for metric in (score, share):
        figure, _ = metric.plot()
        plt.close(figure)
