"""Tests of hypotheses: those of R, their formulas, the agreement of their forms, and what they refuse."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from scipy import stats
from statsmodels.stats.multitest import multipletests
from test_reference import fitted
from torch import Tensor

import torchglm
from torchglm import FitWarning, Result
from torchglm.design.restrictions import restrictions
from torchglm.inference.hypotheses.terms import factors

EXPECTED = json.loads((Path(__file__).parent / "reference_inference" / "expected.json").read_text())
NAMES = ["(Intercept)", "age", "x2", "region[T.B]", "region[T.C]", "age:x2", "bs(age, df=4)[1]", "net worth"]


def table(n: int = 90, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": generator.normal(size=n),
            "dose": generator.uniform(size=n),
            "region": generator.choice(list("ABC"), n),
            "sex": generator.choice(["f", "m"], n),
        }
    )
    mean = np.exp(0.4 + 0.3 * frame["age"] + 0.4 * (frame["region"] == "B"))
    frame["count"] = generator.poisson(mean)
    frame["cost"] = generator.gamma(2.0, mean / 2) + 0.01
    return frame


def design(n: int = 90, seed: int = 0) -> tuple[Tensor, Tensor]:
    frame = table(n, seed)
    x = np.c_[frame[["age", "dose"]], frame["region"] == "B", frame["region"] == "C"].astype(float)
    return torch.tensor(x), torch.tensor(frame["count"].to_numpy(float))


def poisson(x: Tensor, y: Tensor, **options: object) -> Result:
    return torchglm.fit(x, y, family="poisson", **options)  # type: ignore[arg-type]


def batches(x: Tensor, y: Tensor, size: int = 17) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


# R -----------------------------------------------------------------------------------------------------------


def names_of_r(name: str) -> dict[str, list[str]]:
    return EXPECTED[name]["terms"]


@pytest.mark.parametrize("name", [name for name, case in EXPECTED.items() if "anova" in case])
def test_sequential_tables_are_those_of_r(name: str) -> None:
    result, want = fitted(name), EXPECTED[name]["anova"]
    got = result.anova(terms=names_of_r(name))
    assert list(got.rows) == [term for term in want if term != "NULL"]
    for term in got.rows:
        row, r = got.row(term), want[term]
        assert float(row["df"]) == r["df"] and float(row["resid_df"]) == r["resid_df"]
        scale = max(float(result.null_deviance) if result.intercept else r["resid_dev"], 1e-300)
        assert float(row["deviance"]) == pytest.approx(r["deviance"], rel=1e-6, abs=1e-9 * scale)
        assert float(row["resid_deviance"]) == pytest.approx(r["resid_dev"], rel=1e-7)
        if r["df"] and r["p"] is not None:
            assert float(row["p"]) == pytest.approx(r["p"], rel=1e-5)
        if r.get("F") is not None:
            assert float(row["F"]) == pytest.approx(r["F"], rel=1e-6)


@pytest.mark.parametrize("name", [name for name, case in EXPECTED.items() if "drop1" in case])
def test_dropped_terms_cost_what_r_says(name: str) -> None:
    result, want = fitted(name), EXPECTED[name]["drop1"]
    got = result.drop1(terms=names_of_r(name))
    assert set(got.rows) == set(want)
    statistic = "F" if "F" in got.columns else "chi2"
    for term in got.rows:
        row, r = got.row(term), want[term]
        assert float(row["deviance"]) == pytest.approx(r["deviance"], rel=1e-7)
        if term == "<none>":
            assert math.isnan(float(row["p"])) and float(row["aic"]) == pytest.approx(float(result.aic), nan_ok=True)
            continue
        df = float(row["df"])
        assert df == r["df"]
        scaled = float(row[statistic]) * (df if statistic == "F" else 1)
        if result.family.name != "gaussian":
            assert scaled == pytest.approx(r["LRT"], rel=1e-6)
        if r.get("F") is not None:  # R divides by deviance / df here, and by the Pearson dispersion elsewhere
            mean_deviance = float(result.deviance / result.df_resid)
            assert scaled / df * float(result.dispersion) / mean_deviance == pytest.approx(r["F"], rel=1e-6)
        if statistic == "chi2":
            assert float(row["p"]) == pytest.approx(r["p_LRT"], rel=1e-5)


@pytest.mark.parametrize("name", [name for name in EXPECTED if EXPECTED[name]["R"]["loglik"] is not None])
def test_the_likelihood_of_r_is_reproduced(name: str) -> None:
    got, want = fitted(name).like("R"), EXPECTED[name]["R"]
    for key in ("loglik", "aic", "bic"):
        assert float(getattr(got, key)) == pytest.approx(want[key], rel=1e-9)
    assert float(got.df) == want["loglik_df"]
    assert got.to_dict()["loglik"] == pytest.approx(want["loglik"], rel=1e-9)


@pytest.mark.parametrize(
    "name", [name for name in EXPECTED if EXPECTED[name]["R"]["loglik"] is None and name != "airquality_quasi_log_mu2"]
)  # to torchglm that is a Gamma fit
def test_where_r_has_no_likelihood_there_is_none(name: str) -> None:
    assert torch.isnan(fitted(name).like("R").loglik)


@pytest.mark.parametrize("family", ["bernoulli", "binomial"])
def test_binomial_counts_are_rounded_as_r_does(family: str) -> None:
    x, _ = design()
    generator = np.random.default_rng(4)
    weights, share = generator.uniform(0, 6, len(x)), generator.random(len(x))
    weights[:3] = 0.5, 1.5, 2.5  # half to even
    result = torchglm.fit(x, share, family=family, weights=weights)
    counts, trials = np.round(weights * share), np.round(weights)
    if family == "bernoulli":
        share = (share > 0.5).astype(float)  # yes or no, of fractional weights
        result = torchglm.fit(x, share, family=family, weights=weights)
        counts = np.round(weights * share)
    want = stats.binom.logpmf(counts, trials, result.fitted.numpy()).sum()
    assert float(result.like("R").loglik) == pytest.approx(want, rel=1e-10)
    twice = torchglm.fit(x, share, family=family, weights=weights, freq=np.full(len(x), 2))
    assert float(twice.like("R").loglik) == pytest.approx(2 * want, rel=1e-8)


@pytest.mark.parametrize("family", ["poisson", "bernoulli", "gamma", "negative_binomial", "gaussian"])
@pytest.mark.parametrize("width", [3.0, 30.0, 200.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_null_deviance_is_least_however_wide_an_offset_and_how_wrong(family: str, width: float, seed: int) -> None:
    g = np.random.default_rng(seed)
    offset, x = g.uniform(-width, width, 200), g.normal(size=200)
    rate = np.exp(np.clip(1 + 0.1 * offset + 0.3 * x, -50, 12))
    y = {
        "bernoulli": lambda: (g.random(200) < rate / (1 + rate)).astype(float),
        "gaussian": lambda: g.normal(size=200) + 0.1 * offset,
        "gamma": lambda: g.gamma(2, size=200) * rate,
    }.get(family, lambda: g.poisson(rate).astype(float))()
    law = torchglm.NegativeBinomial(0.5) if family == "negative_binomial" else family
    link = "log" if family == "gamma" else None
    r = torchglm.fit(np.column_stack([offset, x]), y, family=law, link=link, offset=offset)

    def deviance(level: np.ndarray) -> Tensor:
        eta = torch.as_tensor(offset) + torch.as_tensor(level)[:, None]
        return 2 * r.family.half_deviance(torch.as_tensor(y).expand_as(eta), eta, r.link(eta), r.link).sum(-1)

    centre, reach = 0.0, 3 * width + 20
    for _ in range(12):  # a grid, finer and finer
        grid = np.linspace(centre - reach, centre + reach, 401)
        centre, reach = float(grid[int(deviance(grid).nan_to_num(torch.inf).argmin())]), reach / 40
    assert float(r.null_deviance) == pytest.approx(float(deviance(np.array([centre]))), rel=1e-7)


def test_the_likelihood_of_another_system_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown system 'SAS'"):
        poisson(*design()).like("SAS")


# linear hypotheses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rows", "right"),
    [
        ("age = 0", [{"age": 1}], [0]),
        ("age", [{"age": 1}], [0]),
        ("age = 0, x2 = 1", [{"age": 1}, {"x2": 1}], [0, 1]),
        ("region[T.B] = region[T.C]", [{"region[T.B]": 1, "region[T.C]": -1}], [0]),
        ("2*age - x2/4 = 3", [{"age": 2, "x2": -0.25}], [3]),
        ("age*2 = 1e-1 + x2", [{"age": 2, "x2": -1}], [0.1]),
        ("-age:x2 + age = -.5", [{"age:x2": -1, "age": 1}], [-0.5]),
        ("bs(age, df=4)[1] = age", [{"bs(age, df=4)[1]": 1, "age": -1}], [0]),
        ("`net worth` = net worth + age", [{"age": -1}], [0]),
        ("(Intercept) + age = 2 - 1", [{"(Intercept)": 1, "age": 1}], [1]),
        ("3 = age + age", [{"age": -2}], [-3]),
    ],
)
def test_hypotheses_in_words_become_a_matrix(text: str, rows: list[dict[str, float]], right: list[float]) -> None:
    matrix, values = (torch.from_numpy(part) for part in restrictions(text, NAMES))
    want = torch.tensor([[float(row.get(name, 0)) for name in NAMES] for row in rows], dtype=torch.float64)
    torch.testing.assert_close(matrix, want)
    torch.testing.assert_close(values, torch.tensor(right, dtype=torch.float64))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ages = 0",
        "age x2",
        "age = = 0",
        "age = 0,",
        "age*x2 = 0",
        "age / 0",
        "age / x2",
        "3 = 3",
        "age = 0; x2 = 0",
        "age^2 = 1",
        "`age = 0",
        "age = x2 = 0",
        "12age = 0",
    ],
)
def test_hypotheses_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hypothesis|restriction"):
        restrictions(text, NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["{}", "`{}`", "-1 + {} = -1e0", "+{} = -(2 - 2)", "2 * {} - {} = 0", "0 = {}"])
def test_every_name_is_read_as_it_stands(name: str, form: str) -> None:
    matrix, values = restrictions(form.replace("{}", name), NAMES)
    assert abs(matrix).tolist() == [[float(other == name) for other in NAMES]] and values.tolist() == [0.0]


def test_lists_and_dicts_of_hypotheses_are_their_texts() -> None:
    x, y = design()
    result = poisson(x, y)
    want = result.wald("x0 = 1, x1 - x2 = 0.5")
    for same in (["x0 = 1", "x1 - x2 = .5"], {"x0": 1, "x1 - x2": 0.5}, {"x0 - 1": 0, "x1 = x2": 5e-1}):
        torch.testing.assert_close(result.wald(same).statistic, want.statistic, rtol=1e-12, atol=0)


def test_what_is_wrong_in_a_hypothesis_is_named() -> None:
    result = poisson(*design())
    with pytest.raises(ValueError, match=r"no coefficient 'weight', of .* Known coefficients: \(Intercept\), x0, x1"):
        result.wald("x0 = weight")
    with pytest.raises(ValueError, match=r"hypothesis 'x0 x1': Missing operator between `x0` and `x1`\. Known"):
        result.wald("x0 x1")
    with pytest.raises(ValueError, match=r"cannot read the hypothesis 'x0\*x1': Only one non-scalar factor"):
        result.wald("x0*x1")
    with pytest.raises(ValueError, match="has two signs '='. Part restrictions by commas"):
        result.wald("x0 = x1 = 0")


@pytest.mark.parametrize("kind", ["model", "HC3"])
@pytest.mark.parametrize("family", ["poisson", "gaussian"])
def test_wald_tests_are_those_of_statsmodels(family: str, kind: str) -> None:
    x, y = design()
    result = torchglm.fit(x, y, family=family, names=["age", "dose", "B", "C"])
    result = result.robust(kind)
    matrix = np.array([[0, 1, 0, 0, 0], [0, 0, 0, 1, -1]], dtype=float)
    test = result.wald("age = 0.1, B = C")
    gap = matrix @ result.coef.numpy() - [0.1, 0]
    want = gap @ np.linalg.solve(matrix @ result.covariance().numpy() @ matrix.T, gap)
    if family == "poisson":
        assert test.statistic_name == "chi2" and float(test.statistic) == pytest.approx(want, rel=1e-9)
        assert float(test.p_value) == pytest.approx(stats.chi2.sf(want, 2), rel=1e-9)
    else:
        assert test.statistic_name == "F" and float(test.statistic) == pytest.approx(want / 2, rel=1e-9)
        assert float(test.p_value) == pytest.approx(stats.f.sf(want / 2, 2, 85), rel=1e-9)
    again = result.wald(matrix, [0.1, 0])
    torch.testing.assert_close(again.statistic, test.statistic)
    if kind == "model" and family == "poisson":
        other = sm.GLM(y.numpy(), np.c_[np.ones(90), x], sm.families.Poisson()).fit(tol=1e-14)
        outcome = other.wald_test((matrix, np.array([0.1, 0])), use_f=False, scalar=True)
        assert float(test.statistic) == pytest.approx(float(outcome.statistic), rel=1e-7)


@pytest.mark.parametrize("family", ["poisson", "gaussian"])
def test_a_wald_test_of_one_coefficient_is_its_p_value(family: str) -> None:
    x, y = design()
    result = torchglm.fit(x, y, family=family)
    torch.testing.assert_close(result.wald("x1 = 0").p_value, result.p_value[2], rtol=1e-9, atol=0)
    torch.testing.assert_close(result.wald([0, 0, 1, 0, 0]).p_value, result.p_value[2], rtol=1e-9, atol=0)


def test_hypotheses_that_depend_on_one_another_are_refused() -> None:
    result = poisson(*design())
    with pytest.raises(ValueError, match="3 restrictions, but only 2"):
        result.wald("x0 = 0, x1 = 0, x0 = x1")
    with pytest.raises(ValueError, match="shape"):
        result.wald(torch.eye(4))
    with pytest.raises(ValueError, match="finite"):
        result.wald([0, math.nan, 0, 0, 0])
    with pytest.raises(ValueError, match="value="):
        result.wald("x0 = 0", 1)


def test_hypotheses_on_aliased_coefficients_have_no_value_and_others_do() -> None:
    x, y = design()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        result = poisson(torch.cat([x, x[:, :1]], -1), y)
    assert torch.isnan(result.wald("x4 = 0").p_value) and torch.isnan(result.wald("x0 = x4").p_value)
    torch.testing.assert_close(result.wald("x0 = 0").p_value, poisson(x, y).wald("x0 = 0").p_value, rtol=1e-9, atol=0)


def test_more_restrictions_than_clusters_allow_have_no_value() -> None:
    x, y = design()
    with pytest.warns(FitWarning, match="fewer"):
        result = poisson(x, y).robust("cluster", clusters=torch.arange(90) % 3)
    assert torch.isnan(result.wald("x0, x1, x2").p_value) and torch.isfinite(result.wald("x0").p_value)


# likelihood ratio and score ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "y"), [("poisson", "count"), ("gamma", "cost"), ("gaussian", "cost")])
def test_the_likelihood_ratio_is_the_scaled_fall_of_the_deviance(family: str, y: str) -> None:
    frame = table()
    small = torchglm.fit(f"{y} ~ age", frame, family=family, link="log")
    big = torchglm.fit(f"{y} ~ age + region", frame, family=family, link="log")
    test = big.lr_test(small)
    fall = float(small.deviance - big.deviance)
    if family == "poisson":
        assert float(test.statistic) == pytest.approx(fall) and test.df_resid is None
        assert float(test.p_value) == pytest.approx(stats.chi2.sf(fall, 2))
    else:
        f = fall / 2 / float(big.dispersion)
        assert float(test.statistic) == pytest.approx(f) and test.statistic_name == "F"
        assert float(test.p_value) == pytest.approx(stats.f.sf(f, 2, 86))
    row = big.anova().row("region")
    assert float(row["p"]) == pytest.approx(float(test.p_value))


def test_estimated_shapes_are_compared_by_their_likelihoods() -> None:
    frame = table()
    frame["count"] = frame["count"] ** 2
    small, big = (
        torchglm.fit(f"count ~ {right}", frame, family=torchglm.NegativeBinomial()) for right in ("age", "age + region")
    )
    assert float(torchglm.lrt(small, big).statistic) == pytest.approx(2 * float(big.loglik - small.loglik))


def test_the_same_space_in_other_columns_is_nested() -> None:
    x, y = design()
    turned = torch.stack([x[:, 0] + 2 * x[:, 1], x[:, 2] - 1], -1)
    direct = torchglm.lrt(poisson(turned, y), poisson(x, y))
    assert float(direct.df) == 2 and torch.isfinite(direct.p_value)


def refusals() -> Iterator[tuple[str, Result, Result]]:
    x, y = design()
    big = poisson(x, y, names=list("abcd"))
    yield "not nested", poisson(x[:, :1] ** 2, y), big
    yield "smaller one first", big, poisson(x[:, :1], y, names=["a"])
    yield "smaller one first", big, big
    yield "sum of y", poisson(x[:, :1], y.flip(0) + 1, names=["a"]), big
    yield "sum of y", poisson(x[:60, :1], torch.cat([y[:59], y[:1]]), names=["a"]), poisson(x[:60], y[:60])
    yield "rows", poisson(x[:80, :1], y[:80], names=["a"]), big
    yield "sum of weights", poisson(x[:, :1], y, weights=torch.full((90,), 2.0), names=["a"]), big
    yield "offset", poisson(x[:, :1], y, offset=torch.ones(90), names=["a"]), big
    yield "family", torchglm.fit(x[:, :1], y, family="gaussian", names=["a"]), big
    yield "link", poisson(x[:, :1], y, link="sqrt", names=["a"]), big
    yield "dispersion", poisson(x[:, :1], y, dispersion="pearson", names=["a"]), big
    yield "batch", poisson(x[:, :1], torch.stack([y, y]), names=["a"]), big
    yield "penalty", poisson(x[:, :1], y, penalty=torchglm.Ridge(0.1), names=["a"]), big
    yield "covariance HC3", poisson(x[:, :1], y, names=["a"]), big.robust()


@pytest.mark.parametrize(("message", "small", "big"), list(refusals()))
def test_fits_that_are_not_comparable_are_refused(message: str, small: Result, big: Result) -> None:
    with pytest.raises(ValueError, match=message):
        torchglm.lrt(small, big)


def test_loaded_fits_are_compared_by_what_they_hold(tmp_path: Path) -> None:
    x, y = design()
    fits = {"small": poisson(x[:, :1], y, names=["a"]), "big": poisson(x, y, names=list("abcd"))}
    for name, fit in fits.items():
        fit.save(tmp_path / name)
    small, big = (torchglm.load(tmp_path / name) for name in fits)
    torch.testing.assert_close(torchglm.lrt(small, big).p_value, torchglm.lrt(*fits.values()).p_value)
    poisson(x[:, :1] + 1, y.flip(0) + 1, names=["a"]).save(tmp_path / "other")
    with pytest.raises(ValueError, match="null deviance"):
        torchglm.lrt(torchglm.load(tmp_path / "other"), big)


@pytest.mark.parametrize("family", ["poisson", "gamma"])
def test_the_score_test_is_the_quadratic_form_of_the_gradient(family: str) -> None:
    x, y = design()
    y = y + 0.5 if family == "gamma" else y
    small = torchglm.fit(x[:, :2], y, family=family, link="log")
    mu = small.fitted
    whole = torch.cat([torch.ones(90, 1), x], -1).double()
    weight = mu if family == "poisson" else torch.ones_like(mu)
    score = whole.T @ ((y - mu) / (1.0 if family == "poisson" else mu))
    want = score @ torch.linalg.solve(whole.T @ (whole * weight[:, None]), score) / small.dispersion
    test = small.score_test(x[:, 2:])
    torch.testing.assert_close(test.statistic, want, rtol=1e-8, atol=0)
    assert float(test.df) == 2 and float(test.p_value) == pytest.approx(stats.chi2.sf(float(want), 2))


def test_added_columns_count_by_what_they_bring() -> None:
    x, y = design()
    small = poisson(x[:, :2], y)
    test = small.score_test(torch.cat([x[:, 2:3], x[:, 2:3] * 3 + x[:, :1], x[:, :1]], -1))
    torch.testing.assert_close(test.statistic, small.score_test(x[:, 2]).statistic, rtol=1e-7, atol=0)
    assert float(test.df) == 1
    assert torch.isnan(small.score_test(x[:, :2]).p_value)


def test_added_columns_that_do_not_fit_are_refused() -> None:
    x, y = design()
    small = poisson(x[:, :2], y)
    for added, message in (
        (x[:80, 2:], "80 rows"),
        (torch.cat([x, x])[:, 2:], "180 rows"),
        (x.reshape(3, 30, 4), "shape"),
        (x * math.nan, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            small.score_test(added)
    with pytest.raises(ValueError, match="penalty"):
        poisson(x[:, :2], y, penalty=torchglm.Ridge(1.0)).score_test(x[:, 2:])


# tables ------------------------------------------------------------------------------------------------------


def test_tables_of_a_formula_follow_its_terms() -> None:
    frame = table()
    result = torchglm.fit("count ~ age * region + sex", frame, family="poisson")
    assert list(result.anova().rows) == ["age", "region", "sex", "age:region"]
    assert list(result.drop1().rows) == ["<none>", "sex", "age:region"]
    assert result.anova()["df"].tolist() == [1, 2, 1, 2]
    total = float(result.anova()["deviance"].sum())
    assert total == pytest.approx(float(result.null_deviance - result.deviance))


def test_types_two_and_three_compare_the_models_they_say() -> None:
    frame = table()
    kinds = {"family": "gamma", "link": "log", "tol": 1e-12}

    def deviance(right: str) -> float:
        return float(torchglm.fit(f"cost ~ {right}", frame, **kinds).deviance)  # type: ignore[arg-type]

    result = torchglm.fit("cost ~ age * sex + dose", frame, **kinds)  # type: ignore[arg-type]
    second = result.anova(type=2)
    assert float(second.row("age")["deviance"]) == pytest.approx(deviance("sex + dose") - deviance("age + sex + dose"))
    last = deviance("age + sex + dose") - float(result.deviance)
    assert float(second.row("age:sex")["deviance"]) == pytest.approx(last)
    f = last / float(result.dispersion)
    assert float(second.row("age:sex")["p"]) == pytest.approx(stats.f.sf(f, 1, float(result.df_resid)))
    third = result.anova(type="III")
    assert result.rows is not None and result.names[1] == "age"
    rest, cost = result.rows.x[:, [0, 2, 3, 4]], torch.tensor(frame["cost"].to_numpy())
    without = float(torchglm.fit(rest, cost, intercept=False, **kinds).deviance)  # type: ignore[arg-type]
    assert float(third.row("age")["deviance"]) == pytest.approx(without - float(result.deviance))


def test_terms_of_an_array_fit_are_its_columns_or_those_given() -> None:
    x, y = design()
    result = poisson(x, y, names=["age", "dose", "B", "C"])
    assert list(result.anova().rows) == ["age", "dose", "B", "C"]
    named = result.drop1(terms={"age": ["age"], "region": ["B", 4]})
    assert named["df"].tolist()[1:] == [1, 2]
    assert float(named.row("region")["deviance"]) == pytest.approx(float(poisson(x[:, :2], y).deviance))


@pytest.mark.parametrize("terms", [{"a": ["nobody"]}, {"a": [17]}, {"a": []}, {"a": [1], "b": [1]}])
def test_terms_that_are_not_there_are_refused(terms: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match="term"):
        poisson(*design()).anova(terms=terms)


def test_tables_refuse_what_has_no_likelihood_of_its_own() -> None:
    x, y = design()
    with pytest.raises(ValueError, match="penalty"):
        poisson(x, y, penalty=torchglm.Ridge(1.0)).anova()
    with pytest.raises(ValueError, match="HC3"):
        poisson(x, y).robust().drop1()
    with pytest.raises(ValueError, match="unknown type 4"):
        poisson(x, y).anova(type=4)


def test_a_term_without_columns_of_its_own_has_no_test() -> None:
    x, y = design()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        result = poisson(torch.cat([x, x[:, :1]], -1), y)
        row = result.anova().row("x4")
    assert float(row["df"]) == 0 and math.isnan(float(row["p"]))
    assert float(row["deviance"]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("term", "parts"),
    [
        ("a:b", ["a", "b"]),
        ("C(a, levels=['x:y']):log(b)", ["C(a, levels=['x:y'])", "log(b)"]),
        ("a", ["a"]),
        ("`a:b`:c", ["`a:b`", "c"]),
        ("f(a[1:2])", ["f(a[1:2])"]),
    ],
)
def test_factors_are_parted_by_colons_outside_of_brackets(term: str, parts: list[str]) -> None:
    assert factors(term) == parts


# batches and streams -----------------------------------------------------------------------------------------


def everything(result: Result, small: Result, x: Tensor) -> dict[str, Tensor]:
    """What every test of a fit says."""
    said = {
        "wald": result.wald("x0 = 0, x1 = x2").p_value,
        "lrt": torchglm.lrt(small, result).p_value,
        "score": small.score_test(x[..., 1:]).p_value,
        "R": result.like("R").bic,
    }
    for name, made in (
        ("anova", result.anova()),
        ("II", result.anova(type=2)),
        ("III", result.anova(type=3)),
        ("drop1", result.drop1()),
        ("compare", torchglm.compare(small, result)),
    ):
        said |= {f"{name} {key}": value for key, value in made.columns.items()}
    return said


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("family", ["poisson", "gamma"])
def test_a_batch_says_what_its_members_say(family: str, shared: bool) -> None:
    pairs = [design(seed=seed) for seed in range(3)]
    x = pairs[0][0] if shared else torch.stack([a for a, _ in pairs])
    y = torch.stack([b for _, b in pairs]) + (0.5 if family == "gamma" else 0)
    options = {"family": family, "link": "log", "tol": 1e-12}
    many = everything(
        torchglm.fit(x, y, **options),  # type: ignore[arg-type]
        torchglm.fit(x[..., :1], y, **options),
        x,
    )  # type: ignore[arg-type]
    for i in range(3):
        own = x if shared else x[i]
        one = everything(
            torchglm.fit(own, y[i], **options),  # type: ignore[arg-type]
            torchglm.fit(own[:, :1], y[i], **options),
            own,
        )  # type: ignore[arg-type]
        for name, value in one.items():
            torch.testing.assert_close(many[name][i], value, rtol=1e-6, atol=1e-9, equal_nan=True, msg=name)


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_a_model_that_was_not_fitted_has_no_tests_and_leaves_the_others_theirs() -> None:
    x, y = design()
    bad = y.clone()
    bad[3] = math.nan
    both = torch.stack([y, bad])
    many, one = (everything(poisson(x, z), poisson(x[:, :1], z), x) for z in (both, y))
    for name, value in one.items():
        torch.testing.assert_close(many[name][0], value, rtol=1e-9, atol=1e-9, equal_nan=True, msg=name)
        assert torch.isnan(many[name][1]).all() or name.endswith("df"), name


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_tables_say_where_a_fit_behind_them_failed() -> None:
    x = torch.arange(12.0, dtype=torch.float64).unsqueeze(-1)
    separated = torchglm.fit(x, (x[:, 0] > 5).double(), family="binomial")
    assert "1 of the 2 fits" in str(separated.anova()) and not poisson(*design()).drop1().notes


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fit_on_a_gpu_says_what_it_says_on_the_cpu() -> None:
    x, y = design()

    def said(device: str) -> dict[str, Tensor]:
        here, there = x.to(device), torch.stack([y, y.flip(0)]).square().to(device)
        result, small = (
            torchglm.fit(z, there, family=torchglm.NegativeBinomial(), tol=1e-12) for z in (here, here[:, :1])
        )
        clustered = result.robust("cluster", clusters=(torch.arange(90) % 9, torch.arange(90) % 7))
        return everything(result, small, here) | {
            "profile": result.conf_int(method="profile"),
            "cluster": clustered.p_value,
            "shape": result.shape_parameters()["upper"],
            "HC3": result.robust().wald("x0 = x1").p_value,
        }

    on_cpu = said("cpu")
    for name, value in said("cuda").items():
        torch.testing.assert_close(value.cpu(), on_cpu[name], rtol=1e-6, atol=1e-9, equal_nan=True, msg=name)


def test_streamed_rows_give_the_tests_of_rows_in_memory() -> None:
    x, y = design()
    held = everything(poisson(x, y), poisson(x[:, :1], y), x)
    streamed = everything(
        torchglm.fit(lambda: iter(batches(x, y)), family="poisson"),
        torchglm.fit(lambda: iter(batches(x[:, :1], y)), family="poisson"),
        x,
    )
    for name, value in held.items():
        torch.testing.assert_close(streamed[name], value, rtol=1e-8, atol=1e-9, equal_nan=True, msg=name)


def test_streams_in_other_chunks_are_compared_by_name() -> None:
    x, y = design()
    small = torchglm.fit(batches(x[:, :1], y, 20), family="poisson")
    big = torchglm.fit(batches(x, y, 17), family="poisson")
    held = torchglm.lrt(poisson(x[:, :1], y), poisson(x, y))
    torch.testing.assert_close(torchglm.lrt(small, big).p_value, held.p_value)
    other = torchglm.fit(batches(x[:, :1], y, 20), family="poisson", names=["z"])
    with pytest.raises(ValueError, match="no z"):
        torchglm.lrt(other, big)


# adjustment, comparison, print -------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "other"), [("holm", "holm"), ("bh", "fdr_bh"), ("bonferroni", "bonferroni")])
def test_adjusted_p_values_are_those_of_statsmodels(method: str, other: str) -> None:
    generator = np.random.default_rng(0)
    p = generator.uniform(size=(4, 12)) ** 3
    got = torchglm.adjust(p, method)
    for i in range(4):
        np.testing.assert_allclose(got[i], multipletests(p[i], method=other)[1], rtol=1e-12)
    torch.testing.assert_close(torchglm.adjust(p.T, method.upper(), dim=0), got.T)


@pytest.mark.parametrize("method", ["holm", "bh", "bonferroni"])
def test_adjustment_keeps_order_never_lowers_and_leaves_missing_tests_out(method: str) -> None:
    p = torch.tensor([0.04, math.nan, 0.001, 0.5, 0.04, 0.0], dtype=torch.float64)
    got = torchglm.adjust(p, method)
    known = ~torch.isnan(p)
    assert torch.equal(torch.isnan(got), ~known)
    torch.testing.assert_close(got[known], torchglm.adjust(p[known], method))
    assert (got[known] >= p[known]).all() and (got[known] <= 1).all()
    for i, j in itertools.combinations(known.nonzero()[:, 0].tolist(), 2):
        assert (got[i] <= got[j]) if p[i] <= p[j] else (got[i] >= got[j])


def test_adjustment_refuses_what_is_no_p_value() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        torchglm.adjust([0.1, 1.2])
    with pytest.raises(ValueError, match="unknown method 'by'"):
        torchglm.adjust([0.1], "by")
    assert torchglm.adjust(0.3).shape == () and torchglm.adjust([]).shape == (0,)


def test_a_comparison_holds_what_the_fits_say() -> None:
    frame = table()
    fits = [torchglm.fit(f"count ~ {right}", frame, family="poisson") for right in ("1", "age", "dose", "dose + age")]
    made = torchglm.compare(*fits)
    assert list(made.rows) == [fit.formula for fit in fits]
    for i, fit in enumerate(fits):
        row = made.row(made.rows[i])
        for name in ("deviance", "aic", "bic"):
            assert float(row[name]) == float(getattr(fit, name))
        assert float(row["df"]) == float(fit.rank)
        assert float(row["D2"]) == pytest.approx(1 - float(fit.deviance / fit.null_deviance))
    assert torch.isnan(made["p"]).tolist() == [True, False, True, False]
    assert float(made["p"][3]) == pytest.approx(float(torchglm.lrt(fits[2], fits[3]).p_value))
    backward = torchglm.compare(fits[3], fits[2], names=["big", "small"])
    assert float(backward["p"][1]) == pytest.approx(float(made["p"][3]))


def test_families_are_compared_by_aic_without_a_ratio() -> None:
    frame = table()
    made = torchglm.compare(
        *(torchglm.fit("count ~ age", frame, family=family) for family in ("poisson", torchglm.NegativeBinomial(0.2)))
    )
    assert torch.isfinite(made["aic"]).all() and torch.isnan(made["LR"]).all()


def test_comparisons_refuse_other_rows_and_single_fits() -> None:
    x, y = design()
    with pytest.raises(ValueError, match="two fits"):
        torchglm.compare(poisson(x, y))
    with pytest.raises(ValueError, match="same rows"):
        torchglm.compare(poisson(x, y), poisson(x[:80], y[:80]))
    with pytest.raises(ValueError, match="batches"):
        torchglm.compare(poisson(x, y), poisson(x, torch.stack([y, y])))
    with pytest.raises(ValueError, match="names has 1"):
        torchglm.compare(poisson(x, y), poisson(x, y), names=["a"])


def test_tables_and_tests_print_and_become_frames() -> None:
    frame = table()
    small, big = (torchglm.fit(f"count ~ {right}", frame, family="poisson") for right in ("age", "age + region"))
    made = big.anova()
    text = str(made)
    assert text.splitlines()[0] == "Analysis of deviance, type I" and "region" in text and "nan" not in str(big.drop1())
    assert len({len(line) for line in text.splitlines()[2:]}) == 1  # p is the last column of every row
    as_frame = made.to_frame()
    assert list(as_frame.index) == ["age", "region"] and list(as_frame.columns) == list(made.columns)
    pd.testing.assert_frame_equal(as_frame, pd.DataFrame(made.to_dict())[as_frame.columns], check_dtype=False)
    test = torchglm.lrt(small, big)
    assert str(test).startswith("Likelihood ratio test: chi2(2) = ") and test.to_dict()["df"] == 2
    with pytest.raises(KeyError, match="no row 'sex'"):
        made.row("sex")
    with pytest.raises(TypeError, match="one model"):
        made[0]


def test_tables_and_tests_of_a_batch_print_frame_and_part() -> None:
    x, y = design()
    many = poisson(x, torch.stack([y, y.flip(0)]))
    made, test = many.drop1(), many.wald("x0")
    assert "2 models" in str(made) and "of 2 models" in str(test)
    assert made.to_frame().shape == (10, 5) and made.to_frame().index.nlevels == 2
    torch.testing.assert_close(made[1]["p"], poisson(x, y.flip(0)).drop1()["p"], equal_nan=True)
    torch.testing.assert_close(test[0].p_value, poisson(x, y).wald("x0").p_value)
