"""Families of several predictors from YAML through every command: fit, predict, evaluate, report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from reported_cases import ORDER, table

import torchglm as tg
from tests.thinned import thinned
from torchglm.cli import main

JOBS: dict[str, dict[str, Any]] = {
    "ordinal": {"data": {"formula": "level ~ age + region"}, "family": {"name": "ordinal", "link": "probit"}},
    "multinomial": {"data": {"formula": "level ~ age + C(region)"}, "family": "multinomial"},
    "gamma": {
        "data": {"formula": "cost ~ age", "predictors": {"dispersion": "~ region"}, "weights": "w"},
        "family": "gamma",
        "link": "log",
    },
    "zero_inflated": {
        "data": {"formula": "many ~ age", "predictors": {"zero": "~ age"}},
        "family": {"name": "zero_inflated", "family": "poisson"},
    },
    "two_parts": {
        "data": {"formula": "two ~ age", "predictors": {"zero": "~ age"}},
        "family": {"name": "hurdle", "family": "lognormal"},
    },
    "weibull": {"data": {"formula": "time ~ age", "event": "seen"}, "family": "weibull"},
    "visits": {"data": {"formula": "time ~ age", "until": "later"}, "family": "weibull"},
    "beta_binomial": {"data": {"formula": "hits ~ age", "trials": "trials"}, "family": "beta_binomial"},
    "groups": {"data": {"formula": "level ~ age", "by": "kind"}, "family": "ordinal"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    rows = table()
    rows.assign(later=np.where(rows.seen == 1, 1.5 * rows.time, np.inf)).to_parquet(folder / "rows.parquet")
    for name, job in JOBS.items():
        given = job | {"data": job["data"] | {"path": "rows.parquet"}, "output_dir": str(folder / name)}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(given))
        assert main(["fit", str(folder / f"{name}.yaml")]) == 0
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def scores(place: Path, name: str, capsys: pytest.CaptureFixture[str], rows: str = "rows.parquet") -> dict[str, Any]:
    found = printed(capsys, "evaluate", str(place / name), str(place / rows), "--format", "json")
    return dict(json.loads(found))


@pytest.mark.parametrize("name", JOBS)
def test_a_run_loads_again_and_reports(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tg.load(place / name)
    assert bool(result.converged.all())
    assert "tandard errors from the observed" in " ".join(printed(capsys, "summary", str(place / name)).split()) or (
        name == "groups"
    )
    printed(capsys, "report", str(place / name))
    assert "these are other rows" not in (place / name / "report.html").read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("name", ["ordinal", "zero_inflated"])
def test_new_rows_have_a_page_of_their_own(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table().iloc[:150].to_parquet(place / "half.parquet")
    said = printed(capsys, "report", str(place / name), "--data", str(place / "half.parquet"))
    assert "on new rows" in said and not scores(place, name, capsys, "half.parquet")["rows_of_the_fit"]
    text = (place / name / "report_half.html").read_text(encoding="utf-8")
    assert "These are other rows" in text and "150 rows" in text


@pytest.mark.parametrize("name", JOBS)
def test_predictions_are_those_of_python(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(
        capsys, "predict", str(place / name), str(place / "rows.parquet"), "--out", str(place / "out.parquet"), "--se"
    )
    found, result, frame = pd.read_parquet(place / "out.parquet"), tg.load(place / name), table()
    if name == "groups":
        assert list(found.columns[:3]) == ["kind", "probability_low", "probability_low_se"]
        for k, (label,) in enumerate(result.groups or []):
            own = (frame["kind"] == label).to_numpy()
            want = result[k].predict(frame[own])
            np.testing.assert_allclose(found.loc[own, [f"probability_{c}" for c in ORDER]], want, rtol=1e-12)
        return
    value, error = result.predict(frame, se=True)
    columns = [f"probability_{c}" for c in ORDER] if value.dim() == 2 else ["mean"]
    assert list(found.columns) == [name for one in columns for name in (one, f"{one}_se")]
    np.testing.assert_allclose(found[columns].to_numpy().squeeze(), value, rtol=1e-12)
    np.testing.assert_allclose(found[[f"{one}_se" for one in columns]].to_numpy().squeeze(), error, rtol=1e-10)


def test_parameters_by_their_names(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, out = str(place / "rows.parquet"), str(place / "kinds.parquet")
    printed(
        capsys, "predict", str(place / "two_parts"), rows, "--kind", "zero", "--kind", "scale", "--link", "--out", out
    )
    found, result = pd.read_parquet(out), tg.load(place / "two_parts")
    assert list(found.columns) == ["zero", "scale", "link"]
    for kind in found.columns:
        np.testing.assert_allclose(found[kind], result.predict(table(), kind=kind), rtol=1e-12)
    printed(capsys, "predict", str(place / "ordinal"), rows, "--kind", "link", "--out", out)
    assert list(pd.read_parquet(out).columns) == ["link_low|mid", "link_mid|high"]


@pytest.mark.parametrize("name", JOBS)
def test_scores_are_those_of_the_likelihood(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, result = scores(place, name, capsys), tg.load(place / name)
    assert found["rows_of_the_fit"] and found["rows"] == 300
    nll = found["log_score"] if "log_score" in found else found["nll"]
    assert 300 * nll == pytest.approx(-float(result.loglik.sum()), rel=1e-9)
    assert len(printed(capsys, "evaluate", str(place / name), str(place / "rows.parquet"))) > 200


def test_scores_of_classes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p = tg.load(place / "ordinal").predict(table())
    code = torch.tensor([ORDER.index(value) for value in table()["level"]])
    seen = torch.nn.functional.one_hot(code, 3).double()
    found = scores(place, "ordinal", capsys)
    assert found["brier"] == pytest.approx(float((p - seen).square().sum(-1).mean()))
    assert found["accuracy"] == pytest.approx(float((p.argmax(-1) == code).double().mean()))
    ahead = (p - seen).cumsum(-1)[:, :2].square().sum(-1)
    assert found["ranked_probability"] == pytest.approx(float(ahead.mean()))
    assert "ranked_probability" not in scores(place, "multinomial", capsys)
    assert [line["class"] for line in found["classes"]] == ORDER and sum(map(sum, found["confusion"])) == 300


def test_what_is_not_built_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, run = str(place / "rows.parquet"), str(place / "zero_inflated")
    assert "Known: mean, link, zero" in refused(capsys, "predict", run, rows, "--kind", "alpha")
    asked = ("evaluate", str(place / "ordinal"), rows, "--coverage", "0.9")
    assert "--by COLUMN compares the rows of each" in refused(capsys, *asked)
    for name in ("weibull", "visits"):
        assert "censored times" in refused(capsys, "evaluate", str(place / name), rows, "--coverage", "0.9")
    assert "times in intervals" in refused(capsys, "evaluate", str(place / "visits"), rows, "--by", "region")
    assert "nowhere" in refused(capsys, "evaluate", run, rows, "--by", "nowhere")


@pytest.mark.parametrize("name", [name for name in JOBS if name != "visits"])
def test_observed_and_expected_by_a_column(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, frame, result = str(place / "rows.parquet"), table(), tg.load(place / name)
    found = json.loads(printed(capsys, "evaluate", str(place / name), rows, "--by", "region", "--format", "json"))["by"]
    assert found["column"] == "region" and sum(line["rows"] for line in found["rows"]) == 300 * (
        len(ORDER) if "class" in found["rows"][0] else 1
    )
    if name in ("ordinal", "multinomial"):
        p = result.predict(frame)
        for line in found["rows"]:
            here = (frame["region"] == line["value"]).to_numpy()
            assert line["observed"] == int((frame["level"][here] == line["class"]).sum())
            assert line["expected"] == pytest.approx(float(p[here, ORDER.index(line["class"])].sum()))
        return
    column = {"gamma": "cost", "zero_inflated": "many", "two_parts": "two", "beta_binomial": "hits", "weibull": "seen"}
    if name in column:
        each = frame.groupby("region")[column[name]].sum()
        assert [line["observed"] for line in found["rows"]] == pytest.approx(each.tolist())
        total = sum(line["expected"] for line in found["rows"])
        assert sum(line["observed"] for line in found["rows"]) == pytest.approx(total, rel=0.05)
    assert "By region" in printed(capsys, "evaluate", str(place / name), rows, "--by", "region")


def test_coverage_is_that_of_the_limits_of_a_response(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, frame = str(place / "rows.parquet"), table()
    for name, y, roles in (("gamma", "cost", {"weights": "w"}), ("beta_binomial", "hits", {"trials": "trials"})):
        said = printed(capsys, "evaluate", str(place / name), rows, "--coverage", "0.8", "--format", "json")
        limits = tg.load(place / name).predict_interval(frame, kind="response", level=0.8, **roles)
        seen = torch.tensor(frame[y].to_numpy(dtype=float))
        inside = (seen >= limits[:, 0]) & (seen <= limits[:, 1])
        assert json.loads(said)["coverage"] == {"level": 0.8, "share": pytest.approx(float(inside.double().mean()))}


@pytest.mark.parametrize("name", JOBS)
def test_a_run_is_checked_and_compared(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(place / name)
    assert "Check of a fit of" in printed(capsys, "check", run)
    found = json.loads(printed(capsys, "compare", run, run, "--format", "json"))["table"]
    assert found["aic"][0] == found["aic"][1] == pytest.approx(float(tg.load(run).aic.sum()))
    explained = found.get("D2", [None])[0]
    assert (explained is None) == (name in ("gamma", "two_parts", "weibull", "visits", "groups"))
    table().iloc[::-1].assign(age=0.0, later=np.inf).to_parquet(place / "other.parquet")
    assert "not the rows of the fit" in refused(capsys, "check", run, "--data", str(place / "other.parquet"))


def test_advice_speaks_yaml(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, "check", str(place / "zero_inflated"), "--level", "0.5")
    assert "`family: {name: zero_inflated, family: negative_binomial}`" in said, said


@pytest.mark.parametrize(("name", "penalty"), thinned([("multinomial", None), ("gamma", None), ("ordinal", 0.5)], 3, 2))
def test_training_by_minibatches_comes_near_the_fit_and_polished_to_it(
    name: str, penalty: float | None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = JOBS[name]["data"] | {"path": "rows.parquet"}
    given = JOBS[name] | {"data": data, "solver": {"name": "sgd", "batch_size": 64, "trainer": {"max_epochs": 30}}}
    if penalty is not None:
        given |= {"penalty": {"name": "ridge", "l2": penalty}}
        plain = given | {"solver": "irls", "output_dir": str(place / "penalised")}
        (place / "penalised.yaml").write_text(yaml.safe_dump(plain))
        printed(capsys, "fit", str(place / "penalised.yaml"))
    right = tg.load(place / (name if penalty is None else "penalised"))
    for polish, near in ((0, 0.3), ("irls", 1e-4)):
        out = place / f"sgd_{name}_{polish}"
        job = given | {"output_dir": str(out), "solver": given["solver"] | {"polish": polish}}
        (place / "sgd.yaml").write_text(yaml.safe_dump(job))
        printed(capsys, "fit", str(place / "sgd.yaml"))
        found = tg.load(out)
        assert found.all_names == right.all_names and found.predictors == right.predictors
        far = (found.flat.coef - right.flat.coef).abs() / right.flat_covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        assert float(far.max()) < near
        torch.testing.assert_close(found.std_err, right.std_err, rtol=near / 10, atol=0)


@pytest.mark.parametrize("name", thinned([name for name in JOBS if name != "groups"] + ["classes turned round"], 4))
def test_streams_are_trained_on_as_rows_in_memory(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchglm.inputs.files.HOLD", 0)
    monkeypatch.setattr("torchglm.report.page.write_page", lambda result, path, **_: path.write_text("no page"))
    stream, job = place / "stream.parquet", JOBS.get(name, JOBS["ordinal"])
    if name == "classes turned round":
        job = job | {"family": {"name": "ordinal", "classes": ORDER[::-1]}}
    pd.read_parquet(place / "rows.parquet").to_parquet(stream, row_group_size=70)
    found = []
    solver = {"name": "sgd", "batch_size": 64, "trainer": {"max_epochs": 1}, "polish": "irls"}
    for number, own in enumerate((solver, {"name": "irls"})):
        given = job | {
            "data": job["data"] | {"path": str(stream)},
            "solver": own,
            "output_dir": str(place / f"s{number}"),
        }
        (place / "stream.yaml").write_text(yaml.safe_dump(given))
        assert main(["fit", str(place / "stream.yaml")]) == 0
        found.append(tg.load(place / f"s{number}"))
    trained, right = found
    assert bool(trained.converged) and trained.all_names == right.all_names
    far = (trained.flat.coef - right.flat.coef).abs() / right.flat_covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert float(far.max()) < 1e-4
    torch.testing.assert_close(trained.loglik, right.loglik, rtol=1e-9, atol=0)


def test_evaluate_says_how_times_are_ordered(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, "evaluate", str(place / "weibull"), str(place / "rows.parquet"))
    assert re.search(r"Concordance \(Harrell\)\s+0\.[5-9]", said), said
    assert "Concordance" not in printed(capsys, "evaluate", str(place / "visits"), str(place / "rows.parquet"))


def test_limits_are_those_of_python(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, out, frame = str(place / "rows.parquet"), str(place / "limits.parquet"), table()
    for name, roles in (
        ("gamma", {"weights": "w"}),
        ("zero_inflated", {}),
        ("weibull", {}),
        ("beta_binomial", {"trials": "trials"}),
    ):
        printed(capsys, "predict", str(place / name), rows, "--interval", "0.9", "--response", "0.8", "--out", out)
        found, result = pd.read_parquet(out), tg.load(place / name)
        assert list(found.columns[1:]) == ["mean_low", "mean_high", "response_low", "response_high"]
        np.testing.assert_allclose(found.iloc[:, 1:3], result.predict_interval(frame, level=0.9), rtol=1e-10)
        want = result.predict_interval(frame, kind="response", level=0.8, **roles)
        np.testing.assert_allclose(found.iloc[:, 3:], want, rtol=1e-6)
    printed(capsys, "predict", str(place / "ordinal"), rows, "--interval", "0.9", "--out", out)
    limits = tg.load(place / "ordinal").predict_interval(frame, level=0.9)
    found = pd.read_parquet(out)
    names = [f"probability_{c}_{end}" for c in ORDER for end in ("low", "high")]
    assert list(found.columns[len(ORDER) :]) == names
    np.testing.assert_allclose(found[names].to_numpy().reshape(limits.shape), limits, rtol=1e-10)
    assert "--response is for amounts and counts" in refused(
        capsys, "predict", str(place / "ordinal"), rows, "--response", "0.9"
    )
