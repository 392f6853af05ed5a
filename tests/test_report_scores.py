"""Quantile residuals: standard normal under the true model and exact in both tails."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

import torchglm
from torchglm import families
from torchglm.families import Family
from torchglm.inference.adequacy import check
from torchglm.report.binned import Rootogram
from torchglm.report.influence import Influence
from torchglm.report.observations import chunks
from torchglm.report.scores import normal_scores
from torchglm.rows.responses import Times

N = 5000


def compound(mu: Tensor, generator: torch.Generator) -> Tensor:
    """Tweedie of power 1.5 and dispersion 2: a Poisson number of exponential terms."""
    number = torch.poisson(mu.sqrt(), generator=generator)
    u = torch.rand(len(mu), generator=generator, dtype=torch.float64)
    terms = stats.gamma.ppf(u, number.clamp(min=1), scale=mu.sqrt())
    return torch.where(number > 0, torch.from_numpy(terms), 0.0)


def truth(name: str) -> tuple[Tensor, Tensor, Family, float, Tensor]:
    """Responses drawn from a family at known means: y, mu, family, dispersion and weight."""
    generator = torch.Generator().manual_seed(5)
    mu = 0.2 + torch.rand(N, generator=generator, dtype=torch.float64)
    u = torch.rand(N, generator=generator, dtype=torch.float64)
    one = torch.ones_like(mu)
    trials = torch.randint(1, 30, (N,), generator=generator).double()
    p = mu / 1.3
    y, m, family, phi, weight = {
        "gaussian": (mu + 2 * torch.special.ndtri(u), mu, families.Gaussian(), 4.0, one),
        "weighted": (mu + 2 * torch.special.ndtri(u) / trials.sqrt(), mu, families.Gaussian(), 4.0, trials),
        "bernoulli": ((u < p).double(), p, families.Bernoulli(), 1.0, one),
        "binomial": (torch.binomial(trials, p, generator=generator) / trials, p, families.Binomial(), 1.0, trials),
        "poisson": (torch.poisson(5 * mu, generator=generator), 5 * mu, families.Poisson(), 1.0, one),
        "gamma": (torch.from_numpy(stats.gamma.ppf(u, 0.7, scale=mu / 0.7)), mu, families.Gamma(), 1 / 0.7, one),
        "exponential": (-mu * u.log(), mu, families.Exponential(), 1.0, one),
        "negative_binomial": (
            torch.from_numpy(stats.nbinom.ppf(u, 2, 1 / (1 + 4 * mu / 2))).double(),
            4 * mu,
            families.NegativeBinomial(alpha=0.5),
            1.0,
            one,
        ),
        "inverse_gaussian": (
            torch.from_numpy(stats.invgauss.ppf(u, 0.5 * mu, scale=2.0)),
            mu,
            families.InverseGaussian(),
            0.5,
            one,
        ),
        "tweedie": (compound(mu, generator), mu, families.Tweedie(power=1.5), 2.0, one),
    }[name]
    return y, m, family, phi, weight


@pytest.mark.parametrize(
    "name",
    [
        "gaussian",
        "weighted",
        "bernoulli",
        "binomial",
        "poisson",
        "gamma",
        "exponential",
        "negative_binomial",
        "inverse_gaussian",
        "tweedie",
    ],
)
def test_scores_of_the_true_model_are_standard_normal(name: str) -> None:
    scores, kind = normal_scores(*truth(name))
    assert kind == "quantile residual" and scores.shape == (N,)
    assert stats.kstest(scores.numpy(), "norm").pvalue > 0.01


def test_scores_are_seeded() -> None:
    y, mu, family, phi, weight = truth("poisson")
    first, again, other = (normal_scores(y, mu, family, phi, weight, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_both_tails_are_exact() -> None:
    mu = torch.tensor([3.0, 30.0, 300.0, 0.01], dtype=torch.float64)
    y = torch.tensor([60.0, 1.0, 700.0, 4.0], dtype=torch.float64)
    scores, _ = normal_scores(y, mu, families.Poisson())
    assert scores.abs().max() > 15 and scores.isfinite().all()  # beyond 8, where 1 - cdf ends
    law = stats.poisson(mu.numpy())
    below, at = stats.norm.isf(law.sf(y - 1)), stats.norm.isf(law.sf(y))
    assert (torch.from_numpy(below) - 1e-6 <= scores).all() and (scores <= torch.from_numpy(at) + 1e-6).all()


def test_all_or_no_trials_succeed() -> None:
    y, trials = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([5.0, 5.0], dtype=torch.float64)
    scores, kind = normal_scores(y, torch.full_like(y, 0.3), families.Binomial(), weight=trials)
    assert kind == "quantile residual"
    assert scores[0] <= stats.norm.ppf(0.7**5) and scores[1] >= stats.norm.isf(0.3**5)


def test_censored_times_are_only_bounded_below() -> None:
    mu = torch.full((4000,), 2.0, dtype=torch.float64)
    time = -mu * torch.rand(4000, generator=torch.Generator().manual_seed(9), dtype=torch.float64).log()
    limit = torch.full_like(time, 1.5)
    y = Times(torch.minimum(time, limit), time < limit)
    scores, _ = normal_scores(y, mu, families.Exponential())
    assert stats.kstest(scores.numpy(), "norm").pvalue > 0.01


def test_quasi_likelihood_and_fractions_fall_back_on_deviance() -> None:
    y, mu, family, _, _ = truth("poisson")
    residual, kind = normal_scores(y, mu, family, dispersion=4.0)
    assert kind == "deviance residual"
    assert torch.allclose(residual.square(), family.unit_deviance(y, mu) / 4)
    assert normal_scores(y + 0.5, mu, family)[1] == "deviance residual"


def test_a_shape_per_model_meets_its_rows() -> None:
    family = families.NegativeBinomial(alpha=torch.tensor([0.1, 2.0], dtype=torch.float64))
    mu = torch.full((2, 50), 3.0, dtype=torch.float64)
    y = torch.arange(50, dtype=torch.float64).expand(2, -1) % 7
    together, _ = normal_scores(y, mu, family)
    assert together.shape == (2, 50)
    apart = torch.rand(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row, alpha in enumerate((0.1, 2.0)):  # the same uniforms, drawn for both models at once
        law = stats.nbinom(1 / alpha, 1 / (1 + alpha * 3.0))
        below, at = law.cdf(y[row] - 1), law.cdf(y[row])
        expected = stats.norm.ppf(below + apart[row].numpy() * (at - below))
        assert torch.allclose(together[row], torch.from_numpy(expected), atol=1e-8)
    sums = Rootogram.of(y, mu, family, weight=torch.ones_like(mu))
    assert sums.observed.sum() == 100 and torch.isclose(sums.expected.sum(), sums.observed.sum())


@pytest.mark.parametrize("family", ["poisson", "gamma", "gaussian", "negative_binomial", "exponential"])
def test_a_page_and_a_result_have_the_same_residuals_and_distances(family: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    rate = torch.exp(0.5 * x[:, 0])
    y = torch.poisson(3 * rate, generator=generator)
    y = y if family in ("poisson", "negative_binomial") else y * 0.9 + 0.3
    weights = 0.5 + torch.rand(60, generator=generator, dtype=torch.float64)
    result = torchglm.fit(x, y, family=family, link="log", weights=weights if family == "gamma" else None)
    [rows] = chunks(result, None, None, None, None)
    scores, kind = normal_scores(rows.y, rows.mu, result.family, rows.dispersion, rows.prior)
    assert kind == "quantile residual"
    torch.testing.assert_close(scores[0], result.residuals("quantile"), rtol=1e-12, atol=1e-12)

    top, distance = Influence.of(result).top, result.cooks_distance()
    assert top is not None and len(top) == 60
    torch.testing.assert_close(top.cook, distance.sort(descending=True).values, rtol=1e-12, atol=0)
    torch.testing.assert_close(top.cook, distance[top.row], rtol=1e-12, atol=0)
    moving = check.Moving(result)
    for values in result.row_values():
        moving.add(values)
    largest = moving.cook
    assert float(largest.largest) == pytest.approx(float(top.cook[0]), rel=1e-12) and largest.row == top.row[0]


def test_a_row_of_leverage_one_has_no_distance_anywhere() -> None:
    x = torch.zeros(20, 1, dtype=torch.float64)
    x[7] = 1.0
    result = torchglm.fit(x, torch.arange(20, dtype=torch.float64), family="gaussian")
    assert result.cooks_distance().isnan().nonzero().flatten().tolist() == [7]
    found = Influence.of(result)
    assert found.top is not None and 7 not in found.top.row.tolist() and found.count == 19
