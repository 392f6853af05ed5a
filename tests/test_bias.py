"""Mean bias reduction: zero of the adjusted score, finite under separation, penalised profiles, laws of batches."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchglm as tg

CANONICAL = [("bernoulli", "logit"), ("poisson", "log"), ("binomial", "logit")]
EVERY = [*CANONICAL, ("bernoulli", "probit"), ("bernoulli", "cloglog"), ("gamma", "log"), ("inverse_gaussian", "log")]


def problem(family: str, n: int = 40, models: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(models, n, 2, generator=generator, dtype=torch.float64)
    noise = torch.rand(models, n, generator=generator, dtype=torch.float64)
    roles = {"freq": torch.randint(0, 3, (models, n), generator=generator).double()}
    y = -noise.log() * x[..., 0].exp()
    if family == "poisson":
        y = y.floor()
    if family == "bernoulli":
        y = (y > 0.7).double()
    if family == "binomial":
        roles["trials"] = torch.randint(1, 5, (models, n), generator=generator).double()
        y = (roles["trials"] * noise).round()
    if models == 1:
        return x[0], y[0], {name: value[0] for name, value in roles.items()}
    return x, y, roles


def fitted(family: str, link: str, x: Tensor, y: Tensor, **options: Any) -> tg.Result:
    return tg.fit(x, y, family=family, link=link, penalty=tg.Jeffreys(), **options)


def penalised(result: tg.Result, coef: Tensor, roles: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """`loglik + log det(X'WX) / 2` by the textbook, for autodiff."""
    trials = roles.get("trials", torch.ones_like(y))
    design = torch.cat([torch.ones_like(x[:, :1]), x], -1)
    eta = design @ coef
    if result.family.name == "poisson":
        terms, weight = y * eta - eta.exp(), eta.exp()
    else:
        terms, p = y * eta - trials * torch.nn.functional.softplus(eta), eta.sigmoid()
        weight = trials * p * (1 - p)
    information = design.T @ ((weight * roles["freq"]).unsqueeze(-1) * design)
    return (terms * roles["freq"]).sum() + torch.logdet(information) / 2


@pytest.mark.parametrize(("family", "link"), CANONICAL)
def test_the_penalised_likelihood_is_at_its_maximum(family: str, link: str) -> None:
    x, y, roles = problem(family)
    result = fitted(family, link, x, y, **roles)
    at = result.coef.clone().requires_grad_()
    [slope] = torch.autograd.grad(penalised(result, at, roles, x, y), at)
    assert bool(result.converged)
    torch.testing.assert_close(slope * result.std_err, torch.zeros_like(slope), rtol=0, atol=1e-8)


def profiled(result: tg.Result, j: int, value: Tensor, roles: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The most that the penalised likelihood reaches with coefficient `j` at a value, by a search of torch."""
    others = torch.tensor([k for k in range(3) if k != j])
    at = result.coef[others].clone().requires_grad_()
    search = torch.optim.LBFGS([at], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def height() -> Tensor:
        coef = torch.zeros(3, dtype=torch.float64).index_put((others,), at)
        return penalised(result, coef.index_put((torch.tensor([j]),), value.reshape(1)), roles, x, y)

    def loss() -> Tensor:
        search.zero_grad()
        value = -height()
        value.backward()
        return value

    search.step(loss)
    return height().detach()


@pytest.mark.parametrize(("family", "link"), CANONICAL)
def test_limits_are_where_the_profile_falls_by_the_quantile(family: str, link: str) -> None:
    x, y, roles = problem(family)
    result = fitted(family, link, x, y, **roles)
    limits = result.conf_int(method="profile")
    best = penalised(result, result.coef, roles, x, y)
    for j in (0, 2):
        for value in limits[j]:
            fall = best - profiled(result, j, value, roles, x, y)
            assert float(2 * fall) == pytest.approx(3.841458820694124, abs=1e-5)


@pytest.mark.parametrize(("family", "link"), EVERY)
def test_batches_repeats_and_dropped_rows(family: str, link: str) -> None:
    x, y, roles = problem(family, models=3)
    whole = fitted(family, link, x, y, **roles)
    for k in range(3):
        own = {name: value[k] for name, value in roles.items()}
        alone = fitted(family, link, x[k], y[k], **own)
        times = own.pop("freq").long()
        repeated = {name: value.repeat_interleave(times) for name, value in own.items()}
        plain = fitted(family, link, x[k].repeat_interleave(times, 0), y[k].repeat_interleave(times), **repeated)
        assert bool(alone.converged)
        for other in (alone, plain):
            torch.testing.assert_close(whole[k].coef, other.coef, rtol=0, atol=1e-7)
            torch.testing.assert_close(whole[k].std_err, other.std_err, rtol=1e-6, atol=0)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_separated_classes_have_finite_estimates(link: str) -> None:
    x = torch.linspace(-1, 1, 30, dtype=torch.float64).unsqueeze(-1)
    result = fitted("bernoulli", link, x, (x[:, 0] > 0.1).double())
    assert bool(result.converged) and bool((result.std_err < 20).all()) and bool((result.coef.abs() < 50).all())


def test_it_takes_bias_away() -> None:
    """The mean over many small samples is nearer the truth than that of maximum likelihood."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    p = (1.0 * x[:, 0]).sigmoid()
    y = (torch.rand(2000, 60, generator=generator, dtype=torch.float64) < p).double()
    reduced = fitted("bernoulli", "logit", x, y).coef[:, 1].mean()
    plain = tg.fit(x, y, family="bernoulli").coef[:, 1].mean()
    assert abs(float(reduced) - 1) < 0.02 < abs(float(plain) - 1)


def test_least_squares_has_no_bias() -> None:
    x, y, _ = problem("gamma")
    reduced, plain = fitted("gaussian", "identity", x, y), tg.fit(x, y, family="gaussian")
    torch.testing.assert_close(reduced.coef, plain.coef, rtol=0, atol=1e-10)


def test_what_it_does_not_do(tmp_path: Path) -> None:
    x, y, roles = problem("poisson")
    result = fitted("poisson", "log", x, y, **roles)
    assert "bias reduction" in str(result.summary())
    for refused in (lambda: result.drop1(), lambda: tg.lrt(result, result), lambda: result.score_test(x)):
        with pytest.raises(ValueError, match="bias-reduced"):
            refused()
    with pytest.raises(ValueError, match="no penalised likelihood"):
        fitted("poisson", "sqrt", x, y, **roles).conf_int(method="profile")
    with pytest.raises(ValueError, match="one predictor"):
        tg.fit(x, torch.arange(40) % 3, family=tg.Multinomial(), penalty=tg.Jeffreys())
    result.save(tmp_path)
    torch.testing.assert_close(tg.load(tmp_path).penalized_loglik, result.penalized_loglik)


@pytest.mark.slow
def test_limits_cover_where_tables_are_separated() -> None:
    """Two groups of 25 rows: many tables have an empty cell, where Wald says nothing."""
    draw, beta, models = torch.Generator().manual_seed(4), 2.5, 2000
    x = torch.arange(50, dtype=torch.float64).remainder(2).unsqueeze(-1)
    chance = torch.sigmoid(0.2 + beta * x[:, 0])
    y = torch.bernoulli(chance.expand(models, -1), generator=draw)
    y = y[(y.mean(-1) > 0) & (y.mean(-1) < 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = tg.fit(x, y, family="bernoulli")
    firth = tg.fit(x, y, family="bernoulli", penalty=tg.Jeffreys())
    assert bool(firth.converged.all())
    low, high = firth.conf_int(method="profile")[:, 1].unbind(-1)
    covered = ((low <= beta) & (beta <= high)).double()
    separated = torch.tensor([status != tg.Status.CONVERGED for status in plain.status])
    wald_low, wald_high = plain.conf_int()[:, 1].unbind(-1)
    wald = ((wald_low <= beta) & (beta <= wald_high) & ~separated).double()
    assert float(separated.double().mean()) > 0.05
    assert 0.93 <= float(covered.mean()) <= 0.97
    assert float(wald.mean()) < 0.93 and bool(firth.coef[separated].isfinite().all())


def test_a_summary_names_the_penalty(tmp_path: Path) -> None:
    x, y = torch.arange(20.0)[:, None], (torch.arange(20) > 8).double()
    result = tg.fit(x, y, family="bernoulli", penalty=tg.Jeffreys())
    batch = tg.fit(x, torch.stack([y, y.flip(0)]), family="bernoulli", penalty=tg.Jeffreys())
    result.save(tmp_path / "fit")
    for one in (result, batch, tg.load(tmp_path / "fit")):
        assert "Jeffreys()" in one.summary().to_text()
        assert "Jeffreys()" in one.describe()["penalty"]


@pytest.mark.parametrize("family", ["negative_binomial", "tweedie"])
def test_a_shape_is_estimated_beside_coefficients_that_are_bias_reduced(family: str) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 2))
    mean = np.exp(0.5 + 0.4 * x[:, 0])
    many = np.stack([draw.negative_binomial(2, 2 / (2 + mean)), draw.negative_binomial(1, 1 / (1 + mean))]) * 1.0
    if family == "tweedie":
        many = np.where(many > 0, many * draw.gamma(2, 1, many.shape), 0.0)
    found = tg.fit(x, many[0], family=family, penalty=tg.Jeffreys())
    shape = {name: float(value) for name, value in found.family.arguments().items()}
    given = tg.fit(x, many[0], family=type(found.family)(**shape), penalty=tg.Jeffreys())
    torch.testing.assert_close(found.coef, given.coef, rtol=1e-7, atol=1e-9)
    plain = tg.fit(x, many[0], family=family)
    assert bool(found.converged) and float((found.coef - plain.coef).abs().max()) > 1e-4
    for value in [shape["alpha"]] if "alpha" in shape else []:  # the most likely one at these coefficients
        here = {step: _loglik(found, many[0], {"alpha": value * step}) for step in (0.99, 1.0, 1.01)}
        assert here[1.0] > max(here[0.99], here[1.01]) - 1e-6
    both = tg.fit(x, many, family=family, penalty=tg.Jeffreys())
    torch.testing.assert_close(both.coef[0], found.coef, rtol=1e-7, atol=1e-9)


def _loglik(fit: tg.Result, y: np.ndarray, shape: dict[str, float]) -> float:
    family = type(fit.family)(**shape)
    return float(family.distribution(fit.fitted, fit.dispersion).log_prob(torch.from_numpy(y)).sum())
