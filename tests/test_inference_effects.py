"""Effects: against statsmodels, against differences of predictions, and the laws they obey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
import torch

import torchglm

G = np.random.default_rng(11)
N = 200
DATA = pd.DataFrame(
    {
        "age": G.normal(40, 10, N),
        "region": G.choice(list("abc"), N),
        "size": G.gamma(2, 1, N),
        "years": G.uniform(0.5, 2, N),
    }
)
RATE = np.exp(-1 + 0.03 * DATA.age + 0.4 * (DATA.region == "b") - 0.1 * DATA["size"])
DATA["claims"] = G.poisson(RATE * DATA.years)
DATA["ill"] = (G.random(N) < RATE / (1 + RATE)).astype(float)
X = DATA[["age", "size"]]


def judged(family: Any, y: str) -> Any:
    return sm.GLM(DATA[y], sm.add_constant(X), family=family).fit(tol=1e-14)


def test_ratios_are_exponentials_of_coefficients_and_their_limits() -> None:
    r = torchglm.fit(X, DATA.claims, family="poisson")
    ratio = r.ratios(0.9)
    torch.testing.assert_close(ratio.value, r.coef.exp())
    torch.testing.assert_close(torch.stack([ratio.low, ratio.high], -1), r.conf_int(0.9).exp())
    torch.testing.assert_close(ratio.std_err, r.coef.exp() * r.std_err)
    torch.testing.assert_close(ratio.p_value, r.p_value)
    with pytest.raises(ValueError, match="not a ratio"):
        torchglm.fit(X, DATA.claims + 1.0, family="gaussian").ratios()


@pytest.mark.parametrize(("family", "y"), [("bernoulli", "ill"), ("poisson", "claims")])
def test_average_marginal_effects_agree_with_statsmodels(family: str, y: str) -> None:
    model = sm.Logit if family == "bernoulli" else sm.Poisson
    judge = model(DATA[y], sm.add_constant(X)).fit(disp=0, tol=1e-12).get_margeff()
    effects = torchglm.fit(X, DATA[y], family=family).marginal_effects()
    assert effects.names == ["age", "size"]
    np.testing.assert_allclose(effects.value, judge.margeff, rtol=1e-6)
    np.testing.assert_allclose(effects.std_err, judge.margeff_se, rtol=1e-6)


def test_effects_through_a_formula_are_those_of_its_columns() -> None:
    named = torchglm.fit("claims ~ age + size", DATA, family="poisson", exposure="years")
    plain = torchglm.fit(X, DATA.claims, family="poisson", exposure=DATA.years)
    one, other = named.marginal_effects(data=DATA), plain.marginal_effects()
    torch.testing.assert_close(one.value, other.value, rtol=1e-7, atol=0)
    torch.testing.assert_close(one.std_err, other.std_err, rtol=1e-6, atol=0)


def test_an_effect_goes_through_every_term_of_its_variable() -> None:
    r = torchglm.fit("claims ~ log(size) + age * size", DATA, family="poisson")
    coef = dict(zip(r.names, r.coef.tolist(), strict=True))
    slope = coef["log(size)"] / DATA["size"] + coef["size"] + coef["age:size"] * DATA.age
    want = float(np.mean(slope * r.predict(DATA).numpy()))
    assert float(r.marginal_effects(["size"], DATA).value) == pytest.approx(want, rel=1e-6)


def test_the_effect_of_a_level_is_the_mean_difference_of_predictions() -> None:
    r = torchglm.fit("claims ~ region + age", DATA, family="poisson")
    effects = r.marginal_effects(["region"], DATA)
    assert effects.names == ["region: b - a", "region: c - a"]
    moved = [r.predict(DATA.assign(region=level)).mean() for level in "abc"]
    torch.testing.assert_close(effects.value, torch.stack([moved[1] - moved[0], moved[2] - moved[0]]))


def test_predictions_at_chosen_values_agree_with_statsmodels() -> None:
    r = torchglm.fit(X, DATA.claims, family="poisson")
    found = r.predictions({"age": [30, 50]})
    assert found.names == ["age = 30", "age = 50"]
    judge = smf.glm("claims ~ age + size", DATA, family=sm.families.Poisson()).fit(tol=1e-14)
    for j, age in enumerate((30, 50)):
        x = sm.add_constant(X.assign(age=float(age)), has_constant="add")
        mean = judge.predict(DATA.assign(age=float(age)))
        slope = (mean.to_numpy()[:, None] * x.to_numpy()).mean(0)
        assert float(found.value[j]) == pytest.approx(mean.mean(), rel=1e-8)
        assert float(found.std_err[j]) == pytest.approx(np.sqrt(slope @ judge.cov_params() @ slope), rel=1e-6)
    assert bool((found.low > 0).all()) and bool((found.low < found.value).all() and (found.value < found.high).all())


def test_predictions_at_chosen_values_of_a_formula_are_averages_of_predictions() -> None:
    r = torchglm.fit("claims ~ C(region) * age", DATA, family="poisson", exposure="years")
    found = r.predictions({"region": ["a", "c"], "age": 40.0}, DATA)
    want = [r.predict(DATA.assign(region=level, age=40.0)).mean() for level in "ac"]
    torch.testing.assert_close(found.value, torch.stack(want))
    assert found.names == ["region = a, age = 40.0", "region = c, age = 40.0"]


def test_predictions_at_one_row_are_its_prediction_and_interval() -> None:
    r = torchglm.fit(X, DATA.ill, family="bernoulli", link="probit")
    found = r.predictions({"age": 25.0, "size": 1.0})
    mean, error = r.predict(np.array([[25.0, 1.0]]), se=True)
    torch.testing.assert_close(found.value, mean)
    torch.testing.assert_close(found.std_err, error)
    limits = r.predict_interval(np.array([[25.0, 1.0]]))[0]
    torch.testing.assert_close(torch.stack([found.low[0], found.high[0]]), limits)


def test_contrasts_are_wald_tests_between_all_pairs_whatever_the_coding() -> None:
    codings = ["C(region)", "C(region, contr.sum)", "region - 1"]
    fits = [torchglm.fit(f"claims ~ {coding} + age", DATA, family="poisson") for coding in codings]
    found = [r.contrasts(text.removesuffix(" - 1")) for r, text in zip(fits, codings, strict=True)]
    for other in found:
        assert other.names == ["b - a", "c - a", "c - b"]
        torch.testing.assert_close(other.value, found[0].value, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(other.std_err, found[0].std_err, rtol=1e-6, atol=1e-9)
    judge = smf.glm("claims ~ C(region) + age", DATA, family=sm.families.Poisson()).fit(tol=1e-14)
    test = judge.t_test("C(region)[T.c] - C(region)[T.b]")
    assert float(found[0].value[2]) == pytest.approx(float(test.effect[0]), rel=1e-6)
    assert float(found[0].p_value[2]) == pytest.approx(float(test.pvalue), rel=1e-5)


def test_levels_of_an_interaction_have_no_single_contrast() -> None:
    with pytest.raises(ValueError, match="part of an interaction"):
        torchglm.fit("claims ~ region * age", DATA, family="poisson").contrasts("region")
    with pytest.raises(ValueError, match="no factor 'age'"):
        torchglm.fit("claims ~ region + age", DATA, family="poisson").contrasts("age")


def test_standardized_coefficients_are_coefficients_of_standardized_columns() -> None:
    y = DATA.claims + G.normal(size=N)
    scaled = (X - X.mean()) / X.std()
    r, other = torchglm.fit(X, y, family="gaussian"), torchglm.fit(scaled, y, family="gaussian")
    torch.testing.assert_close(r.standardized().value[1:], other.coef[1:])
    torch.testing.assert_close(r.standardized().std_err[1:], other.std_err[1:])
    beta = torchglm.fit(scaled, (y - y.mean()) / y.std(), family="gaussian")
    torch.testing.assert_close(r.standardized(response=True).value[1:], beta.coef[1:])
    assert float(r.standardized().value[0]) == 0


def batch() -> torchglm.Result:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 50, 2, generator=g, dtype=torch.float64)
    return torchglm.fit(x, torch.poisson((0.5 + 0.3 * x[..., 0]).exp(), generator=g), family="poisson")


@pytest.mark.parametrize(
    "ask",
    [
        lambda r: r.ratios(),
        lambda r: r.marginal_effects(),
        lambda r: r.predictions({"x0": [0.0, 1.0]}),
        lambda r: r.standardized(),
    ],
    ids=["ratios", "marginal_effects", "predictions", "standardized"],
)
def test_a_batch_and_a_stream_say_what_their_parts_say(ask: Any) -> None:
    r = batch()
    whole = ask(r)
    for name in ("value", "std_err", "low", "high", "p_value"):
        alone = torch.stack([getattr(ask(r[k]), name) for k in range(3)])
        torch.testing.assert_close(getattr(whole, name), alone, equal_nan=True)
    rows = r.rows
    assert rows is not None
    streamed = ask(r.on([rows.between(0, 20), rows.between(20, 50)]))
    torch.testing.assert_close(streamed.value, whole.value)
    torch.testing.assert_close(streamed.std_err, whole.std_err)


def test_repeats_count_in_an_average_as_often_as_they_were_seen() -> None:
    times = torch.arange(N) % 3
    short = torchglm.fit(X, DATA.claims, family="poisson", freq=times)
    long = torchglm.fit(X.loc[X.index.repeat(times.numpy())], DATA.claims.repeat(times.numpy()), family="poisson")
    torch.testing.assert_close(short.marginal_effects().value, long.marginal_effects().value, rtol=1e-7, atol=0)
    torch.testing.assert_close(short.standardized().value, long.standardized().value, rtol=1e-7, atol=1e-12)


def test_any_function_of_the_coefficients_has_its_delta_method_error() -> None:
    r = torchglm.fit(X, DATA.claims, family="poisson")
    found = r.delta(lambda coef: coef[:, 1:2] / coef[:, 2:3], ["ratio of slopes"])
    a, b = r.coef[1], r.coef[2]
    slope = torch.stack([torch.zeros_like(a), 1 / b, -a / b**2])
    torch.testing.assert_close(found.value[0], a / b)
    torch.testing.assert_close(found.std_err[0], (slope @ r.covariance() @ slope).sqrt())
    assert "ratio of slopes" in str(found) and found.table()["2.5 %"].shape == (1,)
    with pytest.raises(ValueError, match="Give one name for each"):
        r.delta(lambda coef: coef, ["one"])


def test_aliased_columns_leave_the_other_effects_as_they_are() -> None:
    with pytest.warns(torchglm.FitWarning, match="aliased"):
        r = torchglm.fit(X.assign(twice=2 * X.age), DATA.claims, family="poisson")
    full = torchglm.fit(X, DATA.claims, family="poisson")
    torch.testing.assert_close(r.marginal_effects(["size"]).value, full.marginal_effects(["size"]).value)
    torch.testing.assert_close(r.marginal_effects(["size"]).std_err, full.marginal_effects(["size"]).std_err)
    assert torch.isnan(r.ratios().value[3]) and torch.isnan(r.ratios().std_err[3])


def test_bad_requests_are_refused_with_what_to_do() -> None:
    named = torchglm.fit("claims ~ age", DATA, family="poisson")
    with pytest.raises(ValueError, match="Pass data="):
        torchglm.fit("claims ~ age", DATA, family="poisson", by="region").marginal_effects()
    with pytest.raises(ValueError, match="no term of the formula reads 'size'"):
        named.predictions({"size": 1.0}, DATA)
    with pytest.raises(ValueError, match="No column 'age' in the data"):
        named.marginal_effects(data=DATA[["size"]])
    with pytest.raises(ValueError, match="no column 'weight'"):
        torchglm.fit(X, DATA.claims, family="poisson").marginal_effects(["weight"])


class Doubled(torchglm.Link):
    """`mu = exp(2 eta)`, its slope left to automatic differentiation."""

    name = "doubled"

    def inverse(self, eta: torch.Tensor) -> torch.Tensor:
        return (2 * eta).exp()

    def link(self, mu: torch.Tensor) -> torch.Tensor:
        return mu.log() / 2


def test_effects_go_through_a_link_without_closed_forms() -> None:
    own, log = (torchglm.fit(X, DATA.claims, family="poisson", link=link) for link in (Doubled(), "log"))
    torch.testing.assert_close(own.marginal_effects().value, log.marginal_effects().value, rtol=1e-6, atol=0)
    torch.testing.assert_close(own.marginal_effects().std_err, log.marginal_effects().std_err, rtol=1e-5, atol=0)


def _repeated() -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows with repeats f (some none), and the same rows written out; `junk` holds what no table takes."""
    g = np.random.default_rng(0)
    few = {"x": g.normal(size=60), "k": g.choice(list("ab"), 60), "f": g.integers(0, 9, 60)}
    few["y"] = g.poisson(np.exp(0.5 + 0.6 * few["x"] + 0.5 * (few["k"] == "b")))
    few["id"] = 2**53 + np.arange(60) % 3
    return few | {"junk": [1, "a"] * 30}, {name: np.repeat(values, few["f"]) for name, values in few.items()}


