"""Inference after selection: none by default, debiased on request, and a choice that finds the truth."""

from __future__ import annotations

from pathlib import Path as Folder

import pytest
import torch

import torchglm

TRUTH = torch.tensor([0.3, 0.8, -0.6, 0.5, 0.4, 0, 0, 0, 0], dtype=torch.float64)


def drawn(sets: int, n: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(n, 8, generator=draw, dtype=torch.float64)
    x[:, 4:] = 0.5 * x[:, :4] + x[:, 4:]
    chance = torch.sigmoid(TRUTH[0] + x @ TRUTH[1:])
    return x, (torch.rand(sets, n, generator=draw, dtype=torch.float64) < chance).to(torch.float64)


def test_debiased_estimates_have_errors_and_chosen_ones_none(tmp_path: Folder) -> None:
    x, y = drawn(1)
    path = torchglm.path(x, y[0], family="bernoulli", n=10)
    fit = torchglm.fit(x, y[0], family="bernoulli")
    for place in (1, 9):
        assert bool(path.select(place).std_err.isnan().all())
        result = path.select(place, inference="debiased")
        assert "Desparsified" in str(result.summary()) and bool((result.std_err > 0).all())
    torch.testing.assert_close(result.coef, fit.coef, rtol=1e-3, atol=1e-3)  # nearly no penalty there
    torch.testing.assert_close(result.std_err, fit.std_err, rtol=1e-3, atol=0)
    assert result.conf_int().shape == (9, 2) and result.penalty is None
    result.save(tmp_path)
    assert torch.equal(torchglm.load(tmp_path).std_err, result.std_err)
    gaussian = torchglm.path(x, x @ TRUTH[1:] + y[0], family="gaussian", n=5)
    least = torchglm.fit(x, x @ TRUTH[1:] + y[0], family="gaussian")
    one = gaussian.select(1, inference="debiased")  # of least squares one step is all
    torch.testing.assert_close(one.coef, least.coef)
    torch.testing.assert_close(one.std_err, least.std_err)


def test_what_cannot_be_debiased() -> None:
    x, y = drawn(1)
    with pytest.raises(ValueError, match="inference is"):
        torchglm.path(x, y[0], family="bernoulli", n=3).select(1, inference="wald")
    with pytest.raises(ValueError, match="more rows than columns"):
        torchglm.path(x[:8], y[0, :8], family="bernoulli", n=3).select(1, inference="debiased")
    with pytest.raises(ValueError, match="without limits"):
        torchglm.path(x, y[0], family="bernoulli", n=3, lower=0).select(1, inference="debiased")
    twice = torch.cat([x, x[:, :1]], -1)
    with pytest.raises(ValueError, match="depend on others"):
        torchglm.path(twice, y[0], family="bernoulli", n=3).select(1, inference="debiased")


@pytest.mark.slow
def test_debiased_intervals_cover_and_bic_finds_the_truth() -> None:
    x, y = drawn(400)
    path = torchglm.path(x, y, family="bernoulli", n=40)
    for word in ("aic", "bic"):
        limits = path.select(word, inference="debiased").conf_int()
        inside = (limits[..., 0] <= TRUTH) & (TRUTH <= limits[..., 1])
        assert 0.93 <= float(inside[:, 1:].double().mean()) <= 0.97
    chosen = path.select("bic").coef[:, 1:] != 0
    right = (chosen == (TRUTH[1:] != 0)).all(-1).double().mean()
    false = chosen[:, 4:].double().sum(-1).mean()
    assert bool((path.coef[:, -1, 1:] != 0).all())  # the weakest strength, with the least deviance, has all columns
    assert float(right) > 0.2 and float(false) < 2 and float(chosen[:, :4].all(-1).double().mean()) > 0.95
