"""A column is found by its name in every formula, and what a formula cannot hold ends at once, in words."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import torchglm
from torchglm.design import build
from torchglm.fitting.status import FitWarning

N = 40
G = np.random.default_rng(3)
Z = np.column_stack([G.gamma(2, 1, N), G.gamma(2, 1, N)])
Y = G.poisson(2.0, N).astype(float)
AWKWARD = [
    "1",
    "0",
    "2",
    "1.5",
    "1e5",
    "-1",
    ".",
    "in",
    "class",
    "None",
    "a b",
    "a.b",
    "a:b",
    "a+b",
    "~",
    "(Intercept)",
]
AWKWARD += [
    "_column_0_",
    "_column_0__",
    "a_column_0_",
    "__formulaic",
    "é",
    "名",
    "'",
    '"',
    "a'b",
    "I",
    "C",
    "log",
    "y~x",
    "x|z",
    "%",
    "{x}",
    "[T.a]",
    " x ",
]
spelled = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="`\\"), min_size=1, max_size=6)
names = st.one_of(st.sampled_from(AWKWARD), spelled).filter(lambda name: name not in ("y", "x0", "x1"))


def _frame(one: str, other: str) -> pa.Table:
    return pa.table({"y": Y, one: Z[:, 0], other: Z[:, 1]})


FORMULAS = [
    "y ~ {0} + {1}",
    "y ~ {0} * {1}",
    "y ~ log({0}) + {1}:{0}",
    "y ~ ({0} + {1})**2 - 1",
    "y ~ I({0} - {1}) + C({0} > 1)",
]


@example("_column_0__", "a_column_0_", FORMULAS[2])
@example("1", "\u00b5", FORMULAS[4])  # the micro sign, of which Python makes the Greek letter
@given(names, names, st.sampled_from(FORMULAS))
@settings(max_examples=150, deadline=None)
def test_any_name_stands_in_any_formula(one: str, other: str, formula: str) -> None:
    if one == other:
        other = one + "_"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        truth = build(formula.format("x0", "x1"), _frame("x0", "x1"))
        found = build(formula.format(f"`{one}`", f"`{other}`"), _frame(one, other))
        assert torch.equal(found.x, truth.x)
        again = type(found.spec).from_dict(found.spec.to_dict())
        assert torch.equal(again.transform(_frame(one, other)), truth.x) and again.intercept == truth.intercept
        dotted = build("y ~ .", _frame(one, other))
        kept = [j for j, name in enumerate((one, other)) if name not in ("Unnamed: 0", "")]
        assert torch.equal(dotted.x[:, 1:], torch.from_numpy(Z[:, kept]))
        assert dotted.spec.columns == [(one, other)[j] for j in kept]


def test_a_dot_without_one_column() -> None:
    for name in AWKWARD:
        design = build(f"y ~ . - `{name}`", _frame(name, "x1"))
        assert design.names == ["(Intercept)", "x1"]
        assert build(f"`{name}` ~ .", _frame(name, "x1")).names == ["(Intercept)", "y", "x1"]


def test_files_with_numbered_columns(tmp_path: Any) -> None:
    pd.DataFrame(Z, columns=[0, 1]).assign(y=Y).to_csv(tmp_path / "a.csv", index=False)
    truth = torchglm.fit(Z, Y, family="poisson")
    for formula in ("y ~ .", "y ~ `0` + `1`", "y ~ Q('0') + Q('1')"):
        torch.testing.assert_close(torchglm.fit(formula, tmp_path / "a.csv", family="poisson").coef, truth.coef)


@pytest.mark.parametrize(
    ("name", "formula", "right"),
    [
        ("class", "y ~ C(class)", "`class`"),
        ("class", "y ~ log(class)", "`class`"),
        ("lambda", "y ~ I(lambda + 1)", "`lambda`"),
        ("Sepal.Width", "y ~ log(Sepal.Width)", "`Sepal.Width`"),
        ("a.b", "y ~ C(a.b)", "`a.b`"),
        ("my col", "y ~ my col", "`my col`"),
        ("my col", "y ~ log(my col)", "`my col`"),
        ("a-b", "y ~ log(a-b)", None),
        ("x", "y ~ -1", "'y ~ 1'"),
        ("x", "y ~ x - x + 0", "'y ~ 1'"),
    ],
)
def test_errors_show_the_spelling_that_works(name: str, formula: str, right: str | None) -> None:
    table = _frame(name, "z")
    with pytest.raises(ValueError, match=None if right is None else f".*{right}"):
        build(formula, table)
    if right is not None and right.startswith("`"):
        assert len(build(formula.replace(name, right), table).names) > 1


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ (x + z)**999999999999",
        "y ~ x^1000000",
        "y ~ (" + "+".join(f"a{j}" for j in range(40)) + ")**40",
        "y ~ " + "*".join(f"a{j}" for j in range(40)),
        "y ~ " + "/".join(f"a{j}" for j in range(40)),
        "y ~ " + "(" * 100_000 + "x" + ")" * 100_000,
        "y ~ " + "log(" * 5_000 + "x" + ")" * 5_000,
        "y ~ " + "[" * 5_000 + "x" + "]" * 5_000,
        "y ~ I(" + "-" * 50_000 + "x)",
        "y ~ I(" + "x**" * 5_000 + "2)",
        "y ~ I(" + "x+" * 20_000 + "2)",
        "y ~ I(x" + "<x" * 20_000 + ")",
        "y ~ " + "9" * 6_000 + ":x",
        "y ~ I(x**" + "9" * 6_000 + ")",
        "y ~ I(10**10**10**10 * x)",
        "y ~ poly(x, 1000000000)",
        "y ~ bs(x, df=1000000000)",
        "y ~ bs(x, degree=1000000000)",
        "y ~ cr(x, 100000000)",
        "y ~ `x",
        "y ~ 'x",
        "y ~ " + "~" * 5_000 + "x",
    ],
)
def test_what_is_too_much_ends_at_once(formula: str) -> None:
    begin = time.process_time()
    try:
        build(formula, _frame("x", "z"))
    except ValueError:
        pass
    assert time.process_time() - begin < 5


def test_powers_in_the_order_of_formulaic() -> None:
    table = pa.table({"y": Y, **{name: G.normal(size=N) for name in "abcd"}})
    from formulaic import Formula

    for power in ("(a + b + c)**2", "(d + a:b + c)**3", "(a + b + c + d)**4", "(a*b + c)^2"):
        right = [str(term) for term in Formula(f"y ~ {power}").rhs]
        assert list(build(f"y ~ {power}", table).terms)[1:] == right[1:]


def test_what_numbers_the_rows_is_no_column_of_a_dot(tmp_path: Any) -> None:
    frame = pd.DataFrame({"x": Z[:, 0], "y": Y})
    frame.to_csv(tmp_path / "a.csv")
    frame.to_parquet(tmp_path / "a.parquet", index=True)
    frame.iloc[::-1].to_parquet(tmp_path / "b.parquet", index=True)
    table = pa.Table.from_pandas(frame, preserve_index=True)
    for data in (tmp_path / "a.csv", pd.read_csv(tmp_path / "a.csv"), tmp_path / "b.parquet", table):
        with pytest.warns(FitWarning, match="which only numbers the rows"):
            result = torchglm.fit("y ~ .", data, family="poisson")
        assert result.names == ["(Intercept)", "x"]
    unnamed = torchglm.fit("y ~ x + Q('')", tmp_path / "a.csv", family="poisson")
    assert len(unnamed.names) == 3


@pytest.mark.parametrize("odd", ["?", "-", "unknown", "NA?", "."])
def test_numbers_with_one_odd_text_are_told_of(odd: str, tmp_path: Any) -> None:
    ages = pd.Series(G.integers(20, 60, N)).astype(str)
    ages[3] = odd
    frame = pd.DataFrame({"age": ages, "y": Y})
    frame.to_csv(tmp_path / "a.csv", index=False)
    for data in (frame, tmp_path / "a.csv"):
        with pytest.warns(FitWarning, match=r"column 'age' holds text: 1 of 40 rows are no numbers"):
            build("y ~ age", data) if data is frame else torchglm.fit("y ~ age", data, family="poisson")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build("y ~ C(age)", frame)
        for levels in (["1", "2", "3+"], ["0", "1-5", "6"], ["a", "b", "1"], ["01", "02", "03"]):
            build("y ~ k", {"y": Y, "k": np.array(levels)[np.arange(N) % 3]})


@pytest.mark.parametrize(
    "texts",
    [
        ["1,5", "2,25", "3"],
        ["1,234.5", "1,000", "12"],
        ["1.234,5", "2,5", "7"],
        ["1 234", "5 678"],
        ["$1.50", "-$2", "$1,200"],
        ["5%", "7.5 %", "+10%"],
        ["1,50 €", "€ 2"],
        ["(3.20)", "4.10"],
        ["\u22121.5", "2"],
    ],
)
def test_numbers_in_another_notation_are_refused(texts: list[str]) -> None:
    data = {"y": Y, "k": np.array(texts)[np.arange(N) % len(texts)]}
    with pytest.raises(ValueError, match=r"'k' holds text such as .*decimal=','.*C\(k\)"):
        build("y ~ k", data)
    assert len(build("y ~ C(k)", data).names) == len(texts)


@pytest.mark.parametrize("texts", [["1.5", "2.25"], ["-1", "0", "1"], ["1e3", "2e3"], [str(k) for k in range(20, 45)]])
def test_numbers_as_text_are_told_of(texts: list[str]) -> None:
    data = {"y": Y, "k": np.array(texts)[np.arange(N) % len(texts)]}
    with pytest.warns(FitWarning, match=r"'k' holds numbers as text.*types=\{'k': 'number'\}"):
        build("y ~ k", data)
    assert len(torchglm.fit("y ~ k", data, family="poisson", types={"k": "number"}).names) == 2


@pytest.mark.parametrize(
    "texts", [["1", "2", "3"], ["01", "02"], ["1.2.3", "1.10"], ["10.0.0.1", "10.0.0.2"], ["10-20", "20-30"]]
)
def test_codes_are_levels_in_silence(texts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build("y ~ k", {"y": Y, "k": np.array(texts)[np.arange(N) % len(texts)]})


@pytest.mark.parametrize("values", [[2, 5], [0.5, 1.5], [1, 2], [0, 1, 2], list(range(9))])
def test_a_category_of_numbers_is_no_response(values: list[float]) -> None:
    k = pd.Categorical(np.array(values)[np.arange(N) % len(values)])
    with pytest.raises(ValueError, match=r"'k' is a category of numbers"):
        build("k ~ x", pd.DataFrame({"k": k, "x": Z[:, 0]}))
    if len(values) == 2:
        design = build("C(k) ~ x", pd.DataFrame({"k": k, "x": Z[:, 0]}))
        assert design.y is not None and design.y.tolist() == [j % 2 for j in range(N)]


def test_a_category_of_zeros_and_ones_is_a_response() -> None:
    design = build("k ~ x", pd.DataFrame({"k": pd.Categorical(np.arange(N) % 2), "x": Z[:, 0]}))
    assert design.y is not None and design.y.tolist() == [j % 2 for j in range(N)]


def test_names_of_several_columns_are_ambiguous() -> None:
    result = torchglm.fit(pd.DataFrame(Z, columns=["x", "x"]), Y, family="poisson")
    for call in (lambda: result.wald("x = 0"), lambda: result.wald({"x": 0}), lambda: result.marginal_effects(["x"])):
        with pytest.raises(ValueError, match="'x'.* is the name of"):
            call()


def test_a_name_that_python_spells_otherwise_is_read_as_it_stands() -> None:
    table = pa.table({"y": Y, "\u00b5": Z[:, 0], "\u03bc": Z[:, 1]})
    for formula, column in (("y ~ \u00b5 - 1", 0), ("y ~ I(\u00b5 * 1) - 1", 0), ("y ~ I(\u03bc * 1) - 1", 1)):
        assert torch.equal(build(formula, table).x[:, 0], torch.from_numpy(Z[:, column])), formula