def test_averages_count_each_row_as_often_as_it_was_seen() -> None:
    few, many = _repeated()
    formula = "y ~ x * k + C(id)"
    whole = torchglm.fit(formula, many, family="poisson")
    named = torchglm.fit(formula, few, family="poisson", freq="f")
    values = torchglm.fit(formula, {k: v for k, v in few.items() if k != "junk"}, family="poisson", freq=few["f"])
    for truth, ask in (
        (
            whole.marginal_effects(["x", "k", "id"], data=many),
            lambda r, **o: r.marginal_effects(["x", "k", "id"], few, **o),
        ),
        (whole.predictions({"k": ["a", "b"]}, many), lambda r, **o: r.predictions({"k": ["a", "b"]}, few, **o)),
    ):
        for found in (ask(named), ask(values, freq=few["f"]), ask(values, freq="f")):
            torch.testing.assert_close(found.value, truth.value)
            torch.testing.assert_close(found.std_err, truth.std_err)
        with pytest.raises(ValueError, match="fitted with freq=, and none is given"):
            ask(values)
        with pytest.raises(ValueError, match="freq has shape"):
            ask(values, freq=few["f"][:9])
    with pytest.raises(ValueError, match="freq='f', a column that data lacks"):
        named.marginal_effects(["x"], {name: few[name] for name in ("x", "k", "id")})


