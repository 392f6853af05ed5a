"""Pages of every family of several predictors: never an error, all rows in sums that add, the panels of each kind."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pandas as pd
import pytest
import several_cases
import torch
from reported_cases import CASES, fitted, table

import torchglm as tg
from tests.thinned import thinned
from torchglm.families.several import VectorFamily
from torchglm.metrics import Concordance
from torchglm.metrics.class_scores import ClassSums
from torchglm.report import write_page
from torchglm.report.several_influence import SeveralInfluence
from torchglm.report.several_panels import check_panels, estimate_panels, prediction_panels, rootogram
from torchglm.report.several_rows import SeveralRows
from torchglm.report.survival import Survival

every = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return table()


def titles(page: Path) -> list[str]:
    return re.findall(r'alt="([^"]*)"', page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", thinned(CASES, 3))
def test_a_page_has_its_panels(case: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    result = fitted(case, frame)
    page = write_page(result, tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    shown = " ".join(titles(page))
    assert "300 rows" in text and ">nan" not in text
    wanted = {
        "ordinal": ["Slopes", "Thresholds of the classes", "Calibration of each class"],
        "multinomial": ["low, against mid", "high, against mid", "Calibration of each class"],
        "gamma": ["Mean", "Dispersion", "Calibration by decile", "Lorenz"],
        "zero_inflated": ["Count", "Probability of a structural zero", "Rootogram"],
        "hurdle": ["Rootogram"],
        "two_parts": ["Location of the log amount above 0", "Probability of a zero", "Calibration by decile"],
        "weibull": ["Location of the log time", "Scale", "Kaplan", "Survival by predicted time"],
    }
    assert ("Normal Q–Q" in shown) == (case != "multinomial")
    for title in wanted.get(case, []):
        assert title in shown, (title, shown)
    if case in ("ordinal", "multinomial", "free"):
        assert "log score" in text and "most probable" in text
        assert ("ranked probability score" in text) == (case != "multinomial")


@pytest.mark.parametrize("family", several_cases.families(), ids=several_cases.title)
def test_arrays_of_any_family_have_panels(family: VectorFamily) -> None:
    x, drawn = torch.randn(80, 2, dtype=torch.float64), several_cases.draws(family, (80,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = tg.fit(x, **drawn, family=family)
    assert len(str(result.summary())) > 200
    rows = SeveralRows.of(result)
    assert rows is not None
    shown, _ = prediction_panels(result, rows)
    check_panels(result, rows)
    assert estimate_panels(result, 0.95, rows) and shown


@pytest.mark.parametrize("case", ["ordinal", "gamma", "weibull"])
def test_batches_and_loaded_fits_have_a_page(case: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    batch = fitted(case, frame, by="kind")
    assert "2 models" in write_page(batch, tmp_path / "batch.html").read_text(encoding="utf-8")
    fitted(case, frame).save(tmp_path / "saved")
    text = write_page(tg.load(tmp_path / "saved"), tmp_path / "loaded.html").read_text(encoding="utf-8")
    assert "no rows at hand" in text


def test_given_columns_are_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="with_rows"):
        write_page(fitted("ordinal", frame), tmp_path / "page.html", y=torch.ones(3), mu=torch.ones(3))


@pytest.mark.parametrize("case", ["ordinal", "multinomial", "gamma", "beta_binomial", "hurdle", "weibull"])
def test_chunks_add_to_the_whole(case: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    result = fitted(case, frame)
    frame.to_parquet(tmp_path / "rows.parquet")
    chunks = [frame.iloc[start : start + 70] for start in range(0, len(frame), 70)]
    one, many = SeveralRows.of(result), SeveralRows.of(result.with_rows(chunks))
    assert one is not None and many is not None and one.count == many.count == len(frame)
    assert one.calibrations.keys() == many.calibrations.keys()
    for name, sums in one.calibrations.items():
        torch.testing.assert_close(many.calibrations[name].sums, sums.sums, equal_nan=True)
    if one.classes is not None and many.classes is not None:
        torch.testing.assert_close(many.classes.confusion, one.classes.confusion)
        assert many.classes.scores() == pytest.approx(one.classes.scores(), rel=1e-12)
        assert -one.classes.weight * one.classes.scores()["log_score"] == pytest.approx(float(result.loglik))
    torch.testing.assert_close(many.drawn().eta, one.drawn().eta)


def test_scores_of_classes_by_hand() -> None:
    p = torch.tensor([[0.5, 0.2], [0.3, 0.2], [0.2, 0.6]], dtype=torch.float64)
    y, w = torch.tensor([0, 1]), torch.tensor([1.0, 3.0], dtype=torch.float64)
    found = ClassSums.of(y, p.log(), w)
    brier = (0.25 + 0.09 + 0.04 + 3 * (0.04 + 0.64 + 0.36)) / 4
    ranked = (0.25 + 0.04 + 3 * (0.04 + 0.36)) / 4
    log = -(torch.tensor(0.5).log() + 3 * torch.tensor(0.2).log()) / 4
    want = {"log_score": float(log), "brier": brier, "ranked_probability": ranked, "accuracy": 0.25}
    assert found.scores() == pytest.approx(want)
    assert found.confusion.tolist() == [[1, 0, 0], [0, 0, 3], [0, 0, 0]]
    assert (found + found).scores() == pytest.approx(found.scores())
    unused = ClassSums.of(torch.tensor([0, 1, 2]), torch.cat([p, p[:, :1]], 1).log(), torch.cat([w, w[:1] * 0]))
    assert unused.scores() == found.scores()


def test_kaplan_and_meier_by_hand() -> None:
    family, eta = tg.Weibull(), torch.zeros(2, 5, dtype=torch.float64)
    y = torch.tensor([1.0, 2.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    event = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    found = Survival.of(family, family.encode(y, event=event)[0], eta, torch.ones(5, dtype=torch.float64))
    assert found.time.tolist() == [0, 1, 2, 3, 4]
    assert found.observed.tolist() == pytest.approx([1, 0.8, 0.6, 0.3, 0.3])
    assert bool((found.low <= found.observed).all()) and bool((found.observed <= found.high).all())
    torch.testing.assert_close(found.expected, torch.exp(-found.grid))
    twice = Survival.of(family, family.encode(y, event=event)[0], eta, torch.full((5,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(twice.low, found.low)  # prior weights of one size say nothing of the rows


def test_a_rootogram_expects_what_the_law_says(frame: pd.DataFrame) -> None:
    for case in ("zero_inflated", "hurdle", "negative_binomial", "zero_inflated_nb"):
        rows = SeveralRows.of(fitted(case, frame))
        assert rows is not None and isinstance(rows.family, VectorFamily)
        found = rootogram(rows.family, rows.drawn())
        assert float(found.observed.sum()) == 300
        torch.testing.assert_close(found.expected.sum(), found.observed.sum(), rtol=1e-10, atol=0)
        if case == "hurdle":  # the zeros of a hurdle are fitted exactly
            torch.testing.assert_close(found.expected[0], found.observed[0], rtol=1e-6, atol=0)


def test_the_rows_that_move_a_fit_most_are_those_of_its_distances(frame: pd.DataFrame) -> None:
    """However the rows come in chunks; shifts are DFBETAs; of classes the probability of the one that was observed."""
    for case in ("weibull", "zero_inflated", "ordinal"):
        r = fitted(case, frame)
        found = SeveralInfluence.made(r)
        assert found is not None
        cook = r.cooks_distance()
        top = cook.nan_to_num(-1.0).topk(10)
        assert found.largest.row.tolist() == top.indices.tolist()
        torch.testing.assert_close(found.largest.cook, top.values)
        torch.testing.assert_close(found.largest.shift, r.dfbetas()[top.indices])
        if case == "ordinal":
            codes = r.with_rows(frame).rows.y[0].long()  # type: ignore[union-attr]
            torch.testing.assert_close(found.largest.mu, r.fitted.gather(1, codes[:, None])[top.indices, 0])
        rows = r.rows
        assert rows is not None
        pieces = SeveralInfluence.made(r.on([rows.between(0, 100), rows.between(100, len(frame))]))
        assert pieces is not None and pieces.largest.row.tolist() == top.indices.tolist()


def test_a_page_checks_the_model_and_names_rows(frame: pd.DataFrame, tmp_path: Path) -> None:
    for case, words in (
        ("ordinal", "parallel slopes of"),
        ("multinomial", "Nothing found by 1 test (link)"),
        ("weibull", "predicted in that order"),
    ):
        r = fitted(case, frame)
        text = write_page(r, tmp_path / f"{case}.html").read_text(encoding="utf-8")
        assert words in text and "Rows that move the fit most" in text and "quantile residual" in text
        other = write_page(r, tmp_path / f"{case}_new.html", new_rows=True).read_text(encoding="utf-8")
        assert "Rows that move the fit most" not in other


def test_concordance_of_a_page_is_that_of_the_metric(frame: pd.DataFrame) -> None:
    r = fitted("weibull", frame)
    rows = SeveralRows.of(r)
    assert rows is not None
    kept, metric = r.rows, Concordance()
    assert kept is not None and kept.event is not None
    metric.update(r.fitted, kept.y[0], event=kept.event[0], weights=kept.weight[0])
    assert rows.concordance == pytest.approx(float(metric.compute()), rel=1e-12)
