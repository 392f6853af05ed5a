"""Inference after selection: none by default, debiased on request, and a choice that finds the truth."""

from __future__ import annotations

from pathlib import Path as Folder

import pytest
import torch

import torchglm
from torchglm.model.nodewise import nodewise

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
    few = torchglm.path(x[:8], y[0, :8].long(), family=torchglm.Multinomial(), n=3)
    with pytest.raises(ValueError, match="more rows than columns"):
        few.select(1, inference="debiased")
    with pytest.raises(ValueError, match="without limits"):
        torchglm.path(x, y[0], family="bernoulli", n=3, lower=0).select(1, inference="debiased")
    twice = torch.cat([x, x[:, :1]], -1)
    with pytest.raises(ValueError, match="depend on others"):
        torchglm.path(twice, y[0], family="bernoulli", n=3).select(1, inference="debiased")


def test_more_columns_than_rows_are_debiased_by_lassos_of_each_on_the_others(tmp_path: Folder) -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(60, 80, generator=draw, dtype=torch.float64) + 3
    y = 2 * x[:, 0] + torch.randn(60, generator=draw, dtype=torch.float64)
    path = torchglm.path(x, y, family="gaussian", n=20)
    lasso, result = path.select(8), path.select(8, inference="debiased")
    limits = result.conf_int()
    assert bool((result.std_err > 0).all()) and float(limits[1, 0]) < 2 < float(limits[1, 1])
    assert float((result.coef[1] - 2).abs()) < float((lasso.coef[1] - 2).abs())  # the bias is gone
    assert torch.equal(result.deviance, lasso.deviance) and "those of the penalised fit" in str(result.summary())
    result.save(tmp_path)
    assert torch.equal(torchglm.load(tmp_path).std_err, result.std_err)
    scaled = torchglm.path(x * 10, y, family="gaussian", n=20).select(8, inference="debiased")
    torch.testing.assert_close(scaled.coef[1:] * 10, result.coef[1:], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(scaled.std_err[1:] * 10, result.std_err[1:], rtol=1e-6, atol=0)


def test_lassos_without_a_penalty_make_the_inverse() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x[:, 0] = 1.0
    gram = x.mT @ x / 50
    torch.testing.assert_close(nodewise(gram, 1e30, True), gram.inverse(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("word", ["bic", "one_se", 3])
def test_half_of_the_rows_chooses_and_the_other_half_fits(word: str | int, tmp_path: Folder) -> None:
    x, y = drawn(1)
    path = torchglm.path(x, y[0], family="bernoulli", n=15, folds=4)
    result = path.select(word, inference="split", seed=3)
    again = path.select(word, inference="split", seed=3)
    assert torch.equal(result.coef, again.coef) and int(result.nobs) == 250
    first = torch.randperm(500, generator=torch.Generator().manual_seed(3)) < 250
    chosen = result.coef[1:] != 0
    fit = torchglm.fit(x[~first][:, chosen], y[0, ~first], family="bernoulli")
    kept = torch.cat([torch.ones(1, dtype=torch.bool), chosen])
    torch.testing.assert_close(result.coef[kept], fit.coef)
    torch.testing.assert_close(result.std_err[kept], fit.std_err)
    torch.testing.assert_close(result.loglik, fit.loglik)
    assert bool(result.std_err[~kept].isnan().all()) and "250 rows, drawn by seed 3" in str(result.summary())
    if word == 3:
        half = torchglm.path(x[first], y[0, first], family="bernoulli", n=15)
        assert torch.equal(half.coef[3, 1:] != 0, chosen)
    result.save(tmp_path)
    torch.testing.assert_close(torchglm.load(tmp_path).std_err, result.std_err, equal_nan=True)


def test_what_cannot_be_split(tmp_path: Folder) -> None:
    x, y = drawn(1)
    path = torchglm.path(x, y[0], family="bernoulli", n=3)
    path.save(tmp_path)
    with pytest.raises(ValueError, match="without rows"):
        torchglm.load(tmp_path).select(1, inference="split")
    with pytest.raises(ValueError, match="Name one"):
        torchglm.path(x, y[0], family=torchglm.Multinomial(baseline=None), n=3).select(1, inference="split")
    few = torchglm.path(x[:14], x[:14].sin().sum(-1), family="gaussian", n=3, smallest=1e-6)
    with pytest.raises(ValueError, match="the other half"):
        few.select(2, inference="split")


@pytest.mark.slow
def test_split_intervals_cover_and_aic_finds_the_truth() -> None:
    x, y = drawn(400)
    path = torchglm.path(x, y, family="bernoulli", n=40)
    for word in ("aic", "bic"):
        result = path.select(word, inference="split")
        limits, chosen = result.conf_int()[..., 1:, :], result.coef[..., 1:] != 0
        inside = (limits[..., 0] <= TRUTH[1:]) & (TRUTH[1:] <= limits[..., 1])
        assert 0.93 <= float(inside[chosen].double().mean()) <= 0.97
    chosen = path.select("aic").coef[:, 1:] != 0
    assert float(chosen[:, :4].all(-1).double().mean()) > 0.98 and float(chosen[:, 4:].double().sum(-1).mean()) < 2.5


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
