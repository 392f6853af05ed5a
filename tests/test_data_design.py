"""Designs: formulaic's columns to the last bit, from whole tables, chunks, streams and saved specs alike."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import warnings
from pathlib import Path

import formulaic
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from torchglm.design import DesignSpec, build, build_columns, learn
from torchglm.tables import Scan, as_table

FORMULAS = """
y ~ 1
y ~ a + C(g)
y ~ a * b
~ g * h
y ~ 0 + g * h
y ~ 0 + a:g
y ~ a:g + g:h:b - 1
y ~ C(k) * a
y ~ (a + b + g) ** 2
y ~ a / g
y ~ .
y ~ log(`my col`) + Q('my col') + I(a ** 2) + {a + 2 * b}
y ~ np.exp(a) + f + f:a + C(f) + C(a > 0) + I(g == 'p')
y ~ 3:a + np.where(a > b, a, 0) + np.maximum(a, b)
y ~ bs(a, df=5) * g
y ~ 0 + bs(a, df=5, include_intercept=True) + g
y ~ bs(a, knots=[-0.5, 0.5], degree=2, extrapolation='extend') + bs(scale(b), df=4)
y ~ cr(a, df=5) + cc(b, df=4)
y ~ poly(a, 3) + poly(b, 2, raw=True) + scale(b) + center(`my col`) + standardize(a)
y ~ a:b:bs(`my col`, df=4):k
y ~ C(h, contr.sum) + C(g, contr.helmert)
y ~ 0 + C(h, contr.sum) * C(g, contr.treatment('q'))
y ~ C(k, contr.poly) + C(g, contr.SAS)
y ~ C(k, contr.diff) * g
y ~ C(g, levels=['r', 'q', 'p']) + C(h, Sum)
y ~ C(g, [[0, 1], [1, 0], [1, 1]]) + C(k, Treatment(3))
y ~ C(g, {'u': [1, 0, 0], 'v': [0, 1, 2]})
""".strip().splitlines()


def frame(n: int = 300, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "y": random.poisson(2, n).astype(float),
            "a": random.normal(size=n),
            "b": random.normal(size=n),
            "k": random.integers(0, 5, n),
            "g": random.permutation(np.resize(list("pqr"), n)),
            "h": pd.Categorical(np.resize(["hi", "lo", "mid"], n), categories=["lo", "mid", "hi"]),
            "f": random.random(n) > 0.5,
            "my col": random.random(n),
        }
    )


def reference(formula: str, data: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """Names and columns by formulaic, in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = formulaic.model_matrix(formula, data)
    matrix = getattr(matrix, "rhs", matrix)
    names = ["(Intercept)" if name == "Intercept" else name for name in matrix.columns]
    return names, np.asarray(matrix, dtype=np.float64)


def through_json(spec: DesignSpec) -> DesignSpec:
    return DesignSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False)))


