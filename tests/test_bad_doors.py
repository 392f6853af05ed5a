"""Faults of smooths, random effects and penalties by doors: the same clear error at each, and no traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml  # type: ignore[import-untyped]

import torchglm as tg
from tests.thinned import thinned
from torchglm.cli import main
from torchglm.cli.in_flags import in_flags
from torchglm.inputs import files

pytestmark = pytest.mark.filterwarnings("ignore")


def _data(n: int = 96) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    g = rng.permutation(np.arange(n) % 8)
    data = pd.DataFrame(
        {"x": rng.normal(size=n), "z": rng.uniform(size=n), "g": g, "code": np.array(list("abcdefgh"))[g]}
    )
    data["few"], data["run"], data["all"], data["one"] = rng.integers(0, 3, n), np.arange(n) % 3, 1, 1.0
    data["y"] = rng.normal(size=n) + 0.5 * rng.normal(size=8)[g]
    data["hit"], data["pos"] = rng.integers(0, 2, n), np.exp(data["y"])
    return data


DATA = _data()
MADE: dict[str, Callable[..., Any]] = {
    "ridge": tg.Ridge,
    "quadratic": lambda blocks, **more: tg.Quadratic(
        [(b["columns"], torch.tensor(b["matrix"]) if "matrix" in b else torch.eye(len(b["columns"]))) for b in blocks],
        **more,
    ),
    "elastic_net": tg.ElasticNet,
}


def _python(source: Callable[[], Any], **more: Any) -> Callable[[dict[str, Any]], str]:
    """What `fit` says of a fault, "" where it fits."""

    def door(fault: dict[str, Any]) -> str:
        given = dict(fault)
        try:
            if "penalty" in given:
                options = dict(given["penalty"])
                given["penalty"] = MADE[options.pop("name")](**options)
            tg.fit(given.pop("formula"), source(), **{"family": "gaussian"} | given, **more)
        except (ValueError, TypeError) as error:
            return in_flags(" ".join(str(error).split()), "fit")
        return ""

    return door


def _config(fault: dict[str, Any], path: str, **more: Any) -> dict[str, Any]:
    inner = {key: fault[key] for key in ("formula", "predictors") if key in fault} | more.pop("data", {})
    top = {key: value for key, value in fault.items() if key not in inner}
    return {"family": "gaussian"} | top | {"data": {"path": path} | inner, "output_dir": "run"} | more


def _command(path: str, flags: bool = False, hold: int | None = None, **more: Any) -> Callable[[dict[str, Any]], str]:
    """What `torchglm fit` says of a fault on the rows of a file; `hold` are the bytes of rows that are kept."""

    def door(fault: dict[str, Any]) -> str:
        config = _config(fault, path, **dict(more))
        given = []
        if flags:
            data, config = config.pop("data"), config
            named = {f"data.{key}": value for key, value in data.items()} | config
            given = [
                f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in named.items()
            ]
            config = {"data": {"path": path, "formula": "y ~ x"}, "family": "gaussian"}
        Path("config.yaml").write_text(yaml.safe_dump(config))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torchglm.cli.fit._write", lambda *every: None)
            if hold is not None:
                patch.setattr(files, "HOLD", hold)
            code = main(["fit", "config.yaml", *given])
        said = SAID().err.rstrip()
        if not code:
            return ""
        assert code == 2 and "Traceback" not in said and said.splitlines()[-1].startswith("torchglm: error: ")
        return said.splitlines()[-1].removeprefix("torchglm: error: ")

    return door


SAID: Callable[[], Any] = lambda: None  # noqa: E731  what was printed, of the test that runs
DOORS = {
    "frame": _python(lambda: DATA),
    "mapping": _python(lambda: {name: column.to_numpy() for name, column in DATA.items()}),
    "arrow": _python(lambda: pa.Table.from_pandas(DATA)),
    "chunks": _python(lambda: [DATA.iloc[:40], DATA.iloc[40:]]),
    "one group": _python(lambda: DATA, by="all"),
    "groups": _python(lambda: DATA, by="run"),
    "config": _command("rows.csv"),
    "streamed": _command("rows.parquet", hold=0),
    "grouped config": _command("rows.csv", data={"by": "run"}),
    "flags": _command("rows.parquet", flags=True),
}
RIDGE = {"name": "ridge", "l2": 0.1}
BLOCK = {"columns": ["x", "z"]}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {  # what is wrong, and what is said of it
    "k above the distinct values": (
        {"formula": "y ~ s(few, k=10)"},
        "k=10 is more than the 3 distinct values. Write k=3",
    ),
    "a constant": ({"formula": "y ~ s(one)"}, "the same value, 1, in all rows. Leave the term out"),
    "a smooth of text": ({"formula": "y ~ s(code)"}, "'code' is a category, which has no order"),
    "no basis": ({"formula": "y ~ s(x, bs='zz')"}, "bs='zz' .* is no basis. Known: cr"),
    "no column": ({"formula": "y ~ s(nope)"}, r"No column 'nope' in [\w. ]+\. It has: x"),
    "the same twice": ({"formula": "y ~ s(x) + s(x, bs='cr')"}, "say the same: both are s"),
    "a line beside its curve": ({"formula": "y ~ x + s(x)"}, r"x and s\(x\) say the same"),
    "a smooth of a product": ({"formula": "y ~ z:s(x)"}, r"cannot be multiplied .* by=: s\(x, by=z\)"),
    "a group of one level": ({"formula": "y ~ x + (1 | one)"}, "'one' have one level, 1.0: nothing varies"),
    "a row each": ({"formula": "y ~ x + (1 | z)"}, r"'z' has \d+ levels with 1 effect each and the data \d+ rows"),
    "no group": (
        {"formula": "y ~ x + (1 | )"},
        "no group after the bar .*Write random effects as".replace(" .*", ".*"),
    ),
    "no bar to read": ({"formula": "y ~ x + (1 | g h)"}, "'g h' of the random effects .* is no column"),
    "effects alone": ({"formula": "y ~ 0 + (1 | g)"}, r"'y ~ 0 \+ \(1 \| g\)' leaves no column beside its random"),
    "effects and absorbed factors": ({"formula": "y ~ x + (1 | g) | few"}, "which are not fitted at once"),
    "copies of groups": ({"formula": "y ~ x + (1 | g) + (1 | code)"}, "'g' and 'code' say the same"),
    "a strength below 0": ({"formula": "y ~ x", "penalty": RIDGE | {"l2": -1}}, "l2 must be one number >= 0.*got -1.0"),
    "strengths of another shape": (
        {"formula": "y ~ x", "penalty": RIDGE | {"l2": [1, 2, 3]}},
        "3 values for 1 columns",
    ),
    "a centre of no column": ({"formula": "y ~ x", "penalty": RIDGE | {"centre": {"q": 1.0}}}, "centre names 'q'"),
    "a block twice": (
        {"formula": "y ~ x", "penalty": {"name": "quadratic", "blocks": [{"columns": ["x", "x"]}]}},
        "block 0 names column 'x' twice. Name each once.",
    ),
    "a block of none": (
        {"formula": "y ~ x", "penalty": {"name": "quadratic", "blocks": [{"columns": []}]}},
        "block 0 has no columns. Name at least one",
    ),
    "a block that is not there": (
        {"formula": "y ~ x", "penalty": {"name": "quadratic", "blocks": [BLOCK]}},
        "a block names column 'z', which is not one of",
    ),
    "a block that is not convex": (
        {
            "formula": "y ~ x + z",
            "penalty": {"name": "quadratic", "blocks": [BLOCK | {"matrix": [[1.0, 0], [0, -1.0]]}]},
        },
        "S of block 0 must be symmetric, positive semi-definite",
    ),
    "two penalties": (
        {"formula": "y ~ s(x)", "penalty": RIDGE},
        r"penalty of their own \(s\(x\)\), and penalty is another",
    ),
    "a penalty beside effects": (
        {"formula": "y ~ x + (1 | g)", "penalty": RIDGE},
        "beside random effects the strengths",
    ),
    "smoothing of nothing": ({"formula": "y ~ x", "smoothing": "reml"}, "^smoothing is for terms such as s"),
    "smoothing by another name": (
        {"formula": "y ~ s(x)", "smoothing": {"s(z)": 1.0}},
        r"a strength to each of s\(x\); got",
    ),
    "smoothing below 0": ({"formula": "y ~ s(x)", "smoothing": {"s(x)": -1.0}}, r"^smoothing of s\(x\) must be finite"),
    "numbers for variances": (
        {"formula": "y ~ x + (1 | g)", "smoothing": {"g": 1.0}},
        r"s\(group, bs='re'\) in the place",
    ),
    "quadrature of nothing": (
        {"formula": "hit ~ x", "family": "bernoulli", "quadrature": 5},
        "^quadrature is for random",
    ),
    "no nodes": (
        {"formula": "hit ~ (1 | g)", "family": "bernoulli", "quadrature": 0},
        "from 1 .Laplace. to 100, got 0",
    ),
    "quadrature of a Gaussian": (
        {"formula": "y ~ (1 | g)", "quadrature": 5},
        "^quadrature: 5 needs a likelihood that is not",
    ),
    "quadrature by REML": (
        {"formula": "hit ~ (1 | g)", "family": "bernoulli", "quadrature": 5, "smoothing": "reml"},
        "^quadrature: 5 needs smoothing: ml. Leave it out",
    ),
    "a dispersion below 0": ({"formula": "y ~ s(x)", "dispersion": -1.0}, "^dispersion must be .*got -1.0"),
    "a dispersion beside effects": (
        {"formula": "y ~ (1 | g)", "dispersion": "ml"},
        "^dispersion: ml has no meaning beside",
    ),
    "no such predictor": (
        {"formula": "pos ~ x", "family": "gamma", "link": "log", "predictors": {"alpha": "~ z"}},
        "^data.predictors names 'alpha'; those of gamma beside the first are: dispersion",
    ),
    "a left side": (
        {"formula": "pos ~ x", "family": "gamma", "link": "log", "predictors": {"dispersion": "z ~ s(x)"}},
        "'dispersion' has the formula 'z ~ s.x.' with a left side",
    ),
}


@pytest.fixture(autouse=True)
def home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[None]:
    folder = tmp_path_factory.getbasetemp() / "doors"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    if not Path("rows.csv").is_file():
        DATA.to_parquet("rows.parquet", row_group_size=20)
        DATA.to_csv("rows.csv", index=False)
    global SAID
    SAID = capsys.readouterr
    yield


def placed(said: str) -> str:
    """A message without where the rows are, and how many of them there are."""
    return re.sub(r"in (the data|the first chunk|rows\.\w+)|\d+ (levels|rows)|^'[^']+' \(", "", said)


FEW = ("frame", "mapping", "groups", "streamed", "flags")


@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_is_said_at_every_door(fault: str) -> None:
    given, expected = FAULTS[fault]
    first = DOORS["frame"](given)
    assert re.search(expected, first), first
    for door in FEW[1:]:
        assert placed(DOORS[door](given)) == placed(first), door


@pytest.mark.slow
@pytest.mark.parametrize("door", [door for door in DOORS if door not in FEW])
def test_the_same_is_said_at_the_other_doors(door: str) -> None:
    for given, expected in FAULTS.values():
        said = DOORS[door](given)
        assert re.search(expected, said), (given, said)
        assert placed(said) == placed(DOORS["frame"](given))


BY_SGD = [
    ({"formula": "y ~ s(x)"}, r"the term s\(x\) has a penalty, whose strength solver irls finds.* Use solver: irls"),
    ({"formula": "y ~ x + (1 | g)"}, r"\(1 \| g\) are fitted by solver irls alone.* Use solver: irls"),
    ({"formula": "y ~ x | g"}, "absorbed factors g are fitted by solver irls alone"),
    ({"formula": "y ~ x", "penalty": {"name": "ridge", "l2": "reml"}}, "reml, is estimated by solver irls alone"),
    ({"formula": "y ~ x", "smoothing": "ml"}, "Use solver: irls, or leave it out"),
    ({"formula": "y ~ x", "quadrature": 5}, "Use solver: irls, or leave it out"),
]


@pytest.mark.parametrize(("given", "expected"), thinned(BY_SGD, 2))
def test_what_minibatches_do_not_fit_is_said_with_the_solver_that_does(given: dict[str, Any], expected: str) -> None:
    said = _command("rows.parquet", solver="sgd")(given)
    assert re.search(expected, said) and "torchglm.fit" not in said


def test_a_strength_of_all_terms_is_a_number_in_a_config() -> None:
    from torchglm.cli import config

    Path("config.yaml").write_text(
        yaml.safe_dump(_config({"formula": "y ~ s(x) + s(z)", "smoothing": 2.5}, "rows.csv"))
    )
    job = config.read(["config.yaml"])[0]
    called = tg.fit("y ~ s(x) + s(z)", "rows.csv", family="gaussian", smoothing=2.5)
    torch.testing.assert_close(job.solver.solve(job).coef, called.coef, rtol=0, atol=0)


def test_missing_values_among_text_are_missing_in_every_table() -> None:
    gaps = DATA.assign(code=DATA["code"].where(DATA.index != 5).astype(object))
    whole = tg.fit("y ~ x + (1 | code)", gaps, family="gaussian", missing="drop")
    for table in ({name: column.to_numpy() for name, column in gaps.items()}, pa.Table.from_pandas(gaps)):
        other = tg.fit("y ~ x + (1 | code)", table, family="gaussian", missing="drop")
        torch.testing.assert_close(other.coef, whole.coef, rtol=0, atol=0)
        with pytest.raises(ValueError, match="^Column 'code' has 1 missing value .the first in row 5"):
            tg.fit("y ~ x + (1 | code)", table, family="gaussian")
    none = {name: column.to_numpy()[:0] for name, column in gaps.items()}
    assert whole.predict(none).shape == (0,)


def test_levels_that_are_combined_are_found_by_their_values() -> None:
    data = DATA.assign(g=DATA["g"] // 2)
    fit = tg.fit("y ~ x + (1 | run/g)", data, family="gaussian")
    for kind in (float, "int8", "category", "Int64"):
        torch.testing.assert_close(
            fit.predict(data.assign(g=data["g"].astype(kind))), fit.fitted, rtol=1e-12, atol=1e-12
        )
    names = {0: ("a:b", "c"), 1: ("a", "b:c"), 2: ("a", "c"), 3: ("`a", "c")}
    pairs = pd.DataFrame([names[k] for k in data["g"]], columns=["u", "v"])
    apart = tg.fit("y ~ x + (1 | u:v)", data.assign(**pairs), family="gaussian")
    assert len(apart.random["u:v"].levels) == 4
    torch.testing.assert_close(apart.fitted, tg.fit("y ~ x + (1 | g)", data, family="gaussian").fitted)


NO_PENALTIES = {"a number": 0.1, "text": "ridge", "a class": tg.Ridge, "a function": lambda model: model.weight.sum()}
OF_HEADS: dict[str, Callable[[Any, Any], Any]] = {
    "LitIRLS": lambda batches, bad: training().LitIRLS(tg.GLMHead(1, "poisson"), penalty=bad),
    "fit_sgd": lambda batches, bad: training().fit_sgd(tg.GLMHead(1, "poisson"), batches, penalty=bad),
    "refit_": lambda batches, bad: tg.refit_(tg.GLMHead(1, "poisson"), batches, penalty=bad),
    "FisherHead": lambda batches, bad: tg.optim.FisherHead(tg.GLMHead(1, "poisson"), penalty=bad),
    "fit": lambda batches, bad: tg.fit("hit ~ x", DATA, family="poisson", penalty=bad),
    "head.fit": lambda batches, bad: tg.GLMHead(1, "poisson").fit(torch.ones(4, 1), torch.ones(4), penalty=bad),
}


def training() -> Any:
    import torchglm.training

    return torchglm.training


@pytest.mark.parametrize("door", OF_HEADS)
def test_what_is_no_penalty_is_said_of_heads(door: str) -> None:
    x, y = torch.from_numpy(DATA[["x"]].to_numpy()).float(), torch.from_numpy(DATA["hit"].to_numpy()).float()
    batches = training().TensorBatches(training().GLMBatch(x, y), 48)
    for bad in NO_PENALTIES.values():
        with pytest.raises(TypeError, match="^penalty must be a penalty such as torchglm.Ridge.0.1., got "):
            OF_HEADS[door](batches, bad)
    if door not in ("fit", "head.fit"):
        with pytest.raises(ValueError, match="^Jeffreys.. adjusts the score of all rows at once"):
            OF_HEADS[door](batches, tg.Jeffreys())
    if door not in ("fit", "head.fit", "LitIRLS"):
        with pytest.raises(ValueError, match=r"a block names columns, \['x'\], which have no names here"):
            OF_HEADS[door](batches, tg.Quadratic([(["x"], torch.eye(1))], 1.0))


def test_penalties_of_a_network_are_functions_of_it() -> None:
    for bad in (tg.Ridge(0.1), tg.Ridge, tg.Jeffreys(), 0.1, "ridge"):
        with pytest.raises(TypeError, match="^penalty must be a function of the model.* go with fit_sgd and LitIRLS"):
            training().LitGLM(tg.GLMHead(1, "poisson"), penalty=bad)


def test_what_networks_are_made_of_and_asked_with() -> None:
    x, y = torch.from_numpy(DATA[["x"]].to_numpy()).float(), torch.from_numpy(DATA["hit"].to_numpy()).float()
    head, fit = tg.GLMHead(1, "poisson"), tg.fit("hit ~ x", DATA, family="poisson")
    batches, nan = training().TensorBatches(training().GLMBatch(x, y), 48), torch.full_like(y, torch.nan)
    heads = tg.nn.Heads({"f": head, "s": tg.GLMHead(1, "gamma")})
    body = torch.nn.Linear(1, 4)
    strengths = (None, True, -1.0, torch.ones(2), torch.inf, "x")
    refused: list[tuple[Callable[[], Any], str]] = [
        *((lambda s=s: tg.Laplace(head, batches, strength=s), "strength must be a number") for s in strengths),
        *((lambda of=of: of(head, None), "loader must be batches") for of in (tg.Laplace, tg.Conformal, tg.refit_)),
        (lambda: tg.Conformal(head, [(x, nan)]), "y holds NaN"),
        (lambda: tg.Conformal(head, [(torch.full_like(x, torch.nan), y)]), "the linear predictor holds NaN"),
        *((lambda bad=bad: tg.nn.Heads(bad), "Heads takes heads by name") for bad in ([head], None)),
        (lambda: tg.nn.Heads({1: head}), "name of a head must be text, got 1"),
        *(
            (lambda bad=bad: heads.loss(x, bad), "y must be responses by the names of heads .f, s.")
            for bad in (y, None)
        ),
        (lambda: heads.loss(x, {"f": y}, weights={"q": y}), "'q' is none of the heads"),
        (lambda: tg.nn.CANN(None, body, features=4), "glm must be a fit"),
        (lambda: tg.nn.CANN(fit, "body", features=4), "network must be an nn.Module, got str"),
        *((lambda f=f: tg.nn.CANN(fit, body, features=f), "features must be the number") for f in ("a", 0, True, 2.5)),
        (
            lambda: tg.nn.CANN(fit, torch.nn.Linear(1, 1))((x, x, x)),
            "or a pair of what the GLM and the network take, got 3",
        ),
    ]
    for call, said in refused:
        with pytest.raises((TypeError, ValueError), match=said):
            call()
    assert float(tg.Laplace(head, batches, strength=torch.tensor(2.0)).strength) == 2.0
    kept = torch.where(torch.arange(len(y)) > 0, y, torch.nan), (torch.arange(len(y)) > 0).float()
    tg.Conformal(head, [training().GLMBatch(x, kept[0], weights=kept[1])])  # a row of weight 0 is none


def test_new_rows_without_the_column_of_their_groups() -> None:
    for formula, family in (("y ~ x + (1 | code)", "gaussian"), ("hit ~ x + (1 | code)", "ordinal")):
        fit = tg.fit(formula, DATA, family=family)
        for table in (DATA[["x"]], {"x": DATA["x"].to_numpy()}, pa.table({"x": DATA["x"]})):
            with pytest.raises(ValueError, match="^No column 'code' in the data, .*: random=False.$"):
                fit.predict(table)
            torch.testing.assert_close(fit.predict(table, random=False), fit.predict(DATA, random=False))


def test_a_surface_is_in_no_rating_table_and_in_no_model_file() -> None:
    tg.fit("y ~ te(x, z, k=3)", DATA, family="gaussian").save("surface")
    for kind in ("--table", "--onnx"):
        assert main(["export", "surface", kind, "--data", "rows.parquet"]) == 2
        said = SAID().err
        assert "torchglm predict" in said and "Write ONNX" not in said
