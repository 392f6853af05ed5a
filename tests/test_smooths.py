"""Smooth terms of formulas: bases by their definitions, penalties by their null spaces, fits by their laws."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm as tg
from torchglm.design import DesignSpec, build, learn

RNG = np.random.default_rng(1)
N = 300
DATA = pd.DataFrame({"x": RNG.uniform(-1, 3, N), "z": RNG.normal(size=N), "d": RNG.integers(0, 12, N) / 1.0})
DATA["g"] = pd.Categorical(RNG.choice(["a", "b", "c"], N))
DATA["e"] = RNG.uniform(0.5, 2, N)
DATA["y"] = RNG.poisson(DATA["e"] * np.exp(np.sin(2 * DATA["x"]) + 0.3 * DATA["z"] + 0.2 * (DATA["g"] == "b")))

TERMS = ["s(x)", "s(x, bs='ts')", *(f"s(x, bs='{bs}', k=9)" for bs in ("cr", "cs", "cc", "ps", "cp")), "s(x, z, k=20)"]
TERMS += ["te(x, z)", "te(x, z, bs=['ps', 'cc'], k=[6, 5])", "ti(x, z)", "s(x, by=g, bs='cr')", "s(x, by=z, k=6)"]
TERMS += ["s(g, bs='re')", "s(g, z, bs='re')", "s(x, bs='cr', select=True)", "te(x, z, e, d=[2, 1], k=[9, 4])"]


def spec_of(term: str) -> DesignSpec:
    return build(f"y ~ {term}", DATA).spec


@pytest.mark.parametrize("term", TERMS)
def test_penalties_are_psd_and_columns_are_centred(term: str) -> None:
    design = build(f"y ~ {term}", DATA)
    x = design.x.numpy()
    assert np.linalg.matrix_rank(x) == x.shape[1] - (term == "s(g, bs='re')")
    for places, matrix, _ in design.spec.penalties:
        values = np.linalg.eigvalsh(matrix)
        assert values[0] > -1e-9 * values[-1] and np.array_equal(matrix, matrix.T)
        whole = term.startswith("te") or (term.startswith("s(x") and "by=z" not in term)
        if whole and "by=g" not in term:
            assert abs(x[:, places].mean(0)).max() < 1e-12


@pytest.mark.parametrize("term", TERMS)
def test_a_spec_is_the_same_from_json_and_from_pieces(term: str) -> None:
    import pyarrow as pa

    design = build(f"y ~ {term}", DATA)
    again = DesignSpec.from_dict(json.loads(json.dumps(design.spec.to_dict())))
    assert torch.equal(again.transform(DATA), design.x)
    table = pa.Table.from_pandas(DATA)
    streamed = learn(f"y ~ {term}", [table.slice(at, 70) for at in range(0, N, 70)])
    assert streamed.to_dict()["factors"] == design.spec.to_dict()["factors"]
    halves = torch.cat([streamed.transform(DATA.iloc[:100]), streamed.transform(DATA.iloc[100:])])
    close = 1e-12 if "z" in term else 0.0
    torch.testing.assert_close(halves, design.x, rtol=0, atol=close)


@pytest.mark.parametrize(("bs", "null"), [("cr", 2), ("ps", 2), ("tp", 2), ("cc", 1), ("cp", 1), ("cs", 0), ("ts", 0)])
def test_what_is_not_penalised_is_a_line_or_a_constant(bs: str, null: int) -> None:
    basis = next(iter(spec_of(f"s(x, bs='{bs}', k=8)").factors.values())).basis
    at = np.linspace(-1, 3, 50)[None]
    columns = basis.columns(at)
    values, vectors = np.linalg.eigh(basis.penalty)
    free = vectors[:, values < 1e-9 * values[-1]]
    assert free.shape[1] == null == basis.null
    known = np.stack([np.ones(50), at[0]][:null]) if null else np.zeros((0, 50))
    assert np.linalg.matrix_rank(np.vstack([known, free.T @ columns]), tol=1e-8) == null
    if bs not in ("tp", "ts"):
        np.testing.assert_allclose(columns.sum(0), 1.0, rtol=0, atol=1e-12)  # a partition of unity


@pytest.mark.parametrize("bs", ["cr", "ps", "tp"])
def test_beyond_the_data_curves_go_on_as_lines_and_slopes_are_derivatives(bs: str) -> None:
    factor = next(iter(spec_of(f"s(x, bs='{bs}', k=8)").factors.values()))
    out = factor.columns(np.array([[4.0, 5.0, 6.0, -3.0, -4.0, -5.0]]))
    np.testing.assert_allclose(out[:, 0] + out[:, 2], 2 * out[:, 1], atol=1e-9)
    np.testing.assert_allclose(out[:, 3] + out[:, 5], 2 * out[:, 4], atol=1e-9)
    at = np.linspace(-2, 4, 31)[None]
    numeric = (factor.columns(at + 1e-6) - factor.columns(at - 1e-6)) / 2e-6
    np.testing.assert_allclose(factor.slopes(at), numeric, atol=1e-6)


def test_strong_penalties_leave_the_null_space_and_weak_ones_the_columns() -> None:
    line = tg.fit("y ~ x", DATA, family="poisson")
    strong = tg.fit("y ~ s(x, bs='cr')", DATA, family="poisson", smoothing=1e12)
    torch.testing.assert_close(strong.fitted, line.fitted, rtol=1e-6, atol=0)
    assert abs(float(strong.smooths["s(x)"].edf) - 1) < 1e-6
    weak = tg.fit("y ~ s(x, bs='cr', k=6)", DATA, family="poisson", smoothing={"s(x)": 0.0})
    x = build("y ~ s(x, bs='cr', k=6)", DATA).x
    free = tg.fit(x, torch.tensor(DATA["y"].to_numpy()), family="poisson", intercept=False)
    torch.testing.assert_close(weak.coef, free.coef, rtol=1e-8, atol=1e-10)


def test_a_curve_is_the_term_that_the_fit_adds_up() -> None:
    fit = tg.fit("y ~ s(x, by=g) + s(z, bs='ps') + C(g)", DATA, family="poisson", exposure="e")
    assert list(fit.smooths) == ["s(x):ga", "s(x):gb", "s(x):gc", "s(z)"]
    eta = fit.predict(DATA, kind="link", exposure=torch.tensor(DATA["e"].to_numpy()))
    first = fit.predict(DATA.assign(x=0.5, z=0.0), kind="link", exposure=torch.tensor(DATA["e"].to_numpy()))
    own = fit.smooths["s(z)"].curve(DATA["z"])[0] - fit.smooths["s(z)"].curve([0.0])[0]
    curves = torch.stack([fit.smooths[f"s(x):g{g}"].curve(DATA["x"])[0] for g in "abc"])
    starts = torch.stack([fit.smooths[f"s(x):g{g}"].curve([0.5])[0] for g in "abc"])
    codes = torch.tensor(DATA["g"].cat.codes.to_numpy(), dtype=torch.int64)
    own = own + (curves - starts).gather(0, codes[None])[0]
    torch.testing.assert_close(eta - first, own, rtol=0, atol=1e-10)


BAD = {
    "y ~ s(d, k=20)": "more than the 12 distinct values",
    "y ~ s(e, k=2)": "k=3 or more",
    "y ~ s(one)": "same value",
    "y ~ s(g)": "is a category",
    "y ~ s(x) + s(x, bs='cr')": "say the same",
    "y ~ s(x) + te(x, z)": "ti(x, z)",
    "y ~ x + s(x)": "say the same",
    "y ~ s(x) + s(x, by=g)": "say the same",
    "y ~ s(x) + (1 | g)": "bs='re'",
    "y ~ s(x, bs='zz')": "is no basis",
    "y ~ s(x, width=3)": "takes no argument 'width'",
    "y ~ s(x):z": "by=",
    "y ~ s(x, x)": "twice",
    "y ~ s(x, z, bs='cr')": "te()",
    "y ~ te(x, z, k=[5, 5, 5])": "one for each of 2 margins",
    "y ~ s(scale(x))": "learns",
    "y ~ s(3)": "constant 3",
    "y ~ s()": "names no column",
    "y ~ s(x, select=2)": "True or False",
    "y ~ s(x, bs='cr', knots=[3, 2])": "increasing",
}


@pytest.mark.parametrize("formula", BAD)
def test_a_term_that_cannot_be_is_named(formula: str) -> None:
    with pytest.raises(ValueError, match=BAD[formula].replace("(", r"\(").replace(")", r"\)")):
        tg.fit(formula, DATA.assign(one=1.0), family="poisson")


@pytest.mark.parametrize("smoothing", [-1.0, "gcv", [1.0, 2.0], {"s(z)": 1.0}])
def test_strengths_of_another_kind_are_refused(smoothing: object) -> None:
    with pytest.raises(ValueError):
        tg.fit("y ~ s(x)", DATA, family="poisson", smoothing=smoothing)
    with pytest.raises(ValueError, match="penalty"):
        tg.fit("y ~ s(x)", DATA, family="poisson", penalty=tg.Ridge(1.0))
    with pytest.raises(ValueError, match="smoothing= is for terms"):
        tg.fit("y ~ x", DATA, family="poisson", smoothing=smoothing)


def test_fits_of_saved_and_streamed_smooths_predict_the_same(tmp_path) -> None:
    import pyarrow as pa

    fit = tg.fit("y ~ s(x) + ti(x, z, k=4) + s(g, bs='re')", DATA, family="poisson", smoothing="ml")
    fit.save(tmp_path / "fit")
    again = tg.load(tmp_path / "fit")
    torch.testing.assert_close(again.predict(DATA), fit.fitted, rtol=1e-12, atol=0)
    torch.testing.assert_close(again.smooths["s(x)"].curve()[1], fit.smooths["s(x)"].curve()[1], rtol=1e-12, atol=0)
    table = pa.Table.from_pandas(DATA)
    formula, halves = "y ~ s(x) + ti(x, z, k=4) + s(g, bs='re')", [table.slice(0, 150), table.slice(150)]
    pieces = tg.fit(formula, halves, family="poisson", smoothing="ml")
    torch.testing.assert_close(pieces.coef, fit.coef, rtol=1e-7, atol=1e-8)