def pieces(data: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    return [data.iloc[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.parametrize("formula", FORMULAS)
def test_columns_are_formulaics_whole_chunked_and_streamed(formula: str) -> None:
    data = frame()
    names, expected = reference(formula, data)
    design = build(formula, data)
    assert design.names == names
    assert np.array_equal(design.x.numpy(), expected)
    spec = through_json(design.spec)
    assert spec.names == names and spec.terms == design.terms
    for size in (7, 128):
        chunked = torch.cat([spec.transform(piece) for piece in pieces(data, size)])
        assert torch.equal(chunked, design.x)
    streamed = learn(formula, (as_table(piece) for piece in pieces(data, 37)))
    assert streamed.to_dict() == design.spec.to_dict()


@pytest.mark.parametrize("spline", ["cr(a, df=5, constraints='center')", "cc(a, df=4, constraints='center')"])
def test_constrained_splines_differ_from_formulaic_by_rounding_only(spline: str) -> None:
    formula, data = f"y ~ {spline}", frame()
    names, expected = reference(formula, data)
    design = build(formula, data)
    assert design.names == names
    np.testing.assert_allclose(design.x.numpy(), expected, atol=1e-14)
    chunked = torch.cat([design.spec.transform(piece) for piece in pieces(data, 11)])
    assert torch.equal(chunked, design.x)


FACTORS = ["a", "b", "g", "h", "C(k)", "f", "log(`my col`)", "bs(a, df=4)", "C(h, contr.sum)", "scale(b)"]
TERMS = st.lists(st.sampled_from(FACTORS), min_size=1, max_size=3, unique=True)


@settings(max_examples=30, deadline=None)
@given(
    terms=st.lists(TERMS, min_size=1, max_size=4),
    intercept=st.booleans(),
    seed=st.integers(0, 2**16),
    cuts=st.lists(st.integers(1, 59), max_size=4),
)
def test_random_formulas_frames_and_splits(terms: list[list[str]], intercept: bool, seed: int, cuts: list[int]) -> None:
    formula = f"y ~ {int(intercept)} + " + " + ".join(":".join(term) for term in terms)
    data = frame(60, seed)
    names, expected = reference(formula, data)
    design = build(formula, data)
    assert design.names == names
    assert np.array_equal(design.x.numpy(), expected)
    edges = [0, *sorted(set(cuts)), 60]
    split = [data.iloc[i:j] for i, j in zip(edges, edges[1:], strict=False)]
    spec = through_json(learn(formula, map(as_table, split)))
    assert torch.equal(torch.cat([spec.transform(piece) for piece in split]), design.x)
    assert sorted(sum(design.terms.values(), [])) == list(range(len(names)))


@pytest.mark.parametrize("formula", FORMULAS[1:])
def test_every_kind_of_table_gives_the_same_design(formula: str) -> None:
    data = frame(50).astype({"h": str})
    expected = build(formula, data).x
    arrays = {name: data[name].to_numpy() for name in data}
    tensors = {name: torch.tensor(a) if a.dtype != object else a for name, a in arrays.items()}
    for source in (pl.from_pandas(data), pa.Table.from_pandas(data), arrays, tensors):
        assert torch.equal(build(formula, source).x, expected)


def test_the_intercept_alone_counts_the_rows() -> None:
    data = frame(9)
    for source in (data, pl.from_pandas(data), pa.Table.from_pandas(data), {"a": data.a}):
        assert build("~ 1", source).x.tolist() == [[1.0]] * 9


def test_a_saved_spec_predicts_the_same_in_another_process(tmp_path: Path) -> None:
    data = frame(200)
    design = build("y ~ a*g + bs(b, df=5) + poly(a, 3) + scale(k) + C(h, contr.helmert)", data)
    (tmp_path / "spec.json").write_text(json.dumps(design.spec.to_dict()))
    parquet.write_table(pa.Table.from_pandas(data.drop(columns="y")), tmp_path / "new.parquet")
    code = """
import json, numpy, sys
from torchglm.tables import Scan
from torchglm.design import DesignSpec
folder = sys.argv[1]
spec = DesignSpec.from_dict(json.load(open(folder + "/spec.json")))
pieces = Scan(folder + "/new.parquet", spec.columns, spec.types, rows=17)
numpy.save(folder + "/x.npy", numpy.concatenate([spec.transform(piece).numpy() for piece in pieces]))
"""
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=root, timeout=120)
    assert np.array_equal(np.load(tmp_path / "x.npy"), design.x.numpy())


def test_learning_from_files_is_learning_from_the_whole(tmp_path: Path) -> None:
    data = frame(200)
    for i, piece in enumerate(pieces(data, 60)):
        parquet.write_table(as_table(piece), tmp_path / f"{i}.parquet")
        piece.to_csv(tmp_path / f"{i}.csv", index=False)
    formula = "y ~ C(k)*a + g + bs(b, df=5)"
    expected = build(formula, data).spec.to_dict()
    for ending in ("csv", "parquet"):
        found = learn(formula, Scan(tmp_path / f"*.{ending}", rows=13)).to_dict()
        assert {**found, "types": 0} == {**expected, "types": 0}


def test_terms_say_which_columns_are_theirs() -> None:
    design = build("y ~ a + C(g) + a:C(g) + bs(b, df=4)", frame())
    assert design.terms == {
        "(Intercept)": [0],
        "a": [1],
        "C(g)": [2, 3],
        "bs(b, df=4)": [4, 5, 6, 7],
        "a:C(g)": [8, 9],
    }
    assert design.intercept
    assert not build("y ~ 0 + C(g)", frame()).intercept


def test_a_category_of_two_types_is_refused() -> None:
    with pytest.raises(ValueError, match="mixes int and str"):
        learn("~ C(k)", [pa.table({"k": [1, 2]}), pa.table({"k": ["a"]})])


def test_dates_are_levels_in_order() -> None:
    days = pd.to_datetime(["2021-05-01", "2020-01-01", "2021-05-01"])
    names = build("~ C(day)", pd.DataFrame({"day": days}).assign(day=days.date)).names
    assert names == ["(Intercept)", "C(day)[T.2021-05-01]"]


def test_a_spec_says_how_to_read_later_files(tmp_path: Path) -> None:
    data = {"y": [1, 2], "a": [1, 2], "k": [3, 4], "g": ["01", "02"], "f": [True, False]}
    spec = build("y ~ a + k + C(g) + f", data).spec
    assert spec.types == {"y": "double", "a": "double", "k": "double", "g": "string", "f": "bool"}
    (tmp_path / "new.csv").write_text("a,k,g,f\n1,3,02,true\n1.5,4,01,false\n")
    [piece] = Scan(tmp_path / "new.csv", spec.columns, spec.types)
    assert spec.transform(piece).tolist() == [[1, 1, 3, 1, 1], [1, 1.5, 4, 0, 0]]


def test_a_transform_leaves_nothing_for_the_garbage_collector() -> None:
    data = as_table(frame())
    spec = build("y ~ a*g + C(k):b", data).spec
    gc.collect()
    gc.disable()
    try:
        spec.transform(data)
        assert gc.collect() == 0  # a cycle would hold whole columns until the collector runs
    finally:
        gc.enable()


def test_column_lists_need_no_formula() -> None:
    data = frame()
    design = build_columns(["a", "g", "my col"], data, response="y")
    same = build("y ~ a + g + `my col`", data)
    assert design.names == same.names and torch.equal(design.x, same.x)
    assert design.y is not None and same.y is not None and torch.equal(design.y, same.y)
    assert build_columns(["C(g)"], {"C(g)": [1.0, 2.0]}, intercept=False).names == ["C(g)"]
    assert torch.equal(through_json(design.spec).transform(data), design.x)


def test_unused_categories_are_left_out_as_in_r() -> None:
    data = frame()
    design = build("y ~ h", data[data.h != "mid"])
    assert design.names == ["(Intercept)", "h[T.hi]"]
    with pytest.raises(ValueError, match=r"'h' has 100 rows with unknown levels: 'mid'; the first is row 2"):
        design.spec.transform(data)


def test_a_response_of_two_levels_or_booleans_is_0_and_1() -> None:
    data = frame(6)
    data["v"] = ["yes", "no", "no", "yes", "no", "yes"]
    coded = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    for left in ("v", "C(v)", "I(v == 'yes')"):
        assert build(f"{left} ~ a", data).y.tolist() == coded  # type: ignore[union-attr]
    other = build("C(v, levels=['yes', 'no']) ~ a", data)
    assert other.y is not None and other.y.tolist() == [1 - value for value in coded]
    assert other.spec.response is not None and other.spec.response.levels == ["yes", "no"]
    logged = build("log(y + 1) ~ a", data)
    assert torch.equal(logged.y, torch.log(torch.tensor(data.y.to_numpy()) + 1))
    again = through_json(other.spec).design(data, response=True)
    assert again.y is not None and torch.equal(again.y, other.y)
    with pytest.raises(ValueError, match="response 'g' has 3 levels: 'p', 'q', 'r'"):
        build("g ~ a", data)
    with pytest.raises(ValueError, match=r"left side of 'y \+ a ~ b' must be one column"):
        build("y + a ~ b", data)


def test_missing_values_are_an_error_that_counts_them() -> None:
    data = frame(20)
    data.loc[[3, 5], "a"] = np.nan
    data.loc[7, "g"] = None
    with pytest.raises(ValueError, match=r"'a' has 2 missing .*\(the first in row 3\), column 'g' has 1"):
        build("y ~ a + g", data)
    with pytest.raises(ValueError, match="missing must be one of error, drop"):
        build("y ~ a", data, missing="ignore")


@pytest.mark.parametrize("kind", [lambda d: d, pl.from_pandas, lambda d: {k: d[k].to_numpy() for k in d}])
def test_dropping_keeps_everything_aligned(kind: object) -> None:
    data = frame(40)
    data["w"] = np.arange(40.0)
    data.loc[[3, 5], "a"] = np.nan
    data.loc[6, "y"] = np.nan
    data.loc[8, "w"] = np.nan
    keep = np.setdiff1d(np.arange(40), [3, 5, 6, 8])
    design = build("y ~ scale(a) + C(k)", kind(data), also=["w"], missing="drop")  # type: ignore[operator]
    assert design.kept is not None and np.array_equal(np.flatnonzero(design.kept), keep)
    assert design.dropped == {"y": 1, "a": 2, "w": 1}
    names, expected = reference("y ~ scale(a) + C(k)", data.iloc[keep])
    assert design.names == names and np.array_equal(design.x.numpy(), expected)
    assert design.y is not None and np.array_equal(design.y, data.y[keep])
    assert design.table["w"].to_pylist() == data.w[keep].tolist()
    with pytest.raises(ValueError, match="Every row has a missing value"):
        build("y ~ a", data.iloc[[3, 5]], missing="drop")


def test_transform_never_drops_a_row() -> None:
    data = frame(10)
    spec = build("y ~ a", data, missing="drop").spec
    data.loc[4, "a"] = np.nan
    with pytest.raises(ValueError, match="'a' has 1 missing value "):
        spec.transform(data)
    assert spec.design(data).x.shape == (9, 2)


def test_unseen_levels() -> None:
    data = frame(12)
    new = data.assign(g=["z", *data.g[1:]])
    with pytest.raises(ValueError, match="'g' has 1 rows with unknown levels: 'z'; the first is row 0"):
        build("y ~ g", data).spec.transform(new)
    for formula in ("y ~ g", "y ~ 0 + g", "y ~ C(g, Treatment('q'))"):
        design = build(formula, data, unseen="reference").spec.design(new)
        assert design.x[0].tolist() == [1, 0, 0]
        assert sum(design.unseen.values()) == 1
    with pytest.raises(ValueError, match="unseen must be one of error, reference, other"):
        build("y ~ g", data, unseen="ignore")


def test_levels_match_across_types() -> None:
    spec = build("y ~ C(k)", frame()).spec
    assert torch.equal(spec.transform({"k": [0, 3]}), spec.transform({"k": np.array([0.0, 3.0])}))
    with pytest.raises(ValueError, match="'C.k.' has 2 rows with unknown levels: 0.5, 7.0"):
        spec.transform({"k": [0.5, 1.0, 7.0]})
    with pytest.raises(ValueError, match="unknown levels: 'a'"):
        spec.transform({"k": ["a"]})


def test_predicting_needs_the_columns_but_not_the_response() -> None:
    spec = build("y ~ a + log(`my col`)", frame()).spec
    assert spec.columns == ["a", "my col"] and spec.response_columns == ["y"]
    with pytest.raises(ValueError, match=r"No column 'my col' \(did you mean 'my_col'\?\)"):
        spec.transform({"a": [1.0], "my_col": [2.0]})
    with pytest.raises(ValueError, match="no response"):
        build("~ a", frame()).spec.design(frame(), response=True)


def test_values_that_are_not_finite_are_named() -> None:
    data = frame(10)
    data.loc[2, "a"] = np.inf
    with pytest.raises(ValueError, match="'a' is not finite in 1 rows; the first is row 2, where it is inf"):
        build("y ~ a", data)
    with pytest.raises(ValueError, match=r"'log\(b - 100\)' is not finite in 10 rows; the first is row 0"):
        build("y ~ log(b - 100)", data)


def test_beyond_the_range_of_a_spline() -> None:
    spec = build("y ~ bs(a, df=4)", frame()).spec
    with pytest.raises(ValueError, match=r"1 values lie outside \[.*extrapolation='clip'"):
        spec.transform({"a": [0.0, 99.0]})
    extended = build("y ~ bs(a, df=4, extrapolation='clip')", frame()).spec
    assert extended.transform({"a": [99.0]}).isfinite().all()


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("y ~ zz", "No column 'zz'"),
        ("y ~ incme", r"No column 'incme' \(did you mean 'income'\?\)"),
        ("", "A formula is text such as"),
        ("y ~ a +", "Cannot read the formula"),
        ("y ~ a | b | a", "several parts"),
        ("y ~ day", "'day' holds .*code it with C.day."),
        ("y ~ I(g)", "not a column of numbers"),
        ("y ~ g + I(g + 1)", "a column here holds text"),
        ("y ~ lag(a)", "'lag' cannot be used in a formula: it looks at other rows"),
        ("y ~ np.mean(a)", "not row by row; use center"),
        ("y ~ log(a, a)", "takes 1 argument"),
        ("y ~ C(g) + log(C(g))", "C.. must stand alone"),
        ("y ~ C(scale(a))", "not a transform that learns"),
        ("y ~ C(g, contr.nope)", "Cannot read the contrasts"),
        ("y ~ C(g, Treatment('zz'))", "do not fit its levels"),
        ("y ~ bs(a, df=1)", "Cannot evaluate 'bs.a, df=1.'"),
        ("y ~ I(3)", "reads no column"),
        ("y ~ b:log(a) + `log(a)`", "is both a column and an expression"),
        ("y ~ poly(g, 2)", "must be a column of numbers"),
    ],
)
def test_bad_formulas_say_what_is_wrong(formula: str, said: str) -> None:
    data = frame(20).assign(income=1.0, day=pd.Timestamp("2020-01-01"))
    with pytest.raises(ValueError, match=said):
        build(formula, data)


