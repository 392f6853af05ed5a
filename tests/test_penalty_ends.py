"""A fit with an l1 penalty that says CONVERGED meets the conditions of Karush, Kuhn and Tucker, whatever its link."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import torchglm
from torchglm.fitting.quadratic import soft_step

L1 = 0.0199
MODELS = (
    ("inverse_gaussian", "log", L1, 60),
    ("gamma", "identity", L1, 8),
    ("gamma", "log", L1, 8),
    ("poisson", "sqrt", 0.2, 8),
    ("gaussian", "log", 0.6, 8),
    ("bernoulli", "probit", L1, 8),
    ("bernoulli", "cloglog", L1, 8),
    ("tweedie", "log", 0.15, 8),
)


def _drawn(family: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = np.random.default_rng(seed)
    x = g.normal(size=(40, 3))
    y = g.wald(np.exp(1.2 + x @ np.array([0.15, -0.1, 0.05])), 2.0)
    y = (y > np.median(y)).astype(float) if family == "bernoulli" else y
    return torch.as_tensor(x), torch.as_tensor(y)


def _excess(result: torchglm.Result, x: torch.Tensor, y: torch.Tensor, l1: float) -> float:
    """How far the slopes of the mean loss, by autograd, are from where the penalty has them, in units of `l1`."""
    coef = result.coef.clone().requires_grad_()
    loss = result.family.nll(y, coef[0] + x @ coef[1:], result.link).mean()
    (slope,) = torch.autograd.grad(loss, coef)
    held = result.coef[1:] == 0
    own = torch.where(held, (slope[1:].abs() - l1).clamp(min=0), slope[1:] + l1 * result.coef[1:].sign())
    return float(torch.cat([slope[:1], own]).abs().max()) / l1


@pytest.mark.parametrize(("family", "link", "l1", "count"), MODELS)
def test_an_l1_fit_ends_where_its_slopes_are_within_their_thresholds(
    family: str, link: str, l1: float, count: int
) -> None:
    held = 0
    for seed in range(count):
        x, y = _drawn(family, seed)
        law = torchglm.families.get(family, **({"power": 1.5} if family == "tweedie" else {}))
        result = torchglm.fit(x, y, family=law, link=link, penalty=torchglm.ElasticNet(l1=l1))
        assert str(result.status) == "CONVERGED", (seed, result.status)
        assert _excess(result, x, y, l1) < 1e-6, (seed, result.coef)
        held += int((result.coef == 0).sum())
    assert held > 0  # some columns are held at zero


def test_many_models_and_a_start_end_at_the_same_point() -> None:
    drawn = [_drawn("inverse_gaussian", seed) for seed in range(12)]
    x, y = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    options = {"family": "inverse_gaussian", "link": "log", "penalty": torchglm.ElasticNet(l1=L1)}
    batch = torchglm.fit(x, y, **options)
    for one, (own_x, own_y) in enumerate(drawn):
        alone = torchglm.fit(own_x, own_y, **options)
        moved = torchglm.fit(own_x, own_y, start=alone.coef + 0.05, **options)
        torch.testing.assert_close(batch.coef[one], alone.coef, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(moved.coef, alone.coef, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-7, 1e-3, 1.0])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_a_step_over_columns_nearly_alike_is_one_of_descent_and_zero_at_its_end_alone(
    spread: float, size: float
) -> None:
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 30, 4, generator=g, dtype=torch.float64)
        x[..., 3] = 3 * x[..., 1] + spread * x[..., 3]
        x = x * size
        gram, score = x.mT @ x, (x.mT @ torch.randn(1, 30, 1, generator=g, dtype=torch.float64)).squeeze(-1)
        l1 = torch.full_like(score, size) * torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
        coef = torch.zeros_like(score)
        for _ in range(3):
            coef = coef + soft_step(gram, score - (gram @ coef.unsqueeze(-1)).squeeze(-1), coef, l1, coef == coef)
        left = score - (gram @ coef.unsqueeze(-1)).squeeze(-1)
        excess = torch.where(coef == 0, (left.abs() - l1).clamp(min=0), left - l1 * coef.sign())
        assert float(excess.abs().max()) <= 1e-7 * float(score.abs().max() + l1.max()), (seed, coef, left)


def test_a_step_is_finite_where_the_curvature_is_none_or_negative() -> None:
    score, l1 = torch.tensor([[3e7, 0.2, 5.0]], dtype=torch.float64), torch.full((1, 3), 0.5, dtype=torch.float64)
    keep = torch.ones(1, 3, dtype=torch.bool)
    for diagonal in ([1.0, 0.0, 1.0], [1.0, -4.0, 1e300], [0.0, 0.0, 0.0]):
        gram = torch.diag(torch.tensor(diagonal, dtype=torch.float64)).unsqueeze(0)
        step = soft_step(gram, score, torch.zeros_like(score), l1, keep)
        assert bool(torch.isfinite(step).all()), diagonal
        assert bool((score * step >= 0).all()), (diagonal, step)
