"""Runs with random effects or absorbed factors by the command line: at every verb the numbers of Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml  # type: ignore[import-untyped]

import torchglm as tg
from tests.thinned import thinned
from torchglm.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")


def _data(n: int = 90) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    g = rng.permutation(np.arange(n) % 6)
    data = pd.DataFrame({"x": rng.normal(size=n), "z": rng.uniform(size=n), "code": np.array(list("abcdef"))[g]})
    data["run"], data["w"] = np.where(np.arange(n) % 2, "p", "q"), rng.uniform(0.5, 2, n)
    data["y"] = rng.normal(size=n) + rng.normal(size=6)[g] + np.sin(3 * data.z)
    data["count"], data["kind"] = rng.poisson(np.exp(data.y / 2)), np.digitize(data.y, [-0.5, 0.8])
    return data.assign(pos=np.exp(data.y / 2))


DATA = _data()
RUNS: dict[str, dict[str, Any]] = {
    "slopes": {"formula": "y ~ x + (1 + x | code)", "family": "gaussian"},
    "rates": {"formula": "count ~ s(z, k=5) + (1 | code)", "family": "poisson", "exposure": "w"},
    "groups": {"formula": "y ~ x + (1 | code)", "family": "gaussian", "by": "run"},
    "classes": {"formula": "kind ~ x + (1 | code)", "family": "ordinal"},
    "spread": {"formula": "pos ~ x", "family": "gamma", "link": "log", "predictors": {"dispersion": "~ (1 | code)"}},
    "absorbed": {"formula": "y ~ x | code", "family": "gaussian"},
}
MIXED = [name for name in RUNS if name != "absorbed"]
FITTED: dict[str, tg.Result] = {}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The rows, and a run of each kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("mixed"))
        DATA.to_parquet("rows.parquet", row_group_size=20)
        DATA.to_csv("rows.csv", index=False)
        for name, options in RUNS.items():
            FITTED[name] = tg.fit(data=DATA, **options)
            FITTED[name].save(name)
            Path(name, "config.yaml").write_text("data: {path: rows.parquet}")
        yield


def predicted(*arguments: str) -> torch.Tensor:
    """(n, columns) the means, or probabilities, that a file of predictions holds."""
    assert main(["predict", *arguments, "--out", "out.parquet"]) == 0
    table = pd.read_parquet("out.parquet")
    means = [name for name in table.columns if name.startswith(("mean", "probability")) and "_se" not in name]
    return torch.from_numpy(table[means].to_numpy()).squeeze(-1)


def own(name: str, data: pd.DataFrame, **options: Any) -> torch.Tensor:
    """What Python predicts; of groups of rows each by its own model."""
    found = FITTED[name].predict(data, **options)
    found = found[0] if isinstance(found, tuple) else found
    if "by" not in RUNS[name]:
        return found
    labels = [label[0] for label in FITTED[name].groups or []]
    return found[[labels.index(one) for one in data["run"]], torch.arange(len(data))]


@pytest.mark.parametrize("name", RUNS)
def test_predictions_are_those_of_python(name: str) -> None:
    assert float(FITTED[name].coef.abs().max()) > 0.05
    for rows, data in (("rows.parquet", DATA), ("rows.csv", DATA)):
        torch.testing.assert_close(predicted(name, rows), own(name, data), rtol=1e-9, atol=1e-9)
    if name != "absorbed":
        fixed = own(name, DATA, random=False)
        assert not torch.allclose(fixed, own(name, DATA)) or name == "spread"
        for flags in (["--fixed"], ["--se"], ["--fixed", "--link"]):
            torch.testing.assert_close(predicted(name, "rows.csv", *flags), fixed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", RUNS)
def test_levels_and_columns_that_are_not_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    strange = DATA.head(9).assign(code=["new"] + list(DATA.code[1:9]))
    strange.to_csv("strange.csv", index=False)
    strange.drop(columns="code").to_csv("none.csv", index=False)
    assert main(["predict", name, "strange.csv", "--out", "-"]) == 2
    assert "'code' has 1 rows with unknown levels: 'new'; the first is row 0" in (said := capsys.readouterr().err)
    assert said.rstrip().endswith("or take effects of 0 for them with --unseen reference.")
    taken = predicted(name, "strange.csv", "--unseen", "reference")
    torch.testing.assert_close(taken, own(name, strange, unseen="reference"), rtol=1e-9, atol=1e-9, equal_nan=True)
    assert main(["predict", name, "none.csv", "--out", "-"]) == 2
    said = capsys.readouterr().err
    assert "No column 'code'" in said and (name == "absorbed" or "--fixed" in said)
    if name != "absorbed":
        fixed = own(name, strange, random=False)
        torch.testing.assert_close(predicted(name, "none.csv", "--fixed"), fixed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", RUNS)
def test_scores_are_those_of_the_rows_of_the_fit(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", name, "rows.parquet", "--format", "json", "--by", "code"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows_of_the_fit"] and found["rows"] == len(DATA)
    if "deviance" in found:
        assert found["deviance"] == pytest.approx(float(FITTED[name].deviance.sum()), rel=1e-9)


@pytest.mark.parametrize("name", thinned(MIXED, 2))
def test_verbs_that_read_the_rows_again(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["check", name], ["compare", name, name], ["check", name, "--data", "rows.csv"]):
        assert main(command) == 0, command
    assert "no longer where the runs had them" not in capsys.readouterr().out


@pytest.mark.parametrize("name", thinned(MIXED, 5, 3))
def test_pages_of_the_rows_of_the_fit(name: str) -> None:
    assert main(["report", name, "--out", "page.html"]) == 0
    assert "New rows" not in Path("page.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_config_fits_what_python_fits(name: str) -> None:
    top = {key: value for key, value in RUNS[name].items() if key in ("family", "link")}
    data = {"path": "rows.csv"} | {key: value for key, value in RUNS[name].items() if key not in top}
    Path("config.yaml").write_text(yaml.safe_dump({"data": data, **top, "output_dir": f"{name} again"}))
    assert main(["fit", "config.yaml"]) == 0
    torch.testing.assert_close(tg.load(f"{name} again").coef, FITTED[name].coef, rtol=1e-9, atol=1e-9)


def test_what_absorbed_factors_do_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    for command, said in (
        (["check", "absorbed"], "the factors code are absorbed"),
        (["report", "absorbed"], "the factors code are absorbed"),
        (["predict", "absorbed", "rows.csv", "--se"], "Leave out --se, --interval and --response"),
        (["evaluate", "absorbed", "rows.csv", "--coverage", "0.9"], "Leave out --coverage"),
        (["export", "absorbed", "--table"], "absorbed factors, which"),
        (["export", "slopes", "--table"], "random effects, which"),
        (["export", "absorbed", "--onnx"], "torchglm predict"),
        (["export", "slopes", "--onnx"], "torchglm predict"),
    ):
        assert main(command) == 2
        assert said in capsys.readouterr().err, command
