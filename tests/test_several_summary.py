"""Summaries of every family of several predictors: a section for each predictor, and nothing that means nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from reported_cases import CASES, fitted, missing, table
from rich.console import Console

import torchglm as tg
from torchglm.families.several import Classes

every = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def fits(frame: pd.DataFrame) -> dict[str, tg.Result]:
    return {case: fitted(case, frame) for case in CASES}


def test_every_family_is_here(fits: dict[str, tg.Result]) -> None:
    assert not missing(fits)


@every
def test_every_format_says_the_same(case: str, fits: dict[str, tg.Result]) -> None:
    result = fits[case]
    summary = result.summary()
    console = Console(width=140)
    with console.capture() as capture:
        console.print(summary)
    texts = [str(summary), summary.to_markdown(), summary.to_html(), capture.get()]
    for text in (" ".join(text.split()) for text in texts):
        assert "observed information" in text and f"{float(result.aic):.6g}" in text
        for nothing in ("Pearson", "Dispersion 1", "D²", "ispersed", "ompound", "plain"):
            assert nothing not in text, nothing


@every
def test_every_coefficient_stands_in_one_section(case: str, fits: dict[str, tg.Result]) -> None:
    result = fits[case]
    names = [*result.names, *result.cuts]
    frame, held = result.summary().to_frame(), result.summary().to_dict()
    assert list(frame.index) == names == [row["name"] for row in held["coefficients"]]
    estimates = torch.tensor(frame["estimate"].to_numpy())
    torch.testing.assert_close(estimates, result.flat.coef[0], rtol=0, atol=0)
    assert bool((frame["std_err"] > 0).all())
    json.dumps(held, allow_nan=False)
    ratios = frame.dropna(subset="ratio")
    assert [math.exp(value) for value in ratios["estimate"]] == list(ratios["ratio"])
    # the tables hold a line for each coefficient, and each predictor has a table
    html = result.summary().to_html()
    assert html.count("<caption>") == frame["predictor"].nunique()
    assert html.count('<th scope="row"') == len(names)


def test_ratios_have_the_words_of_their_predictor(fits: dict[str, tg.Result]) -> None:
    said = {
        "ordinal": {"slopes": "odds ratio", "thresholds": None},
        "continuation": {"slopes": None, "thresholds": None},
        "multinomial": {"low": "relative risk ratio", "high": "relative risk ratio"},
        "zero_inflated": {"mean": "rate ratio", "zero": "odds ratio"},
        "two_parts": {"location": "ratio of amounts", "zero": "odds ratio", "scale": "scale ratio"},
        "weibull": {"location": "time ratio", "scale": "scale ratio"},
        "tweedie": {"mean": "ratio of means", "dispersion": "dispersion ratio", "power": None},
        "gaussian": {"mean": None, "dispersion": "dispersion ratio"},
    }
    for case, wanted in said.items():
        rows = fits[case].summary().to_dict()["coefficients"]
        assert {row["predictor"]: row["ratio_name"] for row in rows} == wanted, case


@every
def test_sentences_name_what_moves(case: str, fits: dict[str, tg.Result]) -> None:
    result = fits[case]
    sentences = result.summary().sentences()
    assert len(sentences) == len(result.names)
    assert not any("nan" in line for line in sentences)
    if isinstance(result.family, Classes) and case != "continuation":
        assert all("higher class" in line or "relative to" in line or "class" in line for line in sentences)


def test_classes_are_counted(frame: pd.DataFrame, fits: dict[str, tg.Result], tmp_path: Path) -> None:
    counts = frame["level"].value_counts()
    want = {name: float(counts[name]) for name in ("low", "mid", "high")}
    for case in ("ordinal", "multinomial"):
        assert fits[case].summary().to_dict()["classes"] == want
        fits[case].save(tmp_path / case)
        assert tg.load(tmp_path / case).summary().to_dict()["classes"] == want  # without rows
    freq = frame.assign(freq=2)
    twice = fitted("ordinal", freq, freq="freq")
    assert twice.class_counts.tolist() == [2 * value for value in want.values()]
    with pytest.raises(ValueError, match="this fit is beta"):
        _ = fits["beta"].class_counts


@every
def test_a_loaded_fit_says_the_same(case: str, fits: dict[str, tg.Result], tmp_path: Path) -> None:
    fits[case].save(tmp_path)
    assert str(tg.load(tmp_path).summary()) == str(fits[case].summary())


@pytest.mark.parametrize("case", ["ordinal", "multinomial", "gamma", "zero_inflated", "weibull"])
def test_batches_have_an_overview(case: str, frame: pd.DataFrame) -> None:
    batch = fitted(case, frame, by="kind")
    text = str(batch.summary())
    assert "2 models" in text and "kind" in text and "eviance" not in text
    names = [*batch.names, *batch.cuts]
    assert [row["name"] for row in batch.summary().to_dict()["coefficients"]] == names
    assert len(batch.summary().to_frame()) == 2 * len(names)
    for model, alone in enumerate(batch):
        assert str(batch.summary()[model]) == str(alone.summary())


def test_arrays_have_a_summary(frame: pd.DataFrame) -> None:
    x = torch.tensor(frame[["age"]].to_numpy())
    result = tg.fit(x, torch.tensor(frame["cost"].to_numpy()), family="gamma", link="log", predictors={"dispersion": x})
    assert "Dispersion (log link)" in str(result.summary())


def test_two_classes_have_slopes(frame: pd.DataFrame) -> None:
    two = frame.assign(level=frame["level"].astype(str).replace("mid", "low"))
    result = tg.fit("level ~ age", two, family=tg.Ordinal(classes=["low", "high"]))
    assert [row["predictor"] for row in result.summary().to_dict()["coefficients"]] == ["slopes", "thresholds"]
