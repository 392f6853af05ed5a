"""Fits from files: in memory or read again at each step, the answer is that of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm

N = 900
FORMULA = "y ~ a + C(g) + a:b"


@pytest.fixture
def frame() -> pd.DataFrame:
    draw = np.random.default_rng(3)
    a, b = draw.normal(size=N), draw.normal(size=N)
    g = draw.choice(["u", "v", "w"], N)
    years = draw.uniform(0.3, 2, N)
    y = draw.poisson(years * np.exp(0.3 + 0.2 * a + 0.4 * (g == "v") - 0.2 * a * b))
    return pd.DataFrame({"y": y, "a": a, "b": b, "g": g, "years": years, "w": draw.uniform(0.5, 2, N)})


@pytest.fixture
def folder(frame: pd.DataFrame, tmp_path: Path) -> Path:
    for i in range(3):
        frame.iloc[300 * i : 300 * (i + 1)].to_parquet(tmp_path / f"part{i}.parquet", row_group_size=120)
    return tmp_path


def same(one: torchglm.Result, other: torchglm.Result) -> None:
    assert one.names == other.names and one.status == other.status
    for name in ("coef", "std_err", "deviance", "null_deviance", "pearson_chi2", "loglik", "nobs"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hold", [1 << 30, 0], ids=["held", "read again"])
def test_files_are_fitted_as_the_table(
    frame: pd.DataFrame, folder: Path, hold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchglm.inputs.files.HOLD", hold)
    got = torchglm.fit(FORMULA, folder / "*.parquet", family="poisson", exposure="years", weights="w")
    want = torchglm.fit(FORMULA, frame, family="poisson", exposure="years", weights="w")
    assert (got.rows is None) == (hold == 0)
    same(got, want)
    torch.testing.assert_close(got.covariance("HC1"), want.covariance("HC1"), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(got.predict(frame.head(9)), want.predict(frame.head(9)), rtol=1e-9, atol=0.0)
    torch.testing.assert_close(got.residuals(), want.residuals(), rtol=1e-8, atol=1e-10)


def test_csv_and_lists_of_files_are_read_alike(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "all.csv", index=False)
    same(
        torchglm.fit(FORMULA, str(tmp_path / "all.csv"), family="poisson"),
        torchglm.fit(FORMULA, frame, family="poisson"),
    )


def test_what_is_wrong_in_a_file_says_where(frame: pd.DataFrame, folder: Path) -> None:
    with pytest.raises(ValueError, match="part2.parquet, row group 0: the gamma family needs y > 0; row 100"):
        late = frame.copy()
        late["y"] += 1
        late.loc[700, "y"] = 0
        for i in range(3):
            late.iloc[300 * i : 300 * (i + 1)].to_parquet(folder / f"part{i}.parquet")
        torchglm.fit(FORMULA, folder, family="gamma", link="log")
    with pytest.raises(ValueError, match="no response"):
        torchglm.fit("~ a", folder, family="poisson")
    with pytest.raises(ValueError, match="weights must name a column"):
        torchglm.fit(FORMULA, folder, family="poisson", weights=torch.ones(N))
    with pytest.raises(ValueError, match="by= sorts rows in memory"):
        torchglm.fit("y ~ a", folder, family="poisson", by="g")
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        torchglm.fit(FORMULA, folder / "nowhere.parquet", family="poisson")
