"""Groups of unlike size are fitted without padding them to the largest, and say what fits of their own say."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchglm
from torchglm.design import levels
from torchglm.fitting.progress import Progress
from torchglm.inputs import groups as grouping
from torchglm.rows.ragged import Ragged, of_like_size
from torchglm.tables.columns import as_table

SIZES = (400, 3, 30, 31, 5, 190, 30, 7, 64)


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "SMALL", 0)


def table(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    g = np.random.default_rng(seed)
    shop = g.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(shop)
    a, b = g.normal(size=n), g.normal(size=n)
    return {
        "shop": shop,
        "a": a,
        "b": b,
        "y": g.poisson(np.exp(0.5 + 0.3 * a)).astype(float) + 1,
        "t": g.uniform(0.5, 2, n),
        "w": g.uniform(0.5, 2, n),
        "f": g.integers(0, 3, n).astype(float),
        "o": 0.1 * g.normal(size=n),
        "e": (g.random(n) < 0.8).astype(float),
    }


KINDS: dict[str, dict[str, Any]] = {
    "poisson": {"family": "poisson", "exposure": "t"},
    "identity": {"family": "poisson", "link": "identity"},
    "gaussian": {"family": "gaussian", "weights": "w"},
    "gamma": {"family": "gamma", "link": "log", "dispersion": "ml", "weights": "w", "offset": "o"},
    "counted": {"family": "poisson", "freq": "f"},
    "shape": {"family": torchglm.families.NegativeBinomial(0.5), "exposure": "t"},
    "estimated shape": {"family": "negative_binomial"},
    "ridge": {"family": "poisson", "penalty": torchglm.Ridge(0.1)},
    "lasso": {"family": "poisson", "penalty": torchglm.ElasticNet(0.05, 0.01)},
    "events": {"family": "exponential", "event": "e"},
}


def fits(kind: str) -> tuple[torchglm.Result, list[torchglm.Result]]:
    data = table()
    whole = torchglm.fit("y ~ a + b", data, by="shop", **KINDS[kind])
    assert isinstance(whole.chunks, Ragged)
    each = [{name: value[data["shop"] == i] for name, value in data.items()} for i in range(len(SIZES))]
    return whole, [torchglm.fit("y ~ a + b", one, **KINDS[kind]) for one in each]


QUESTIONS: dict[str, Callable[[torchglm.Result], Any]] = {
    "summary": lambda r: str(r.summary()),
    "describe": lambda r: r.describe(),
    "loglik": lambda r: (r.loglik, r.null_deviance, r.aic),
    "HC1": lambda r: r.covariance("HC1"),
    "HC3": lambda r: r.robust("HC3").std_err,
    "observed": lambda r: r.covariance("observed"),
    "cluster": lambda r: r.covariance("cluster", np.arange(max(SIZES)) % 7),
    "CR2": lambda r: r.covariance("cluster", np.arange(max(SIZES)) % 7, type="CR2"),
    "like": lambda r: r.like("R"),
    "residuals": lambda r: [r.residuals(kind) for kind in ("deviance", "quantile", "studentized")],
    "influence": lambda r: (r.leverage(), r.cooks_distance(), r.dfbetas(), r.dffits()),
    "fitted": lambda r: (r.fitted, r.loo_predict(), r.cv_deviance()),
    "check": lambda r: r.check(),
    "tests": lambda r: (r.link_test(), r.drop1(), r.anova()),
    "profile": lambda r: r.conf_int(method="profile"),
}


@cache
def asked_of(family: str) -> torchglm.Result:
    return torchglm.fit("y ~ a + b", table(), by="shop", family=family, link="log")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_goes_over_rows_that_are_padded_to_the_longest_group(
    question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Ragged) -> Any:
        raise AssertionError("a pass over all models padded to the longest")

    fits = [asked_of(family) for family in ("poisson", "gamma")]
    monkeypatch.setattr(Ragged, "__iter__", refused)
    for fit in fits:
        QUESTIONS[question](fit)


@pytest.mark.filterwarnings("ignore")
def test_a_saturated_model_has_no_quantile_residuals_and_no_draws() -> None:
    whole = asked_of("gamma")
    saturated = whole.dispersion.isnan()
    assert saturated.any() and not saturated.all()
    for values in (whole.residuals("quantile"), whole.simulate()[0]):
        assert values[saturated].isnan().all()
        assert all(values[i, :size].isfinite().all() for i, size in enumerate(SIZES) if not saturated[i])


@pytest.mark.filterwarnings("ignore")
def test_values_of_all_rows_side_by_side_are_refused_where_one_group_has_most_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = table(0, (400, *[3] * 60))
    whole = torchglm.fit("y ~ a", data, by="shop", family="poisson")
    assert whole.residuals().shape == (61, 400)
    monkeypatch.setattr("torchglm.inference.apart.SPARE", 0)
    asked: dict[str, Callable[[torchglm.Result], Any]] = {
        "residuals()": lambda r: r.residuals(),
        "fitted": lambda r: r.fitted,
        "leverage()": lambda r: r.leverage(),
        "cooks_distance()": lambda r: r.cooks_distance(),
        "dfbetas()": lambda r: r.dfbetas(),
        "simulate()": lambda r: r.simulate(),
    }
    for name, question in asked.items():
        with pytest.raises(ValueError, match=rf"one model has 400 of them.*{re.escape(f'result[i].{name}')}"):
            question(whole)
        assert question(whole[0]).shape[-1 if name != "dfbetas()" else -2] == 400


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_each_group_says_what_a_fit_of_its_own_says(kind: str) -> None:
    whole, each = fits(kind)
    numbers = ["coef", "std_err", "deviance", "null_deviance", "loglik", "dispersion", "nobs", "pearson_chi2"]
    close = {"rtol": 1e-6, "atol": 1e-8, "equal_nan": True}
    for i, one in enumerate(each):
        saturated = whole.status[i] == torchglm.Status.SATURATED and bool(one.nobs <= one.rank)
        assert saturated or whole.status[i] == one.status
        if one.status != torchglm.Status.CONVERGED or one.df_resid <= 0:
            continue
        for name in numbers:
            torch.testing.assert_close(getattr(whole, name)[i], getattr(one, name), **close, msg=f"{name} of {i}")
        for covariance in ("HC0", "HC3", "observed"):
            torch.testing.assert_close(whole.covariance(covariance)[i], one.covariance(covariance), **close)
        residuals = whole.residuals("deviance")[i]
        torch.testing.assert_close(residuals[: SIZES[i]], one.residuals("deviance"), **close)
        assert not residuals[SIZES[i] :].any()
        torch.testing.assert_close(whole[i].residuals("deviance"), one.residuals("deviance"), **close)
        torch.testing.assert_close(whole[i].leverage(), one.leverage(), **close)
        for name in ("fitted", "cooks_distance", "loo_predict"):
            told, own = (
                (value() if callable(value) else value) for value in (getattr(whole, name), getattr(one, name))
            )
            torch.testing.assert_close(told[i][: SIZES[i]], own, **close)


def test_tests_intervals_and_clusters_of_unlike_groups_are_those_of_each() -> None:
    whole, each = fits("poisson")
    labels = np.arange(max(SIZES)) % 11
    limits, clustered = whole.conf_int(method="profile"), whole.covariance("cluster", labels)
    terms = whole.drop1()
    for i, one in enumerate(each):
        if SIZES[i] <= 11:
            continue
        torch.testing.assert_close(limits[i], one.conf_int(method="profile"), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(clustered[i], one.covariance("cluster", labels[: SIZES[i]]), rtol=1e-6, atol=1e-9)
        alone = one.drop1()
        for name, value in terms.columns.items():
            torch.testing.assert_close(value[i], alone.columns[name], rtol=1e-5, atol=1e-7, equal_nan=True)


def test_a_saved_fit_takes_its_rows_again(tmp_path: Path) -> None:
    data = table()
    whole = torchglm.fit("y ~ a + b", data, family="poisson", by="shop")
    whole.save(tmp_path)
    again = torchglm.load(tmp_path).with_rows(data)
    assert isinstance(again.chunks, Ragged)
    torch.testing.assert_close(again.residuals("pearson"), whole.residuals("pearson"))
    torch.testing.assert_close(again.fitted, whole.fitted)


@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_a_fit_goes_on_where_any_step_left_it(family: str) -> None:
    data, steps = table(1), list[Progress]()
    whole = torchglm.fit("y ~ a + b", data, family=family, by="shop", observe=steps.append)
    assert steps[-1].coef.shape == whole.coef.shape and not steps[-1].coef.isnan().any()
    for step in steps[:: max(1, len(steps) // 5)]:
        again = torchglm.fit("y ~ a + b", data, family=family, by="shop", resume=step)
        torch.testing.assert_close(again.coef, whole.coef, rtol=1e-5, atol=1e-6)


def test_groups_that_cannot_be_fitted_are_left_out_and_rows_at_fault_are_named() -> None:
    data = table()
    bad = data | {"a": np.where(data["shop"] == 0, 1e300, data["a"]), "w": (data["shop"] != 2).astype(float)}
    with pytest.warns(torchglm.FitWarning, match="2 of 9 models"):
        whole = torchglm.fit("y ~ a + b", bad, family="poisson", by="shop", weights="w", dtype=torch.float32)
    assert [i for i, status in enumerate(whole.status) if status == torchglm.Status.NOT_FINITE] == [0, 2]
    plain = torchglm.fit("y ~ a + b", data, family="poisson", by="shop", dtype=torch.float32)
    torch.testing.assert_close(whole.coef[3:], plain.coef[3:], rtol=1e-8, atol=1e-10)
    for row in (0, 17, len(data["y"]) - 1):
        y = data["y"].copy()
        y[row] = -1
        with pytest.raises(ValueError, match=rf"\b{row}\b"):
            torchglm.fit("y ~ a + b", data | {"y": y}, family="poisson", by="shop")


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60))
@settings(deadline=None)
def test_padding_at_most_doubles_the_rows_and_every_model_has_its_place(sizes: list[int]) -> None:
    counts = torch.tensor(sizes)
    parts = of_like_size(counts)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(sizes)))
    assert sum(len(part) * int(counts[part].max()) for part in parts) <= 2 * sum(sizes)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_chunks_hold_every_row_once(sizes: list[int], seed: int) -> None:
    data = table(seed, tuple(sizes))
    source = torchglm.fit("y ~ a", data, family="gaussian", by="shop").source
    total = [sum(float((chunk.weight * chunk.y)[i].sum()) for chunk in source) for i in range(len(sizes))]
    want = [float(data["y"][data["shop"] == i].sum()) for i in range(len(sizes))]
    assert total == pytest.approx(want)


def test_a_large_group_among_small_ones_costs_no_memory() -> None:
    g = np.random.default_rng(0)
    shop = np.r_[np.zeros(100_000, int), np.repeat(np.arange(1, 3000), 4)]
    data = {"shop": shop, "a": g.normal(size=len(shop))}
    data["y"] = g.poisson(np.exp(0.2 * data["a"] + 2))  # type: ignore[assignment]
    torchglm.fit("y ~ a", {name: value[-400:] for name, value in data.items()}, family="poisson", by="shop")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = torchglm.fit("y ~ a", data, family="poisson", by="shop")
    str(result.summary()), result.describe(), result.covariance("HC1")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3 < 150  # 7,200 MB padded


@pytest.mark.parametrize("count", [1, 9, 1 << 16, 3 << 16])
def test_rows_come_one_group_after_another_in_their_order(count: int) -> None:
    codes = torch.from_numpy(np.random.default_rng(count).integers(0, count, 5000))
    assert torch.equal(grouping.one_after_another(codes, count), torch.argsort(codes, stable=True))


@pytest.mark.parametrize("most", [3, 4000])
def test_labels_of_several_columns_are_those_that_occur_in_order(most: int) -> None:
    """Of few combinations and of far more than there are rows."""
    draw = np.random.default_rng(most)
    keys = {"a": draw.integers(0, most, 500), "b": draw.permutation(500) % most}
    codes, labels = levels.groups(as_table(keys), ["a", "b"])
    rows = list(zip(keys["a"].tolist(), keys["b"].tolist(), strict=True))
    assert labels == sorted(set(rows)) and [labels[code] for code in codes.tolist()] == rows


def test_columns_of_a_pandas_frame_are_not_copied_into_another_order() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.arange(12.0).reshape(3, 4), columns=list("abcd"))
    took = as_table(frame, ["d", "a"])
    assert took.column_names == ["d", "a"] and took.column("a").to_pylist() == [0.0, 4.0, 8.0]
    columns = {name: np.full(1000, float(i)) for i, name in enumerate("abcd")}
    whole = pd.DataFrame(columns)
    for name in "da":
        assert np.shares_memory(as_table(whole, ["d", "a"]).column(name).chunk(0).to_numpy(), whole[name].to_numpy())