@pytest.mark.parametrize("family", ["poisson", "zero_inflated"])
def test_a_formula_fit_averages_over_its_own_rows(family: str, tmp_path: Path) -> None:
    """Without a table: missing and weightless rows stay out, values of roles are those of the fit."""
    g = np.random.default_rng(5)
    table = pd.DataFrame({"a": g.normal(size=400), "c": g.choice(list("xyz"), 400), "years": g.uniform(0.5, 2, 400)})
    table["y"] = g.poisson(np.exp(0.3 * table.a) * table.years)
    table["w"] = (np.arange(400) % 7 > 0) * g.uniform(0.5, 2, 400)
    table.loc[[3, 50], "a"] = np.nan
    law = torchglm.ZeroInflated("poisson") if family == "zero_inflated" else family
    freq = 1 + np.arange(400) % 3
    fit = torchglm.fit("y ~ a * c", table, family=law, exposure="years", weights="w", freq=freq, missing="drop")
    used = (table.w > 0) & table.a.notna()
    for own, given in (
        (fit.marginal_effects(), fit.marginal_effects(data=table[used], freq=freq[used])),
        (fit.predictions({"a": [0, 1]}), fit.predictions({"a": [0, 1]}, data=table[used], freq=freq[used])),
    ):
        torch.testing.assert_close(own.value, given.value, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(own.std_err, given.std_err, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="exposure came for the rows of the fit"):
        fit.marginal_effects(exposure=1.0)
    fit.save(tmp_path / "fit")
    loaded = torchglm.load(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"holds no table: it was loaded.*Pass data="):
        loaded.marginal_effects()
    again = loaded.with_rows(table, freq=freq).marginal_effects()
    torch.testing.assert_close(again.value, fit.marginal_effects().value, rtol=1e-12, atol=1e-14)
