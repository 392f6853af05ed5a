"""`model:` in a config: a network with a head trained on files, refitted, saved, predicted and scored with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

import torchglm
from tests.thinned import thinned
from torchglm.cli import config, main
from torchglm.cli.loading import load_run
from torchglm.cli.sgd import SGD
from torchglm.families.several import Classes
from torchglm.inputs import files
from torchglm.training import ArrowBatches, checkpointing

N = 600
MLP = {"class_path": "torchglm.nn.MLP", "init_args": {"widths": [6, 4], "activation": "tanh"}}


class Tokens(torch.nn.Module):
    """A backbone of one's own that gives three dimensions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    x, years = torch.randn(N, 2).double(), 0.5 + torch.rand(N).double()
    mean = (0.3 + 0.5 * torch.sin(2 * x[:, 0])).exp()
    table = pd.DataFrame({"a": 5 + 3 * x[:, 0], "b": x[:, 1], "years": years, "g": ["u", "v", "w"] * (N // 3)})
    table["count"] = torch.poisson(mean * years)
    table["cost"] = mean * torch.distributions.Gamma(2.0, 2.0).sample((N,))
    table["hits"] = torch.binomial(torch.full((N,), 4.0), torch.sigmoid(x[:, 0]).float())
    table["tries"] = 4
    table["grade"] = ["low", "mid", "high"] * (N // 3)
    cuts = (x[:, 0] + torch.randn(N)).round().clamp(-1, 1).long() + 1
    table["level"] = [["low", "mid", "high"][k] for k in cuts]
    table["time"] = mean * torch.distributions.Weibull(1.0, 1.5).sample((N,))
    table["seen"] = (torch.rand(N) < 0.7).double()
    table["w"] = 0.5 + torch.rand(N).double()
    folder = tmp_path_factory.mktemp("rows")
    table.to_parquet(folder / "rows.parquet", row_group_size=150)
    table.to_csv(folder / "rows.csv", index=False)
    table.assign(b=table["b"].where(table.index % 7 > 0)).to_parquet(folder / "holes.parquet")
    return folder


@pytest.fixture(autouse=True)
def without_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page takes a second; `test_configs.py` writes that of configs/network.yaml."""
    monkeypatch.setattr("torchglm.report.page.write_page", lambda result, path, **_: path.write_text("no page"))


def written(folder: Path, rows: Path, **more: Any) -> Path:
    """A config in a file; `None` leaves a key out."""
    data = {"path": str(rows / "rows.parquet"), "formula": "count ~ a + b + C(g)", "exposure": "years"}
    given: dict[str, Any] = {
        "data": data | more.pop("data", {}),
        "model": {"backbone": MLP, "head": {"family": "poisson"}},
        "solver": {
            "name": "sgd",
            "batch_size": 100,
            "optimizer": {"name": "adam", "lr": 0.01},
            "trainer": {"max_epochs": 2},
        },
        "finish": "refit",
        "output_dir": str(folder / "run"),
    }
    given = {key: value for key, value in (given | more).items() if value is not None}
    given["data"] = {key: value for key, value in given["data"].items() if value is not None}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def head_alone(run: Path, data: Path, **options: Any) -> tuple[torch.Tensor, pd.DataFrame]:
    """The features of a run's rows and the rows."""
    table = pd.read_parquet(data)
    network = load_run(run).context["network"]
    return network.features(network.spec.design(table)), table


FITS: dict[str, dict[str, Any]] = {
    "poisson": {},
    "negative binomial": {"model": {"backbone": MLP, "head": {"family": "negative_binomial"}}},
    "gamma": {
        "data": {"formula": "cost ~ a + b + C(g)", "exposure": None},
        "model": {"backbone": MLP, "head": {"family": "gamma", "link": "log"}},
    },
    "trials": {
        "data": {"formula": "hits ~ a + b", "exposure": None, "trials": "tries"},
        "model": {"backbone": MLP, "head": {"family": "binomial"}},
    },
    "multinomial": {
        "data": {"formula": "level ~ a + b", "exposure": None},
        "model": {"backbone": MLP, "head": {"family": "multinomial"}},
    },
    "ordinal": {
        "data": {"formula": "level ~ a + b", "exposure": None},
        "model": {"backbone": MLP, "head": {"family": {"name": "ordinal", "classes": ["low", "mid", "high"]}}},
    },
    "zero inflated": {"model": {"backbone": MLP, "head": {"family": {"name": "zero_inflated", "family": "poisson"}}}},
    "times": {
        "data": {"formula": "time ~ a + b + C(g)", "exposure": None, "event": "seen"},
        "model": {"backbone": MLP, "head": "weibull"},
    },
    "dispersion": {
        "data": {"formula": "cost ~ a + b", "exposure": None, "weights": "w"},
        "model": {"backbone": MLP, "head": {"family": "gamma", "link": "log", "predictors": ["dispersion"]}},
    },
    "no intercept": {"data": {"formula": "count ~ 0 + a + b"}},
    "float32": {"dtype": "float32"},
}


def fitted_alone(run: Path, name: str, data: Path) -> tuple[Any, torch.Tensor, dict[str, torch.Tensor]]:
    """The fit of a run's features by `torchglm.fit`, and these, and the roles of the rows."""
    result, (z, table) = torchglm.load(run), head_alone(run, data)
    columns = load_run(run).context["columns"]
    roles = {role: torch.tensor(table[column].to_numpy("float64")) for role, column in columns.items()}
    response = table[yaml.safe_load((run / "config.yaml").read_text())["data"]["formula"].split()[0]]
    family, options = torchglm.families.get(result.family.name) if result.plan is None else result.family, {}
    if isinstance(result.family, Classes):
        y = torch.tensor([result.classes.index(level) for level in response])
    else:
        y = torch.tensor(response.to_numpy("float64"))
    if name == "dispersion":
        family, options = torchglm.Gamma(), {"predictors": {"dispersion": z}}
    link = result.link if result.plan is None or name == "dispersion" else None
    return torchglm.fit(z, y, family=family, link=link, intercept=name != "no intercept", **options, **roles), z, roles


@pytest.mark.parametrize("name", thinned(FITS, 2, 1))
def test_the_refitted_head_is_the_fit_of_the_features(name: str, rows: Path, tmp_path: Path) -> None:
    assert main(["fit", str(written(tmp_path, rows, **FITS[name]))]) == 0
    run, result = tmp_path / "run", torchglm.load(tmp_path / "run")
    alone, z, roles = fitted_alone(run, name, rows / "rows.parquet")
    near = 2e-3 if name == "float32" else 1e-6
    torch.testing.assert_close(result.loglik, alone.loglik, rtol=near, atol=0)
    if result.plan is None:
        torch.testing.assert_close(result.deviance, alone.deviance, rtol=near, atol=0)
        torch.testing.assert_close(result.dispersion, alone.dispersion, rtol=near, atol=0)
    assert bool(result.converged) and result.spec is None

    out = tmp_path / "means.parquet"
    limits = [] if name in ("multinomial", "ordinal") else ["--response", "0.9"]
    assert main(["predict", str(run), str(rows / "rows.parquet"), "--out", str(out), "--se", *limits]) == 0
    shift = {"offset": roles["exposure"].log()} if "exposure" in roles else {}
    beside = {"predictors": {"dispersion": z}} if name == "dispersion" else {}
    said, error = alone.predict(z, se=True, **shift, **beside)
    said, error = (value if value.dim() == 2 else value[:, None] for value in (said, error))
    found = pd.read_parquet(out)
    told = [column for column in found if column == "mean" or (column.startswith("prob") and column[-3:] != "_se")]
    torch.testing.assert_close(torch.tensor(found[told].to_numpy()), said, rtol=max(near, 1e-4), atol=1e-6)
    errors = torch.tensor(found[[f"{column}_se" for column in told]].to_numpy())
    torch.testing.assert_close(errors, error, rtol=max(10 * near, 1e-3), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["multinomial", "zero inflated", *(pytest.param(n, marks=pytest.mark.slow) for n in ("times", "dispersion"))],
)
def test_heads_of_several_predictors_are_scored_and_streamed(
    name: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "HOLD", 1)
    assert main(["fit", str(written(tmp_path, rows, **FITS[name]))]) == 0
    run = tmp_path / "run"
    alone = fitted_alone(run, name, rows / "rows.parquet")[0]
    torch.testing.assert_close(torchglm.load(run).loglik, alone.loglik, rtol=1e-6, atol=0)
    capsys.readouterr()
    assert main(["evaluate", str(run), str(rows / "rows.parquet"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows_of_the_fit"]  # they have its log-likelihood
    assert main(["summary", str(run)]) == 0 and "feature 1" in capsys.readouterr().out
    for command in (["check"], ["report"], ["export", "--table"]):
        assert main([command[0], str(run), *command[1:]]) == 2


@pytest.mark.parametrize(
    "name",
    [
        "poisson",
        "ordinal",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("dispersion", "no intercept", "float32")),
    ],
)
def test_it_is_exported_with_its_backbone(name: str, rows: Path, tmp_path: Path) -> None:
    assert main(["fit", str(written(tmp_path, rows, **FITS[name]))]) == 0
    run, out = tmp_path / "run", tmp_path / "out.parquet"
    assert main(["predict", str(run), str(rows / "rows.parquet"), "--out", str(out)]) == 0
    assert main(["export", str(run), "--torch"]) == 0
    held = {"levels.json": ""}
    program = torch.export.load(run / "model.pt2", extra_files=held).module()
    table, levels, context = (
        pd.read_parquet(rows / "rows.parquet"),
        json.loads(held["levels.json"]),
        load_run(run).context,
    )
    shifts = [column for role, column in context["columns"].items() if role in ("exposure", "offset")]

    def column(name: str) -> torch.Tensor:
        if name in levels:
            return torch.tensor([levels[name].index(value) for value in table[name]])
        return torch.tensor(table[name].to_numpy())

    given = {name: column(name) for name in dict.fromkeys([*context["network"].spec.columns, *shifts])}
    [found] = program(given).values()
    told = pd.read_parquet(out)
    said = torch.tensor(told[[name for name in told if name == "mean" or name.startswith("prob")]].to_numpy())
    torch.testing.assert_close(found.reshape(said.shape), said, rtol=1e-5, atol=1e-6)


def test_it_scores_the_rows_of_the_fit_as_its_own(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["fit", str(written(tmp_path, rows))]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), str(rows / "rows.parquet"), "--format", "json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["deviance"] == pytest.approx(float(torchglm.load(tmp_path / "run").deviance))
    plain = torchglm.fit("count ~ a + b + C(g)", rows / "rows.parquet", family="poisson", exposure="years")
    assert float(torchglm.load(tmp_path / "run").deviance) < float(plain.deviance)  # what a network is for
    for command in (["check"], ["report"], ["export", "--table"]):
        assert main([command[0], str(tmp_path / "run"), *command[1:]]) == 2
        assert "is a network" in capsys.readouterr().err
    assert main(["summary", str(tmp_path / "run")]) == 0


def test_one_seed_is_one_network_and_streams_and_csv_are_fitted(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, data in (("a", {}), ("b", {}), ("csv", {"path": str(rows / "rows.csv")})):
        (tmp_path / name).mkdir()
        assert main(["fit", str(written(tmp_path / name, rows, data=data))]) == 0
        found.append(torchglm.load(tmp_path / name / "run"))
    torch.testing.assert_close(found[0].coef, found[1].coef, rtol=0, atol=0)
    torch.testing.assert_close(found[0].deviance, found[2].deviance, rtol=1e-9, atol=0)

    monkeypatch.setattr(files, "HOLD", 1)
    job, _ = config.read([str(written(tmp_path, rows))])
    made = []
    monkeypatch.setattr(SGD, "_loader", lambda *given, own=SGD._loader: made.append(own(*given)) or made[-1])
    torch.manual_seed(0)
    streamed = job.solver.solve(job)
    assert all(isinstance(one, ArrowBatches) for one in made) and len(made) == 2
    assert int(streamed.nobs) == N and bool(streamed.converged)


def test_rows_with_holes_are_left_out_as_the_policy_says(rows: Path, tmp_path: Path) -> None:
    data = {"path": str(rows / "holes.parquet"), "missing": "drop"}
    assert main(["fit", str(written(tmp_path, rows, data=data))]) == 0
    assert int(torchglm.load(tmp_path / "run").nobs) == sum(k % 7 > 0 for k in range(N))


def test_without_a_refit_the_head_is_the_trained_one(rows: Path, tmp_path: Path) -> None:
    results = {}
    for finish in (None, "refit"):
        assert main(["fit", str(written(tmp_path, rows, finish=finish))]) == 0
        results[finish] = torchglm.load(tmp_path / "run")
    assert not bool(results[None].converged) and bool(results["refit"].converged)
    assert float(results["refit"].deviance) < float(results[None].deviance)


def test_a_backbone_of_ones_own_in_a_file_here(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layers_of_mine.py").write_text(
        "import torch\n\n\nclass Body(torch.nn.Module):\n    def __init__(self, in_features: int, width: int):\n"
        "        super().__init__()\n        self.layers = torch.nn.Sequential(torch.nn.Linear(in_features, width), "
        "torch.nn.BatchNorm1d(width), torch.nn.Tanh(), torch.nn.Dropout(0.2))\n\n"
        "    def forward(self, x):\n        return self.layers(x)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    before = list(sys.path)
    assert main(["fit", str(written(tmp_path, rows, model=backbone("layers_of_mine.Body", width=3)))]) == 0
    for out in ("a.csv", "b.csv"):  # no dropout, and running averages
        assert main(["predict", "run", str(rows / "rows.parquet"), "--out", out, "--se", "--interval", "0.9"]) == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text() and sys.path == before
    told = torch.tensor(pd.read_csv("a.csv")["mean"].to_numpy())
    count = torch.tensor(pd.read_parquet(rows / "rows.parquet")["count"].to_numpy("float64"))
    assert float(told.sum()) == pytest.approx(float(count.sum()), rel=1e-6)  # balance of the refit


def test_an_interrupted_training_goes_on_to_the_same_network(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["fit", str(written(tmp_path, rows)), "--output_dir", str(tmp_path / "whole")]) == 0
    keep = checkpointing.EpochCheckpoint.on_train_epoch_end

    def stop(self: Any, trainer: Any, module: Any) -> None:
        keep(self, trainer, module)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing.EpochCheckpoint, "on_train_epoch_end", stop)
        assert main(["fit", str(written(tmp_path, rows))]) == 130
    assert main(["fit", str(tmp_path / "config.yaml"), "--resume", str(tmp_path / "run")]) == 0
    whole, resumed = (torchglm.load(tmp_path / name) for name in ("whole", "run"))
    torch.testing.assert_close(resumed.coef, whole.coef, rtol=0, atol=0)


def test_the_head_may_stand_at_the_top(rows: Path, tmp_path: Path) -> None:
    inside, _ = config.read([str(written(tmp_path, rows))])
    beside, _ = config.read([str(written(tmp_path, rows, model={"backbone": MLP}, family="poisson"))])
    assert inside.family.name == beside.family.name and inside.model == beside.model


def backbone(path: str, **arguments: Any) -> dict[str, Any]:
    return {"backbone": {"class_path": path, "init_args": arguments}, "head": {"family": "poisson"}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "twice": ({"family": "gamma"}, "stands in model.head"),
    "unknown key": ({"model": {"backbone": MLP, "head": {"famly": "poisson"}}}, "famly"),
    "no class": ({"model": backbone("torchglm.nn.MPL")}, "cannot be imported"),
    "no module": ({"model": backbone("torchglm.Ridge")}, "no class of torch.nn.Module"),
    "argument": ({"model": backbone("torchglm.nn.MLP", width=3)}, "width"),
    "backbone": ({"model": {"backbone": "mlp", "head": "poisson"}}, "class_path: package.Class"),
    "no backbone": ({"model": {"head": "poisson"}}, "class_path: package.Class"),
    "key of model": ({"model": {"bakbone": MLP, "head": "poisson"}}, "bakbone"),
    "no mapping": ({"model": "mlp", "family": "poisson"}, "got 'mlp'"),
    "value": ({"model": backbone("torchglm.nn.MLP", widths=[0])}, "at least 1"),
    "columns": ({"model": backbone("torch.nn.Linear", in_features=7, out_features=2)}, "4 columns"),
    "shape": ({"model": backbone(f"{__name__}.Tokens")}, "(rows, features)"),
    "irls": ({"solver": "irls"}, "solver: sgd"),
    "no model": ({"model": None, "family": "poisson"}, "has no model"),
    "polish": ({"solver": {"name": "sgd", "polish": 2}}, "finish: refit"),
    "penalty": ({"finish": None, "penalty": {"name": "ridge", "l2": 0.1}}, "finish: refit"),
    "covariance": ({"covariance": "HC1"}, "covariance"),
    "lbfgs": ({"solver": {"name": "sgd", "optimizer": "lbfgs"}}, "lbfgs"),
    "strange predictor": (
        FITS["dispersion"] | {"model": {"backbone": MLP, "head": {"family": "gamma", "predictors": ["zero"]}}},
        "beside the first",
    ),
    "formula of a predictor": (
        {"data": {"predictors": {"alpha": "~ a"}}, "model": {"backbone": MLP, "head": "negative_binomial"}},
        "head: {predictors",
    ),
    "predictors twice": (
        {"model": {"backbone": MLP, "head": {"family": "poisson", "predictors": []}, "predictors": []}},
        "Write it once",
    ),
    "no predictors": ({"model": {"backbone": MLP, "head": {"family": "poisson", "predictors": 3}}}, "predictors"),
    "processes of its own": (
        {"solver": {"name": "sgd", "trainer": {"max_epochs": 1, "devices": 2, "accelerator": "cpu"}}},
        "ask for 2 processes",
    ),
    "groups": ({"data": {"by": "g", "formula": "count ~ a"}}, "data.by"),
    "too fast": (
        {
            "model": backbone("torch.nn.Linear", out_features=2),
            "solver": {"name": "sgd", "optimizer": {"name": "sgd", "lr": 1e300}, "trainer": {"max_epochs": 9}},
        },
        "not finite",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_is_said(name: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    more, words = REFUSED[name]
    assert main(["fit", str(written(tmp_path, rows, **more))]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run" / "result.json").exists()
