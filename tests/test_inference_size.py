"""Simulations: tests reject a true hypothesis as often as they say, intervals hold the truth as often as they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchglm
from torchglm import Result

MODELS, ROWS = 8000, 250
TRUTH = torch.tensor([0.3, 0.2, 0.0, 0.0], dtype=torch.float64)  # intercept first
FAMILIES = ["gaussian", "poisson", "bernoulli", "gamma", "negative_binomial"]
NEAR = 0.01  # four standard errors of a share of 8000 at 0.05, and what large samples owe

pytestmark = pytest.mark.slow


def sample(family: str) -> tuple[Tensor, Tensor]:
    """A design `(n, 3)` and responses `(MODELS, n)` of a true model."""
    generator = torch.Generator().manual_seed(len(family))
    x = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
    eta = (TRUTH[0] + x @ TRUTH[1:]).expand(MODELS, ROWS)
    with torch.random.fork_rng():
        torch.manual_seed(len(family))
        if family == "gaussian":
            return x, eta + torch.randn(MODELS, ROWS, dtype=torch.float64)
        if family == "bernoulli":
            return x, torch.bernoulli(eta.sigmoid())
        mean = eta.exp()
        shape = torch.distributions.Gamma(torch.tensor(2.0, dtype=torch.float64), 2.0)
        if family == "gamma":
            return x, mean * shape.sample((MODELS, ROWS))
        return x, torch.poisson(mean * (shape.sample((MODELS, ROWS)) if family == "negative_binomial" else 1.0))


def fit(family: str, x: Tensor, y: Tensor) -> Result:
    chosen = torchglm.NegativeBinomial(0.5) if family == "negative_binomial" else family
    return torchglm.fit(x, y, family=chosen, link="log" if family == "gamma" else None)


@pytest.mark.parametrize("family", FAMILIES)
def test_tests_reject_a_true_hypothesis_one_time_in_twenty(family: str) -> None:
    x, y = sample(family)
    big, small = fit(family, x, y), fit(family, x[:, :1], y)
    tests = {
        "wald": big.wald("x1 = 0, x2 = 0"),
        "lrt": torchglm.lrt(small, big),
        "score": small.score_test(x[:, 1:]),
        "HC3": big.robust("HC3").wald("x1 = x2"),
    }
    for name, test in tests.items():
        assert float((test.p_value < 0.05).double().mean()) == pytest.approx(0.05, abs=NEAR), name


@pytest.mark.parametrize("family", FAMILIES)
def test_intervals_hold_the_truth_nineteen_times_in_twenty(family: str) -> None:
    x, y = sample(family)
    result = fit(family, x, y)
    for method in ("wald", "profile"):
        limits = result.conf_int(method=method)
        inside = (limits[..., 0] <= TRUTH) & (limits[..., 1] >= TRUTH)
        assert inside.double().mean(0).tolist() == pytest.approx([0.95] * 4, abs=NEAR), method


def test_robust_tests_keep_their_size_where_the_variance_is_wrong() -> None:
    x, y = sample("negative_binomial")
    result = torchglm.fit(x, y, family="poisson")
    assert float((result.wald("x1 = 0").p_value < 0.05).double().mean()) > 0.1
    assert float((result.robust().wald("x1 = 0").p_value < 0.05).double().mean()) == pytest.approx(0.05, abs=NEAR)


def test_clustered_tests_keep_their_size_where_members_are_alike() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(600) % 120
    x = torch.randn(120, 1, generator=generator, dtype=torch.float64)[labels]
    shock = torch.randn(2000, 120, generator=generator, dtype=torch.float64)[:, labels]
    y = shock + torch.randn(2000, 600, generator=generator, dtype=torch.float64)
    result = torchglm.fit(x, y, family="gaussian")
    assert float((result.p_value[:, 1] < 0.05).double().mean()) > 0.15
    robust = result.robust("cluster", clusters=labels)
    assert float((robust.p_value[:, 1] < 0.05).double().mean()) == pytest.approx(0.05, abs=0.02)


def test_limits_of_a_shape_hold_the_truth() -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        y = torch.distributions.Gamma(torch.tensor(2.0, dtype=torch.float64), 1.0).sample((3000, 150))
    x = torch.randn(150, 1, generator=generator, dtype=torch.float64)
    table = torchglm.fit(x, y, family="gamma", link="log").shape_parameters()
    row = table.row("shape")
    inside = (row["lower"] <= 2) & (row["upper"] >= 2)
    assert float(inside.double().mean()) == pytest.approx(0.95, abs=0.015)
