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


def test_a_term_at_infinity_has_the_freedom_of_its_null_space_and_a_test() -> None:
    data = DATA.assign(w=DATA["x"] + RNG.normal(size=N))
    fit = tg.fit("w ~ s(x) + s(d, bs='cc', k=8) + s(g, bs='re')", data, family="gaussian")
    own = {name: float(term.edf) for name, term in fit.smooths.items()}
    for name, term in fit.smooths.items():
        if bool(torch.isinf(term.strength).any()):
            assert own[name] == pytest.approx({"s(x)": 1.0}.get(name, 0.0), abs=1e-5)
    assert fit.smooths["s(x)"].test().p_value < 1e-10
    assert all(0 < fit.smooths[name].test().p_value <= 1 for name in ("s(d)", "s(g)"))
    text = str(fit.summary())
    assert "smooth terms" in text and "s(x).1" not in text and "REML" in text
    assert [one["name"] for one in fit.summary().to_dict()["smooths"]] == ["s(x)", "s(d)", "s(g)"]


@pytest.mark.parametrize(
    ("term", "strengths"),
    [  # mgcv 1.8-41, gam(y ~ term, method = "REML")$sp
        ("s(x)", [0.011178052821]),
        ("s(x, z, k=12)", [0.014160616919]),
        ("te(x, z, bs=['tp', 'tp'], k=[5, 5])", [0.026500103368, 64.716027296]),
    ],
)
def test_strengths_of_thin_plate_splines_are_those_of_mgcv(term: str, strengths: list[float]) -> None:
    """Its columns have a scale each, so that the strength tells which basis of the same curves was taken."""
    i = np.arange(1, 121)
    x, z = np.floor(i * 0.618034 * 100) % 61 / 60, np.floor(i * 0.414214 * 100) % 47 / 46
    data = {"x": x, "z": z, "y": np.sin(6 * x) + z**2 * x + (i * 37 % 11 - 5) / 20}
    fit = tg.fit(f"y ~ {term}", data, family="gaussian")
    np.testing.assert_allclose(fit.strength, strengths, rtol=1e-6)


def test_groups_have_the_curves_of_a_loop() -> None:
    data = DATA.assign(one=np.arange(N) % 2)
    batch = tg.fit("y ~ s(x, bs='cr', k=6)", data, family="poisson", by="one")
    spec = batch.spec
    for i, part in ((i, data[data["one"] == i]) for i in (0, 1)):
        x, y = spec.transform(part), torch.tensor(part["y"].to_numpy())
        blocks = [(list(at), torch.from_numpy(matrix)) for at, matrix, _ in spec.penalties]
        own = tg.fit(x, y, family="poisson", intercept=False, penalty=tg.Quadratic(blocks, "reml"))
        torch.testing.assert_close(batch.coef[i], own.coef, rtol=1e-7, atol=1e-9)
        assert batch[i].smooths["s(x)"].test().df > 1
    bands = batch.smooths["s(x)"].band(simultaneous=True) - batch.smooths["s(x)"].band()
    assert bool((bands[..., 0] < 0).all() and (bands[..., 1] > 0).all())


def test_a_smooth_of_the_dispersion_is_found_or_takes_strengths_as_numbers() -> None:
    data = DATA.assign(w=DATA["x"] + np.exp(DATA["z"] / 2) * RNG.normal(size=N))
    options = {"family": "gaussian", "predictors": {"dispersion": "~ s(z, bs='cr', k=5)"}}
    best, held = tg.fit("w ~ s(x)", data, **options), tg.fit("w ~ s(x)", data, smoothing=1.0, **options)
    assert best.converged and best.strength.shape == (2,)
    for fit in (best, held):
        curve = fit.smooths["dispersion:s(z)"].curve([-1.0, 1.0])[0]
        assert float(curve[1] - curve[0]) > 1  # log variance rises by 2 over two units of z


def test_the_summary_and_page_of_a_batch_have_its_curves(tmp_path) -> None:
    fit = tg.fit("y ~ d + s(x, bs='cr', k=6) + s(z, bs='ps', shape='increasing')", DATA, family="poisson", by="g")
    said = str(fit.summary())
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line.startswith("s(")}
    for name, term in fit.smooths.items():
        edf = term.edf
        assert lines[name][1:5] == [
            str(len(term.places)),
            *(f"{float(one):.3f}" for one in (edf.min(), edf.median(), edf.max())),
        ]
    assert lines["s(x)"][-3:] == [str(sum(one.p_value < 0.05 for one in fit.smooths["s(x)"].tests())), "of", "3"]
    assert "s(x).1" not in said and "d " in said
    fit.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("the median of all that converged") == 2 and "s(x).1" not in page


