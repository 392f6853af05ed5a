"""Small models of several predictors take a short road where they can: it ends where the search does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchglm as tg
from torchglm.fitting import irls as driver
from torchglm.fitting import small_models

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "multinomial": (lambda: tg.Multinomial(), {}),
    "another baseline": (lambda: tg.Multinomial(2), {}),
    "cumulative": (lambda: tg.Ordinal(), {}),
    "probit": (lambda: tg.Ordinal("probit"), {}),
    "adjacent": (lambda: tg.Ordinal(kind="adjacent"), {}),
    "continuation": (lambda: tg.Ordinal("cloglog", "continuation"), {}),
    "free": (lambda: tg.Ordinal(free=["x1"]), {}),
    "dispersion": (lambda: tg.Gamma(), {"link": "log", "predictors": {"dispersion": "~ 1"}}),
    "zeros": (lambda: tg.ZeroInflated("poisson"), {}),
    "negative binomial": (lambda: tg.NegativeBinomial(), {"predictors": {"alpha": "~ 1"}}),
}
WEIGHTED = ["plain", "weights", "zeros", "freq"]
PAIRS = [(name, kind) for name in ("multinomial", "cumulative") for kind in WEIGHTED]
PAIRS += [(name, WEIGHTED[k % 4]) for k, name in enumerate(CASES) if name not in ("multinomial", "cumulative")]


def rows_of(name: str, own: bool, seed: int = 0, models: int = 24, n: int = 80, p: int = 3) -> dict[str, Tensor]:
    """Models in good order, but for one with a column twice, one separated, and one that lacks a class."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(*((models,) if own else ()), n, p, generator=draw, dtype=torch.float64)
    eta = 0.4 * x[..., 0] - 0.3 * x[..., 1]
    noise = torch.rand(models, n, generator=draw, dtype=torch.float64)
    if CASES[name][0]().name in ("multinomial", "ordinal"):
        y = ((eta + torch.logit(noise) + 2.5) / 1.7).clamp(0, 2.99).floor()
        if own:
            y[5] = (x[5, :, 0] > 0).double() + (x[5, :, 0] > 1)
            y[7] = torch.where(y[7] == 2, 0.0, y[7])
    elif name == "dispersion":
        y = eta.exp() * -noise.log()
    else:
        y = torch.poisson((eta + 0.5 - 0.6 * noise.log()).exp(), generator=draw)
        y = torch.where(noise > 0.8, 0.0, y) if name == "zeros" else y
    if own:
        x[3, :, 2] = x[3, :, 1]
    return {"x": x, "y": y}


def weighted(kind: str, y: Tensor) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    if kind == "plain":
        return {}
    if kind == "freq":
        return {"freq": torch.randint(0, 4, y.shape, generator=draw).double()}
    weights = 0.2 + torch.rand(y.shape, generator=draw, dtype=torch.float64)
    return {"weights": weights if kind == "weights" else torch.where(weights < 0.5, 0.0, weights)}


def both(monkeypatch: pytest.MonkeyPatch, fit: Any) -> tuple[tg.Result, tg.Result]:
    """The fits by the search alone, and as they go."""
    with monkeypatch.context() as plain:
        plain.setattr(driver, "fit_small_models", lambda problem, source, lane, out: lane)
        want = fit()
    return fit(), want


def same(got: tg.Result, want: tg.Result, tolerance: float = 1e-12) -> None:
    assert got.status == want.status
    sound = want.converged
    assert bool(sound.any())
    assert torch.equal(got.n_iter[sound], want.n_iter[sound])
    for name in ("coef", "std_err", "loglik", "nobs"):
        a, b = getattr(got, name)[sound], getattr(want, name)[sound]
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_short_road_ends_where_the_search_does(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: str, own: bool
) -> None:
    rows, (family, options) = rows_of(name, own), CASES[name]
    roles = weighted(kind, rows["y"])
    if name != "multinomial" and name != "another baseline":
        roles["offset"] = 0.1 * rows["y"].new_tensor(range(rows["y"].shape[-1])).sin().expand_as(rows["y"])
    same(*both(monkeypatch, lambda: tg.fit(**rows, family=family(), **roles, **options)), 1e-9)


def left_to_the_search(monkeypatch: pytest.MonkeyPatch, fit: Any) -> list[int]:
    """The models that the short road leaves to the search."""
    left: list[Tensor] = []

    def watched(*args: Any) -> Tensor:
        left.append(small_models.fit_small_models(*args))
        return left[-1]

    monkeypatch.setattr(driver, "fit_small_models", watched)
    fit()
    return left[0].tolist()


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize("name", ["multinomial", "another baseline", "cumulative", "probit", "continuation", "zeros"])
def test_only_models_that_need_care_reach_the_search(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rows, (family, options) = rows_of(name, True), CASES[name]
    left = left_to_the_search(monkeypatch, lambda: tg.fit(**rows, family=family(), **options))
    assert left == ([3, 5, 7] if family().name in ("multinomial", "ordinal") else [3])


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize("family", [tg.Multinomial, tg.Ordinal])
def test_a_batch_is_a_loop_and_groups_change_nothing(monkeypatch: pytest.MonkeyPatch, family: Any) -> None:
    rows = rows_of("multinomial", True)
    batch = tg.fit(**rows, family=family())
    for k in (0, 9):
        same(batch[k], tg.fit(rows["x"][k], rows["y"][k], family=family()))
    monkeypatch.setattr(small_models, "MEMBERS", 16)
    parts = tg.fit(**rows, family=family())
    assert torch.equal(parts.coef, batch.coef) or torch.equal(parts.coef.isnan(), batch.coef.isnan())
    same(parts, batch)


def test_ragged_models_are_each_fitted_to_their_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of("multinomial", False, n=400, models=1)
    table = {"y": rows["y"][0].numpy(), "a": rows["x"][:, 0].numpy(), "b": rows["x"][:, 1].numpy()}
    table["g"] = (torch.arange(400) % 7 * (torch.arange(400) % 3 > 0)).numpy()
    batch = tg.fit("y ~ a + b", table, family=tg.Multinomial(), by="g")
    assert left_to_the_search(monkeypatch, lambda: tg.fit("y ~ a + b", table, family=tg.Multinomial(), by="g")) == []
    for k in (0, 4):
        own = torch.as_tensor(table["g"]) == k
        alone = tg.fit(rows["x"][own][:, :2], rows["y"][0][own], family=tg.Multinomial())
        torch.testing.assert_close(batch.coef[k], alone.coef, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(batch.std_err[k], alone.std_err, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("road", ["short", "search"])
def test_standard_errors_are_of_the_observed_information_however_few_the_steps(
    monkeypatch: pytest.MonkeyPatch, road: str
) -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(6, 200, 2, generator=draw, dtype=torch.float64)
    y = torch.randint(0, 3, (6, 200), generator=draw).double()
    if road == "search":
        monkeypatch.setattr(driver, "fit_small_models", lambda problem, source, lane, out: lane)
    result = tg.fit(x, y, family=tg.Ordinal())
    assert bool((result.n_iter <= 2).any())  # by scoring alone
    for k in range(6):

        def nll(beta: Tensor, k: int = k) -> Tensor:
            return tg.Ordinal(classes=3).nll(y[k], beta[2:].unsqueeze(-1) - x[k] @ beta[:2]).sum()

        whole = torch.cat([result.coef[k], result.thresholds[k]])
        want = torch.linalg.inv(torch.autograd.functional.hessian(nll, whole)).diagonal().sqrt()
        torch.testing.assert_close(result.std_err[k], want[:2], rtol=1e-5, atol=0)
