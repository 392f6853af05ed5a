"""Separated and empty levels: all that can be estimated is what the other rows give, by every door."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import torchglm
from torchglm import FitWarning, Status
from torchglm.report.page import write_page

N = 480
FORMULA = "y ~ x + C(a) + C(h)"
CASES: dict[str, tuple[Any, str | None, dict[str, Any]]] = {
    "poisson": ("poisson", None, {}),
    "quasi-poisson": ("poisson", None, {"dispersion": "pearson"}),
    "negative binomial": (torchglm.NegativeBinomial(0.5), "log", {}),
    "negative binomial, estimated": ("negative_binomial", "log", {}),
    "tweedie": (torchglm.Tweedie(1.5), "log", {}),
    "logit": ("bernoulli", None, {}),
    "probit": ("bernoulli", "probit", {}),
    "cloglog": ("bernoulli", "cloglog", {}),
    "weights": ("poisson", None, {"weights": "w"}),
    "freq": ("poisson", None, {"freq": "f"}),
    "trials": ("binomial", None, {"trials": "t"}),
    "offset": ("poisson", None, {"offset": "x"}),
}


def frame(case: str, levels: tuple[str, ...], seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of two factors, and which of them lie in the levels of `a` without events."""
    g = np.random.default_rng(seed)
    a, h, x = np.tile(list("abcdef"), N // 6), g.choice(list("uvw"), N), g.normal(size=N)
    mu = np.exp(0.3 * x + 0.3 * (h == "u") + 0.4)
    t = g.integers(2, 9, N)
    draw = {
        "bernoulli": lambda: g.random(N) < mu / (1 + mu),
        "binomial": lambda: g.binomial(t, mu / (1 + mu)),
        "negative_binomial": lambda: g.negative_binomial(2, 2 / (2 + mu)),
    }
    family = CASES[case][0]
    name = family if isinstance(family, str) else family.name
    y = np.asarray(draw.get(name, lambda: g.poisson(mu))(), float)
    told = np.isin(a, levels)
    y[told] = 0
    w, f = g.uniform(0.5, 2, N), g.integers(0, 4, N)
    return pd.DataFrame({"y": y, "a": a, "h": h, "x": x, "w": w, "f": f, "t": t}), told


def fit(x: Any, y: Any, case: str, **more: Any) -> torchglm.Result:
    family, link, options = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return torchglm.fit(x, y, family=family, link=link, **options, **more)


def alike(got: torchglm.Result, want: torchglm.Result, digits: float = 1e-8) -> None:
    """All coefficients that are finite, and the numbers of the fit, are those of the fit of the other rows."""
    both = [(i, want.names.index(n)) for i, n in enumerate(got.names) if n in want.names and not got.infinite[i]]
    i, j = (list(t) for t in zip(*both, strict=True))
    torch.testing.assert_close(got.coef[i], want.coef[j], rtol=digits, atol=digits)
    torch.testing.assert_close(got.std_err[i], want.std_err[j], rtol=digits, atol=0)
    for kind in ("HC0", "HC1"):
        if kind == "HC0":
            got_error, want_error = (r.robust(kind).std_err for r in (got, want))
            torch.testing.assert_close(got_error[i], want_error[j], rtol=1e-6, atol=0)
    for name in ("deviance", "df_resid", "dispersion", "pearson_chi2"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-7, atol=1e-8)
    if not torch.isnan(want.loglik):
        torch.testing.assert_close(got.loglik, want.loglik, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("levels", [("c",), ("b", "f"), ("a",), ("a", "d")])
@pytest.mark.parametrize("case", list(CASES))
def test_the_rest_of_a_model_is_that_of_the_other_rows(case: str, levels: tuple[str, ...]) -> None:
    data, told = frame(case, levels)
    got, want = fit(FORMULA, data, case), fit(FORMULA, data[~told], case)
    assert got.status == Status.SEPARATED_LEVELS and bool(got.converged) and want.status != got.status
    rows = told.sum() if case != "freq" else data["f"][told].sum()
    assert int(got.apart_levels) == len(levels) and int(got.apart_rows) == rows
    alike(got, want)
    assert torch.isnan(got.std_err[got.infinite != 0]).all() and torch.isfinite(got.coef).all()
    names = [name for name, sign in zip(got.names, got.infinite.tolist(), strict=True) if sign < 0]
    assert names == (["(Intercept)"] if "a" in levels else [f"C(a)[T.{level}]" for level in levels])
    mean, error = got.predict(data, se=True)
    assert float(mean[torch.as_tensor(told)].max()) < 1e-9
    torch.testing.assert_close(mean[torch.as_tensor(~told)], want.fitted, rtol=1e-7, atol=1e-10)
    assert torch.isnan(error[torch.as_tensor(told)]).all()
    torch.testing.assert_close(
        error[torch.as_tensor(~told)], want.predict(data[~told], se=True)[1], rtol=1e-6, atol=1e-10
    )


@pytest.mark.parametrize("levels", [("c",), ("a",)])
def test_levels_with_nothing_but_events_run_the_other_way(levels: tuple[str, ...]) -> None:
    data, told = frame("logit", levels)
    data.loc[told, "y"] = 1
    got, want = fit(FORMULA, data, "logit"), fit(FORMULA, data[~told], "logit")
    alike(got, want)
    assert got.infinite[0 if "a" in levels else got.names.index("C(a)[T.c]")] == 1


def test_censored_levels_live_for_ever() -> None:
    data, told = frame("poisson", ("d",))
    data["y"] = np.random.default_rng(1).exponential(np.exp(0.2 * data["x"]))
    data["event"] = np.where(told, 0, np.random.default_rng(2).random(N) < 0.8).astype(float)
    with pytest.warns(FitWarning, match=r"C\(a\)\[T.d\] to \+infinity"):
        got = torchglm.fit(FORMULA, data, family="exponential", event="event")
    want = torchglm.fit(FORMULA, data[~told], family="exponential", event="event")
    torch.testing.assert_close(got.coef[1], want.coef[1], rtol=1e-8, atol=0)
    assert got.status == Status.SEPARATED_LEVELS


@pytest.mark.parametrize("seed", range(3))
def test_cells_of_an_interaction_are_levels_too(seed: int) -> None:
    data, _ = frame("poisson", (), seed)
    told = (data["a"] == "c") & (data["h"] == "u") | (data["a"] == "a") & (data["h"] == "w")
    data.loc[told, "y"] = 0.0
    got = fit("y ~ x + C(a) * C(h)", data, "poisson")
    want = fit("y ~ x + C(a) * C(h)", data[~told], "poisson")
    assert got.status == Status.SEPARATED_LEVELS and int(got.apart_levels) == 2
    x = got.names.index("x")
    torch.testing.assert_close(got.coef[x], want.coef[x], rtol=1e-8, atol=0)
    torch.testing.assert_close(got.std_err[x], want.std_err[x], rtol=1e-8, atol=0)


def test_levels_that_are_separated_only_when_others_have_gone_are_told_apart_too() -> None:
    data, told = frame("logit", ("c",))
    last = (data["a"] == "d").to_numpy()
    data.loc[last, "y"] = 1.0
    data.loc[told | last, "h"] = "u"
    got = fit(FORMULA, data, "logit")
    alike(got, fit(FORMULA, data[~told & ~last], "logit"))
    assert int(got.apart_levels) == 2 and got.infinite.sum() == 0


# doors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [("c", "e"), ("a",)])
@pytest.mark.parametrize("door", ["arrays", "batch", "loader", "files", "chunks", "by", "ragged"])
def test_every_door_tells_levels_apart(door: str, levels: tuple[str, ...], tmp_path: Path) -> None:
    data, told = frame("poisson", levels)
    want = fit(FORMULA, data[~told], "poisson")
    made = pd.get_dummies(data[["a", "h"]], drop_first=True, dtype=float)
    x, y = np.column_stack([data["x"], made]), data["y"].to_numpy()
    place = 1
    if door == "arrays":
        got = fit(x, y, "poisson")
    elif door == "batch":
        other = np.random.default_rng(5).poisson(1.0, N)
        whole = fit(x, np.stack([other, y]), "poisson")
        assert whole.status == [Status.CONVERGED, Status.SEPARATED_LEVELS] and whole.converged.all()
        assert whole.apart_levels.tolist() == [0, len(levels)]
        got = whole[1]
    elif door == "loader":
        halves = [slice(0, N // 2), slice(N // 2, N)]
        got = fit([(torch.as_tensor(x[part]), torch.as_tensor(y[part])) for part in halves], None, "poisson")
    elif door == "files":
        pq.write_table(pa.Table.from_pandas(data), tmp_path / "rows.parquet", row_group_size=100)
        got = fit(FORMULA, str(tmp_path / "rows.parquet"), "poisson")
    elif door == "chunks":
        tables = [pa.Table.from_pandas(data[:200]), pa.Table.from_pandas(data[200:])]
        got = fit(FORMULA, lambda: iter(tables), "poisson")
    else:
        other = data.assign(g="other", y=np.random.default_rng(5).poisson(1.0, N))
        other = other[:40].assign(x=other["x"][:40] + 0.0) if door == "ragged" else other
        whole = fit(FORMULA, pd.concat([data.assign(g="own"), other]), "poisson", by="g")
        got = whole[1]
        assert got.context["group"] == ("own",) and whole.status[1] == Status.SEPARATED_LEVELS
    assert got.status == Status.SEPARATED_LEVELS and int(got.apart_levels) == len(levels)
    torch.testing.assert_close(got.coef[place], want.coef[place], rtol=1e-8, atol=0)
    torch.testing.assert_close(got.std_err[place], want.std_err[place], rtol=1e-8, atol=0)
    torch.testing.assert_close(got.deviance, want.deviance, rtol=1e-9, atol=0)


@pytest.mark.parametrize("first", [False, True])
def test_one_of_very_many_levels_is_told_apart(first: bool) -> None:
    g = np.random.default_rng(3)
    level = np.repeat(np.arange(400), 12)
    x, y = g.normal(size=level.size), g.poisson(np.exp(0.3 + 0.2 * g.normal(size=400)[level])).astype(float)
    none = np.isin(level, [0, 41, 300] if first else [41, 300])
    y[none] = 0
    data = pd.DataFrame({"y": y, "x": x, "shop": [f"s{one:03d}" for one in level]})
    got, want = (fit("y ~ x + C(shop)", rows, "poisson") for rows in (data, data[~none]))
    silent = np.flatnonzero(np.bincount(level, y) == 0)
    assert got.status == Status.SEPARATED_LEVELS and int(got.apart_levels) == len(silent)
    torch.testing.assert_close(got.coef[1], want.coef[1], rtol=1e-8, atol=0)
    torch.testing.assert_close(got.std_err[1], want.std_err[1], rtol=1e-8, atol=0)


# what is said ---------------------------------------------------------------------------------------------


def test_levels_are_counted_and_named(tmp_path: Path) -> None:
    data, _ = frame("poisson", ("c", "e"))
    with pytest.warns(FitWarning, match=r"2 levels \(160 rows\) set apart: C\(a\)\[T.c\] to -infinity, C\(a\)\[T.e\]"):
        got = torchglm.fit(FORMULA, data, family="poisson")
    said = " ".join(str(got.summary()).split())
    assert "160 rows of 2 levels" in said and "separated levels" in said and "C(a)[T.c] -inf NA" in said
    assert "set apart" in str(got.check()) and got.describe()["apart_levels"] == 2
    assert any("C(a)[T.e] runs to -infinity" in line for line in got.summary().sentences())
    got.save(tmp_path)
    again = torchglm.load(tmp_path)
    assert torch.equal(again.infinite, got.infinite) and str(again.summary()) == str(got.summary())
    assert torch.equal(again.std_err.isnan(), got.std_err.isnan())
    limits = got.conf_int(method="profile")
    place = got.names.index("C(a)[T.c]")
    assert limits[place, 0] == -torch.inf and torch.isfinite(limits[place, 1])
    torch.testing.assert_close(limits[1], fit(FORMULA, data, "poisson").conf_int(method="profile")[1])
    ends = got.predict_interval(data[:12], kind="response")
    assert torch.equal(ends.isnan().any(-1), torch.as_tensor(np.isin(data["a"][:12], ["c", "e"])))
    write_page(got, tmp_path / "page.html")
    with pytest.warns(FitWarning, match="the reference level of C"):
        torchglm.fit(FORMULA, frame("poisson", ("a",))[0], family="poisson")


def test_a_batch_with_levels_set_apart_in_some_models_has_a_page_and_a_sentence(tmp_path: Path) -> None:
    data, _ = frame("poisson", ("c",))
    other = frame("poisson", ("a",), 1)[0]
    rows = pd.concat([data.assign(g="one"), other.assign(g="two"), frame("poisson", ())[0].assign(g="three")])
    with pytest.warns(FitWarning, match="2 of 3 models.* 2 levels") as said:
        got = torchglm.fit(FORMULA, rows, family="poisson", by="g")
    text = str(said[0].message)
    assert "the reference level of C(a) to -infinity" in text and "C(a)[T.c] to -infinity" in text
    assert "C(a)[T.b]" not in text and "3 (100.0 %)" in str(got.summary())
    write_page(got, tmp_path / "page.html")


def test_a_test_of_the_factor_counts_its_levels_as_ever() -> None:
    data, _ = frame("poisson", ("c",))
    got, small = fit(FORMULA, data, "poisson"), fit("y ~ x + C(h)", data, "poisson")
    test = got.lr_test(small)
    assert int(test.df) == 5
    torch.testing.assert_close(test.statistic, small.deviance - got.deviance, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", ["complete", "a number", "intercept alone", "continuous in a level"])
def test_what_is_no_level_stays_separated(kind: str) -> None:
    g = np.random.default_rng(2)
    x = g.normal(size=60)
    y = (x > 0).astype(float)
    if kind == "a number":  # told apart beyond 0.5, both responses below
        x = np.concatenate([x.clip(max=0.0) * 0, x.clip(min=0.5)])
        y = np.concatenate([g.integers(0, 2, 60), np.ones(60)]).astype(float)
        x[60:] = np.linspace(0.1, 3, 60)
    if kind == "intercept alone":
        x, y = x * 0 + g.normal(size=60), np.zeros(60)
    if kind == "continuous in a level":
        group = np.arange(60) % 2
        y = np.where(group == 1, x > 0, g.integers(0, 2, 60)).astype(float)
        x = np.column_stack([group, group * x])  # type: ignore[assignment]
    with pytest.warns(FitWarning, match="SEPARATED"):
        result = torchglm.fit(x.reshape(len(y), -1), y, family="bernoulli")
    assert result.status == Status.SEPARATED and not bool(result.converged) and not result.infinite.any()


@pytest.mark.parametrize("door", ["by", "array", "weights"])
def test_levels_without_rows_are_named_as_such(door: str) -> None:
    data, _ = frame("poisson", ())
    text = r"columns without rows .*: C\(a\)\[T.f\]. Their"
    options: dict[str, Any] = {"family": "poisson"}
    x: Any = FORMULA
    if door == "by":
        data["g"] = "one"
        data = pd.concat([data, data[data["a"] != "f"].assign(g="two")])
        options["by"] = "g"
    if door == "weights":
        options["weights"] = (data["a"] != "f").astype(float)
    if door == "array":
        x = np.column_stack([data["x"], np.zeros(N), data["x"] * 2])
        text = "before them.*: x2; aliased columns without rows.*: x1"
    with pytest.warns(FitWarning, match=text):
        got = torchglm.fit(x, data["y"] if door == "array" else data, **options)
    got = got[1] if door == "by" else got
    assert got.status == Status.CONVERGED and int(got.coef.isnan().sum()) == (2 if door == "array" else 1)
    said = " ".join(str(got.summary()).split())
    assert "no rows (NA)" in said and ("combination of other" in said) == (door == "array")
    assert "hold no rows" in str(got.check())


@pytest.mark.parametrize("family", ["poisson", torchglm.Tweedie(1.5)], ids=["poisson", "tweedie"])
def test_rows_that_others_leave_far_on_the_wrong_side_have_their_limit(family: Any) -> None:
    """As many columns as rows: the fit of the rows with events leaves the others anywhere."""
    g = np.random.default_rng(3)
    x = g.normal(size=(300, 3, 2)) * g.choice([1, 5, 20], (300, 1, 1))
    y = g.poisson(0.9, (300, 3)).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        found = torchglm.fit(x, y, family=family)
    apart = torch.tensor([found.status[i] is Status.SEPARATED_LEVELS for i in range(300)])
    assert apart.sum() > 100
    of_rows = found.family.unit_deviance(torch.tensor(y), found.fitted).sum(-1)
    torch.testing.assert_close(of_rows[apart], found.deviance[apart], atol=1e-7, rtol=0)
