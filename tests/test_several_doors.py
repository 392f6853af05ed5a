"""Families of several predictors through every door: formulas, files, chunks, groups, saved fits, penalties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm as tg

TIGHT: dict[str, Any] = {"tol": 1e-12, "max_iter": 100}
ORDER = ["low", "mid", "high"]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 600
    age = rng.normal(size=n)
    region = rng.choice(list("abc"), n)
    shown = np.digitize(age * 0.8 + (region == "b") + rng.logistic(size=n), [-0.5, 1.0])
    return pd.DataFrame(
        {
            "age": age,
            "region": region,
            "kind": rng.choice(["u", "v", "w"], n, p=[0.6, 0.3, 0.1]),
            "level": pd.Categorical([ORDER[k] for k in shown], categories=ORDER, ordered=True),
            "cost": rng.gamma(2, np.exp(0.3 * age)),
            "w": rng.uniform(0.5, 2, n),
            "visits": rng.negative_binomial(2, 2 / (2 + np.exp(0.8 + 0.3 * age))) * (rng.uniform(size=n) < 0.7),
            "m": rng.integers(2, 9, n),
            "share": rng.beta(2, 3, n),
            "seen": rng.uniform(size=n) < 0.7,
            "bill": rng.gamma(2, np.exp(0.3 * age)) * (rng.uniform(size=n) < 0.6),
            "expo": rng.uniform(0.5, 2, n),
        }
    ).assign(
        hits=lambda data: np.random.default_rng(1).binomial(data["m"], data["share"]),
        seen=lambda data: data["seen"].astype(float),
    )


CASES = {
    "ordinal": ("level ~ age + region", {"family": tg.Ordinal()}),
    "free": ("level ~ age + region", {"family": tg.Ordinal(free=["age"])}),
    "multinomial": ("level ~ age + C(region)", {"family": tg.Multinomial(baseline="mid")}),
    "gamma": (
        "cost ~ age + region",
        {"family": "gamma", "link": "log", "predictors": {"dispersion": "~ age"}, "weights": "w"},
    ),
    "negative_binomial": (
        "visits ~ age",
        {"family": "negative_binomial", "predictors": {"alpha": "~ region"}, "exposure": "expo"},
    ),
    "zero_inflated": (
        "visits ~ age",
        {"family": tg.ZeroInflated("poisson"), "predictors": {"zero": "~ region"}, "exposure": "expo"},
    ),
    "hurdle": ("bill ~ age", {"family": tg.Hurdle("lognormal"), "predictors": {"zero": "~ age"}}),
    "costs": (
        "bill ~ age",
        {"family": tg.Hurdle("gamma").linked(tg.links.Log()), "predictors": {"zero": "~ age"}, "weights": "w"},
    ),
    "beta": ("share ~ age", {"family": "beta", "predictors": {"precision": "~ region"}}),
    "beta_binomial": ("hits ~ age + region", {"family": "beta_binomial", "trials": "m"}),
    "weibull": ("cost ~ age + region", {"family": "weibull", "event": "seen", "predictors": {"scale": "~ region"}}),
    "loglogistic": ("cost ~ age", {"family": tg.LogLogistic(), "event": "seen", "freq": "m"}),
}
every = pytest.mark.parametrize("case", CASES)


def fitted(case: str, data: Any, **options: Any) -> tg.Result:
    formula, settings = CASES[case]
    return tg.fit(formula, data, **settings, **TIGHT, **options)


@every
def test_files_and_chunks_are_the_table(case: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    whole = fitted(case, frame)
    frame.to_parquet(tmp_path / "rows.parquet")
    chunks = [frame.iloc[start : start + 150] for start in range(0, len(frame), 150)]
    for source in (str(tmp_path / "rows.parquet"), chunks):
        other = fitted(case, source)
        assert other.names == whole.names
        torch.testing.assert_close(other.flat.coef, whole.flat.coef, rtol=0, atol=1e-9)
        torch.testing.assert_close(other.std_err, whole.std_err, rtol=1e-8, atol=0)


@every
def test_groups_are_fits_of_their_own(case: str, frame: pd.DataFrame) -> None:
    batch = fitted(case, frame, by="kind")
    for label, model in zip(batch.groups or [], batch, strict=True):
        alone = fitted(case, frame[frame["kind"] == label[0]])
        torch.testing.assert_close(model.flat.coef, alone.flat.coef, rtol=0, atol=1e-8)
        torch.testing.assert_close(model.loglik, alone.loglik, rtol=1e-10, atol=0)


@every
def test_new_rows_by_a_table(case: str, frame: pd.DataFrame) -> None:
    result = fitted(case, frame)
    new = frame[["region", "age", "expo"]].iloc[:7]
    torch.testing.assert_close(result.predict(new), result.fitted[:7], rtol=1e-12, atol=0)
    value, error = result.predict(new, se=True)
    assert value.shape == error.shape and bool((error > 0).all())
    with pytest.raises(ValueError, match="predictors= out"):
        result.predict(new, predictors={"dispersion": new})


@every
def test_rows_attached_again(case: str, frame: pd.DataFrame) -> None:
    result = fitted(case, frame)
    torch.testing.assert_close(result.with_rows(frame).fitted, result.fitted, rtol=1e-12, atol=0)


@every
@pytest.mark.parametrize("group", [None, "kind"])
def test_a_saved_fit_needs_no_rows(case: str, group: str | None, frame: pd.DataFrame, tmp_path: Path) -> None:
    result = fitted(case, frame, by=group)
    result.save(tmp_path)
    loaded = tg.load(tmp_path)
    new = frame.iloc[:5]
    torch.testing.assert_close(loaded.predict(new, se=True), result.predict(new, se=True), rtol=0, atol=0)
    torch.testing.assert_close(loaded.covariance(), result.covariance(), rtol=0, atol=0)
    torch.testing.assert_close(loaded.loglik, result.loglik, rtol=0, atol=0)
    assert loaded.names == result.names and str(loaded.family) == str(result.family)


def test_classes_have_the_order_of_the_category(frame: pd.DataFrame) -> None:
    assert fitted("ordinal", frame).classes == ORDER
    text = frame.assign(level=frame["level"].astype(str))
    given = tg.fit("level ~ age + region", text, family=tg.Ordinal(classes=ORDER), **TIGHT)
    torch.testing.assert_close(given.coef, fitted("ordinal", frame).coef, rtol=0, atol=1e-12)
    assert tg.fit("level ~ age", text, family=tg.Multinomial()).classes == sorted(ORDER)


def test_what_no_predictor_is(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="alpha.*are: dispersion"):
        tg.fit("cost ~ age", frame, family="gamma", link="log", predictors={"alpha": "~ age"})
    with pytest.raises(ValueError, match="left side"):
        tg.fit("cost ~ age", frame, family="gamma", link="log", predictors={"dispersion": "age ~ region"})
    with pytest.raises(ValueError, match="formula"):
        tg.fit("cost ~ age", frame, family="gamma", link="log", predictors={"dispersion": frame[["age"]]})
    with pytest.raises(ValueError, match="has no row of 'top'"):
        tg.fit("level ~ age", frame, family=tg.Ordinal(classes=[*ORDER, "top"]))
    with pytest.raises(ValueError, match="thresholds in place of an intercept"):
        tg.fit("level ~ age - 1", frame, family=tg.Ordinal())


@every
def test_a_dot_leaves_the_response_out(case: str, frame: pd.DataFrame) -> None:
    if case == "gamma":
        own = tg.fit(
            "cost ~ age", frame[["cost", "age", "region"]], family="gamma", link="log", predictors={"dispersion": "~ ."}
        )
        assert not any("cost" in name for name in own.names)
    else:
        assert not any(
            "level" in name for name in tg.fit("level ~ .", frame[["level", "age"]], **CASES["ordinal"][1]).names
        )


@pytest.mark.parametrize("case", ["ordinal", "multinomial", "gamma"])
def test_penalties_leave_constants_alone(case: str, frame: pd.DataFrame) -> None:
    """A ridge that grows leaves the null model, whose constants no penalty takes."""
    strong = fitted(case, frame, penalty=tg.Ridge(1e7))
    null = fitted(case, frame)
    torch.testing.assert_close(strong.deviance, null.null_deviance, rtol=1e-4, atol=0)
    lasso = fitted(case, frame, penalty=tg.ElasticNet(l1=10.0))
    torch.testing.assert_close(lasso.deviance, null.null_deviance, rtol=1e-9, atol=0)
    small = fitted(case, frame, penalty=tg.ElasticNet(l1=1e-12))
    torch.testing.assert_close(small.flat.coef, null.flat.coef, rtol=0, atol=1e-6)


def test_counts_by_class_are_rows_by_class() -> None:
    rng = np.random.default_rng(3)
    x, counts = torch.from_numpy(rng.normal(size=(40, 2))), rng.integers(0, 6, (40, 3))
    counted = tg.fit(x, pd.DataFrame(counts, columns=["car", "bus", "train"]), family=tg.Multinomial(), **TIGHT)
    rows, codes = np.repeat(np.arange(40), counts.sum(1)), np.concatenate([np.repeat([0, 1, 2], row) for row in counts])
    single = tg.fit(x[rows], torch.from_numpy(codes), family=tg.Multinomial(), **TIGHT)
    assert counted.classes == ["car", "bus", "train"]
    torch.testing.assert_close(counted.coef, single.coef, rtol=0, atol=1e-9)
    torch.testing.assert_close(counted.std_err, single.std_err, rtol=1e-9, atol=0)
    torch.testing.assert_close(counted.loglik, single.loglik, rtol=1e-12, atol=0)


@pytest.mark.parametrize("family", [tg.Ordinal(classes=3), tg.Multinomial(classes=3), tg.Beta()], ids=lambda f: f.name)
def test_a_loader_is_the_whole(family: tg.VectorFamily) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    y = torch.rand(300, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    y = y if family.name == "beta" else (3 * y).floor()
    batches = [{"x": x[i : i + 70], "y": y[i : i + 70], "weights": x[i : i + 70, 0].abs()} for i in range(0, 300, 70)]
    whole, loaded = tg.fit(x, y, family=family, weights=x[:, 0].abs(), **TIGHT), tg.fit(batches, family=family, **TIGHT)
    assert loaded.names == whole.names
    torch.testing.assert_close(loaded.flat.coef, whole.flat.coef, rtol=0, atol=1e-9)
    torch.testing.assert_close(loaded.predict(x[:4]), whole.predict(x[:4]), rtol=1e-9, atol=0)


def test_labels_of_kinds_without_an_order() -> None:
    x = torch.randn(100, 1, dtype=torch.float64)
    with pytest.raises(TypeError, match="int, str"):
        tg.fit(x, ["a", 1] * 50, family=tg.Multinomial())
    with pytest.raises(ValueError, match="does not know its classes"):
        tg.fit([(x, torch.zeros(100))], family=tg.Ordinal())
    with pytest.raises(ValueError, match="link itself"):
        tg.fit(x, torch.arange(100) % 3, family=tg.Ordinal(), link="log")


QUESTIONS: dict[str, Any] = {
    **{
        name: (lambda r, f, name=name: getattr(r, name)())
        for name in (
            "summary",
            "describe",
            "conf_int",
            "covariance",
            "check",
            "link_test",
            "power_link_test",
            "variance_test",
            "zero_test",
            "dispersion_test",
            "hosmer_lemeshow",
            "separation",
            "dffits",
            "cooks_distance",
            "leverage",
            "residuals",
            "standardized",
            "shape_parameters",
            "like",
            "vif",
            "condition_indices",
            "ratios",
            "loo_predict",
            "cv_deviance",
            "variance_components",
            "drop1",
            "_repr_html_",
        )
    },
    **{
        name: (lambda r, f, name=name: getattr(r, name))
        for name in (
            "fitted",
            "classes",
            "thresholds",
            "class_counts",
            "smooths",
            "random",
            "absorbed",
            "strength",
            "criterion",
            "edf",
            "infinite",
            "shape_std_err",
            "penalized_loglik",
            "null_deviance",
            "head",
            "status",
            "pearson_chi2",
        )
    },
    "wild_bootstrap": lambda r, f: r.wild_bootstrap(torch.arange(600) // 20),
    "HC3": lambda r, f: r.robust("HC3").summary(),
    "HAC": lambda r, f: r.robust("HAC", order=torch.arange(600)),
    "clusters": lambda r, f: r.robust("cluster", torch.arange(600) // 20).std_err,
    "CR2": lambda r, f: r.robust("cluster", torch.arange(600) // 20, type="CR2"),
    "predict": lambda r, f: r.predict(f),
    "predict one": lambda r, f: r.predict({"age": 30.0}),
    "unknown kind": lambda r, f: r.predict(f, kind="nonsense"),
    "interval": lambda r, f: r.predict_interval(f.head(5), kind="response"),
    "effects": lambda r, f: r.marginal_effects(data=f),
    "predictions": lambda r, f: r.predictions({"age": [0.0, 1.0]}, data=f),
    "contrasts": lambda r, f: r.contrasts("region"),
    "score_test": lambda r, f: r.score_test(torch.arange(600.0).double() / 600),
    "deviance residuals": lambda r, f: r.residuals("deviance"),
    "studentized": lambda r, f: r.residuals("studentized"),
    "beta coefficients": lambda r, f: r.standardized(response=True),
    "pearson": lambda r, f: r.goodness_of_fit("pearson"),
    "len": lambda r, f: len(r),
    "member": lambda r, f: r[0],
    "compare": lambda r, f: tg.compare(r, r),
    "lr_test": lambda r, f: r.lr_test(r),
}


@every
def test_every_question_is_answered_or_refused_in_words(case: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """A question ends in an answer that prints, or in an error that says what and what to do: never by accident."""
    result = fitted(case, frame)
    more = {"save": lambda r, f: r.save(tmp_path / "part")}
    for who in (result, *(result[name] for name in result.predictors[:2])):
        for name, ask in (QUESTIONS | more).items():
            try:
                str(ask(who, frame))
            except (ValueError, TypeError, KeyError) as error:
                said = str(error)
                assert len(said) > 30 and "Tensor" not in said, (name, said)
