"""`torchglm evaluate`: the scores of a run are those of its rows in memory, however they are cut."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

import torchglm
from torchglm import metrics
from torchglm.cli import main
from torchglm.cli.evaluate import evaluation
from torchglm.report.binned import Calibration
from torchglm.report.observations import chunks

N = 400
NAMES = ("years", "shift", "w", "repeats", "trials", "event")


def rows(n: int = N, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    x, years, region = draw.normal(size=n), draw.uniform(0.2, 2, n), draw.choice(["east", "north", "west"], n)
    eta = 0.3 + 0.4 * x - 0.5 * (region == "west")
    trials = draw.integers(1, 20, n)
    p = 1 / (1 + np.exp(-eta))
    times = draw.exponential(np.exp(eta))
    return pa.table(
        {
            "claims": draw.poisson(years * np.exp(eta)),
            "visits": draw.poisson(years * np.exp(eta) * draw.gamma(2, 0.5, n)),
            "x": x,
            "region": region,
            "years": years,
            "trials": trials,
            "hits": draw.binomial(trials, p),
            "yes": draw.random(n) < p,
            "cost": draw.gamma(2, np.exp(eta) / 2),
            "w": draw.uniform(0.5, 2, n),
            "times": np.minimum(times, 2),
            "event": (times < 2).astype(int),
            "level": eta + draw.normal(size=n),
            "repeats": draw.integers(0, 4, n),
            "shift": draw.normal(size=n) / 3,
        }
    )


FITS: dict[str, dict[str, Any]] = {
    "poisson": {"formula": "claims ~ x + region", "family": "poisson", "exposure": "years"},
    "poisson offset weights": {
        "formula": "claims ~ x",
        "family": "poisson",
        "exposure": "years",
        "offset": "shift",
        "weights": "w",
    },
    "poisson freq": {"formula": "claims ~ x + region", "family": "poisson", "freq": "repeats"},
    "quasi": {"formula": "claims ~ x", "family": "poisson", "dispersion": "pearson"},
    "binomial": {"formula": "hits ~ x", "family": "binomial", "trials": "trials"},
    "bernoulli": {"formula": "yes ~ x + region", "family": "bernoulli"},
    "bernoulli offset": {"formula": "yes ~ x", "family": "bernoulli", "offset": "shift"},
    "gamma": {"formula": "cost ~ x + region", "family": "gamma", "link": "log", "weights": "w"},
    "gaussian": {"formula": "level ~ x + region", "family": "gaussian", "dispersion": "ml"},
    "exponential": {"formula": "times ~ x", "family": "exponential", "event": "event"},
    "negative binomial": {"formula": "visits ~ x", "family": "negative_binomial", "exposure": "years"},
}


def fitted(name: str, table: pa.Table, folder: Path) -> torchglm.Result:
    options = dict(FITS[name])
    result = torchglm.fit(options.pop("formula"), table, **options)
    result.save(folder / "run")
    return result


def cut(table: pa.Table, folder: Path) -> list[str]:
    """The table in three files of small row groups."""
    edges = [0, 50, 260, len(table)]
    for i, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        parquet.write_table(table.slice(start, stop - start), folder / f"part{i}.parquet", row_group_size=37)
    return [str(folder / "*.parquet")]


@pytest.mark.parametrize("name", FITS)
def test_rows_of_the_fit_score_what_the_fit_says(name: str, tmp_path: Path) -> None:
    result = fitted(name, rows(), tmp_path)
    found = evaluation(tmp_path / "run", cut(rows(), tmp_path))
    scores = found.scores
    assert found.own
    assert scores["rows"] == float(result.nobs)
    assert scores["deviance"] == pytest.approx(float(result.deviance), rel=1e-10)
    explained = 1 - float(result.deviance) / float(result.null_deviance)
    assert scores["d_squared"] == pytest.approx(explained, rel=1e-8)
    if name != "exponential":  # censored rows have no Pearson residual
        chi2 = float(result.pearson_chi2) / float(result.df_resid)
        assert scores["pearson_dispersion"] == pytest.approx(chi2, rel=1e-8)
    if name == "quasi":
        assert math.isnan(scores["nll"])
    elif name not in ("gamma",):  # its likelihood is reported at another dispersion than its errors
        assert scores["nll"] == pytest.approx(-float(result.loglik) / float(result.nobs), rel=1e-10)


@pytest.mark.parametrize("name", FITS)
def test_the_page_the_command_and_the_metrics_say_the_same(name: str, tmp_path: Path) -> None:
    table = rows()
    result = fitted(name, table, tmp_path)
    found = evaluation(tmp_path / "run", cut(table, tmp_path))
    [shown] = chunks(result, None, None, None, None)
    page = Calibration.of(shown.response, shown.mu, shown.weight, shown.exposure, result.family, shown.dispersion)
    given = {
        role: torch.tensor(table[column].to_pylist(), dtype=torch.float64)
        for role, column in FITS[name].items()
        if column in NAMES
    }
    y = torch.tensor(table[FITS[name]["formula"].split()[0]].to_pylist(), dtype=torch.float64)
    mu = result.predict(table)

    lift = metrics.lift_table(mu, y, result.family, link=result.link, **given)
    observed, predicted, error = page.rates()
    for column, by_page in (("weight", page.weight), ("observed", observed), ("predicted", predicted)):
        by_command = torch.tensor([row[column] for row in found.deciles], dtype=torch.float64)
        torch.testing.assert_close(by_command, lift[column], rtol=1e-12, atol=0)
        torch.testing.assert_close(by_page, lift[column], rtol=1e-12, atol=0)
    gini = float(metrics.gini(mu, y, result.family, link=result.link, **given))
    assert page.gini() == pytest.approx(gini, abs=1e-12) and found.scores["gini"] == pytest.approx(gini, abs=1e-12)
    ratio = float(metrics.observed_expected(mu, y, result.family, link=result.link, **given))
    assert found.scores["observed_expected"] == pytest.approx(ratio, rel=1e-12)
    assert float(page.observed.sum() / page.predicted.sum()) == pytest.approx(ratio, rel=1e-12)
    whole = float(page.variance.sum().sqrt() / page.predicted.sum())
    assert found.scores["observed_expected_se"] == pytest.approx(whole, rel=1e-12) and (error > 0).all()


def test_new_rows_are_scored_as_by_hand(tmp_path: Path) -> None:
    result, new = fitted("poisson", rows(), tmp_path), rows(300, 1)
    found = evaluation(tmp_path / "run", cut(new, tmp_path), by="region", coverage=0.9)
    y, mu = torch.tensor(new["claims"].to_pylist()).double(), result.predict(new)
    deviance = 2 * (torch.xlogy(y, y / mu) - (y - mu))
    logs = torch.distributions.Poisson(mu).log_prob(y)
    assert not found.own and found.scores["rows"] == 300
    assert found.scores["mean_deviance"] == pytest.approx(float(deviance.mean()), rel=1e-10)
    assert found.scores["nll"] == pytest.approx(-float(logs.mean()), rel=1e-10)
    assert found.scores["pearson_dispersion"] == pytest.approx(float(((y - mu) ** 2 / mu).mean()), rel=1e-10)
    assert found.scores["observed_expected"] == pytest.approx(float(y.sum() / mu.sum()), rel=1e-10)
    assert found.scores["observed_expected_se"] == pytest.approx(float(mu.sum() ** -0.5), rel=1e-10)
    crps = torchglm.metrics.crps(mu, y, "poisson")
    assert found.scores["crps"] == pytest.approx(float(crps), rel=1e-10)
    ends = result.predict_interval(new, kind="response", level=0.9)
    inside = ((y >= ends[:, 0]) & (y <= ends[:, 1])).double().mean()
    assert found.coverage == {"level": 0.9, "share": float(inside)}
    assert found.by is not None
    for row in found.by["rows"]:
        mine = torch.tensor([value == row["value"] for value in new["region"].to_pylist()])
        assert row["rows"] == int(mine.sum())
        assert row["observed"] == float(y[mine].sum())
        assert row["expected"] == pytest.approx(float(mu[mine].sum()), rel=1e-10)
    assert [row["value"] for row in found.by["rows"]] == ["east", "north", "west"]


def test_crps_is_of_the_law_with_the_weights_and_trials_of_the_rows(tmp_path: Path) -> None:
    new = rows(200, 6)
    y, w, n = (torch.tensor(new[name].to_pylist(), dtype=torch.float64) for name in ("cost", "w", "trials"))
    result = fitted("gamma", rows(), tmp_path)
    found = evaluation(tmp_path / "run", cut(new, tmp_path))
    want = torchglm.metrics.crps(result.predict(new), y, "gamma", dispersion=result.dispersion / w)
    assert found.scores["crps"] == pytest.approx(float(want), rel=1e-9)
    result = fitted("binomial", rows(), tmp_path)
    want = torchglm.metrics.crps(
        result.predict(new), torch.tensor(new["hits"].to_pylist()).double(), "binomial", trials=n
    )
    assert evaluation(tmp_path / "run", cut(new, tmp_path)).scores["crps"] == pytest.approx(float(want), rel=1e-9)
    for name in ("quasi", "exponential"):
        fitted(name, rows(), tmp_path)
        assert math.isnan(evaluation(tmp_path / "run", cut(new, tmp_path)).scores["crps"])


def test_deciles_order_the_rates_and_add_up(tmp_path: Path) -> None:
    fitted("poisson", rows(), tmp_path)
    found = evaluation(tmp_path / "run", cut(rows(1000, 2), tmp_path))
    predicted = [row["predicted"] for row in found.deciles]
    assert len(predicted) == 10 and predicted == sorted(predicted)
    years = rows(1000, 2)["years"].to_numpy().sum()
    assert sum(row["weight"] for row in found.deciles) == pytest.approx(years, rel=1e-10)
    total = sum(row["weight"] * row["observed"] for row in found.deciles)
    assert total == pytest.approx(found.scores["observed"], rel=1e-10)
    assert 0 < found.scores["gini"] < 1


@pytest.mark.parametrize("name", ["poisson offset weights", "binomial", "exponential", "bernoulli offset"])
def test_how_rows_are_cut_changes_no_score(name: str, tmp_path: Path) -> None:
    fitted(name, rows(), tmp_path)
    new = rows(350, 3)
    parts = evaluation(tmp_path / "run", cut(new, tmp_path), by="region")
    csv.write_csv(new, tmp_path / "all.csv")
    whole = evaluation(tmp_path / "run", [str(tmp_path / "all.csv")], by="region")
    for key, value in whole.scores.items():
        assert parts.scores[key] == pytest.approx(value, rel=1e-9, nan_ok=True), key
    assert parts.by is not None and whole.by is not None
    for one, other in zip(parts.by["rows"], whole.by["rows"], strict=True):
        assert one.pop("value") == other.pop("value")
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("name", ["poisson", "binomial", "gaussian", "negative binomial", "bernoulli"])
def test_coverage_on_new_rows_of_a_right_model_is_about_the_level(name: str, tmp_path: Path) -> None:
    fitted(name, rows(), tmp_path)
    parquet.write_table(rows(2000, 5), tmp_path / "new.parquet")
    found = evaluation(tmp_path / "run", [str(tmp_path / "new.parquet")], coverage=0.9)
    assert found.coverage is not None
    assert found.coverage["share"] > (0.88 if name == "gaussian" else 0.89)  # counts cover at least the level


@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_groups_are_scored_each_by_its_model(family: str, tmp_path: Path) -> None:
    table = rows(900)
    result = torchglm.fit("visits ~ x", table, family=family, exposure="years", by="region")
    result.save(tmp_path / "run")
    found = evaluation(tmp_path / "run", cut(table, tmp_path))
    assert found.own and found.scores["rows"] == 900
    assert found.scores["deviance"] == pytest.approx(float(result.deviance.sum()), rel=1e-9)
    assert found.scores["nll"] == pytest.approx(-float(result.loglik.sum()) / 900, rel=1e-9)
    chi2 = float(result.pearson_chi2.sum() / result.df_resid.sum())
    assert found.scores["pearson_dispersion"] == pytest.approx(chi2, rel=1e-9)
    if family == "negative_binomial":  # whose null models with an exposure sums do not tell
        assert math.isnan(found.scores["d_squared"])
        return
    explained = 1 - float(result.deviance.sum() / result.null_deviance.sum())  # each group against its own null model
    assert found.scores["d_squared"] == pytest.approx(explained, rel=1e-9)
    assert any("null model of its own rows" in line for line in found.said)


@pytest.mark.parametrize("family", ["poisson", "negative_binomial", "gaussian"])
def test_groups_explain_what_their_summary_says(family: str, tmp_path: Path) -> None:
    table = rows(900)
    result = torchglm.fit("visits ~ x", table, family=family, by="region")
    result.save(tmp_path / "run")
    found = evaluation(tmp_path / "run", cut(table, tmp_path))
    said = next(line for line in str(result.summary()).splitlines() if "D² (all models)" in line)
    assert f"{found.scores['d_squared']:.4f}" in said


def test_the_command_prints_text_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fitted("poisson", rows(), tmp_path)
    new = rows(120, 1)
    ages = new["x"].to_pylist()
    ages[3] = None
    parquet.write_table(new.set_column(2, "x", pa.array(ages)), "new.parquet")
    arguments = ["evaluate", "run", "new.parquet", "--by", "region", "--coverage", "0.95", "--missing", "drop"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for said in (
        "New rows: new.parquet",
        "Mean deviance",
        "D² (explained)",
        "Observed / expected",
        "Gini",
        "By decile of prediction",
        "By region",
        "north",
        "Coverage of 95 %",
        "Left out: 1 row with missing values (x 1).",
    ):
        assert said in text
    assert main([*arguments, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 119 and found["rows_of_the_fit"] is False and len(found["deciles"]) == 10
    assert [row["value"] for row in found["by"]["rows"]] == ["east", "north", "west"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rows.parquet", "--by", "x"], "more than 1,000 different values"),
        (["rows.parquet", "--bins", "0"], "--bins"),
        (["rows.parquet", "--by", "regionn"], "did you mean 'region'"),
        (["rows.parquet", "--coverage", "2"], "--coverage"),
        (["bad.parquet"], "bad.parquet, row group 1: "),
        (["no.parquet"], "No column 'claims'"),
        (["zero.parquet"], "Every row has weight 0"),
    ],
)
def test_what_cannot_be_scored_is_said(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fitted("poisson offset weights", rows(), tmp_path)
    table = rows(1500)
    parquet.write_table(table, "rows.parquet")
    claims = table["claims"].to_pylist()
    claims[130] = -1
    parquet.write_table(table.set_column(0, "claims", pa.array(claims)), "bad.parquet", row_group_size=100)
    parquet.write_table(table.drop_columns("claims"), "no.parquet")
    place = table.column_names.index("w")
    parquet.write_table(table.set_column(place, "w", pa.array(np.zeros(1500))), "zero.parquet")
    assert main(["evaluate", "run", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_censored_and_quasi_fits_have_no_coverage(tmp_path: Path) -> None:
    data = cut(rows(), tmp_path)
    for name, said in (("exponential", "censored"), ("quasi", "quasi-likelihood")):
        fitted(name, rows(), tmp_path)
        with pytest.raises(ValueError, match=said):
            evaluation(tmp_path / "run", data, coverage=0.95)
