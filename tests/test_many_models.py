"""Many models at once: what is warned of, and what a run of groups leaves, count them and name the first."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml  # type: ignore[import-untyped]

import torchglm
from torchglm import Status
from torchglm.cli.entry import main


def table(groups: int = 30) -> pd.DataFrame:
    """Groups of 12 rows, but for one of two rows, one without events and two whose x is constant."""
    g = np.random.default_rng(0)
    rows = pd.DataFrame({"shop": np.repeat([f"s{i:02}" for i in range(groups)], 12), "x": g.normal(size=12 * groups)})
    rows["y"] = g.poisson(np.exp(0.5 + 0.2 * rows["x"])).astype(float)
    rows.loc[rows["shop"] == "s05", "y"] = 0.0
    rows.loc[rows["shop"] == "s03", "y"] = 2.0
    rows.loc[rows["shop"].isin(["s07", "s08"]), "x"] = 1.0
    return rows[(rows["shop"] != "s03") | (rows.groupby("shop").cumcount() < 2)].reset_index(drop=True)


def test_warnings_have_one_line_for_each_kind_with_how_many_and_the_first() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = torchglm.fit("y ~ x", table(), family="poisson", by="shop")
    said = "\n".join(str(one.message) for one in caught)
    assert "in 2 of 30 models (shop='s07', shop='s08'): x" in said
    assert "1 of 30 models (shop='s05'): SEPARATED" in said and "1 of 30 models (shop='s03'): SATURATED" in said
    assert len(said.splitlines()) == len(set(result.status) - {Status.CONVERGED}) + 1


def test_of_thousands_of_models_few_are_named() -> None:
    g = np.random.default_rng(1)
    x, y = g.normal(size=(2000, 2, 1)), g.poisson(3, (2000, 2)).astype(float)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = torchglm.fit(x, y, family="gaussian")
    assert set(result.status) == {Status.SATURATED} and bool(result.converged.all())
    said = "\n".join(str(one.message) for one in caught)
    assert "2,000 of 2,000 models ([0], [1], [2], …): SATURATED" in said and len(said) < 1000


@pytest.mark.filterwarnings("ignore")
def test_saturated_models_leave_the_quartiles() -> None:
    rows = table()
    rows.loc[rows["shop"] == "s03", "y"] = [1.0, 90.0]
    result = torchglm.fit("y ~ x", rows, family="poisson", by="shop")
    assert result.status[3] == Status.SATURATED and bool(result.converged[3])
    spread = {row["name"]: row for row in result.summary().to_dict()["coefficients"]}
    sound = torch.tensor([status == Status.CONVERGED for status in result.status])
    for j, name in enumerate(result.names):
        own = result.coef[sound, j]
        own = own[~own.isnan()]
        assert spread[name]["models"] == len(own)
        assert spread[name]["min"] == pytest.approx(float(own.min()))
        assert spread[name]["max"] == pytest.approx(float(own.max()))


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_groups_has_a_line_for_each_model_and_new_groups_stay_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = table().assign(year=lambda rows: 2000 + (rows.index % 2))
    rows.to_csv("rows.csv", index=False)
    data = {"path": "rows.csv", "formula": "y ~ x", "by": ["shop", "year"]}
    Path("c.yaml").write_text(yaml.safe_dump({"data": data, "family": "gamma", "link": "log", "output_dir": "run"}))
    rows.assign(y=rows["y"] + 1).to_csv("rows.csv", index=False)
    assert main(["fit", "c.yaml"]) == 0
    result, found = torchglm.load("run"), pd.read_csv("run/models.csv")
    assert [tuple(label) for label in found[["shop", "year"]].to_numpy().tolist()] == result.groups
    assert found["status"].tolist() == [status.name.lower() for status in result.status]
    for name in ("nobs", "deviance", "null_deviance", "dispersion", "rank", "df_resid", "n_iter"):
        np.testing.assert_allclose(found[name], getattr(result, name).numpy(), rtol=1e-12, equal_nan=True)
    np.testing.assert_allclose(found["d_squared"], 1 - found["deviance"] / found["null_deviance"])
    new = rows.head(20).copy()
    new.loc[[3, 7], "shop"] = ["other", "more"]
    new.to_csv("new.csv", index=False)
    capsys.readouterr()
    assert main(["predict", "run", "new.csv", "--out", "p.csv"]) == 2
    assert "--unseen other" in capsys.readouterr().err
    assert main(["predict", "run", "new.csv", "--out", "p.csv", "--unseen", "other"]) == 0
    assert "left empty: 2 rows of 2 groups" in "".join(capsys.readouterr())
    means = pd.read_csv("p.csv")["mean"]
    assert means.isna().tolist() == [i in (3, 7) for i in range(20)]
    main(["predict", "run", "rows.csv", "--out", "q.csv"])
    kept = [i for i in range(20) if i not in (3, 7)]
    np.testing.assert_allclose(means[kept], pd.read_csv("q.csv")["mean"][kept])