def made() -> pd.DataFrame:
    i = np.arange(120)
    data = pd.DataFrame({"x": i * 37 % 120 / 120, "z": i * 53 % 120 / 120, "g": (i % 8).astype(str)})
    data["y"] = np.sin(5 * data["x"]) + 0.8 * np.cos(i * i) + 0.5 * np.sin(3 * (i % 8))
    data["n"] = np.round(np.exp(1 + 0.5 * np.sin(5 * data["x"]) + 0.6 * np.cos(i * i)) + 2 * (i % 3 == 0))
    return data


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize(
    ("formula", "family", "p"),
    [  # mgcv 1.8-41, summary(gam(..., method = "REML"))$s.table, whose p-values are right to 3e-6
        ("y ~ s(x, bs='cr', k=8) + s(g, bs='re')", "gaussian", [0, 0.0011640]),
        ("y ~ s(x, bs='ts', k=8) + s(z, bs='cc', k=8)", "gaussian", [0, 0.3834363]),
        ("y ~ te(x, z, k=4) + s(g, bs='re')", "gaussian", [0, 0.0002312]),
        ("y ~ s(x, bs='cr', k=8, select=True) + s(z, bs='cr', k=8, select=True)", "gaussian", [0, 0.0602251]),
        ("n ~ s(x, bs='cr', k=8) + s(z, bs='cr', k=6) + s(g, bs='re')", "poisson", [0, 0.0345863, 0.9264206]),
        ("n ~ s(x, bs='ps', k=8, m=[2, 1]) + s(z, bs='cr', k=5)", "poisson", [0, 0.0370941]),
    ],
)
def test_tests_of_terms_are_those_of_mgcv(formula: str, family: str, p: list[float]) -> None:
    fit = tg.fit(formula, made(), family=family, tol=1e-12)
    np.testing.assert_allclose([one.test().p_value for one in fit.smooths.values()], p, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_the_test_of_a_curve_beside_random_effects_is_that_beside_effects_of_levels(family: str) -> None:
    i = np.arange(120)
    data = made().assign(g=i % 20)
    data["n"] = np.round(np.exp(4 + np.sin(5 * data["x"]) + np.sin(3 * (i % 20)) + 0.1 * np.cos(i * i)))
    first, second = (
        tg.fit(f"n ~ s(x, bs='cr', k=8) + {effects}", data, family=family, smoothing="reml", tol=1e-12)
        for effects in ("(1 | g)", "s(C(g), bs='re')")
    )
    one, other = (fit.smooths["s(x)"].test() for fit in (first, second))
    assert one.df == pytest.approx(other.df, rel=0.02) and one.statistic == pytest.approx(other.statistic, rel=0.02)


@pytest.mark.slow
def test_an_estimated_tweedie_power_has_the_dispersion_of_its_criterion() -> None:
    i = np.arange(40)
    data = pd.DataFrame({"x": i * 17 % 40 / 40})
    data["c"] = (np.sin(5 * data["x"]) + 0.8 * np.cos(i * i) + 1).clip(lower=0)
    fit = tg.fit("c ~ s(x, bs='cr', k=4)", data, family="tweedie", link="log", tol=1e-12)
    assert fit.dispersion_kind == "reml"
    assert float(fit.dispersion) == pytest.approx(0.280769262126, rel=1e-6)  # mgcv's tw(), $sig2
    assert float(fit.covariance()[0, 0]) == pytest.approx(0.00823129454868, rel=1e-5)


@pytest.mark.parametrize("bs", ["cr", "cs", "cc", "ps", "cp", "tp", "ts"])
def test_a_curve_does_not_hang_on_the_units_of_its_variable(bs: str) -> None:
    plain, moved = (
        tg.fit(f"y ~ s(x, bs='{bs}', k=8)", made().assign(x=lambda d, a=a, b=b: a + b * d["x"]), family="gaussian")
        for a, b in ((0.0, 1.0), (-30.0, 700.0))
    )
    torch.testing.assert_close(moved.fitted, plain.fitted, rtol=0, atol=1e-8)
    torch.testing.assert_close(moved.criterion, plain.criterion, rtol=1e-9, atol=0)
    assert moved.smooths["s(x)"].test().p_value == pytest.approx(plain.smooths["s(x)"].test().p_value, rel=1e-6)
