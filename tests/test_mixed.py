"""Random effects: laws that hold whatever the numbers, and the doors that lead to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm
from torchglm import Status, families, links
from torchglm.fitting.mixed.criterion import MixedCriterion
from torchglm.fitting.mixed.effects import Groupings
from torchglm.fitting.mixed.fit import begun, without_effects
from torchglm.fitting.solve import solve
from torchglm.inputs import Roles, from_formula

pytestmark = pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
TIGHT: dict[str, Any] = {"tol": 1e-12, "max_iter": 200}
OPTIONS = {"tol": 1e-12, "max_iter": 100, "rank_tol": 1e-12, "skip": None, "penalty": None}


def clustered(n: int = 240, groups: int = 12, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g, h, x = rng.integers(0, groups, n), rng.integers(0, 5, n), rng.normal(size=n)
    b = rng.multivariate_normal([0, 0], [[0.5, 0.15], [0.15, 0.2]], groups)
    eta = 0.4 + 0.5 * x + b[g, 0] + b[g, 1] * x + 0.4 * rng.normal(size=5)[h]
    return pd.DataFrame(
        {
            "x": x,
            "g": [f"g{i:02d}" for i in g],
            "h": h,
            "f": rng.choice(list("abc"), n),
            "z": eta + 0.5 * rng.normal(size=n),
            "count": rng.poisson(np.exp(eta)),
            "size": rng.gamma(2.0, np.exp(eta) / 2) + 1e-3,
            "hit": rng.binomial(1, 1 / (1 + np.exp(-eta))),
            "w": rng.uniform(0.5, 2.0, n),
            "f2": rng.integers(1, 4, n),
            "o": 0.2 * rng.normal(size=n),
        }
    )


DATA = clustered()
KINDS = [
    ("z ~ x + (1 + x | g)", "gaussian", {}),
    ("z ~ x + (x || g) + (1 | h)", "gaussian", {"smoothing": "ml", "weights": "w"}),
    ("count ~ x + (1 + x | g)", "poisson", {"offset": "o"}),
    ("count ~ x + (1 | g) + (1 | h)", "poisson", {"smoothing": "reml"}),
    ("count ~ x + (1 | g)", "negative_binomial", {}),
    ("size ~ x + (1 | g)", "gamma", {"link": "log"}),
    ("hit ~ x + (1 | g)", "binomial", {"freq": "f2"}),
]
NAMES = [f"{family}: {formula}" for formula, family, _ in KINDS]


def criterion_of(formula: str, family: str, options: dict[str, Any], data: pd.DataFrame = DATA) -> Any:
    """The criterion of a model at its start, and the search there."""
    known = dict(options)
    law, method = families.get(family), known.pop("smoothing", "reml" if family == "gaussian" else "ml")
    link = links.get(known.pop("link", law.default_link.name))
    policies = {"missing": "error", "unseen": "error", "rare": 0}
    made = from_formula(formula, data, law, Roles.of(known, "fit"), None, policies, None, None)
    assert isinstance(made.random, Groupings)
    plain = without_effects(made.source, made.random.columns)
    law, first = solve(plain, law, link, None, dict(OPTIONS))
    name = "log_alpha" if law.estimates_shape else ""
    criterion = MixedCriterion(made.source, law, link, made.random, None, first.keep, method == "reml", None, name)
    return criterion, begun(criterion, first, None, plain, 50)


@pytest.mark.parametrize(("formula", "family", "options"), KINDS, ids=NAMES)
def test_the_gradient_is_that_of_the_criterion(formula: str, family: str, options: dict[str, Any]) -> None:
    criterion, search = criterion_of(formula, family, options)
    lane = torch.zeros(1, dtype=torch.int64)
    psi = search.mark.psi + 0.1 * torch.linspace(-1, 1, search.mark.psi.shape[-1]).to(torch.float64)
    mark = criterion.at(lane, psi, search.mark.u)
    gradient = criterion.gradient(lane, mark)[0]
    for j in range(len(gradient)):
        values = []
        for k in (-2, -1, 1, 2):
            moved = psi.clone()
            moved[0, j] += k * 1e-3
            values.append(float(criterion.at(lane, moved, mark.u).value[0]))
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-3
        assert float(gradient[j]) == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("formula", "family", "options"), KINDS, ids=NAMES)
def test_no_start_and_no_zero_variance_is_better(formula: str, family: str, options: dict[str, Any]) -> None:
    result = torchglm.fit(formula, DATA, family=family, **options, **TIGHT)
    assert result.converged
    criterion, search = criterion_of(formula, family, options)
    lane = torch.zeros(1, dtype=torch.int64)
    for size in (0.0, 0.3, 3.0):
        psi = search.mark.psi.clone()
        psi[:, : criterion.counts[0]] *= size
        assert float(criterion.at(lane, psi, search.mark.u).value[0]) > float(result.criterion) - 1e-9


def test_a_model_of_one_grouping_is_least_squares_with_correlated_errors() -> None:
    """The (restricted) likelihood of `y ~ N(X b, s2 (I + Z C Z'))`, written out."""
    x = np.column_stack([np.ones(len(DATA)), DATA["x"]])
    y, codes = DATA["z"].to_numpy(), pd.factorize(DATA["g"], sort=True)[0]
    z = np.zeros((len(y), 24))
    z[np.arange(len(y)), codes], z[np.arange(len(y)), 12 + codes] = 1.0, DATA["x"]
    for method in ("reml", "ml"):
        result = torchglm.fit("z ~ x + (1 + x | g)", DATA, family="gaussian", smoothing=method, **TIGHT)
        effects = result.random["g"]
        cov = z @ np.kron(effects.covariance.numpy(), np.eye(12)) @ z.T + float(result.dispersion) * np.eye(len(y))
        root = np.linalg.cholesky(cov)
        white, out = np.linalg.solve(root, x), np.linalg.solve(root, y)
        beta = np.linalg.lstsq(white, out, rcond=None)[0]
        rest, fisher = out - white @ beta, white.T @ white
        value = np.log(np.diag(root)).sum() + rest @ rest / 2 + len(y) / 2 * np.log(2 * np.pi)
        if method == "reml":
            value += np.linalg.slogdet(fisher)[1] / 2 - np.log(2 * np.pi)
        assert float(result.criterion) == pytest.approx(value, rel=1e-10)
        np.testing.assert_allclose(result.coef, beta, rtol=1e-9)
        np.testing.assert_allclose(result.std_err, np.sqrt(np.diag(np.linalg.inv(fisher))), rtol=1e-8)
        modes = np.kron(effects.covariance.numpy(), np.eye(12)) @ z.T @ np.linalg.solve(cov, y - x @ beta)
        np.testing.assert_allclose(effects.modes, modes.reshape(2, 12).T, atol=1e-8)
        np.testing.assert_allclose(result.fitted, x @ beta + z @ modes, atol=1e-8)


def test_order_of_levels_names_of_levels_and_origin_of_x_do_not_matter() -> None:
    result = torchglm.fit("count ~ x + (1 + x | g)", DATA, family="poisson", **TIGHT)
    turned = DATA.assign(g=["z" + str(99 - int(name[1:])) for name in DATA["g"]], x=DATA["x"] * 3 + 5)
    other = torchglm.fit("count ~ x + (1 + x | g)", turned.sample(frac=1, random_state=1), family="poisson", **TIGHT)
    assert float(other.criterion) == pytest.approx(float(result.criterion), rel=1e-9)
    assert float(other.coef[1]) == pytest.approx(float(result.coef[1]) / 3, rel=1e-6)
    assert float(other.random["g"].sd[1]) == pytest.approx(float(result.random["g"].sd[1]) / 3, rel=1e-5)
    back = other.random["g"].modes.flip(0)
    torch.testing.assert_close(3 * back[:, 1], result.random["g"].modes[:, 1], rtol=1e-5, atol=1e-6)


def test_nested_groups_are_the_two_groupings_written_out() -> None:
    short = torchglm.fit("z ~ x + (1 | h/g)", DATA, family="gaussian", **TIGHT)
    long = torchglm.fit("z ~ x + (1 | h) + (1 | h:g)", DATA, family="gaussian", **TIGHT)
    own = torchglm.fit(
        "z ~ x + (1 | h) + (1 | both)",
        DATA.assign(both=DATA["h"].astype(str) + ":" + DATA["g"]),
        family="gaussian",
        **TIGHT,
    )
    assert list(short.random) == ["h", "h:g"]
    for other in (long, own):
        assert float(short.criterion) == pytest.approx(float(other.criterion), rel=1e-10)
    torch.testing.assert_close(short.random["h:g"].modes, own.random["both"].modes, rtol=1e-6, atol=1e-8)


def test_a_variance_of_zero_is_a_boundary_and_the_fit_without_the_effects() -> None:
    rng = np.random.default_rng(3)
    data = DATA.assign(alone=rng.permutation(np.arange(len(DATA)) % 8), noise=rng.normal(size=len(DATA)))
    data["noise"] -= data.groupby("alone")["noise"].transform("mean")
    for family, response in (("gaussian", "noise"), ("poisson", "flat")):
        data["flat"] = 1
        result = torchglm.fit(f"{response} ~ x + (1 | alone)", data, family=family, smoothing="ml", **TIGHT)
        plain = torchglm.fit(f"{response} ~ x", data, family=family, dispersion="ml" if family == "gaussian" else None)
        assert result.status is Status.BOUNDARY
        assert result.converged
        assert float(result.random["alone"].sd) < 1e-6
        assert float(result.loglik) == pytest.approx(float(plain.loglik), rel=1e-10)
        torch.testing.assert_close(result.coef, plain.coef, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("z ~ x + (1 | g | h)", "more than one bar"),
        ("z ~ x + ( | g)", "no effects before the bar"),
        ("z ~ x + (1 | )", "no group after the bar"),
        ("z ~ x * (1 | g)", "nothing but '\\+' beside them"),
        ("z ~ x + (1 | g + h)", "is no column, nor several"),
        ("z ~ x + (0 | g)", "have no effects"),
        ("z ~ x + (1 | g) + (1 | g)", "the same effect twice"),
        ("z ~ x + (1 | nowhere)", "nowhere"),
    ],
)
def test_bars_that_cannot_be_read_are_named(formula: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        torchglm.fit(formula, DATA, family="gaussian")


def test_a_test_of_a_variance_knows_that_zero_is_its_edge() -> None:
    options: dict[str, Any] = {"family": "poisson", **TIGHT}
    none, one = torchglm.fit("count ~ x", DATA, **options), torchglm.fit("count ~ x + (1 | g)", DATA, **options)
    both = torchglm.fit("count ~ x + (1 + x | g)", DATA, **options)
    first, second = one.lr_test(none), both.lr_test(one)
    assert float(first.df) == 1
    assert float(first.statistic) == pytest.approx(float(2 * (one.loglik - none.loglik)))
    rise = second.statistic
    tails = [torchglm.special.chi2_sf(rise, torch.tensor(float(k), dtype=torch.float64)) for k in (1, 2)]
    assert float(second.p_value) == pytest.approx(float((tails[0] + tails[1]) / 2))
    fixed = both.lr_test(torchglm.fit("count ~ 1 + (1 + x | g)", DATA, **options))
    assert float(fixed.df) == 1
    assert fixed.mixture == (1.0,)
    with pytest.raises(ValueError, match="pass the smaller one first|not among"):
        one.lr_test(both)
    reml = torchglm.fit("z ~ x + (1 | g)", DATA, family="gaussian")
    with pytest.raises(ValueError, match="smoothing='ml'"):
        reml.lr_test(torchglm.fit("z ~ 1 + (1 | g)", DATA, family="gaussian"))


def test_shares_of_variance_are_those_of_the_formulas() -> None:
    result = torchglm.fit("z ~ x + (1 + x | g)", DATA, family="gaussian", **TIGHT)
    shares, cov = result.variance_shares(), result.random["g"].covariance
    x = torch.tensor(DATA["x"].to_numpy())
    fixed = (float(result.coef[1]) * x).var(correction=0)
    random = (cov[0, 0] + 2 * x * cov[0, 1] + x**2 * cov[1, 1]).mean()
    whole = fixed + random + result.dispersion
    torch.testing.assert_close(shares["r2_marginal"], fixed / whole, rtol=1e-8, atol=0)
    torch.testing.assert_close(shares["r2_conditional"], (fixed + random) / whole, rtol=1e-8, atol=0)
    torch.testing.assert_close(shares["icc"], random / (random + result.dispersion), rtol=1e-8, atol=0)
    text = str(result.summary())
    for word in ("random effects", "R² (marginal)", "ICC", "REML", "correlation"):
        assert word in text


def test_profile_limits_are_where_the_likelihood_written_out_has_fallen() -> None:
    """Twice the rise at a limit, all else by a search of scipy, is the quantile of chi-squared."""
    from scipy.optimize import minimize

    data = DATA.iloc[:120]
    result = torchglm.fit("z ~ x + (1 | g)", data, family="gaussian", **TIGHT)
    x = np.column_stack([np.ones(len(data)), data["x"]])
    y, codes = data["z"].to_numpy(), pd.factorize(data["g"], sort=True)[0]
    same_group = (codes[:, None] == codes).astype(float)

    def value(sd: float, residual: float) -> float:
        cov = sd**2 * same_group + residual**2 * np.eye(len(y))
        inverse = np.linalg.inv(cov)
        fisher = x.T @ inverse @ x
        rest = y - x @ np.linalg.solve(fisher, x.T @ inverse @ y)
        logs = np.linalg.slogdet(cov)[1] + np.linalg.slogdet(fisher)[1]
        return (logs + rest @ inverse @ rest + (len(y) - 2) * np.log(2 * np.pi)) / 2

    table = result.variance_components()
    assert table.rows == ["g sd (Intercept)", "residual sd"]
    limits = torch.stack([table["2.5 %"], table["97.5 %"]], -1).numpy()
    for sd in limits[0]:
        best = minimize(lambda log, sd=sd: value(sd, np.exp(log[0])), [np.log(0.5)], tol=1e-10).fun
        assert 2 * (best - float(result.criterion)) == pytest.approx(3.841459, rel=1e-4)
    for residual in limits[1]:
        best = minimize(lambda log, own=residual: value(np.exp(log[0]), own), [np.log(0.5)], tol=1e-10).fun
        assert 2 * (best - float(result.criterion)) == pytest.approx(3.841459, rel=1e-4)
    flat = torchglm.fit("hit ~ x + (1 | f)", DATA, family="binomial", **TIGHT)
    assert float(flat.variance_components()["2.5 %"][0]) == 0.0


@pytest.mark.parametrize(("response", "family"), [("z", "gaussian"), ("count", "poisson")])
def test_smooths_stand_beside_random_effects_which_are_smooths_of_groups(response: str, family: str) -> None:
    options: dict[str, Any] = {"family": family, "smoothing": "reml", **TIGHT}
    bar = torchglm.fit(f"{response} ~ s(x, k=6) + (1 | g)", DATA, **options)
    smooth = torchglm.fit(f"{response} ~ s(x, k=6) + s(g, bs='re')", DATA, **options)
    p = len(bar.names)
    assert float(bar.criterion) == pytest.approx(float(smooth.criterion), rel=1e-10)
    torch.testing.assert_close(bar.strength[0], smooth.strength[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(bar.dispersion / bar.random["g"].sd ** 2, smooth.strength[1:], rtol=1e-6, atol=0)
    torch.testing.assert_close(bar.coef, smooth.coef[:p], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(bar.std_err, smooth.std_err[:p], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(bar.edf, smooth.edf[:p], rtol=0.05, atol=1e-3)  # observed, and expected information
    torch.testing.assert_close(bar.random["g"].modes[:, 0], smooth.coef[p:], rtol=1e-6, atol=1e-8)
    assert bar.smooths["s(x)"].curve([0.0])[0].shape == (1,)


def test_quadrature_is_the_integral_itself() -> None:
    """The likelihood of each group by many nodes of a fixed quadrature, at the estimates of an adaptive one."""
    data = DATA.iloc[:80]
    laplace, exact = (
        torchglm.fit("hit ~ x + (1 | g)", data, family="binomial", quadrature=nodes, **TIGHT) for nodes in (1, 15)
    )
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    eta = float(exact.coef[0]) + float(exact.coef[1]) * data["x"].to_numpy()
    y, total = data["hit"].to_numpy(), 0.0
    for group in data["g"].unique():
        own = (data["g"] == group).to_numpy()
        at = eta[own, None] + float(exact.random["g"].sd) * nodes
        logs = (y[own, None] * at - np.logaddexp(0, at)).sum(0)
        total += np.log((weights * np.exp(logs)).sum() / np.sqrt(2 * np.pi))
    assert float(exact.loglik) == pytest.approx(total, rel=1e-8)
    assert float(laplace.loglik) != pytest.approx(total, rel=1e-5)
    with pytest.raises(ValueError, match="nodes of quadrature"):
        exact.lr_test(torchglm.fit("hit ~ 1 + (1 | g)", data, family="binomial"))
    for formula in ("hit ~ x + (1 + x | g)", "hit ~ (1 | g) + (1 | h)"):
        with pytest.raises(ValueError, match="one effect for each level"):
            torchglm.fit(formula, data, family="binomial", quadrature=9)


BY = {("poisson", None): "maximum likelihood", ("poisson", "reml"): "REML", ("gaussian", None): "REML"}


@pytest.mark.parametrize(("family", "smoothing"), BY)
def test_strengths_beside_random_effects_are_said_by_what_found_them(family: str, smoothing: str | None) -> None:
    draw = np.random.default_rng(2)
    data = {"x": draw.normal(size=120), "g": np.arange(120) % 8, "y": draw.poisson(2.0, 120)}
    result = torchglm.fit("y ~ s(x, bs='cr', k=5) + (1 | g)", data, family=family, smoothing=smoothing)
    assert result.describe()["penalty"] == f"smooth terms, strengths by {BY[family, smoothing]}"
    assert "smooth terms, strengths by" in result.summary().to_text()


def test_an_alpha_beside_effects_is_where_the_criterion_is_least_though_it_begins_at_zero() -> None:
    rng = np.random.default_rng(5)
    x, z, g = rng.uniform(size=60), rng.normal(size=60), (np.arange(60) % 8).astype(str)
    data = pd.DataFrame({"x": x, "g": g, "c": rng.poisson(np.exp(1 + np.sin(6 * x))), "z": z})
    formula, options = "c ~ s(x, bs='cr', k=6) + (1 | g)", {"smoothing": "reml", "tol": 1e-12}
    best = torchglm.fit(formula, data, family="negative_binomial", **options)
    for alpha in (1e-6, 0.003, 0.01):
        fixed = torchglm.fit(formula, data, family=torchglm.NegativeBinomial(alpha), **options)
        assert float(best.criterion) <= float(fixed.criterion) + 1e-9
    assert float(best.family.alpha) > 1e-3
