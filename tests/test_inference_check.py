"""Does the model hold: the tests against judges and refits, the laws they obey, and what `check` says."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy import stats
from statsmodels.discrete.diagnostic import PoissonDiagnostic
from statsmodels.stats.diagnostic import het_breuschpagan
from statsmodels.stats.outliers_influence import variance_inflation_factor
from torch import Tensor

import torchglm
from torchglm import families
from torchglm.inference.adequacy.collinearity import vif
from torchglm.inference.adequacy.screening import PowerLink, run

G = np.random.default_rng(5)
N = 300
X = G.normal(size=(N, 2))
MU = np.exp(0.3 + 0.4 * X[:, 0] - 0.2 * X[:, 1])
COUNTS = G.poisson(MU).astype(float)
SPREAD = G.poisson(MU * G.gamma(1, 1, N)).astype(float)


def poisson(y: Any = COUNTS, **options: Any) -> torchglm.Result:
    return torchglm.fit(X, y, family="poisson", **options)


def judge(y: Any = COUNTS) -> Any:
    return sm.Poisson(y, sm.add_constant(X)).fit(disp=0, tol=1e-12)


# tests of the link -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "link", "y"),
    [
        ("poisson", "log", COUNTS),
        ("gaussian", "identity", COUNTS),
        ("gamma", "log", COUNTS + 1),
        ("bernoulli", "logit", (COUNTS > 1) * 1.0),
    ],
)
def test_the_link_test_is_the_score_test_of_the_squared_predictor(family: str, link: str, y: Any) -> None:
    r = torchglm.fit(X, y, family=family, link=link)
    eta = r.link.link(r.fitted)
    score = r.score_test(eta.square()).statistic
    got = r.link_test()
    square = got.statistic if r.statistic_name == "z" else got.statistic * r.df_resid / (r.df_resid - 1 + got.statistic)
    torch.testing.assert_close(square, score, rtol=1e-5, atol=1e-7)


def test_the_link_test_of_least_squares_is_tukeys_test() -> None:
    r = torchglm.fit(X, COUNTS, family="gaussian")
    more = sm.OLS(COUNTS, sm.add_constant(np.column_stack([X, r.fitted.numpy() ** 2]))).fit()
    got = r.link_test()
    assert float(got.statistic) == pytest.approx(more.tvalues[-1] ** 2, rel=1e-8)
    assert float(got.p_value) == pytest.approx(more.pvalues[-1], rel=1e-8)


def test_the_link_test_sees_past_an_exposure() -> None:
    exposure = G.uniform(0.1, 10, N)
    y = G.poisson(MU * exposure)
    r = torchglm.fit(X, y, family="poisson", exposure=exposure)
    rate = (r.fitted / torch.from_numpy(exposure)).log()
    torch.testing.assert_close(r.link_test().statistic, r.score_test(rate.square()).statistic)
    torch.testing.assert_close(r.power_link_test().statistic, r.link_test().statistic)


def test_under_a_log_link_the_power_test_is_the_link_test() -> None:
    torch.testing.assert_close(poisson().power_link_test().statistic, poisson().link_test().statistic)


@pytest.mark.parametrize(
    ("link", "power"),
    [("identity", 1.0), ("sqrt", 0.5), ("inverse", -1.0), ("inverse_squared", -2.0), (torchglm.links.Power(0.7), 0.7)],
)
def test_the_power_test_is_the_slope_of_the_likelihood_in_the_power(link: Any, power: float) -> None:
    y = (5 + X @ [0.5, -0.3]) * G.gamma(30, 1 / 30, N)
    r = torchglm.fit(X, y, family="gamma", link=link, dispersion=1 / 30)

    def loglik(p: float) -> float:
        fit = torchglm.fit(X, y, family="gamma", link=torchglm.links.Power(p), tol=1e-14)
        return float(-fit.deviance / 2 * 30)

    step = 1e-4
    slope = (loglik(power + step) - loglik(power - step)) / (2 * step)
    screen = PowerLink(r)
    run(r, [screen])
    estimate, error = screen.estimate()  # Newton's step: slope times variance
    assert float((estimate - power) / error**2) == pytest.approx(slope, rel=1e-3, abs=1e-3)
    torch.testing.assert_close(r.power_link_test().statistic, ((estimate - power) / error).square()[0])
    assert f"the fit has {power}" in r.power_link_test().notes[0]


def test_the_power_after_one_step_comes_near_the_true_power() -> None:
    y = G.poisson((3 + 0.8 * X[:, 0]) ** 2)
    note = poisson(y).power_link_test().notes[0]
    assert 0.3 < float(note.split(": ")[1].split(" ")[0]) < 0.7


def test_a_link_test_without_a_bend_to_see_is_nan() -> None:
    r = torchglm.fit(np.zeros((N, 0)), COUNTS, family="poisson")
    assert torch.isnan(r.link_test().statistic)
    two = torchglm.fit((X[:, :1] > 0) * 1.0, COUNTS, family="poisson")
    assert torch.isnan(two.link_test().p_value)


# tests of spread and zeros ---------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [COUNTS, SPREAD], ids=["poisson", "spread"])
def test_count_tests_agree_with_statsmodels(y: Any) -> None:
    r, judged = poisson(y), PoissonDiagnostic(judge(y))
    frame = judged.test_dispersion().summary_frame()
    slopes = frame.set_index("method")["statistic"]
    assert float(r.dispersion_test("nb2").statistic) == pytest.approx(slopes["CT nb2"] ** 2, rel=1e-6)
    zeros = judged.test_poisson_zeroinflation()
    assert float(r.zero_test().statistic) == pytest.approx(zeros.statistic**2, rel=1e-6)
    assert float(r.zero_test().p_value) == pytest.approx(zeros.pvalue, rel=1e-5)


def test_deans_statistic_is_its_formula() -> None:
    r = poisson()
    mu, h = r.fitted.numpy(), r.leverage().numpy()
    want = ((COUNTS - mu) ** 2 - COUNTS + h * mu).sum() / np.sqrt(2 * (mu**2).sum())
    assert float(r.dispersion_test().statistic) == pytest.approx(want**2, rel=1e-9)
    ones = sm.OLS(((COUNTS - mu) ** 2 - COUNTS) / mu, np.ones(N)).fit()
    assert float(r.dispersion_test("nb1").statistic) == pytest.approx(ones.tvalues[0] ** 2, rel=1e-9)


def test_the_variance_trend_of_least_squares_is_koenkers_test() -> None:
    r = torchglm.fit(X, COUNTS, family="gaussian")
    left = np.sqrt(1 - r.leverage().numpy())
    exog = sm.add_constant(r.fitted.numpy())
    want = het_breuschpagan(r.residuals("response").numpy() / left, exog, robust=True)
    assert float(r.variance_test().statistic) == pytest.approx(want[0], rel=1e-8)


@pytest.mark.parametrize(("family", "steeper"), [("gaussian", True), ("inverse_gaussian", False)])
def test_the_variance_trend_tells_which_way(family: str, steeper: bool) -> None:
    y = np.exp(1 + X[:, 0]) * G.gamma(5, 1 / 5, N)
    r = torchglm.fit(X, y, family=family, link="log")
    assert float(r.variance_test().p_value) < 1e-3
    said = str(r.check())
    assert ("grows faster" in said) == steeper and ("grows slower" in said) == (not steeper)


def test_tests_of_repeated_rows_are_those_of_the_rows_written_out() -> None:
    times = np.arange(N) % 3
    short, long = poisson(freq=times), torchglm.fit(X.repeat(times, 0), COUNTS.repeat(times), family="poisson")
    for ask in (
        lambda r: r.link_test(),
        lambda r: r.dispersion_test(),
        lambda r: r.dispersion_test("nb2"),
        lambda r: r.zero_test(),
        lambda r: r.variance_test(),
    ):
        torch.testing.assert_close(ask(short).statistic, ask(long).statistic, rtol=1e-6, atol=1e-9)


def test_zeros_of_amounts_are_counted_too() -> None:
    family = families.Tweedie(1.5)
    torch.manual_seed(0)
    y = family.distribution(torch.from_numpy(MU), 1.0).sample()
    r = torchglm.fit(X, y, family=family, dispersion=1.0)
    got = r.zero_test()
    none = r.family.log_prob(torch.zeros(N), r.fitted, r.dispersion).exp().sum()
    assert f"{int((y == 0).sum())} zeros, {float(none):.1f} expected" in got.notes[0]
    assert float(got.p_value) > 0.01
    y[:100] = 0
    assert float(torchglm.fit(X, y, family=family, dispersion=1.0).zero_test().p_value) < 1e-4
    with pytest.raises(ValueError, match="a known dispersion"):
        torchglm.fit(X, y, family=family).zero_test()


def test_tests_are_refused_where_they_mean_nothing() -> None:
    gamma = torchglm.fit(X, COUNTS + 1, family="gamma", link="log")
    with pytest.raises(ValueError, match="for laws of counts or amounts with zeros"):
        gamma.zero_test()
    with pytest.raises(ValueError, match="is for poisson and binomial fits"):
        gamma.dispersion_test()
    with pytest.raises(ValueError, match="Known: dean, nb1, nb2"):
        poisson().dispersion_test("score")
    with pytest.raises(ValueError, match="no power of the mean"):
        torchglm.fit(X, (COUNTS > 1) * 1.0, family="bernoulli").power_link_test()
    with pytest.raises(ValueError, match="estimated from these residuals"):
        gamma.goodness_of_fit()
    with pytest.raises(ValueError, match="is for proportions"):
        poisson().hosmer_lemeshow()
    with pytest.raises(ValueError, match="level must lie"):
        poisson().check(5)


# goodness of fit -------------------------------------------------------------------------------------------


def test_goodness_of_fit_is_chi_squared_and_warns_of_sparse_rows() -> None:
    r = poisson()
    got = r.goodness_of_fit()
    assert float(got.p_value) == pytest.approx(stats.chi2.sf(float(r.deviance), N - 3), rel=1e-10)
    assert "less than 5 expected counts" in got.notes[0]
    rich = torchglm.fit(X, G.poisson(50 * MU), family="poisson")
    assert rich.goodness_of_fit("pearson").notes == ()


@pytest.mark.parametrize("groups", [5, 10])
def test_hosmer_and_lemeshow_agree_with_the_table_by_hand(groups: int) -> None:
    y = (COUNTS > 1) * 1.0
    r = torchglm.fit(X, y, family="bernoulli")
    p = r.fitted.numpy()
    parts = np.array_split(np.argsort(p), groups)
    want = sum((y[i].sum() - p[i].sum()) ** 2 / (p[i].sum() * (1 - p[i].mean())) for i in parts)
    got = r.hosmer_lemeshow(groups)
    assert float(got.statistic) == pytest.approx(want, rel=1e-9)
    assert float(got.p_value) == pytest.approx(stats.chi2.sf(want, groups - 2), rel=1e-9)


def test_rows_of_one_probability_stay_in_one_group() -> None:
    x = np.repeat([0.0, 1.0, 2.0], [50, 30, 40])[:, None]
    y = (G.random(120) < 0.4) * 1.0
    got = torchglm.fit(x, y, family="bernoulli").hosmer_lemeshow()
    assert float(got.df) == 1


@pytest.mark.parametrize("family", ["bernoulli", "ordinal", "multinomial"])
def test_counted_rows_are_grouped_as_those_written_out_in_any_order(family: str) -> None:
    x, freq = G.integers(0, 4, (60, 2)).astype(float), G.integers(1, 6, 60)
    y = (x[:, 0] + G.integers(0, 3, 60) > 2) * 1.0 + (family != "bernoulli") * (G.random(60) < 0.3)
    order = G.permutation(int(freq.sum()))
    counted = torchglm.fit(x, y, family=family, freq=freq, tol=1e-12).hosmer_lemeshow(5)
    rows = (np.repeat(x, freq, 0)[order], np.repeat(y, freq)[order])
    written = torchglm.fit(*rows, family=family, tol=1e-12).hosmer_lemeshow(5)
    for name in ("statistic", "df"):
        assert float(getattr(counted, name)) == pytest.approx(float(getattr(written, name)), rel=1e-7)


# collinearity ----------------------------------------------------------------------------------------------


def test_variance_inflation_is_that_of_statsmodels() -> None:
    x = np.column_stack([X, X[:, 0] + 0.3 * G.normal(size=N)])
    r = torchglm.fit(x, COUNTS, family="gaussian")
    want = [variance_inflation_factor(sm.add_constant(x), j) for j in (1, 2, 3)]
    np.testing.assert_allclose([float(value) for value in r.vif().values()], want, rtol=1e-8)


def test_generalised_inflation_of_a_factor_does_not_depend_on_its_coding() -> None:
    import pandas as pd

    frame = pd.DataFrame({"a": X[:, 0], "c": np.digitize(X[:, 0] + X[:, 1], [-1, 0, 1]), "y": COUNTS})
    fits = [torchglm.fit(f"y ~ a + {c}", frame, family="poisson") for c in ("C(c)", "C(c, contr.sum)")]
    first, second = (list(r.vif().values()) for r in fits)
    torch.testing.assert_close(first, second)
    assert first[0] > 1.2 and first[1] > 1.05


def test_condition_indices_are_ratios_of_singular_values() -> None:
    r = torchglm.fit(X + [100, 0], COUNTS, family="gaussian")
    x = sm.add_constant(X + [100, 0])
    values = np.linalg.svd(x / np.linalg.norm(x, axis=0), compute_uv=False)
    np.testing.assert_allclose(r.condition_indices(), values[0] / values, rtol=1e-8)
    penalised = torchglm.fit(X + [100, 0], COUNTS, family="gaussian", penalty=torchglm.Ridge(0.1))
    np.testing.assert_allclose(penalised.condition_indices(), values[0] / values, rtol=1e-5)


def test_aliased_columns_have_no_inflation_and_leave_that_of_the_others() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = torchglm.fit(np.column_stack([X, X[:, 1]]), COUNTS, family="poisson")
    assert torch.isnan(r.vif()["x2"])
    torch.testing.assert_close(r.vif()["x0"], poisson().vif()["x0"])
    assert int(torch.isnan(r.condition_indices()).sum()) == 1
    assert list(vif(r, {"both": [1, 2]})) == ["both"]


# separation ------------------------------------------------------------------------------------------------


def separated() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(100, 2, generator=g, dtype=torch.float64)
    rare = (torch.rand(100, generator=g) < 0.2).double()
    y = ((torch.rand(100, generator=g) < 0.5) & (rare == 0)).double()
    return torch.cat([x, rare[:, None]], -1), y


@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
def test_separation_names_the_column_its_infinity_and_the_rows(family: str) -> None:
    x, y = separated()
    with pytest.warns(torchglm.FitWarning):
        r = torchglm.fit(x, y, family=family)
    found = r.separation()
    assert bool(found.found) and found.columns() == ["x2 to -infinity"]
    assert float(found.rows) == float(x[:, 2].sum())
    said = str(r.check())
    assert "x2 to -infinity" in said and f"1 level ({int(x[:, 2].sum())} rows) set apart" in said


def test_complete_separation_tells_all_rows_apart() -> None:
    x, _ = separated()
    y = (x[:, 0] - 0.5 * x[:, 1] > 0).double()
    with pytest.warns(torchglm.FitWarning):
        found = torchglm.fit(x[:, :2], y, family="bernoulli").separation()
    move = torch.cat([torch.ones(100, 1), x[:, :2]], -1) @ found.direction
    assert bool(found.found) and bool((torch.sign(move) == 2 * y - 1).all())
    assert set(found.columns()) >= {"x0 to +infinity", "x1 to -infinity"}


def test_a_fit_with_a_maximum_is_not_separated() -> None:
    found = poisson().separation()
    assert not bool(found.found) and found.columns() == [] and float(found.direction.abs().max()) == 0


# check -----------------------------------------------------------------------------------------------------


def test_a_right_model_is_met_with_one_line() -> None:
    assert poisson().check().silent
    assert str(poisson().check()).count("\n") == 0 and "nothing found" in str(poisson().check())


@pytest.mark.parametrize(
    ("topic", "make", "words"),
    [
        ("dispersion", lambda: poisson(SPREAD), ["vary more", "NegativeBinomial()"]),
        ("zeros", lambda: poisson(np.where(G.random(N) < 0.3, 0, COUNTS)), ["more zeros", "expected"]),
        ("link", lambda: poisson(G.poisson((4 + 1.2 * X[:, 0]) ** 2)), ["does not bend", "link='sqrt'"]),
        (
            "collinearity",
            lambda: torchglm.fit(np.column_stack([X, X[:, 0] + 0.05 * X[:, 1] ** 2]), COUNTS, family="poisson"),
            ["variance inflation", "Ridge"],
        ),
        (
            "influence",
            lambda: torchglm.fit(np.append(X[:, :1], 40.0)[:, None], np.append(COUNTS, 3.0), family="gaussian"),
            ["Row 300 moves", "Cook's distance"],
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_number_and_what_to_try(topic: str, make: Any, words: list[str]) -> None:
    found = make().check()
    assert bool(found.found(topic))
    for word in words:
        assert word in str(found)


def test_over_dispersion_is_not_told_as_a_wrong_link() -> None:
    y = torch.from_numpy(G.poisson(MU * G.gamma(0.5, 2, (200, N)))).double()
    found = torchglm.fit(X, y, family="poisson").check()
    assert float(found.found("dispersion").double().mean()) == 1
    assert float(found.found("link").double().mean()) < 0.15


def test_the_check_of_a_batch_is_that_of_its_members_and_of_a_stream_that_of_the_whole() -> None:
    y = torch.from_numpy(np.stack([COUNTS, SPREAD, COUNTS]))
    batch = torchglm.fit(X, y, family="poisson")
    found = batch.check()
    assert found.silent.tolist() == [True, False, True]
    for k in range(3):
        alone = batch[k].check()
        assert str(found[k]) == str(alone)
        for topic, p in alone.adjusted.items():
            torch.testing.assert_close(found[k].adjusted[topic], p)
    rows = batch.rows
    assert rows is not None
    streamed = batch.on([rows.between(0, 1), rows.between(1, 120), rows.between(120, N)]).check()
    for topic, test in found.tests.items():
        torch.testing.assert_close(streamed.tests[topic].statistic, test.statistic, rtol=1e-8, atol=1e-10)
    assert str(found) == str(streamed)
    assert "2 of 3 models without a finding" in str(found) and "dispersion: 1 of 3" in str(found)
    assert set(found[1].to_dict()["tests"]) == {"link", "dispersion", "zeros"}
    assert found.table()["p adjusted"].shape == (3, 3)


def test_a_model_that_was_not_fitted_is_not_tested_and_says_so() -> None:
    y = torch.from_numpy(np.stack([COUNTS, np.full(N, np.nan)]))
    with pytest.warns(torchglm.FitWarning):
        found = torchglm.fit(X, y, family="poisson").check()
    assert found.silent.tolist() == [True, False]
    assert "not finite" in str(found[1]) and torch.isnan(found[1].tests["link"].statistic)


def test_a_penalised_fit_is_not_tested_but_its_facts_are_told() -> None:
    x = np.column_stack([X, X[:, 0] + 0.01 * X[:, 1]])
    r = torchglm.fit(x, COUNTS, family="poisson", penalty=torchglm.Ridge(1e-8))
    assert "variance inflation" in str(r.check()) and not r.check().tests
    assert "a penalised fit is not tested" in str(poisson(penalty=torchglm.Ridge(0.1)).check())
    with pytest.raises(ValueError, match="penal"):
        r.link_test()


def test_a_loaded_fit_asks_for_its_rows(tmp_path: Any) -> None:
    poisson().save(tmp_path)
    with pytest.raises(ValueError, match="Attach them"):
        torchglm.load(tmp_path).check()
    loaded = torchglm.load(tmp_path).with_rows(X, COUNTS)
    assert str(loaded.check()) == str(poisson().check())


def test_rows_that_are_not_those_of_the_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="not the rows of the fit"):
        poisson().with_rows(X, SPREAD).check()


def test_an_exact_fit_of_large_numbers_is_still_a_fit_of_its_rows() -> None:
    assert torchglm.fit(X, 1e8 * (1 + X @ [0.5, 0.1]), family="gaussian").check().found("fit").logical_not()
