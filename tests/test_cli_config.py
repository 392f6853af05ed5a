"""From YAML and flags to a typed job and back: short names, overrides, paths, and misspelt keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm
from torchglm import families, links
from torchglm.cli import config, main, short_names
from torchglm.cli.schema import IRLS, DataConfig, Job

BASE = "data: {path: a.parquet, formula: y ~ x}\nfamily: poisson\n"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    """A function from YAML text and flags to the job and its resolved YAML."""
    monkeypatch.chdir(tmp_path)

    def read(text: str = BASE, *flags: str) -> tuple[Job, str]:
        Path("c.yaml").write_text(text)
        return config.read(["c.yaml", *flags])

    return read


def test_the_defaults(read) -> None:  # noqa: ANN001
    job, _ = read()
    assert type(job.solver) is IRLS and (job.solver.tol, job.solver.max_iter) == (1e-8, 50)
    assert (job.link, job.penalty, job.seed, job.device) == (None, None, 0, "auto")
    assert job.precision is torch.float64
    assert job.data.roles == {} and job.data.groups == []


@pytest.mark.parametrize("name", families.names())
def test_every_family_by_name(read, name: str) -> None:  # noqa: ANN001
    job, _ = read(BASE.replace("poisson", name))
    assert type(job.family) is type(families.get(name))
    assert type(read(BASE, "--family", name)[0].family) is type(job.family)


@pytest.mark.parametrize("name", links.names())
def test_every_link_by_name(read, name: str) -> None:  # noqa: ANN001
    assert type(read(BASE + f"link: {name}\n")[0].link) is type(links.get(name))


def test_short_forms_with_arguments(read) -> None:  # noqa: ANN001
    job, text = read(
        "data: {path: [a.csv, b.csv], formula: y ~ x, by: [g, h], exposure: e, weights: w}\n"
        "family: {name: negative_binomial, alpha: 0.5}\nlink: {name: power, power: 0.5}\n"
        "penalty: {name: elastic_net, l1: 0.1, l2: [1, 2]}\n"
        "solver: {name: irls, tol: 1e-10, singular: minnorm}\ndispersion: pearson\ndtype: float32\n"
    )
    assert float(job.family.alpha) == pytest.approx(0.5) and job.link.power == 0.5
    assert float(job.penalty.l1) == 0.1 and job.penalty.l2.tolist() == [1, 2]
    assert (job.solver.tol, job.solver.singular, job.dispersion) == (1e-10, "minnorm", "pearson")
    assert job.precision is torch.float32 and job.data.groups == ["g", "h"]
    assert job.data.roles == {"exposure": "e", "weights": "w"}
    assert "class_path" not in text
    again, same = read(text)
    assert same == text and again.data == job.data and again.penalty.l2.tolist() == [1, 2]


def test_flags_override_in_order(read) -> None:  # noqa: ANN001
    job, _ = read(
        BASE,
        "--family=negative_binomial",
        "--family.alpha",
        "2",
        "--solver.max_iter=7",
        "--link",
        "{name: power, power: 2}",
        "--data.by",
        "g",
        "--seed",
        "3",
        "--penalty",
        "{name: ridge, l2: 1}",
    )
    assert float(job.family.alpha) == pytest.approx(2) and job.solver.max_iter == 7
    assert job.link.power == 2 and job.data.groups == ["g"] and job.seed == 3 and float(job.penalty.l2) == 1
    assert read(BASE + "penalty: {name: ridge, l2: 1}\n", "--penalty", "null")[0].penalty is None


def test_no_file_is_needed(read) -> None:  # noqa: ANN001
    job, _ = config.read(["--data.path", "a.csv", "--data.formula", "y ~ x", "--family", "gamma"])
    assert job.family.name == "gamma"


def test_a_class_path_stands_for_ones_own_class(read) -> None:  # noqa: ANN001
    job, _ = read(BASE.replace("poisson", "{class_path: torchglm.families.Tweedie, init_args: {power: 1.2}}"))
    assert float(job.family.power) == pytest.approx(1.2)
    assert read(BASE, "--link", "torchglm.links.Cauchit")[0].link.name == "cauchit"


def test_printed_config_is_a_config(read, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    Path("c.yaml").write_text(BASE)
    flags = ["--family", "tweedie", "--penalty", "{name: ridge, l2: 2}", "--print_config"]
    assert main(["fit", "c.yaml", *flags]) == 0
    printed = capsys.readouterr().out
    job, text = read(printed)
    assert text.strip() == printed.strip() and job.family.estimates_shape and float(job.penalty.l2) == 2


def test_paths_lie_in_the_current_folder_or_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for place in (tmp_path / "set" / "a.parquet", tmp_path / "set" / "b1.csv"):
        place.touch()
    given = [Path("../set/c.yaml")]
    assert config.located("a.parquet", given) == "../set/a.parquet"
    assert config.located("b*.csv", given) == "../set/b*.csv"
    assert config.located(["a.parquet", str(tmp_path)], given) == ["../set/a.parquet", str(tmp_path)]
    assert config.located("nowhere.csv", given) == "nowhere.csv"
    for pattern in (f"{tmp_path}/set/*.parquet", f"{tmp_path}/**/*.parquet", f"{tmp_path}/nowhere/*.csv", "~/**.csv"):
        assert config.located(pattern, given) == pattern
    assert config.located("**/*.parquet", given) == "../set/**/*.parquet"
    Path("a.parquet").touch()
    assert config.located("a.parquet", given) == "a.parquet"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("famly: poisson\n", "config: unknown key 'famly' (did you mean 'family'?); known: data, "),
        (BASE + "sead: 1\n", "config: unknown key 'sead' (did you mean 'seed'?)"),
        ("data: {pth: a}\n", "data: unknown key 'pth' (did you mean 'path'?)"),
        ("family: negbin\n", "family: unknown name 'negbin' (did you mean 'negative_binomial'?); known: "),
        ("family: {alpha: 1}\n", "family: got {'alpha': 1}; write a name, or {name: …, …}."),
        ("family: {name: tweedie, powr: 1}\n", "tweedie: unknown key 'powr' (did you mean 'power'?)"),
        ("family: {name: poisson, rate: 1}\n", "poisson: unknown key 'rate'; known: none."),
        ("penalty: {name: rigde, l2: 1}\n", "penalty: unknown name 'rigde' (did you mean 'ridge'?)"),
        ("solver: {name: irls, max_itr: 1}\n", "irls: unknown key 'max_itr' (did you mean 'max_iter'?)"),
        ("solver: newton\n", "solver: unknown name 'newton'; known: irls, sgd."),
        (BASE + "solver: {name: irls, max_iter: many}\n", "solver.max_iter: must be a whole number, got many."),
        (BASE + "solver: {name: irls, tol: 0}\n", "solver.tol must be > 0, got 0"),
        (
            BASE + "solver: {name: irls, singular: drpo}\n",
            "solver.singular: must be drop, minnorm or error, got drpo (did you mean 'drop'?).",
        ),
        (BASE + "dtype: int8\n", "dtype: must be float64 or float32, got int8."),
        (
            BASE + "penalty: {name: ridge, l2: x}\n",
            "penalty.l2: must be a number, a list of numbers, reml or ml, got x",
        ),
        (
            BASE.replace("y ~ x", "y ~ x, offset: off"),
            "data.offset: must be text, got False. YAML reads on, off, yes and no as true and false: put the name in "
            "quotes, such as 'off'.",
        ),
        (BASE.replace("y ~ x", "y ~ x, by: [a, 3]"), "data.by: must be text, got 3. Put it in quotes: '3'."),
        (BASE.replace("y ~ x", "y ~ x, rare: -3"), "data.rare must be at least 0, got -3. 0 pools no levels."),
        (BASE + "family: gamma\n", "the key 'family' stands twice, in line 3 and in line 2. Keep one."),
        (BASE.replace("y ~ x", "y ~ x, rare: 1, rare: 2"), "the key 'rare' stands twice, in line 1. Keep one."),
        (BASE + "timeout: .inf\n", "timeout must lie between 0.001 and 1e9 seconds, got inf."),
        (BASE + "penalty: {name: ridge, l2: -1}\n", "l2 must be one number >= 0"),
        (BASE.replace("poisson", "{name: negative_binomial, alpha: -1}"), "needs alpha >= 0, got -1"),
        ("data: {path: a}\n", "missing: data.formula, family"),
        (
            "data: claims.csv\nfamily: poisson\n",
            "data: got 'claims.csv', and it holds keys, such as data: {path",
        ),
        ("data: [\n", "line 2"),
        ("- 1\n", "the config must hold lines of 'key: value', got '- 1'."),
        ("", "the config must hold lines of 'key: value', got ''."),
        (
            BASE + "dispersion: pierson\n",
            "dispersion: must be a number, pearson, deviance or ml, got pierson (did you mean 'pearson'?).",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(read, text: str, said: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError) as error:
        read(text)
    assert said in str(error.value) and "\n" not in str(error.value)


KEYS = [*Job.__dataclass_fields__.values(), *DataConfig.__dataclass_fields__.values()]


@pytest.mark.parametrize("value", ["null", '""'])
@pytest.mark.parametrize("one", KEYS, ids=lambda one: one.name)
def test_a_key_without_a_value_is_one_that_may_be_or_named(read, one, value: str) -> None:  # noqa: ANN001
    top, data = {"family": "poisson"}, {"path": "a.parquet", "formula": "y ~ x"}
    own = top if one.name in Job.__dataclass_fields__ else data
    own[one.name] = value
    if one.name != "data":
        top["data"] = "{" + ", ".join(f"{key}: {text}" for key, text in data.items()) + "}"
    try:
        read("\n".join(f"{key}: {text}" for key, text in top.items()))
    except ValueError as error:
        assert one.name in str(error) and "\n" not in str(error) and "NoneType" not in str(error), error
        assert value == '""' or "None" not in str(one.type), error
    else:
        assert value == '""' or "None" in str(one.type)


def test_a_file_of_data_in_the_place_of_text_is_named(read, tmp_path: Path) -> None:  # noqa: ANN001
    pd.DataFrame({"x": [1.0], "y": [2.0]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="data: got the name of a file, and it holds keys"):
        read("data: a.parquet\nfamily: poisson\n")
    with pytest.raises(ValueError, match=r"a\.parquet is no text\. The config is YAML"):
        config.read(["a.parquet"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--famly", "gamma"], "unknown flag --famly (did you mean '--family'?)"),
        (["--data.exposur", "e"], "unknown flag --data.exposur (did you mean '--data.exposure'?)"),
        (["--solver.tool", "1"], "solver: unknown key 'tool' (did you mean 'tol'?); known: tol, max_iter, singular."),
        (["--family.alpha", "1"], "family: unknown key 'alpha'; known: none."),
        (["--family", "{name: tweedie, power: 1.5, power: 1.6}"], "the key 'power' stands twice"),
        (["--data.missing", "dorp"], "data.missing: must be error or drop, got dorp (did you mean 'drop'?)."),
        *(
            (["--timeout", given], f"timeout must lie between 0.001 and 1e9 seconds, got {said}.")
            for given, said in (("-1", "-1"), ("0", "0"), (".nan", "nan"))
        ),
        (["--timeout", "nan"], "timeout: must be a number, got nan."),
        (["--family"], "--family needs a value, such as --family gaussian"),
        (["--seed", "x"], "seed: must be a whole number, got x."),
        (["extra"], "unrecognized arguments: extra"),
    ],
)
def test_wrong_flags_are_said_in_a_line(read, flags: list[str], said: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError) as error:
        read(BASE, *flags)
    assert said in str(error.value)


def test_a_config_that_is_not_there(read) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match="nope.yaml"):
        config.read(["nope.yaml"])


def test_another_family_is_one_difference_and_another_argument_is_another(read) -> None:  # noqa: ANN001
    plain, free, fixed = (
        read(BASE.replace("poisson", family))[1]
        for family in ("poisson", "negative_binomial", "{name: negative_binomial, alpha: 2}")
    )
    assert config.differences(plain, free) == ["family: poisson, was negative_binomial"]
    assert config.differences(fixed, plain) == ["family: negative_binomial, was poisson"]
    assert config.differences(free, fixed) == ["family.alpha: None, was 2.0"]
    assert config.differences(plain, plain) == []


def test_expanding_and_contracting_are_inverse() -> None:
    short = {"family": {"name": "tweedie", "power": 1.5}, "link": "log", "penalty": None, "seed": 1}
    assert short_names.contract(short_names.expand(short)) == short


def test_help_names_what_may_stand_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("--data.formula", "negative_binomial", "inverse_squared", "elastic_net", "irls, sgd"):
        assert word in shown
    assert "class_path" not in shown.lower() and "<class" not in shown


def test_sgd_takes_optimizers_and_trainer_arguments(read) -> None:  # noqa: ANN001
    job, text = read(
        BASE + "solver: {name: sgd, batch_size: 64, optimizer: {name: adamw, lr: 0.5}, trainer: {max_epochs: 3}}\n",
        "--solver.optimizer.weight_decay",
        "0.1",
    )
    made = job.solver.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert type(made) is torch.optim.AdamW
    assert (made.defaults["lr"], made.defaults["weight_decay"]) == (0.5, 0.1)
    assert (job.solver.batch_size, job.solver.trainer) == (64, {"max_epochs": 3})
    assert read(text)[1] == text
    assert (
        type(
            read(BASE, "--solver", "sgd", "--solver.optimizer", "lbfgs")[0].solver.optimizer(
                [torch.nn.Parameter(torch.zeros(1))]
            )
        )
        is torch.optim.LBFGS
    )


@pytest.mark.parametrize(
    ("solver", "said"),
    [
        ("trainer: {max_epoch: 3}", "trainer: unknown key 'max_epoch' (did you mean 'max_epochs'?)"),
        ("trainer: {max_epochs: many}", "solver.trainer.max_epochs: must be a whole number, got many."),
        ("optimizer: adma", "solver.optimizer: unknown name 'adma'"),
        ("optimizer: {name: adam, lrr: 1}", "adam: unknown key 'lrr' (did you mean 'lr'?)"),
        ("batch_sise: 3", "sgd: unknown key 'batch_sise' (did you mean 'batch_size'?)"),
        ("batch_size: 0", "solver.batch_size must be at least 1, got 0"),
    ],
)
def test_what_is_wrong_with_sgd_is_said_in_a_line(read, solver: str, said: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError) as error:
        read(BASE + "solver: {name: sgd, " + solver + "}\n")
    assert said.removeprefix("solver.optimizer: ") in str(error.value) and "\n" not in str(error.value)


def test_penalties_of_every_shape_and_constraints_are_read(read) -> None:  # noqa: ANN001
    text = BASE + (
        "penalty: {name: fused, strength: 0.1, levels: [C(g)]}\n"
        "lower: {x: 0}\nupper: 3\nconstraints: [a + b = 1, a <= b]\nmonotone: {C(g): increasing}\n"
    )
    job, same = read(text)
    assert job.penalty.terms == ["C(g)"] and job.restraints == {
        "lower": {"x": 0.0},
        "upper": 3.0,
        "constraints": ["a + b = 1", "a <= b"],
        "monotone": {"C(g)": "increasing"},
    }
    assert read(same)[0].restraints == job.restraints
    for made in ("{name: group_lasso, strength: 0.1, groups: {one: [x]}}", "{name: mcp, strength: 1}"):
        assert read(BASE + f"penalty: {made}\n")[0].penalty.selects
    with pytest.raises(ValueError, match="upper is a constraint, which solver irls keeps"):
        sgd = read(BASE + "upper: 1\nsolver: sgd\n")[0]
        sgd.solver.solve(sgd)
    with pytest.raises(ValueError, match="lower does not go with penalty.path"):
        chosen = read(BASE + "lower: 0\npenalty: {name: elastic_net, path: 5, select: bic}\n")[0]
        chosen.solver.solve(chosen)


def test_a_quadratic_penalty_of_a_config_is_that_of_a_call_and_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks by the names of columns, strengths given or estimated, from YAML and flags, saved and loaded."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=200), "z": rng.normal(size=200), "w": rng.normal(size=200)}
    counts = rng.poisson(np.exp(0.3 * rows["x"] - 0.2 * rows["z"]))
    pd.DataFrame(rows | {"count": counts}).to_csv("rows.csv", index=False)
    whole = "{name: quadratic, blocks: [{columns: [x, z], matrix: [[1, -0.5], [-0.5, 1]]}, {columns: [w]}], strength: "
    head = "data: {path: rows.csv, formula: count ~ x + z + w}\nfamily: poisson\noutput_dir: run\n"
    matrix = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    blocks = [(["x", "z"], matrix), (["w"], torch.ones(1, 1))]
    for text, given in (("reml", "reml"), ("[3.0, 1.5]", torch.tensor([3.0, 1.5])), ("2.0", 2.0)):
        Path("config.yaml").write_text(f"{head}penalty: {whole}{text}}}\n")
        assert main(["fit", "config.yaml"]) == 0
        found, called = (
            torchglm.load("run"),
            torchglm.fit("count ~ x + z + w", "rows.csv", family="poisson", penalty=torchglm.Quadratic(blocks, given)),
        )
        assert torch.equal(found.coef, called.coef)
        assert torch.equal(found.edf, called.edf)
        if text == "reml":
            assert torch.equal(found.strength, called.strength)
    capsys.readouterr()
    for other, said in (
        ("{name: quadratic, blocks: [{columns: [x, z], matrix: [[1.0]]}]}", "as many rows and numbers as columns"),
        ("{name: quadratic, blocks: [{columns: [x, q]}]}", "'q', which is not one of"),
        ("{name: quadratic, blocks: [{columns: [x], matrx: 1}]}", "did you mean 'matrix'"),
        ("{name: quadratic, blocks: []}", "blocks is empty"),
    ):
        assert main(["fit", "config.yaml", f"--penalty={other}"]) != 0
        assert said in capsys.readouterr().err
    taught = "{name: quadratic, blocks: [{columns: [x, w]}], strength: 2.0, centre: {x: 0.1}}"
    solver = "{name: sgd, polish: irls, trainer: {max_epochs: 1}}"
    assert main(["fit", "config.yaml", f"--penalty={taught}", f"--solver={solver}"]) == 0
    blocks = [(["x", "w"], torch.eye(2))]
    called = torchglm.fit(
        "count ~ x + z + w",
        "rows.csv",
        family="poisson",
        penalty=torchglm.Quadratic(blocks, 2.0, centre={"x": 0.1}),
    )
    torch.testing.assert_close(torchglm.load("run").coef, called.coef, rtol=1e-7, atol=1e-9)
    assert main(["fit", "config.yaml", f"--penalty={whole}reml}}", "--solver=sgd"]) != 0
    assert "estimated by solver irls alone" in capsys.readouterr().err
