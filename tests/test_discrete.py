"""Covariates of few values, and covariates rounded to few: smooths whose columns are looked up, not made row by row."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm as tg
from torchglm.design import DesignSpec, build
from torchglm.design.smooths import distinct
from torchglm.fitting.status import FitWarning
from torchglm.rows import index as index_file
from torchglm.rows.index import Index
from torchglm.rows.indexed import Indexed
from torchglm.rows.rows import to_float64

N = 400


def _data(n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"age": rng.integers(20, 60, n), "day": rng.integers(0, 14, n) / 7, "v": rng.uniform(size=n)})
    data["g"] = rng.choice(list("abc"), n)
    data["h"] = [f"h{k}" for k in rng.integers(0, 30, n)]
    data["e"], data["w"], data["f"] = rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, n), rng.integers(1, 3, n)
    eta = np.sin(data.age / 6) + 0.5 * np.cos(4 * data.day) + 0.4 * data.v + 0.3 * (data.g == "b")
    data["y"], data["z"] = rng.poisson(data.e * np.exp(eta)), eta + rng.normal(size=n) / 2
    data["run"] = rng.integers(0, 2, n)
    return data


DATA = _data()
SMOOTHS = "s(age, bs='cr', k=6) + s(day, bs='ps', k=7)"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "offset and weights": (f"y ~ {SMOOTHS} + v + C(g)", {"family": "poisson", "exposure": "e", "weights": "w"}),
    "estimated dispersion": (f"z ~ {SMOOTHS} + s(v, k=5)", {"family": "gaussian"}),
    "estimated alpha": (f"y ~ {SMOOTHS}", {"family": "negative_binomial"}),
    "by levels": ("y ~ s(age, by=g, k=5) + C(g) + v", {"family": "poisson"}),
    "by numbers": ("y ~ s(age, by=v, k=5) + s(day, k=5)", {"family": "poisson"}),
    "tensor product": ("y ~ te(age, day, k=4) + C(g)", {"family": "poisson"}),
    "two variables": ("z ~ s(age, day, bs='tp', k=12)", {"family": "gaussian"}),
    "a shape": ("z ~ s(age, bs='ps', k=6, shape='increasing') + s(day, k=5)", {"family": "gaussian"}),
    "a factor of levels": (f"y ~ {SMOOTHS} + C(h)", {"family": "poisson"}),
    "an effect of levels": ("y ~ s(age, k=6) + s(h, bs='re')", {"family": "poisson"}),
    "a random intercept": ("z ~ s(age, k=6) + v + (1 | h)", {"family": "gaussian"}),
    "two predictors": (f"z ~ {SMOOTHS}", {"family": "gaussian", "predictors": {"dispersion": "~ s(age, k=5) + v"}}),
    "classes": ("g ~ s(age, k=5) + v", {"family": "multinomial"}),
    "models by group": (f"y ~ {SMOOTHS}", {"family": "poisson", "by": "run"}),
    "given strengths": (f"y ~ {SMOOTHS} + C(g)", {"family": "poisson", "smoothing": 3.0}),
}


def _fit(monkeypatch: pytest.MonkeyPatch, tables: bool, formula: str, data: Any, **options: Any) -> tg.Result:
    """A fit with the columns of smooths looked up wherever that can be, or nowhere."""
    monkeypatch.setattr(distinct, "FEWEST", 0 if tables else 1 << 40)
    monkeypatch.setattr(distinct, "REPEATED", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return tg.fit(formula, data, tol=1e-11, **options)


def _tables(formula: str, data: pd.DataFrame = DATA, predictors: dict[str, str] | None = None) -> int:
    found = build(formula, data, predictors=predictors).whole_index
    return 0 if found is None else sum(one.table is not None for one in found.indices)


@pytest.mark.parametrize("case", CASES)
def test_a_look_up_is_the_fit_by_rows(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    formula, options = CASES[case]
    dense = _fit(monkeypatch, False, formula, DATA, **options)
    own = _fit(monkeypatch, True, formula, DATA, **options)
    assert case == "classes" or _tables(formula, predictors=options.get("predictors")) > 0
    assert own.status == dense.status
    torch.testing.assert_close(own.coef, dense.coef, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(own.fitted, dense.fitted, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(own.std_err, dense.std_err, rtol=1e-6, atol=1e-9, equal_nan=True)
    if "smoothing" not in options:
        torch.testing.assert_close(own.criterion, dense.criterion, rtol=1e-10, atol=0)
    new = DATA.head(40).assign(age=DATA.age.head(40) + 0.5)  # values that no row had
    if "by" not in options:
        torch.testing.assert_close(own.predict(new), dense.predict(new), rtol=1e-7, atol=1e-8)


def test_chunks_and_files_are_the_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchglm.inputs import files

    formula, options = CASES["offset and weights"]
    whole = _fit(monkeypatch, True, formula, DATA, **options)
    DATA.to_parquet(tmp_path / "rows.parquet", row_group_size=170)
    for held in (1 << 30, 0):
        monkeypatch.setattr(files, "HOLD", held)
        for source in ([DATA.iloc[:250], DATA.iloc[250:]], tmp_path / "rows.parquet"):
            other = _fit(monkeypatch, True, formula, source, **options)
            torch.testing.assert_close(other.coef, whole.coef, rtol=1e-7, atol=1e-8)
            torch.testing.assert_close(other.criterion, whole.criterion, rtol=1e-11, atol=0)


@pytest.mark.parametrize("bounds", [(1 << 40), 0], ids=["pairs of codes", "sums by column"])
def test_products_are_those_of_the_columns_written_out(bounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_file, "CELLS", bounds)
    own = torch.Generator().manual_seed(0)
    n = 50

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=own, dtype=torch.float64)

    def codes(count: int) -> torch.Tensor:
        return torch.randint(count + 1, (n,), generator=own).to(torch.int32)  # the last is a row without an entry

    indices = (
        Index(codes(5), slice(1, 4), 5, None, draw(5, 3)),
        Index(codes(8), slice(4, 8), 8, draw(n), draw(4, 2)),  # two levels with columns of their own
        Index(codes(3), slice(9, 12), 3, draw(n)),
    )
    design, x = Indexed(torch.tensor([0, 8]), indices, 12), draw(n, 2)
    whole = design.whole(x)
    for index in indices:
        written = whole[:, index.columns]
        assert index.width == written.shape[1]
        torch.testing.assert_close(index.written(), written)
    coef, values, weight = draw(3, 12), draw(3, n), draw(3, n)
    torch.testing.assert_close(design.times(x, coef), coef @ whole.mT)
    torch.testing.assert_close(sum(design.terms(x, coef)), coef @ whole.mT)
    torch.testing.assert_close(design.project(x, values), values @ whole)
    torch.testing.assert_close(design.all_pairs(x, weight), whole.mT @ (weight.unsqueeze(-1) * whole))
    matrix = draw(3, 12, 12)
    matrix = matrix + matrix.mT
    torch.testing.assert_close(design.quadratic(x, matrix), torch.einsum("ni,bij,nj->bn", whole, matrix, whole))
    border, diagonal = draw(3, 12, 2), draw(3, 12)
    length = (whole @ border).square().sum(-1) + diagonal @ whole.square().mT
    torch.testing.assert_close(design.length(x, border, diagonal), length)
    for columns in ([0, 2, 3, 5, 9], [8, 1, 2, 3], [4, 5, 6, 7, 0], [6], list(range(12))):
        held, left = design.select(x, torch.tensor(columns))
        found = held if left is None else left.whole(held)
        torch.testing.assert_close(found, whole[:, columns])
    both = design.at(slice(0, 20)).stacked([design.at(slice(20, n))])
    torch.testing.assert_close(both.whole(x), whole)


def test_more_bins_are_nearer_to_the_fit_by_rows_and_all_of_them_are_it() -> None:
    data = _data(3000)
    exact = tg.fit("z ~ s(v, bs='cr', k=8) + s(age, k=8)", data, family="gaussian")
    off = []
    for bins in (20, 80, 320):
        fit = tg.fit(f"z ~ s(v, bs='cr', k=8, bins={bins}) + s(age, k=8)", data, family="gaussian")
        off.append(float((fit.predict(data) - exact.predict(data)).abs().max()))
        assert float(fit.edf.sum()) == pytest.approx(float(exact.edf.sum()), abs=1 / bins)
    assert off[0] > 2 * off[1] > 4 * off[2] > 0
    same = tg.fit("z ~ s(v, bs='cr', k=8) + s(age, k=8, bins=50)", data, family="gaussian")
    torch.testing.assert_close(same.coef, exact.coef, rtol=1e-12, atol=1e-13)
    assert "rounded" not in str(same.summary())


def test_an_outlier_and_a_crowd_leave_bins_where_the_data_are() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(size=2000), [1e6], np.full(500, 0.25)])
    values, counts = np.unique(x, return_counts=True)
    few = distinct.Distinct.learn(values[None], counts.astype(float), 100)
    assert few is not None
    [rounded] = few.rounded(x[None])
    assert 50 <= len(np.unique(rounded)) <= 100
    inside = x < 2
    assert float(np.abs(rounded - x)[inside].max()) < 2 / 50
    assert float(np.average(rounded)) == pytest.approx(float(np.average(x)), rel=1e-12)


def test_predictions_are_at_the_values_themselves_and_a_fit_says_that_it_has_rounded(tmp_path: Path) -> None:
    fit = tg.fit("z ~ s(v, bs='cr', bins=40) + te(age, day, bins=20, k=4)", DATA, family="gaussian")
    said = str(fit.summary())
    assert "v to 40" in said and "rounded" in said and "age, day to 20" in said
    near = DATA.head(3).assign(v=[0.5, 0.5001, 0.5002])
    assert len(set(fit.predict(near.assign(age=30, day=1.0)).tolist())) == 3
    slope = fit.predict(near.assign(v=2.0, age=30, day=1.0)) - fit.predict(near.assign(v=1.9, age=30, day=1.0))
    assert float(slope.abs().min()) > 0  # beyond the data the curve goes on
    fit.save(tmp_path / "fit")
    again = tg.load(tmp_path / "fit")
    torch.testing.assert_close(again.predict(DATA), fit.predict(DATA), rtol=0, atol=0)
    rows = again.with_rows(DATA)
    torch.testing.assert_close(rows.fitted, fit.fitted, rtol=1e-12, atol=1e-12)
    spec = DesignSpec.from_dict(build("z ~ s(v, bins=40)", DATA).spec.to_dict())
    assert torch.equal(spec.design(DATA, rounded=True).x, build("z ~ s(v, bins=40)", DATA).x)


@pytest.mark.parametrize("bins", ["5", "0", "-3", "2.5", "True", "'many'"])
def test_bins_that_are_none_are_refused(bins: str) -> None:
    with pytest.raises(ValueError, match="bins="):
        tg.fit(f"z ~ s(v, bins={bins})", DATA, family="gaussian")
    with pytest.raises(ValueError, match="bins="):
        tg.fit("z ~ s(g, bs='re', bins=30)", DATA, family="gaussian")


def test_rows_of_other_precision_are_those(monkeypatch: pytest.MonkeyPatch) -> None:
    formula, options = CASES["offset and weights"]
    one = _fit(monkeypatch, True, formula, DATA, dtype=torch.float32, **options)
    two = _fit(monkeypatch, True, formula, DATA, **options)
    torch.testing.assert_close(one.coef.double(), two.coef, rtol=1e-3, atol=1e-4)
    assert to_float64(two.rows).x.dtype == torch.float64