CODE = [
    "__import__('os').system('touch harm')",
    "a.__class__",
    "np.load('x')",
    "np.fromfile(a)",
    "eval('1')",
    "[x for x in a]",
    "(lambda: a)()",
    "log(a, out=b)",
    "a if a else b",
    "f'{a}'",
    "bs(a, _state=b)",
    "scale(a, **b)",
    "log(*a)",
    "a[0]",
    "C(g, open('x'))",
    "C(g, levels=open('x'))",
    "contr.sum(a)",
]


@pytest.mark.parametrize("text", CODE)
def test_a_spec_from_elsewhere_runs_no_code(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = build("y ~ log(a + 9)", frame()).spec.to_dict()
    data["factors"][0]["text"] = text
    with pytest.raises(ValueError, match="(?s)formula|Cannot read|must be a list|argument"):
        DesignSpec.from_dict(data)
    with pytest.raises(ValueError):
        build(f"y ~ {{{text}}}", frame())
    assert not list(tmp_path.iterdir())


def test_a_name_is_a_column_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="No column 'open'"):
        build("y ~ open", frame())
    odd = {"y": [1.0, 2.0], "log": [1.0, 2.0], "C": ["u", "v"]}
    assert build("y ~ log + C", odd).names[1:] == ["log", "C[T.v]"]


