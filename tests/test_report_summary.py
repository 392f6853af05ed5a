"""Summaries of real fits: every format says the same numbers, failures are said in words."""

from __future__ import annotations

import io
import json
import math
import warnings

import pandas as pd
import pytest
import torch
from torch import Tensor

import torchglm
from torchglm.report import Summary, words
from torchglm.report.document import Facts, Grid
from torchglm.writing import terminal


def draw(n: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two columns and a Poisson response, (n, 2) and (n,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, torch.poisson(torch.exp(0.5 + x @ x.new_tensor([0.3, -0.2])), generator=generator)


@pytest.fixture(scope="module")
def poisson() -> torchglm.Result:
    x, y = draw()
    return torchglm.fit(x, y, family="poisson", names=["age", "a|b<i>"])


@pytest.fixture(scope="module")
def aliased() -> torchglm.Result:
    x, y = draw()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice = torch.cat([x, x[:, :1]], -1)
        return torchglm.fit(twice, y, family="poisson", names=["age", "size", "age again"])


@pytest.fixture(scope="module")
def groups() -> torchglm.Result:
    x, y = draw(300)
    states = [f"S{i % 3}" for i in range(300)]
    frame = pd.DataFrame({"y": (y > 1).double().numpy(), "x": x[:, 0].numpy(), "state": states})
    apart = frame["state"] == "S2"
    frame.loc[apart, "y"] = (frame.loc[apart, "x"] > 0).astype(float)  # separated: the estimate is infinite
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torchglm.fit("y ~ x", frame, family="bernoulli", by=["state"])


def test_every_format_says_the_same(poisson: torchglm.Result) -> None:
    summary = Summary(poisson)
    estimate, aic = f"{float(poisson.coef[1]):.4f}", f"{float(poisson.aic):.2f}"
    for text in (str(summary), summary.to_markdown(), summary.to_html(), rich_text(summary)):
        assert estimate in text and aic in text
        assert "rate ratio" in text and "Poisson regression, log link" in text
        assert "0.000 " not in text
    assert str(poisson.summary()) == str(summary) == repr(summary)


def rich_text(summary: Summary, width: int = 120) -> str:
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as capture:
        console.print(summary)
    return capture.get()


def test_text_fits_its_width(poisson: torchglm.Result) -> None:
    assert max(map(len, Summary(poisson).to_text(80).splitlines())) <= 80
    assert max(map(len, rich_text(Summary(poisson), 80).splitlines())) <= 80
    wide = Summary(poisson).to_text(140)
    assert any("p-value" in line and "rate ratio" in line for line in wide.splitlines())


def test_html_and_markdown_escape_names(poisson: torchglm.Result) -> None:
    assert "a|b&lt;i&gt;" in Summary(poisson).to_html() and "<i>" not in Summary(poisson).to_html()
    assert r"a\|b\<i>" in Summary(poisson).to_markdown()


def test_dict_is_json_and_holds_the_table(poisson: torchglm.Result) -> None:
    content = json.loads(json.dumps(Summary(poisson, level=0.9).to_dict(), allow_nan=False))
    assert content["level"] == 0.9 and content["status"] == "converged"
    assert content["ratio_name"] == "rate ratio"
    age = content["coefficients"][1]
    assert age["name"] == "age" and math.isclose(age["ratio"], math.exp(age["estimate"]))
    low, high = poisson.conf_int(0.9)[1].tolist()
    assert math.isclose(age["low"], low) and math.isclose(age["high"], high)


def test_frame_is_indexed_by_name(poisson: torchglm.Result) -> None:
    frame = Summary(poisson).to_frame()
    assert list(frame.index) == poisson.names
    assert frame.loc["age", "std_err"] == pytest.approx(float(poisson.std_err[1]))
    assert list(frame.columns) == [
        "estimate",
        "std_err",
        "statistic",
        "p_value",
        "low",
        "high",
        "ratio",
        "ratio_low",
        "ratio_high",
    ]


def test_an_aliased_column_is_na_and_named(aliased: torchglm.Result) -> None:
    summary = Summary(aliased)
    assert "3 of 4 columns" in str(summary)
    assert any("is aliased" in line for line in summary.warnings())
    rows = {row["name"]: row for row in summary.to_dict()["coefficients"]}
    assert sum(row["estimate"] is None for row in rows.values()) == 1
    json.dumps(summary.to_dict(), allow_nan=False)


def test_a_separated_fit_says_so() -> None:
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = torchglm.fit(x[:, None], (x > 0).double(), family="bernoulli")
    summary = Summary(result)
    assert summary.warnings()[0].startswith("Not converged")
    assert result.status.explanation in " ".join(str(summary).split())
    json.dumps(summary.to_dict(), allow_nan=False)


def test_overdispersion_is_said() -> None:
    x, y = draw()
    result = torchglm.fit(x, 5 * y, family="poisson")
    assert any("Pearson χ²/df" in line for line in Summary(result).warnings())
    quasi = torchglm.fit(x, 5 * y, family="poisson", dispersion="pearson")
    assert not Summary(quasi).warnings() and "Pearson χ²/df)" in str(Summary(quasi))


@pytest.mark.parametrize(
    ("dispersion", "words"),
    [(None, "(Pearson χ²/df)"), ("deviance", "(deviance/df)"), ("ml", "(maximum likelihood)"), (2.0, "(given)")],
)
def test_how_the_dispersion_was_found(dispersion: str | float | None, words: str) -> None:
    x, y = draw()
    result = torchglm.fit(x, y + 1, family="gamma", link="log", dispersion=dispersion)
    assert words in str(Summary(result)) and "ratio of means" in str(Summary(result))


def test_t_for_an_estimated_dispersion() -> None:
    x, y = draw()
    text = str(Summary(torchglm.fit(x, y, family="gaussian")))
    assert "t value" in text and "Student t with 397 df" in text and "ratio of" not in text


def test_a_level_outside_0_1_is_refused(poisson: torchglm.Result) -> None:
    with pytest.raises(ValueError, match="0.95 for 95 %"):
        Summary(poisson, level=95)


def test_batch_overview(groups: torchglm.Result) -> None:
    summary = Summary(groups)
    content = summary.to_dict()
    json.dumps(content, allow_nan=False)
    assert content["models"] == 3 and content["converged"] == 2
    assert content["worst"][0]["model"] == "state = S2" and content["worst"][0]["index"] == 2
    x = next(row for row in content["coefficients"] if row["name"] == "x")
    kept = groups.coef[:2, 1].tolist()
    assert x["models"] == 2 and x["min"] == pytest.approx(min(kept)) and x["max"] == pytest.approx(max(kept))
    assert x["median"] == pytest.approx(sum(kept) / 2)
    for text in (str(summary), summary.to_markdown(), summary.to_html(), rich_text(summary)):
        assert "state = S2" in text and "Models to look at first" in text and "2 (66.7 %)" in text


def test_batch_frame_has_a_row_per_model_and_coefficient(groups: torchglm.Result) -> None:
    frame = Summary(groups).to_frame()
    assert frame.shape[0] == 3 * len(groups.names) and frame.index.names == ["model", "name"]
    assert frame.loc[("state = S0", "x"), "estimate"] == pytest.approx(float(groups.coef[0, 1]))


def test_a_member_of_a_batch_has_its_own_summary(groups: torchglm.Result) -> None:
    member = Summary(groups)[0]
    assert "odds ratio" in str(member) and f"{float(groups.coef[0, 1]):.3f}"[:5] in str(member)


def test_a_grid_of_models_is_labelled_by_its_indices() -> None:
    x, y = draw()
    result = torchglm.fit(x, torch.stack([y, y + 1, y, y + 2]).reshape(2, 2, -1), family="poisson")
    content = Summary(result).to_dict()
    assert content["models"] == 4
    assert {row["model"] for row in content["worst"]} == {"0, 0", "0, 1", "1, 0", "1, 1"}


def test_a_formula_is_read_in_words() -> None:
    x, y = draw()
    frame = pd.DataFrame(
        {
            "won": ["yes" if v else "no" for v in y > 1],
            "age": x[:, 0].numpy(),
            "team": ["red" if v > 0 else "blue" for v in x[:, 1]],
        }
    )
    result = torchglm.fit("won ~ age + C(team)", frame, family="bernoulli")
    text = str(Summary(result))
    assert "Formula: won ~ age + C(team)" in text and "won = yes (1), no (0)" in text
    sentences = Summary(result).sentences()
    assert sentences[2].startswith("team = red, against blue, multiplies the odds by")


@pytest.mark.parametrize("width", [40, 47, 60, 72, 80, 100, 140])
@pytest.mark.parametrize("batch", [False, True])
def test_no_terminal_is_so_narrow_that_a_number_is_cut(width: int, batch: bool) -> None:
    from rich.console import Console

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 2, dtype=torch.float64, generator=generator)
    y = torch.poisson((1e-3 * x[:, 0] + 0.4 * x[:, 1]).exp().expand(3 if batch else 1, -1), generator=generator)
    summary = torchglm.fit(x, y if batch else y[0], family="poisson").summary()
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(summary)
    drawn = console.file.getvalue()
    plain = summary.to_text(width)
    assert max(map(len, drawn.splitlines())) <= width
    for block in summary.document(width).blocks:
        if isinstance(block, Grid):
            for row in block.rows:
                for cell in row[block.left :]:
                    assert f" {cell}" in drawn and f" {cell}" in plain
                assert row[0][:5] in drawn and row[0][:5] in plain
        if isinstance(block, Facts):
            assert all(value in drawn.replace("\n", " ") and value in plain for _, value in block.pairs)
    assert all(len(line) <= max(width, 60) for line in plain.splitlines() if line.startswith("---"))


def test_wide_characters_take_two_columns() -> None:
    grid = Grid("", ("", "n"), [("年龄", "1"), ("age", "22")])
    lines = grid.text(80).splitlines()
    assert lines[3:5] == ["年龄   1", "age   22"]
    assert all(terminal.width(words.cut("地区A地区B地区", most)) <= most for most in range(3, 14))
