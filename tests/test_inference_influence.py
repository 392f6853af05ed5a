"""What each row does: residuals, deletion in closed form against refits, and the laws they obey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy import integrate, special, stats
from torch import Tensor

import torchglm
from torchglm import families
from torchglm.inference import rowwise
from torchglm.inference.rowwise import anscombe
from torchglm.rows.inverses import DenseRoot, Root
from torchglm.rows.rows import Rows

N, P = 60, 2
CASES: dict[str, tuple[Any, str]] = {
    "gaussian": (families.Gaussian(), "identity"),
    "poisson": (families.Poisson(), "log"),
    "bernoulli": (families.Bernoulli(), "probit"),
    "gamma": (families.Gamma(), "log"),
    "inverse_gaussian": (families.InverseGaussian(), "log"),
    "exponential": (families.Exponential(), "log"),
    "negative_binomial": (families.NegativeBinomial(0.5), "log"),
    "tweedie": (families.Tweedie(1.5), "log"),
}
QUANTITIES: dict[str, Callable[[torchglm.Result], Tensor]] = {
    **{kind: lambda r, kind=kind: r.residuals(kind) for kind in ("anscombe", "studentized", "quantile")},
    "dffits": lambda r: r.dffits(),
    "loo_mean": lambda r: r.loo_predict(),
    "loo_link": lambda r: r.loo_predict("link"),
    "dfbetas": lambda r: r.dfbetas(),
    "cv_deviance": lambda r: r.cv_deviance(),
}


def design(models: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(models, N, P) columns and linear predictors."""
    x = torch.randn(models, N, P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, 0.3 + 0.4 * x[..., 0] - 0.2 * x[..., 1]


def draw(name: str, eta: Tensor, seed: int = 0) -> Tensor:
    """Responses of a true model."""
    family, link = CASES[name]
    torch.manual_seed(seed)
    y = family.distribution(torchglm.links.get(link)(eta), 2.0 if name == "tweedie" else 0.4).sample()
    return y.to(torch.float64)


def fitted(name: str, models: int = 1, **options: Any) -> torchglm.Result:
    x, eta = design(models)
    y = draw(name, eta)
    family, link = CASES[name]
    return torchglm.fit(x if models > 1 else x[0], y if models > 1 else y[0], family=family, link=link, **options)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_says_what_its_members_say(name: str) -> None:
    batch = fitted(name, 3)
    members = [batch[k] for k in range(3)]
    for quantity in QUANTITIES.values():
        torch.testing.assert_close(
            quantity(batch), torch.stack([quantity(one) for one in members]), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("name", CASES)
def test_chunks_say_what_the_whole_says(name: str) -> None:
    whole = fitted(name)
    rows = whole.rows
    assert rows is not None
    chunks = whole.on([rows.between(0, 17), rows.between(17, 18), rows.between(18, N)])
    for quantity in QUANTITIES.values():
        torch.testing.assert_close(quantity(chunks), quantity(whole), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_coefficient_changes_times_what_is_left_sum_to_zero(name: str) -> None:
    r = fitted(name)
    total = (r.dfbetas(scaled=False) * (1 - r.leverage()).unsqueeze(-1)).sum(0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_one_step_deletion_agrees_with_refits_without_the_row(name: str) -> None:
    x, eta = design()
    y, (family, link) = draw(name, eta)[0], CASES[name]
    r = torchglm.fit(x[0], y, family=family, link=link)
    weights = 1 - torch.eye(N, dtype=torch.float64)
    refits = torchglm.fit(x[0].expand(N, N, -1), y.expand(N, N), family=family, link=link, weights=weights)
    moved = r.coef - refits.coef
    step = r.dfbetas(scaled=False)
    exact = name == "gaussian"
    assert float((step - moved).norm() / moved.norm()) < (1e-10 if exact else 0.2)
    mean = link_mean(refits, x[0], link)
    torch.testing.assert_close(r.loo_predict(), mean, rtol=1e-10 if exact else 0.12, atol=1e-10)
    half = family.unit_deviance(y, mean)
    torch.testing.assert_close(r.cv_deviance(), half.sum(), rtol=1e-10 if exact else 0.02, atol=0)
    assert float(r.cv_deviance()) > float(r.deviance)


def link_mean(refits: torchglm.Result, x: Tensor, link: str) -> Tensor:
    """(N,) the mean of row i by refit i."""
    whole = torch.cat([torch.ones(N, 1, dtype=torch.float64), x], -1)
    return torchglm.links.get(link)((whole * refits.coef).sum(-1))


@pytest.mark.parametrize("name", ["gaussian", "gamma"])
def test_the_deletion_dispersion_is_that_of_the_refit_for_least_squares_and_close_elsewhere(name: str) -> None:
    r, (family, link) = fitted(name), CASES[name]
    x, eta = design()
    y = draw(name, eta)[0]
    refits = torchglm.fit(x[0].expand(N, N, -1), y.expand(N, N), family=family, link=link, weights=1 - torch.eye(N))
    ratio = r.dfbetas(scaled=False) / r.dfbetas()
    unscaled = (r.covariance().diagonal() / r.dispersion).sqrt()
    torch.testing.assert_close(
        ratio / unscaled,
        refits.dispersion.sqrt().unsqueeze(-1).expand(N, P + 1),
        rtol=1e-9 if name == "gaussian" else 0.05,
        atol=0,
    )


def test_least_squares_agrees_with_statsmodels() -> None:
    r = fitted("gaussian")
    x, eta = design()
    judge = sm.OLS(draw("gaussian", eta)[0].numpy(), sm.add_constant(x[0].numpy())).fit().get_influence()
    np.testing.assert_allclose(r.dfbetas(), judge.dfbetas, rtol=1e-9)
    np.testing.assert_allclose(r.dffits(), judge.dffits[0], rtol=1e-9)
    np.testing.assert_allclose(r.residuals("studentized"), judge.resid_studentized_external, rtol=1e-9)
    np.testing.assert_allclose(r.cv_deviance(), judge.ess_press, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "judge"),
    [
        ("poisson", sm.families.Poisson()),
        ("gamma", sm.families.Gamma(sm.families.links.Log())),
        ("bernoulli", sm.families.Binomial(sm.families.links.Probit())),
    ],
)
def test_generalised_fits_agree_with_statsmodels(name: str, judge: Any) -> None:
    r = fitted(name)
    x, eta = design()
    fit = sm.GLM(draw(name, eta)[0].numpy(), sm.add_constant(x[0].numpy()), family=judge).fit(tol=1e-14)
    influence = fit.get_influence(observed=False)
    np.testing.assert_allclose(r.residuals("anscombe"), fit.resid_anscombe_unscaled, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(r.dfbetas(scaled=False), influence.d_params, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(r.leverage(), influence.hat_matrix_diag, rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "primitive"),
    [
        (families.Gaussian(), lambda t: t),
        (families.Poisson(), lambda t: 1.5 * t ** (2 / 3)),
        (families.Gamma(), lambda t: 3 * np.cbrt(t)),
        (families.InverseGaussian(), np.log),
        (families.Tweedie(1.7), lambda t: t ** (1 - 1.7 / 3) / (1 - 1.7 / 3)),
        (families.Binomial(), lambda t: special.betainc(2 / 3, 2 / 3, t) * special.beta(2 / 3, 2 / 3)),
    ],
)
def test_anscombe_residuals_are_differences_of_the_transform(family: Any, primitive: Callable[[Any], Any]) -> None:
    mu = torch.tensor([1e-5, 0.02, 0.5, 0.999], dtype=torch.float64)[:, None]
    y = torch.tensor([0.0, 1e-5, 0.3, 0.5, 1.0], dtype=torch.float64)
    y = y[1:] if family.name == "inverse_gaussian" else y
    want = (primitive(y.numpy()) - primitive(mu.numpy())) / family.variance(mu).numpy() ** (1 / 6)
    np.testing.assert_allclose(anscombe(y.expand(4, -1), mu.expand(-1, len(y)), family), want, rtol=1e-8, atol=1e-12)


def test_anscombe_residuals_of_the_negative_binomial_agree_with_quadrature() -> None:
    family = families.NegativeBinomial(0.7)
    got = anscombe(torch.tensor([0.0, 3.0, 40.0]), torch.tensor([2.0, 2.5, 5.0]), family)
    for value, (low, high) in zip(got.tolist(), [(2, 0), (2.5, 3), (5, 40)], strict=True):
        area = integrate.quad(lambda s: 3 * s / np.cbrt(1 + 0.7 * s**3), np.cbrt(low), np.cbrt(high))[0]
        assert value == pytest.approx(area / (low + 0.7 * low**2) ** (1 / 6), rel=1e-5)


@pytest.mark.parametrize("name", ["poisson", "gamma"])
def test_leaving_one_out_of_repeated_rows_is_leaving_one_out_of_the_rows_written_out(name: str) -> None:
    x, eta = design()
    y, (family, link) = draw(name, eta)[0], CASES[name]
    times = torch.arange(N) % 3
    short = torchglm.fit(x[0], y, family=family, link=link, freq=times)
    long = torchglm.fit(x[0].repeat_interleave(times, 0), y.repeat_interleave(times), family=family, link=link)
    torch.testing.assert_close(short.cv_deviance(), long.cv_deviance(), rtol=1e-7, atol=0)
    torch.testing.assert_close(short.loo_predict().repeat_interleave(times), long.loo_predict(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["response", "pearson", "deviance", "working", "anscombe", "studentized", "quantile"])
@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_residuals_of_repeated_rows_are_those_of_one_repeat(name: str, kind: str, standardized: bool) -> None:
    x, eta = design()
    y, (family, link) = draw(name, eta)[0], CASES[name]
    times, weights = torch.arange(N) % 3, 1 + torch.arange(N, dtype=torch.float64) % 2
    if kind == "quantile" and name in ("poisson", "bernoulli", "negative_binomial", "tweedie"):
        return  # drawn anew for each row
    each = {"weights": weights, "family": family, "link": link}
    short = torchglm.fit(x[0], y, freq=times, **each)
    each["weights"] = weights.repeat_interleave(times)
    long = torchglm.fit(x[0].repeat_interleave(times, 0), y.repeat_interleave(times), **each)
    got = short.residuals(kind, standardized).repeat_interleave(times)
    torch.testing.assert_close(got, long.residuals(kind, standardized), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["gaussian", "poisson", "gamma"])
def test_influence_takes_a_row_away_with_all_its_repeats(name: str) -> None:
    x, eta = design()
    y, (family, link) = draw(name, eta)[0], CASES[name]
    times = 1 + torch.arange(N) % 3
    short = torchglm.fit(x[0], y, family=family, link=link, freq=times)
    heavy = torchglm.fit(x[0], y, family=family, link=link, weights=times, dispersion=float(short.dispersion))
    for of in ("leverage", "cooks_distance"):  # a row of that weight, at the same dispersion
        torch.testing.assert_close(getattr(short, of)(), getattr(heavy, of)(), rtol=1e-7, atol=1e-10)


def test_a_row_of_weight_zero_is_predicted_by_the_fit_and_moves_nothing() -> None:
    x, eta = design()
    y = draw("poisson", eta)[0]
    weights = torch.ones(N)
    weights[7] = 0
    r = torchglm.fit(x[0], y, family="poisson", weights=weights)
    assert float(r.loo_predict()[7]) == pytest.approx(float(r.fitted[7]))
    assert r.dfbetas()[7].abs().max() == 0 and r.dffits()[7] == 0 and r.residuals("studentized")[7] == 0
    assert torch.isnan(r.residuals("quantile")[7])


def test_a_row_fitted_exactly_has_no_deletion() -> None:
    x = torch.zeros(10, 1)
    x[3] = 1.0
    r = torchglm.fit(x, torch.arange(10.0), family="gaussian")
    for value in (r.dffits(), r.loo_predict(), r.residuals("studentized"), r.dfbetas()[:, 1]):
        assert torch.isnan(value[3])
    assert torch.isnan(r.cv_deviance())


# quantile residuals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("gaussian", lambda mu, phi: stats.norm(mu, np.sqrt(phi))),
        ("gamma", lambda mu, phi: stats.gamma(1 / phi, scale=mu * phi)),
        ("inverse_gaussian", lambda mu, phi: stats.invgauss(mu * phi, scale=1 / phi)),
    ],
)
def test_quantile_residuals_of_continuous_laws_are_normal_quantiles_of_the_cdf(name: str, law: Any) -> None:
    r = fitted(name)
    assert r.rows is not None
    at = law(r.fitted.numpy(), float(r.dispersion)).cdf(r.rows.y[0].numpy())
    np.testing.assert_allclose(r.residuals("quantile"), stats.norm.ppf(at), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["poisson", "bernoulli", "negative_binomial", "tweedie"])
def test_quantile_residuals_of_atoms_lie_in_the_jump_and_follow_the_seed(name: str) -> None:
    r = fitted(name)
    assert r.rows is not None
    y, law = r.rows.y[0], CASES[name][0].distribution(r.fitted, float(r.dispersion))
    u = torch.special.ndtr(r.residuals("quantile", seed=1))
    at = torchglm.distributions.cdf(law, y)
    below = torch.where(y > 0, torchglm.distributions.cdf(law, y - (1 if name != "tweedie" else 0)), 0.0)
    assert bool(((u >= below - 1e-12) & (u <= at + 1e-12)).all())
    torch.testing.assert_close(r.residuals("quantile", seed=1), r.residuals("quantile", seed=1))
    assert not torch.equal(r.residuals("quantile", seed=1), r.residuals("quantile", seed=2))


def test_binomial_counts_have_the_quantile_residuals_of_their_trials() -> None:
    trials = torch.tensor([3.0, 5.0, 10.0, 8.0, 4.0, 6.0])
    x = torch.arange(6.0)[:, None]
    r = torchglm.fit(x, torch.tensor([1.0, 2.0, 3.0, 4.0, 2.0, 5.0]), family="binomial", trials=trials)
    assert r.rows is not None
    u = torch.special.ndtr(r.residuals("quantile")).numpy()
    law = stats.binom(trials.numpy(), r.fitted.numpy())
    successes = (r.rows.y[0] * trials).round().numpy()
    assert ((u >= law.cdf(successes - 1)) & (u <= law.cdf(successes))).all()


def test_a_censored_time_is_drawn_from_beyond_it() -> None:
    x, eta = design()
    time = draw("exponential", eta)[0]
    event = torch.arange(N) % 4 > 0
    r = torchglm.fit(x[0], time, family="exponential", event=event)
    u = torch.special.ndtr(r.residuals("quantile"))
    at = 1 - torch.exp(-time / r.fitted)
    assert bool((u[~event] > at[~event]).all())
    torch.testing.assert_close(u[event], at[event])


def test_a_quasi_likelihood_has_no_quantile_residuals() -> None:
    with pytest.raises(ValueError, match="quasi-likelihood"):
        fitted("poisson", dispersion="pearson").residuals("quantile")


def test_counts_that_are_not_whole_have_no_quantile_residuals() -> None:
    x, eta = design()
    r = torchglm.fit(x[0], draw("poisson", eta)[0] + 0.25, family="poisson")
    assert bool(torch.isnan(r.residuals("quantile")).all())


def test_unknown_kinds_are_named() -> None:
    r = fitted("gaussian")
    with pytest.raises(ValueError, match="Known: response, pearson"):
        r.residuals("raw")
    with pytest.raises(ValueError, match="Known: mean, link"):
        r.loo_predict("median")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_leverages_are_made_once_and_serve_all_that_asks_for_them(
    batch: tuple[int, ...], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(*batch, 900, 20, generator=g, dtype=torch.float64)
    y = torch.poisson(torch.exp(0.1 * x.sum(-1)), generator=g)
    monkeypatch.setattr("torchglm.rows.rows.PIECE", 256 * 20)
    made, plain = [], rowwise.quadratic

    def counted(rows: Rows, root: Root) -> Tensor:
        made.append(rows.y.shape[-1])
        return plain(rows, root)

    monkeypatch.setattr(rowwise, "quadratic", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result = torchglm.fit(x, y, family="poisson")
        leverage, robust, cook = result.leverage(), result.covariance("HC3"), result.cooks_distance()
    finally:
        torch.set_num_threads(before)
    assert sum(made) == 900 and len(made) > 1
    again = torchglm.fit(x, y, family="poisson")
    close = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(again.cooks_distance(), cook, **close)
    torch.testing.assert_close(again.covariance("HC3"), robust, **close)
    design = torch.cat([torch.ones_like(x[..., :1]), x], -1)
    spread = ((design @ result.covariance()) * design).sum(-1)
    torch.testing.assert_close(leverage, result.fitted * spread, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("shape", [(50, 1), (50, 15), (50, 16), (50, 33), (4, 50, 7), (4, 50, 40)])
def test_lengths_by_a_root_are_those_by_the_inverse(shape: tuple[int, ...], upper: bool) -> None:
    g = torch.Generator().manual_seed(5)
    x = torch.randn(*shape, generator=g, dtype=torch.float64)
    matrix = torch.randn(*shape[:-2] or (1,), shape[-1], shape[-1], generator=g, dtype=torch.float64)
    root = DenseRoot(matrix.triu() if upper else matrix)
    want = ((x @ root.inverse()) * x).sum(-1)
    torch.testing.assert_close(root.lengths(x), want, rtol=1e-11, atol=1e-11)
    moved = root.lengths(x.clone().requires_grad_())
    assert moved.requires_grad
    torch.testing.assert_close(moved.detach(), want, rtol=1e-11, atol=1e-11)