@pytest.mark.parametrize("data", [None, {}, {"version": 99}, {"version": 1}, {"version": 1, "factors": [3]}])
def test_what_is_no_spec_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="Not a design spec"):
        DesignSpec.from_dict(data)  # type: ignore[arg-type]


def test_text_compares_whether_it_is_coded_or_not() -> None:
    data = frame(30)
    design = build("f ~ I(h == 'mid') + I(g != 'p')", data)
    assert design.x[:, 1].tolist() == (data.h == "mid").astype(float).tolist()
    assert design.x[:, 2].tolist() == (data.g != "p").astype(float).tolist()
    assert design.y is not None and design.y.tolist() == data.f.astype(float).tolist()
    assert repr(design.spec) == "DesignSpec(\"f ~ I(h == 'mid') + I(g != 'p')\", 3 columns)"


def test_large_powers_do_not_hang() -> None:
    with pytest.raises(ValueError, match="not finite|Cannot evaluate"):
        build("y ~ I(a + 9 ** 9 ** 9 ** 9)", frame(5))


@pytest.mark.parametrize("seed", range(3))
def test_a_dot_leaves_out_the_response_and_the_columns_beside(seed: int) -> None:
    design = build("y ~ .", frame(30, seed)[["y", "a", "b", "k"]], also=["k"])
    assert design.names == ["(Intercept)", "a", "b"]


@pytest.mark.parametrize("formula", ["y ~ h + g + g:h", "y ~ g:h", "y ~ C(g, contr.sum):C(k)", "y ~ g * C(k)"])
def test_a_factor_of_one_level_adds_no_column_of_its_own(formula: str) -> None:
    data = {"y": np.arange(60.0), "g": ["only"] * 60, "h": ["u", "v", "w"] * 20, "k": np.arange(60) % 30}
    design = build(formula, data)
    other = build(f"y ~ {'C(k)' if 'k' in formula else 'h'}", data)
    assert design.x.shape == other.x.shape
    assert torch.linalg.matrix_rank(torch.cat([design.x, other.x], 1)) == other.x.shape[1]
