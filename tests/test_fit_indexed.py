"""Laws of index columns: a factor kept as codes is the factor written out, in every product and in every answer."""

from __future__ import annotations

import itertools
import re
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import torchglm as tg
from torchglm.design import blocks, build
from torchglm.fitting.interior import interior
from torchglm.fitting.kernel import fold
from torchglm.inputs import files
from torchglm.rows import indexed as indexed_rows
from torchglm.rows import inverses
from torchglm.rows.grams import Bordered
from torchglm.rows.index import Index
from torchglm.rows.indexed import Indexed
from torchglm.rows.inverses import DenseRoot
from torchglm.rows.products import gram, linear_predictor, project, quadratic
from torchglm.rows.rows import Rows, select, whole

FORMULAS = [
    "y ~ a + b + z",
    "y ~ a * z + b",
    "y ~ a:b + z",
    "y ~ bs(u, df=4):b + a + z",
    "y ~ 0 + a + b:z + 2.0:b",
    "y ~ a:b:z + C(b, contr.sum)",
    "y ~ a:bs(u, df=3)",
]


@pytest.fixture(params=["all pairs", "border"], autouse=True)
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Grams with all pairs of columns, or with the levels of the largest factor on a diagonal of their own."""
    monkeypatch.setattr(indexed_rows, "MANY", 8 if request.param == "border" else 10**9)
    return str(request.param)


def _rows(seed: int = 0, n: int = 400, models: int = 1, dtype: torch.dtype = torch.float64) -> Rows:
    """Rows with two factors, one times a number and one with columns two apart, and two columns of numbers."""
    draw = torch.Generator().manual_seed(seed)
    plain = Index(torch.randint(0, 8, (n,), generator=draw, dtype=torch.int32), slice(1, 8), 7)
    value = torch.randn(n, generator=draw, dtype=dtype)
    times = Index(torch.randint(0, 6, (n,), generator=draw, dtype=torch.int32), slice(8, 18, 2), 5, value)
    other = Index(times.codes, slice(9, 19, 2), 5, value.square())
    indexed = Indexed(torch.tensor([0, 18]), (plain, times, other), 19)
    x = torch.stack([torch.ones(n, dtype=dtype), torch.randn(n, generator=draw, dtype=dtype)], -1)
    y, weight, offset = torch.randn(3, models, n, generator=draw, dtype=torch.float64).abs().unbind(0)
    return Rows(x, y, weight, offset, None, False, indexed)


def _table(n: int = 1500, seed: int = 1) -> pa.Table:
    draw = np.random.default_rng(seed)
    a = np.minimum(draw.integers(0, 28, n), 25)
    z, u = draw.normal(size=(2, n))
    mean = np.exp(0.5 + 0.3 * np.sin(a) + 0.4 * z)
    return pa.table(
        {
            "a": [f"a{i:02d}" for i in a],
            "b": draw.choice(list("pqr"), n),
            "z": z,
            "u": u,
            "y": draw.poisson(mean * draw.gamma(2.0, 0.5, n)),
            "w": draw.random(n) + 0.5,
            "e": draw.random(n) + 0.5,
            "g": draw.integers(0, 200, n),
        }
    )


def _written_out(monkeypatch: pytest.MonkeyPatch, **options: object) -> tg.Result:
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "MANY", 10**9)
        return tg.fit(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products_are_those_of_the_columns_written_out(models: int, dtype: torch.dtype) -> None:
    rows = _rows(models=models, dtype=dtype)
    x = whole(rows).to(torch.float64)
    rows = rows._replace(x=rows.x.to(torch.float64))
    coef = torch.randn(models, 19, dtype=torch.float64)
    root = torch.randn(models, 19, 19, dtype=torch.float64)
    torch.testing.assert_close(linear_predictor(rows, coef), coef @ x.mT + rows.offset)
    torch.testing.assert_close(project(rows, rows.y), rows.y @ x)
    torch.testing.assert_close(gram(rows, rows.weight).written_out(), (x * rows.weight.unsqueeze(-1)).mT @ x)
    torch.testing.assert_close(quadratic(rows, DenseRoot(root)), (x @ root).square().sum(-1))


def test_pieces_and_places_of_rows_are_those_of_the_columns_written_out() -> None:
    rows, index = _rows(), torch.tensor([5, 399, 0, 5])
    x = whole(rows)
    assert torch.equal(whole(rows.between(100, 250)), x[100:250])
    assert torch.equal(whole(rows.at(index)), x[index])
    assert torch.equal(torch.cat([whole(piece) for piece in rows.pieces(1 << 20)]), x)
    assert rows.indexed is not None
    halves = [rows.between(0, 150), rows.between(150, 400)]
    joined = halves[0].indexed.stacked([halves[1].indexed])  # type: ignore[union-attr, list-item]
    assert torch.equal(joined.whole(rows.x), x)


@pytest.mark.parametrize(
    "columns", [list(range(19)), [0, *range(1, 8)], [18, 0, 3, 2], list(range(8, 18)), [0, 18], [*range(8, 18, 2), 0]]
)
def test_some_of_the_columns_are_those_columns(columns: list[int]) -> None:
    rows = _rows()
    chosen = select(rows, torch.tensor(columns))
    assert torch.equal(whole(chosen), whole(rows)[:, columns])


def test_levels_that_are_left_out_are_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(index: Index) -> torch.Tensor:
        raise AssertionError(f"{index.count} levels were written out")

    monkeypatch.setattr(Index, "written", refused)
    index = Index(torch.tensor([0, 2, 1], dtype=torch.int32), slice(2, 5), 3)
    x = torch.arange(6.0, dtype=torch.float64).view(3, 2)
    held, left = Indexed(torch.arange(2), (index,), 5, False).select(x, torch.tensor([1, 0]))
    assert left is None
    torch.testing.assert_close(held, x.flip(1))


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_gives_the_same_columns_either_way(formula: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table()
    kept = build(formula, table)
    assert kept.indexed is not None
    assert kept.indexed.nbytes + kept.numbers.nbytes < kept.x.nbytes
    monkeypatch.setattr(blocks, "MANY", 10**9)
    out = build(formula, table)
    assert out.indexed is None and out.names == kept.names
    assert torch.equal(kept.x, out.x)


def test_factors_of_few_levels_and_products_with_uneven_places_are_written_out() -> None:
    assert build("y ~ b + z", _table()).indexed is None
    assert build("y ~ a:bs(u, df=3):b", _table()).indexed is None


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("poisson", {"exposure": "e", "weights": "w"}),
        ("normal", {"weights": "w", "offset": "u"}),
        ("negative_binomial", {}),
        ("poisson", {"penalty": tg.Ridge(0.01)}),
        ("poisson", {"penalty": tg.ElasticNet(0.01)}),
        ("poisson", {"dtype": torch.float32}),
    ],
    ids=str,
)
@pytest.mark.parametrize("formula", ["y ~ a * z + b", "y ~ a + a:b + u", "y ~ b * z + a + u"])
def test_fits_are_those_of_the_columns_written_out(
    formula: str, family: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"x": formula, "y": _table(), "family": family, **options}
    fit, out = tg.fit(**given), _written_out(monkeypatch, **given)
    assert fit.names == out.names and fit.status == out.status
    close = {"rtol": 1e-7, "atol": 1e-9, "equal_nan": True}
    for name in ("coef", "std_err", "deviance", "null_deviance", "loglik", "pearson_chi2"):
        torch.testing.assert_close(getattr(fit, name), getattr(out, name), **close)


@pytest.mark.parametrize("formula", ["y ~ a * z + b", "y ~ z + a + b"])
def test_inference_is_that_of_the_columns_written_out(formula: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table()
    given = {"x": formula, "y": table, "family": "poisson", "exposure": "e", "weights": "w"}
    fit, out = tg.fit(**given), _written_out(monkeypatch, **given)  # type: ignore[arg-type]
    close = {"rtol": 1e-6, "atol": 1e-7, "equal_nan": True}  # a search keeps the information of its last step, to 1e-8
    for kind in ("HC0", "HC3", "observed"):
        torch.testing.assert_close(fit.covariance(kind), out.covariance(kind), **close)
    groups = table["g"].to_numpy()
    torch.testing.assert_close(fit.covariance("cluster", groups), out.covariance("cluster", groups), **close)
    for name in ("leverage", "cooks_distance", "dfbetas", "dffits", "loo_predict"):
        torch.testing.assert_close(getattr(fit, name)(), getattr(out, name)(), **close)
    new = _table(200, seed=9)
    mean, error = fit.predict(new, se=True)
    torch.testing.assert_close((mean, error), out.predict(new, se=True), **close)
    added = np.random.default_rng(3).normal(size=(1500, 2))
    torch.testing.assert_close(fit.score_test(added).statistic, out.score_test(added).statistic, **close)
    torch.testing.assert_close(fit.conf_int(method="profile"), out.conf_int(method="profile"), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(fit.condition_indices(), out.condition_indices(), **close)
    assert str(fit.anova()) == str(out.anova())
    assert str(fit.check()) == str(out.check())


@pytest.mark.parametrize(
    ("formula", "dropped"),
    [
        ("y ~ a + half + b + z", "half"),
        ("y ~ half + a + b + z", r"a\[T.a25\]"),
        ("y ~ a + b + half + z + z2", "half, z2"),
        ("y ~ a + b + z + near", ""),
    ],
)
def test_aliased_columns_are_found(formula: str, dropped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, draw = _table(), np.random.default_rng(8)
    z = table["z"].to_numpy()
    table = table.append_column("half", pa.array([int(a[1:]) % 2 for a in table["a"].to_pylist()]))
    near = z + 1e-5 * draw.normal(size=1500)
    table = table.append_column("z2", pa.array(2 * z)).append_column("near", pa.array(near))
    given = {"x": formula, "y": table, "family": "poisson"}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit, out = tg.fit(**given), _written_out(monkeypatch, **given)  # type: ignore[arg-type]
    assert len(said) == (2 if dropped else 0)
    assert not dropped or re.search(f": {dropped}. Their", str(said[0].message))
    torch.testing.assert_close(fit.coef, out.coef, equal_nan=True, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(fit.std_err, out.std_err, equal_nan=True, rtol=1e-6, atol=1e-7)
    assert fit.rank == out.rank


def test_a_start_inside_the_range_of_the_mean_is_found(kept: str) -> None:
    fit = tg.fit("y ~ a + b + z", _table(), family="poisson")
    [rows] = fit.source
    zero, one = torch.zeros(1, rows.columns, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    passes = interior(torch.zeros(1, dtype=torch.int64), zero, torch.ones_like(zero, dtype=torch.bool), one)
    ask, found = next(passes), None
    while found is None:
        try:
            ask = passes.send(fold([rows], replace(ask.point, ends=(1.0, torch.inf)), fit.family, fit.link))
        except StopIteration as end:
            found = end.value
    assert isinstance(gram(rows, rows.weight), Bordered) == (kept == "border")
    assert bool((linear_predictor(rows, found) > 1.0).all())


def test_levels_without_rows_of_weight_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table()
    table = table.set_column(
        table.column_names.index("w"),
        "w",
        pa.array(
            [0.0 if a == "a07" else w for a, w in zip(table["a"].to_pylist(), table["w"].to_pylist(), strict=True)]
        ),
    )
    given = {"x": "y ~ a + b + z", "y": table, "family": "poisson", "weights": "w"}
    with pytest.warns(tg.FitWarning, match=r"a\[T.a07\]"):
        fit = tg.fit(**given)  # type: ignore[arg-type]
    with pytest.warns(tg.FitWarning):
        out = _written_out(monkeypatch, **given)
    torch.testing.assert_close(fit.coef, out.coef, equal_nan=True)


def test_a_border_holds_what_all_pairs_hold() -> None:
    table = _table()
    [rows] = tg.fit("y ~ b + a + z", table, family="poisson").source
    assert rows.indexed is not None
    weight, value = rows.weight, torch.randn(1, rows.columns, 2, dtype=torch.float64)
    kept = gram(rows, weight)
    assert isinstance(kept, Bordered) == (rows.layout.levels is not None)
    assert kept.layout == rows.layout == rows.layout.gram(1).layout
    x = whole(rows)
    full = (x * weight.unsqueeze(-1)).mT @ x
    ridge = torch.rand(1, rows.columns, dtype=torch.float64)
    torch.testing.assert_close(kept.written_out(), full)
    torch.testing.assert_close(kept.diagonal(), full.diagonal(dim1=1, dim2=2))
    kept, full = kept.with_ridge(ridge), full + torch.diag_embed(ridge)
    torch.testing.assert_close(kept.written_out(), full)
    keep = torch.ones_like(ridge, dtype=torch.bool)
    inverse, want = kept.invert(keep), torch.linalg.inv(full)
    torch.testing.assert_close(inverse.root.inverse(), want)
    torch.testing.assert_close(inverse.root.inverse_diagonal(), want.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(inverse.root.inverse_column(torch.tensor([5])), want[..., 5])
    torch.testing.assert_close(inverse.root.within(value), value.mT @ want @ value)
    torch.testing.assert_close(inverse.solve(ridge), (want @ ridge.unsqueeze(-1)).squeeze(-1))
    length = ((x @ want[0]) * x).sum(-1).unsqueeze(0)
    torch.testing.assert_close(quadratic(rows, inverse.root), length)
    torch.testing.assert_close(inverse.root.lengths(x), length)
    half = full.diagonal(dim1=1, dim2=2).sqrt()
    values = torch.linalg.svdvals(half.unsqueeze(-1) * torch.linalg.cholesky(want))
    torch.testing.assert_close(inverse.root.spectrum(half, keep), values)


def test_a_matrix_of_too_many_pairs_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch, kept: str) -> None:
    monkeypatch.setattr(inverses, "FULL", 100)
    table = _table()
    if kept == "all pairs":
        with pytest.raises(ValueError, match="29 columns takes 0 GB"):
            tg.fit("y ~ a + b + z", table, family="poisson")
        return
    fit = tg.fit("y ~ a + b + z", table, family="poisson")
    assert bool(torch.isfinite(fit.std_err).all()) and bool(torch.isfinite(fit.predict(table, se=True)[1]).all())
    with pytest.raises(ValueError, match="pool rare levels"):
        fit.covariance()


def test_files_that_are_read_again_give_the_same_fit(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    table, path = _table(4000), f"{tmp_path}/rows.parquet"
    pq.write_table(table, path, row_group_size=700)
    given = {"family": "poisson", "exposure": "e", "tol": 1e-14}
    held = tg.fit("y ~ a * z + b", table, **given)
    pieces = tg.fit("y ~ a * z + b", path, **given)
    monkeypatch.setattr(files, "HOLD", 1000)
    streamed = tg.fit("y ~ a * z + b", path, **given)
    for other in (pieces, streamed):
        torch.testing.assert_close(other.coef, held.coef, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(other.std_err, held.std_err, rtol=1e-10, atol=1e-12)


def test_the_codes_take_little_memory() -> None:
    table = _table(20_000)
    fit = tg.fit("y ~ a + b + z", table, family="poisson")
    [rows] = fit.source
    assert rows.nbytes < 20_000 * 8 * 8  # intercept, z, y, weight, offset and two codes: not 35 columns


def test_a_thousand_levels_fit_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(5)
    n, levels = 60_000, (1000, 50, 7)
    codes = [np.concatenate([np.arange(k), draw.integers(0, k, n - k)]) for k in levels]
    effects = [draw.normal(0, 0.3, k) for k in levels]
    z = draw.normal(size=n)
    eta = 0.5 + 0.2 * z + sum(effect[code] for effect, code in zip(effects, codes, strict=True))
    table = pa.table(
        {"y": draw.poisson(np.exp(eta)), "z": z}
        | {
            f"f{i}": pa.DictionaryArray.from_arrays(
                pa.array(code, pa.int32()), pa.array([f"{j:04d}" for j in range(k)])
            )
            for i, (code, k) in enumerate(zip(codes, levels, strict=True))
        }
    )
    fit = tg.fit("y ~ f0 + f1 + f2 + z", table, family="poisson")
    assert bool(fit.converged) and len(fit.names) == 1 + 999 + 49 + 6 + 1
    mean = fit.predict(table)
    y = table["y"].to_numpy()
    for code, k in zip(codes, levels, strict=True):  # the score equations: means match in every level
        np.testing.assert_allclose(np.bincount(code, mean.numpy(), k), np.bincount(code, y, k), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_means_match_in_every_cell_of_an_interaction(seed: int) -> None:
    table = _table(2500, seed)
    fit = tg.fit("y ~ a:b + z", table, family="poisson", singular="drop")
    mean, y = fit.fitted.numpy(), table["y"].to_numpy()
    a, b = (np.array(table[name].to_pylist()) for name in "ab")
    for one, other in itertools.product(np.unique(a)[:6], np.unique(b)):
        cell = (a == one) & (b == other)
        assert abs(mean[cell].sum() - y[cell].sum()) < 1e-3 * (1 + y[cell].sum())
