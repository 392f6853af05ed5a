"""Fits as files for others: rating tables and models of raw columns give what `predict` gives."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm as tg
from torchglm.cli import main
from torchglm.store.rating import curves_of, rating_table
from torchglm.store.scorer import RawScores, export_result

N = 300
TABLES = [
    "y ~ a + c",
    "y ~ a * C(b) + c",
    "y ~ a:c + C(b, contr.sum) + log(age)",
    "y ~ a - 1 + bs(age, df=4)",
    "y ~ a * c * C(b) + I(c**2)",
    "y ~ a:bs(age, df=4)",
    "y ~ s(age, k=5) + a",
]
RAW = {
    "y ~ a * C(b) + c + scale(age)": {"family": "poisson", "exposure": "years"},
    "y ~ a:c + C(b, contr.sum) + log(age) + I(c**2)": {"family": "negative_binomial"},
    "y ~ C(age > 30) + np.maximum(c, 0) + C(a, contr.poly)": {"family": "poisson", "unseen": "reference"},
    "grade ~ a + c": {"family": "ordinal"},
    "y ~ a * c": {"family": tg.ZeroInflated("poisson")},
}


def table() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    made = {
        "a": draw.choice(["x", "y", "z"], N),
        "b": draw.choice([1, 2, 5], N),
        "c": draw.normal(size=N),
        "age": draw.integers(18, 60, N),
        "years": draw.uniform(0.5, 2, N),
        "grade": draw.choice(["low", "mid", "top"], N),
    }
    made["y"] = draw.poisson(np.exp(0.2 * (made["a"] == "x") + 0.1 * made["c"])) * (draw.random(N) < 0.8)
    return pd.DataFrame(made)


def applied(lines: pd.DataFrame, data: pd.DataFrame, column: str) -> np.ndarray:
    """What a table says of rows, by the rule of its docstring."""
    factors = column == "factor"
    total = np.ones(len(data)) if factors else np.zeros(len(data))
    variables = [name for name in lines.columns if name not in ("term", "per", "points", "factor")]
    for line in lines.to_dict("records"):
        hit = np.ones(len(data), bool)
        for name in variables:
            if pd.notna(line[name]):
                hit &= (data[name] == line[name]).to_numpy()
        per = 1.0
        if pd.notna(line["per"]):
            scope = {name: data[name] for name in data} | {"log": np.log, "I": lambda value: value}
            per = np.asarray(eval(line["per"], {}, scope), float)
        more = total * line[column] ** per if factors else total + line[column] * per
        total = np.where(hit, more, total)
    return total


@pytest.mark.parametrize("formula", TABLES)
def test_factors_times_the_base_are_the_prediction(formula: str) -> None:
    data = table()
    fit = tg.fit(formula, data, family="poisson")
    made = rating_table(fit, {name: sorted(data[name].unique().tolist()) for name in curves_of(fit.spec)})
    read = pd.read_csv(io.StringIO(made.to_csv(index=False)))
    np.testing.assert_allclose(applied(read, data, "factor"), fit.predict(data), rtol=1e-12)


def test_points_add_up_with_other_links() -> None:
    data = table()
    fit = tg.fit("y ~ a * c", data.assign(y=(data.y > 0).astype(float)), family="bernoulli")
    made = pd.read_csv(io.StringIO(rating_table(fit).to_csv(index=False)))
    assert "factor" not in made
    np.testing.assert_allclose(applied(made, data, "points"), fit.predict(data, kind="link"), rtol=1e-12, atol=1e-12)


def test_what_is_no_table_is_refused() -> None:
    data = table()
    with pytest.raises(ValueError, match="no formula"):
        rating_table(tg.fit(data[["c"]].to_numpy(), data.y.to_numpy(), family="poisson"))
    with pytest.raises(ValueError, match="several predictors"):
        rating_table(tg.fit("y ~ c", data, family=tg.ZeroInflated("poisson")))
    with pytest.raises(ValueError, match="many models"):
        rating_table(tg.fit("y ~ c", data, family="poisson", by="a"))
    with pytest.raises(ValueError, match="Give them: values="):
        rating_table(tg.fit("y ~ bs(age, df=4)", data, family="poisson"))


def fitted(formula: str, data: pd.DataFrame) -> tuple[Any, Any, dict[str, Any]]:
    options = RAW[formula]
    fit = tg.fit(formula, data, **options)
    new = {"exposure": data["years"].to_numpy()} if "exposure" in options else {}
    return fit, fit.predict(data, kind="probability" if "grade" in formula else "mean", **new), options


def raw(scorer: RawScores, data: pd.DataFrame) -> dict[str, torch.Tensor]:
    levels = scorer.design.levels
    return {
        name: torch.tensor([levels[name].index(value) if value in levels[name] else -1 for value in data[name]])
        if name in levels
        else torch.tensor(data[name].to_numpy()).double()
        for name in scorer.columns
    }


@pytest.mark.parametrize("formula", RAW)
def test_raw_columns_give_the_prediction(formula: str) -> None:
    data = table()
    fit, want, options = fitted(formula, data)
    scorer = RawScores(fit)
    [found] = scorer(raw(scorer, data)).values()
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    strange = data.assign(a="never")
    [found] = scorer(raw(scorer, strange)).values()
    if options.get("unseen") == "reference":
        torch.testing.assert_close(found, fit.predict(strange), rtol=1e-12, atol=1e-12)
    else:
        assert bool(found.isnan().all())


@pytest.mark.slow
@pytest.mark.parametrize("formula", RAW)
def test_onnx_of_raw_columns_gives_the_prediction(formula: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    data = table()
    fit, want, _ = fitted(formula, data)
    export_result(fit, tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    given = {
        place.name: data[place.name].to_numpy().astype(object if "string" in place.type else float)
        for place in session.get_inputs()
    }
    torch.testing.assert_close(torch.from_numpy(session.run(None, given)[0]), want, rtol=1e-5, atol=1e-5)


def test_a_run_is_exported_by_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = table()
    fit = tg.fit("y ~ a + c + bs(age, df=4)", data, family="poisson")
    fit.save(tmp_path / "run")
    data.to_parquet(tmp_path / "rows.parquet")
    run, rows = str(tmp_path / "run"), str(tmp_path / "rows.parquet")
    assert main(["export", run, "--table", "--data", rows]) == 0
    read = pd.read_csv(tmp_path / "run" / "rating_table.csv")
    np.testing.assert_allclose(applied(read, data, "factor"), fit.predict(data), rtol=1e-12)
    assert main(["export", run]) == 2 and "say what to write" in capsys.readouterr().err
    assert main(["export", run, "--torch"]) == 2 and "is a spline or smooth" in capsys.readouterr().err
    other = tg.fit("y ~ a + c", data, family="poisson")
    other.save(tmp_path / "other")
    assert main(["export", str(tmp_path / "other"), "--torch", str(tmp_path / "model.pt2")]) == 0
    extra = {"levels.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert extra["levels.json"] == '{"a": ["x", "y", "z"]}'
    given = {"a": torch.tensor([0, 2, 1, 1]), "c": torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)}
    want = other.predict(pd.DataFrame({"a": ["x", "z", "y", "y"], "c": given["c"].numpy()}))
    torch.testing.assert_close(program.module()(given)["mean"], want, rtol=1e-12, atol=1e-12)
