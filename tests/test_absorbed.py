"""Laws of absorbed factors: a fit beside them is the fit with all their columns written out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import torchglm as tg
from torchglm.design import absorbing
from torchglm.rows.crossed import Crossed

CASES = [
    ("poisson", None, "firm + worker + year"),
    ("poisson", None, "firm:year + worker"),
    ("bernoulli", None, "firm + worker"),
    ("bernoulli", "probit", "firm + worker + year"),
    ("gaussian", None, "firm"),
    ("gaussian", None, "firm + worker + year"),
    ("gamma", "log", "firm + worker"),
    ("inverse_gaussian", "log", "firm:year + worker"),
    ("negative_binomial", None, "firm + worker"),
    pytest.param("tweedie", None, "firm + worker + year", marks=pytest.mark.slow),
]


def table(family: str, n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Rows with three crossed factors, a cluster, weights and exposure."""
    draw = np.random.default_rng(seed)
    data = pd.DataFrame(
        {
            "x": draw.normal(size=n) + 3,
            "z": draw.normal(size=n),
            "firm": draw.integers(0, 9, n),
            "worker": [f"w{i}" for i in draw.integers(0, 7, n)],
            "year": draw.integers(2000, 2003, n),
            "place": draw.integers(0, 40, n),
            "w": draw.uniform(0.5, 2, n),
            "times": draw.integers(1, 4, n),
            "time": draw.uniform(0.5, 2, n),
        }
    )
    eta = 0.3 * data.x + 0.2 * data.z + 0.1 * data.firm - 1
    made = {
        "poisson": lambda: draw.poisson(np.exp(eta)),
        "negative_binomial": lambda: draw.negative_binomial(2, 2 / (2 + np.exp(eta))),
        "tweedie": lambda: draw.poisson(np.exp(eta)) * draw.gamma(2, 1, n),
        "bernoulli": lambda: draw.binomial(1, 1 / (1 + np.exp(-eta + 0.5))),
        "gaussian": lambda: eta + draw.normal(size=n),
    }
    positive = lambda: np.exp(eta) * draw.gamma(3, 1 / 3, n) + 0.05  # noqa: E731
    return data.assign(y=np.asarray(made.get(family, positive)(), float))


def written(factors: str) -> str:
    return " + ".join(f"C({part.replace(':', '):C(')})" for part in factors.split(" + "))


