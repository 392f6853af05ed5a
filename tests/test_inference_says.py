"""What `check` and the summary say: never against each other, of the right rows, in the words of the reader."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import torchglm
from torchglm.fitting.status import Status
from torchglm.inference.dialect import YAML, spoken

PYTHON = re.compile(r"\w\(\)|\b(link|dispersion|penalty|start|max_iter)=|(?<!RUN\)\.)robust\(")


def says(result: torchglm.Result) -> tuple[str, str]:
    """What the check and the summary say."""
    return str(result.check()), " ".join(result.summary().warnings())


def agree(result: torchglm.Result) -> tuple[str, str]:
    """The same, found not to contradict each other: one size of errors, and nothing that one alone knows."""
    check, summary = says(result)
    topics = [finding.topic for finding in result.check().findings[0]]
    assert not ("too large" in check and "too small" in check + summary)
    assert "Pearson" not in summary or "dispersion" in topics
    assert "too small" not in summary or "too small" in check
    return check, summary


def person_years(n: int = 4000, seed: int = 1, single: bool = True) -> tuple[Any, Any, Any]:
    """Events of times at risk from seconds to years: means down to 1e-7."""
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, 1))
    exposure = np.exp(g.uniform(np.log(1e-6), np.log(2), n))
    y = g.poisson(exposure * 0.3 * np.exp(0.4 * x[:, 0])).astype(float)
    y[int(exposure.argmin())] = 1.0  # an event in the first second
    return x, np.minimum(y, 1.0) if single else y, exposure


@pytest.mark.parametrize("single", [True, False])
def test_person_years_are_not_said_to_vary_more_or_less(single: bool) -> None:
    x, y, exposure = person_years(single=single)
    result = torchglm.fit(x, y, family="poisson", exposure=exposure)
    check, summary = agree(result)
    assert "too small" not in check + summary and "too large" not in check + summary
    assert float(result.pearson_chi2 / result.df_resid) > 10
    assert f"row {int(exposure.argmin())} (response 1, mean" in check and "of it" in check
    assert "neither tells how far the response spreads" in summary


def test_events_that_can_be_seen_once_are_not_too_few_zeros() -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=(5000, 1))
    time = g.exponential(1 / (0.5 * np.exp(0.3 * x[:, 0])))
    end = g.uniform(0.1, 3, 5000)
    y = (time < end) * 1.0
    result = torchglm.fit(x, y, family="poisson", exposure=np.minimum(time, end))
    assert not result.check().findings[0] or "vary" not in str(result.check())
    assert "fewer zeros" not in str(result.check())
    assert bool(result.dispersion_test().p_value.isnan())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0, 3.0]), st.floats(-7, 3), st.floats(0, 3), st.booleans())
def test_summary_and_check_agree(seed: int, alpha: float, level: float, wide: float, binomial: bool) -> None:
    g = np.random.default_rng(seed)
    n = 400
    x = g.normal(size=(n, 1))
    eta = level + wide * g.normal(size=n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torchglm.FitWarning)
        if binomial:
            p, m = 1 / (1 + np.exp(-(eta - 1) / 3)), g.integers(1, 30, n)
            p = np.clip(p + alpha * 0.1 * g.normal(size=n), 0, 1)
            result = torchglm.fit(x, g.binomial(m, p), family="binomial", trials=m)
        else:
            noise = g.gamma(1 / alpha, alpha, n) if alpha else 1.0
            y = g.poisson(np.exp(eta) * noise).astype(float)
            y[0] = 1.0
            result = torchglm.fit(x, y, family="poisson", offset=eta)
    agree(result)


def test_counts_that_vary_less_are_said_so_by_one_number() -> None:
    g = np.random.default_rng(2)
    x = g.normal(size=(500, 1))
    y = np.round(np.exp(2 + 0.3 * x[:, 0])).astype(float)
    check, _ = agree(torchglm.fit(x, y, family="poisson"))
    assert "vary less" in check and "too large, by a factor" in check


@pytest.mark.parametrize("family", ["gamma", "inverse_gaussian", "gaussian"])
def test_two_dispersions_far_apart_are_found_and_right_models_are_silent(family: str) -> None:
    g = np.random.default_rng(4)
    x = g.normal(size=(600, 1))
    mu = np.exp(1 + 0.3 * x[:, 0])
    y = {
        "gamma": g.gamma(2.0, mu / 2),
        "inverse_gaussian": g.wald(mu, 4.0),
        "gaussian": mu + g.normal(size=600),
    }[family]
    right = torchglm.fit(x, y, family=family, link="log")
    assert not bool(right.check().found("dispersion"))
    if family == "gaussian":
        return
    y = y.copy()
    y[:6] = 1e-7  # rounded to almost nothing
    check = torchglm.fit(x, y, family=family, link="log").check()
    assert bool(check.found("dispersion")) and "by the likelihood" in str(check)


@pytest.mark.parametrize("seed", range(3))
def test_a_gamma_of_its_own_law_has_one_dispersion(seed: int) -> None:
    g = np.random.default_rng(seed)
    x = g.normal(size=(80, 1))
    y = np.maximum(g.gamma(0.3, np.exp(x[:, 0]) / 0.3), 1e-12)
    assert not bool(torchglm.fit(x, y, family="gamma", link="log").check().found("dispersion"))


def test_a_quasi_fit_whose_dispersion_is_one_row_names_it() -> None:
    x, y, exposure = person_years()
    result = torchglm.fit(x, y, family="poisson", exposure=exposure, dispersion="pearson")
    check = result.check()
    assert bool(check.found("dispersion")) and f"row {int(exposure.argmin())} (" in str(check)
    assert "the standard errors with it" in str(check)


# rows ------------------------------------------------------------------------------------------------------


def far_out(n: int = 200, at: int = 130) -> pd.DataFrame:
    g = np.random.default_rng(6)
    frame = pd.DataFrame({"x": g.normal(size=n), "site": np.arange(n) % 3})
    frame["y"] = g.poisson(np.exp(0.2 * frame.x)).astype(float)
    frame.loc[at, ["x", "y"]] = [6.0, 80.0]
    frame.loc[10:40, "x"] = np.nan
    frame.index = frame.index + 1000  # a label is no position
    return frame


def test_rows_left_out_are_counted() -> None:
    frame = far_out()
    result = torchglm.fit("y ~ x", frame, family="poisson", missing="drop")
    assert "Row 130 moves" in str(result.check())
    again = result.with_rows(frame.iloc[20:])
    assert again.place(0).row == 21 and result.place(10).row == 41
    groups = torchglm.fit("y ~ x", frame, family="poisson", missing="drop", by="site")
    at = [i for i, label in enumerate(groups.groups or []) if label in (130 % 3, (130 % 3,))]
    assert "Row 130 moves" in str(groups.check()[at[0]]) and "Row 130 moves" in str(groups[at[0]].check())


def test_chunks_count_through() -> None:
    frame = far_out()
    parts = [frame.iloc[:70], frame.iloc[70:]]
    result = torchglm.fit("y ~ x", lambda: iter(parts), family="poisson", missing="drop")
    assert "Row 130 moves" in str(result.check())


# columns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "terms",
    [
        "x + I(x ** 2)",
        "x + I(x ** 2) + I(x ** 3)",
        "x + log(x)",
        "x + z + x:z",
        "x * z + I(z ** 2)",
        "C(g) + x + C(g):x",
    ],
)
def test_terms_of_one_variable_are_not_collinear(terms: str) -> None:
    g = np.random.default_rng(8)
    frame = pd.DataFrame({"x": g.uniform(5, 6, 400), "z": g.normal(9, 0.2, 400), "g": g.choice(list("abc"), 400)})
    frame["y"] = g.poisson(np.exp(0.1 * frame.x)).astype(float)
    frame["w"] = frame.x + 0.01 * g.normal(size=400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torchglm.FitWarning)
        alone = torchglm.fit(f"y ~ {terms}", frame, family="poisson")
        beside = torchglm.fit(f"y ~ {terms} + w", frame, family="poisson")
    assert not bool(alone.check().found("collinearity"))
    assert bool(beside.check().found("collinearity")) and "w (" in str(beside.check())


# separated models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curved", [True, False])
def test_the_finite_part_of_a_separated_model_is_tested(curved: bool) -> None:
    g = np.random.default_rng(1)
    n = 3000
    x, z = g.normal(size=n), g.normal(size=n)
    eta = -1 + 0.7 * x + 0.6 * curved * x**2
    y = (g.uniform(size=n) < 1 / (1 + np.exp(-eta))) * 1.0
    rare = (g.uniform(size=n) < 0.05) * (0.5 + g.uniform(size=n))  # no level of a factor: a numeric direction
    y[rare > 0] = 1.0
    with pytest.warns(torchglm.FitWarning):
        result = torchglm.fit(np.column_stack([x, z, rare]), y, family="bernoulli")
    assert int(result.flat.status[0]) == int(Status.SEPARATED)
    check = result.check()
    assert bool(check.found("separation")) and bool(check.found("link")) == curved
    part = torchglm.fit(np.column_stack([x, z])[rare == 0], y[rare == 0], family="bernoulli").check()
    assert float(check.tests["link"].statistic) == pytest.approx(float(part.tests["link"].statistic), rel=1e-3)


# words -----------------------------------------------------------------------------------------------------


def in_yaml(result: torchglm.Result) -> torchglm.Result:
    from dataclasses import replace

    return replace(result, context=result.context | {YAML: True})


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_explained_in_the_words_of_a_run(status: Status) -> None:
    result = torchglm.fit(np.zeros((9, 0)), np.arange(9.0), family="poisson")
    assert spoken(result, status.explanation) == status.explanation
    assert not PYTHON.search(spoken(in_yaml(result), status.explanation))


def misfits() -> dict[str, torchglm.Result]:
    g = np.random.default_rng(3)
    x = g.normal(size=(600, 2))
    mu = np.exp(0.5 + 0.5 * x[:, 0])
    spread = g.poisson(mu * g.gamma(0.7, 1 / 0.7, 600)).astype(float)
    many = {
        "counts": ("poisson", "log", spread),
        "nb": ("negative_binomial", "log", np.where(g.uniform(size=600) < 0.4, 0, 8 + g.poisson(mu)).astype(float)),
        "gamma": ("gamma", "log", mu**2 + mu * 0.1 * g.gamma(2, 1, 600)),
        "gaussian": ("gaussian", "identity", (mu - 2) ** 3 * (1 + 0.3 * g.normal(size=600))),
        "steep": ("inverse_gaussian", "log", mu * g.gamma(5, 0.2, 600)),
        "link": ("poisson", "identity", g.poisson(20 * np.exp(0.3 * x[:, 0] + 0.1)).astype(float)),
    }
    made = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (family, link, y) in many.items():
            made[name] = torchglm.fit(x, y, family=family, link=link)
        near = x[:, :1] + 1e-3 * g.normal(size=(600, 1))
        made["collinear"] = torchglm.fit(np.column_stack([x, near]), mu, family="gaussian")
    return made


def test_advice_speaks_python_or_yaml_and_suits_the_family() -> None:
    for name, result in misfits().items():
        python = [one.advice for one in result.check().findings[0]]
        yaml = in_yaml(result).check()
        assert python, name
        for one, advice in zip(yaml.findings[0], python, strict=True):
            assert not PYTHON.search(one.advice), one.advice
            assert "`" not in advice
            assert result.family.name == "poisson" or "NegativeBinomial" not in advice
            own = {"gamma": "Gamma", "steep": "inverse Gaussian", "gaussian": "Gaussian"}.get(name, "-")
            assert f", {own})" not in advice and f"({own}," not in advice and f"({own})" not in advice
            if name == "gaussian" and one.topic == "variance":
                assert "Gamma" not in advice and "transform" in advice  # of negative responses
