"""Fits side by side: the numbers of each fit in its column, in every format."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import torchglm as tg

G = np.random.default_rng(2)
X = G.normal(size=(200, 2))
Y = G.poisson(np.exp(0.2 + X @ [0.4, -0.1])) * (G.random(200) > 0.2)
ONE = tg.fit(X[:, :1], Y, family="poisson", names=["dose_mg"])
TWO = tg.fit(X[:, ::-1], Y, family="poisson", names=["age & more", "dose_mg"])
ZEROS = tg.fit(X[:, :1], Y, family=tg.ZeroInflated("poisson"), names=["dose_mg"])


def approx(*values: torch.Tensor) -> Any:
    return pytest.approx([float(value) for value in values], rel=1e-5)


def test_each_cell_is_the_number_of_its_fit() -> None:
    robust = TWO.robust("HC1")
    table = tg.side_by_side(ONE, robust, ZEROS, names=["one", "two", "zeros"], digits=6)
    frame = table.to_frame()
    assert list(frame.columns) == ["one", "two", "zeros"]
    place = list(frame.index).index("dose_mg")
    assert frame.iloc[place].map(float).tolist() == approx(ONE.coef[1], TWO.coef[2], ZEROS.coef[1])
    errors = frame.iloc[place + 1].str.strip("()").map(float).tolist()
    assert errors == approx(ONE.std_err[1], robust.std_err[2], ZEROS.std_err[1])
    assert frame["one"]["age & more"] == "" and [float(frame["two"]["age & more"])] == approx(TWO.coef[1])
    assert [float(frame["zeros"]["zero:(Intercept)"])] == approx(ZEROS.coef[2])
    assert list(frame.loc["Errors"]) == ["model", "HC1", "observed"] and list(frame.loc["Link"]) == ["log", "log", ""]
    assert [float(frame["one"]["AIC"])] == approx(ONE.aic) and "Penalty" not in frame.index


def test_ratios_have_errors_by_the_delta_method_and_limits() -> None:
    frame = tg.side_by_side(ONE, ratios=True, digits=6).to_frame()["(1)"]
    place = list(frame.index).index("dose_mg")
    assert float(frame.iloc[place]) == pytest.approx(float(ONE.coef[1].exp()), rel=1e-5)
    assert [float(frame.iloc[place + 1].strip("()"))] == approx(ONE.coef[1].exp() * ONE.std_err[1])
    table = tg.side_by_side(ONE, ratios=True, below="interval", level=0.9, digits=6)
    ends = [float(end) for end in re.findall(r"[\d.]+", table.to_frame()["(1)"].iloc[place + 1])]
    assert ends == pytest.approx(ONE.conf_int(0.9)[1].exp().tolist(), rel=1e-5)
    assert "90 % limits in brackets" in str(table)


def test_formats_escape_what_they_must() -> None:
    table = tg.side_by_side(ONE, TWO, names=["a_1", "b<2>"])
    latex = table.to_latex()
    assert r"age \& more" in latex and r"a\_1" in latex and "D$^2$" in latex
    assert latex.count(r"\\") == len(table.rows) + 1 and latex.count(r"\midrule") == 2
    assert "b&lt;2&gt;" in table.to_html() in table._repr_html_() and "dose" in table.to_markdown()
    assert all(len(line) <= 60 for line in table.to_text(60).splitlines())


def test_what_cannot_stand_in_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a fit"):
        tg.side_by_side()
    with pytest.raises(ValueError, match="names has 1 entries for 2 fits"):
        tg.side_by_side(ONE, TWO, names=["one"])
    with pytest.raises(ValueError, match="unknown below 'se'. Known: std_err"):
        tg.side_by_side(ONE, below="se")
    with pytest.raises(ValueError, match="single models"):
        tg.side_by_side(tg.fit(X, np.stack([Y, Y]), family="poisson"))


def test_thresholds_stand_below_the_slopes_with_their_errors() -> None:
    ordinal = tg.fit(X, np.minimum(Y, 2).astype(int), family="ordinal", names=["a", "b"])
    frame = tg.side_by_side(ordinal, digits=6).to_frame()["(1)"]
    names = ["a", "b", "0|1", "1|2"]
    places = [list(frame.index).index(name) for name in names]
    errors = ordinal.covariance().diagonal().sqrt()
    assert [float(frame.iloc[j]) for j in places] == approx(*ordinal.coef, *ordinal.thresholds)
    assert [float(frame.iloc[j + 1].strip("()")) for j in places] == approx(*errors)
    tested = tg.side_by_side(ordinal, below="p_value").to_frame()["(1)"]
    assert [tested.iloc[j + 1] != "" for j in places] == [True, True, False, False]


def test_densities_of_several_predictors_have_no_share_as_in_compare() -> None:
    y = np.exp(X[:, 0]) * G.gamma(2, 1, 200)
    spread = tg.fit(X, y, family="gamma", link="log", predictors={"dispersion": X})
    plain = tg.fit(X, y, family="gamma", link="log")
    shown = tg.side_by_side(plain, spread).to_frame().loc["D²"].tolist()
    told = tg.compare(plain, spread)["D2"].tolist()
    assert shown[1] == "" and told[1] != told[1] and float(shown[0]) == pytest.approx(told[0], abs=1e-3)


@pytest.mark.parametrize("wrong", [[ONE, TWO], {"a": ONE}, None])
def test_what_is_no_fit_is_told_by_its_type(wrong: object) -> None:
    with pytest.raises(TypeError, match=f"takes fits one by one, got {type(wrong).__name__}"):
        tg.side_by_side(wrong)  # type: ignore[arg-type]