def both(family: str, link: str | None, factors: str, data: pd.DataFrame, **roles: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = tg.fit(f"y ~ x + z | {factors}", data, family=family, link=link, tol=1e-12, **roles)
        columns = data.assign(fy=[f"{a}:{b}" for a, b in zip(data.firm, data.year, strict=True)])
        formula = written(factors).replace("C(firm):C(year)", "C(fy)")
        return one, tg.fit(f"y ~ x + z + {formula}", columns, family=family, link=link, tol=1e-12, **roles)


def close(a: torch.Tensor, b: torch.Tensor, at: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=at, atol=at)


@pytest.mark.parametrize(("family", "link", "factors"), CASES)
def test_absorbed_is_written_out(family: str, link: str | None, factors: str) -> None:
    data = table(family)
    one, all_ = both(family, link, factors, data, weights="w", freq="times", offset="z")
    if int(one.absorbed.singletons) or int(one.absorbed.separated):
        pytest.skip("rows were taken out, which the other test looks at")
    loose = 1e-6 if one.estimated_shape else 1e-9
    close(one.coef, all_.coef[1:3], loose)
    close(one.std_err, all_.std_err[1:3], loose)
    for kind in ("HC0", "HC1"):
        close(one.covariance(kind), all_.covariance(kind)[1:3, 1:3], loose)
    kinds = (None, "HC0", "HC1")
    for kind in kinds:
        here, there = (fit.covariance("cluster", clusters=data.place, type=kind) for fit in (one, all_))
        close(here, there[1:3, 1:3], loose)
    for name in (
        "deviance",
        "dispersion",
        "df_resid",
        "nobs",
        "rank",
        "loglik",
        "aic",
        "bic",
        "null_deviance",
        "df_null",
    ):
        close(getattr(one, name), getattr(all_, name), loose)
    close(one.fitted, all_.fitted, 1e2 * loose)
    close(one.residuals("pearson"), all_.residuals("pearson"), 1e2 * loose)
    close(one.predict(data, offset=data.z), all_.fitted, 1e2 * loose)
    assert one.names == ["x", "z"] and one.absorbed.df == int(all_.rank) - 2


@pytest.mark.parametrize("family", ["poisson", "bernoulli"])
def test_singletons_and_separated_levels_are_taken_out_and_counted(family: str) -> None:
    data = table(family, 200)
    data.loc[0, "firm"] = 99  # a level of one row
    empty = data.firm == 3
    data.loc[empty, "y"] = 0.0
    one, all_ = both(family, None, "firm + worker", data)
    close(one.coef, all_.coef[1:3], 1e-7)
    close(one.std_err, all_.std_err[1:3], 1e-6)
    assert (one.absorbed.separated, one.absorbed.singletons) == (
        int(empty.sum()) + int(data.y[0] == 0),
        int(data.y[0] != 0),
    )
    assert int(one.nobs) == 200 - int(empty.sum()) - 1
    assert float(one.absorbed.effects["firm"][3]) == -np.inf
    assert "separated rows" in str(one.summary())
    assert float(one.predict(data[empty]).abs().max()) == 0.0


def test_a_column_that_separates_beside_the_factors_takes_its_rows_out() -> None:
    data = table("poisson")
    data["d"] = ((data.z > 0.8) & (data.firm > 2)).astype(float)
    data.loc[data.d == 1, "y"] = 0.0
    found = tg.fit("y ~ x + d | firm + worker", data, family="poisson")
    rest = tg.fit("y ~ x | firm + worker", data[data.d == 0], family="poisson")
    assert found.absorbed.separated == int(data.d.sum()) + rest.absorbed.separated
    close(found.coef[0], rest.coef[0], 1e-8)


def test_components_are_counted_and_effects_across_them_are_not_told() -> None:
    data = table("gaussian")
    data["worker"] = (data.firm > 4) * 10 + data.year
    one, all_ = both("gaussian", None, "firm + worker", data)
    assert (one.absorbed.components, one.absorbed.df) == (2, int(all_.rank) - 2)
    close(one.std_err, all_.std_err[1:3])
    with pytest.warns(tg.FitWarning, match="no row connects"):
        assert one.predict(data.assign(worker=data.worker.iloc[::-1].to_numpy())).isnan().any()


def test_a_column_that_the_factors_tell_is_named() -> None:
    data = table("poisson").assign(size=lambda d: d.firm * 2.0)
    with pytest.warns(tg.FitWarning, match="absorbed factors firm, worker.*: size"):
        found = tg.fit("y ~ x + size | firm + worker", data, family="poisson")
    assert found.coef.isnan().tolist() == [False, True]
    with pytest.raises(ValueError, match="columns size depend on the absorbed factors"):
        tg.fit("y ~ x + size | firm + worker", data, family="poisson", singular="error")


def test_files_saving_and_factors_too_large_to_write_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = table("poisson")
    here = tg.fit("y ~ x + C(year) | firm + worker", data, family="poisson", exposure="time")
    for k in range(3):
        pq.write_table(pa.Table.from_pandas(data[k * 100 : (k + 1) * 100]), tmp_path / f"{k}.parquet")
    there = tg.fit("y ~ x + C(year) | firm + worker", tmp_path, family="poisson", exposure="time")
    assert there.names == here.names
    close(there.coef, here.coef, 1e-13)
    here.save(tmp_path / "saved")
    loaded = tg.load(tmp_path / "saved")
    close(loaded.predict(data), here.predict(data), 1e-14)
    assert loaded.absorbed.df == here.absorbed.df
    monkeypatch.setattr(absorbing, "FULL", 10)
    monkeypatch.setattr(absorbing, "FEWEST", 5)
    large = tg.fit("y ~ x + C(year) + C(firm) + C(worker)", data, family="poisson", exposure="time")
    assert large.names == here.names
    close(large.coef, here.coef, 1e-12)


def test_what_is_not_known_beside_absorbed_factors_says_so() -> None:
    data = table("poisson")
    found = tg.fit("y ~ x | firm + worker", data, family="poisson")
    for ask in (
        found.check,
        found.anova,
        found.drop1,
        lambda: found.head,
        lambda: found.covariance("observed"),
        lambda: found.marginal_effects(data=data),
        lambda: found.predictions({"x": 1.0}, data=data),
    ):
        with pytest.raises(ValueError, match="absorbed factors firm, worker"):
            ask()
    for given in ({"penalty": tg.Ridge(1.0)}, {"singular": "minnorm"}, {"by": "year"}, {"start": [0.0]}):
        with pytest.raises(ValueError, match="absorbed factors"):
            tg.fit("y ~ x | firm + worker", data, family="poisson", **given)
    with pytest.raises(ValueError, match="several parts"):
        tg.fit("y ~ x | firm | worker", data, family="poisson")
    with pytest.raises(ValueError, match="no factor to absorb"):
        tg.fit("y ~ x | firm + log(x)", data, family="poisson")
    with pytest.raises(ValueError, match="absorbed factors"):
        tg.path("y ~ x | firm", data, family="poisson")


@pytest.mark.parametrize(
    ("family", "factors"), [("poisson", "firm"), ("poisson", "firm + worker"), ("gaussian", "firm + worker + year")]
)
def test_leverages_and_what_is_made_of_them_are_those_of_the_written_out_model(family: str, factors: str) -> None:
    data = table(family)
    one, all_ = both(family, None, factors, data)
    close(one.leverage(), all_.leverage(), 1e-8)
    close(one.cooks_distance(), all_.cooks_distance(), 1e-7)
    close(one.loo_predict(), all_.loo_predict(), 1e-7)
    close(one.residuals("studentized"), all_.residuals("studentized"), 1e-7)
    close(one.dfbetas(), all_.dfbetas()[:, 1:3], 1e-6)
    for kind in ("HC2", "HC3"):
        close(one.robust(kind).std_err, all_.robust(kind).std_err[1:3], 1e-8)
    for clusters in (data.firm, data.place):  # one holds the levels of a factor, one cuts through all
        for kind in ("CR2", "CR3"):
            few, whole = (fit.robust("cluster", clusters, type=kind) for fit in (one, all_))
            close(few.std_err, whole.std_err[1:3], 1e-8)
            close(few.reference_df, whole.reference_df[1:3], 1e-7)


@pytest.mark.parametrize(("family", "factors"), [("poisson", "firm + worker"), ("gaussian", "firm")])
def test_profile_limits_are_those_of_the_written_out_model(family: str, factors: str) -> None:
    data = table(family)
    one, all_ = both(family, None, factors, data)
    close(one.conf_int(method="profile"), all_.conf_int(method="profile")[1:3], 1e-6)
    alone = tg.fit(f"y ~ x | {factors}", data, family=family).conf_int(method="profile")
    assert bool((alone[:, 0] < alone[:, 1]).all())


def test_leverages_that_are_too_dear_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    data = table("poisson")
    found = tg.fit("y ~ x | firm + worker", data, family="poisson")
    monkeypatch.setattr("torchglm.rows.crossed_lengths.EXACT", 3)
    for ask in (found.leverage, lambda: found.robust("HC3"), found.cooks_distance):
        with pytest.raises(ValueError, match="7 levels beside the 9 of the largest"):
            ask()
    monkeypatch.setattr("torchglm.inference.beside.WRITTEN", 10)
    with pytest.raises(ValueError, match="lies within one cluster"):
        found.robust("cluster", data.place, type="CR2")
    inside = tg.fit("y ~ x | firm", data, family="poisson")
    assert bool(inside.robust("cluster", data.firm, type="CR2").std_err.isfinite().all())


@pytest.mark.parametrize("sizes", [(30, 20), (30, 20, 10), (12,)])
def test_levels_are_solved_and_counted(sizes: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(0, size, (150,), generator=draw) for size in sizes]).int()
    crossed, weight = Crossed(codes, sizes), torch.rand(150, generator=draw, dtype=torch.float64)
    whole = torch.cat([torch.nn.functional.one_hot(c.long(), s) for c, s in zip(codes, sizes, strict=True)], 1).double()
    right = crossed.sums(torch.randn(2, 150, generator=draw, dtype=torch.float64))
    found, reached = crossed.weighted(weight).solve(right, 1e-13, torch.ones(2, dtype=torch.float64))
    assert reached
    close(whole.T @ (weight.unsqueeze(-1) * whole) @ found, right, 1e-10)
    assert crossed.rank(weight > 0) == (int(torch.linalg.matrix_rank(whole)), True)
