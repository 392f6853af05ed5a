"""Configs and run folders of every wrong key, type and shape: a command does its work, or says why not in one line."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml  # type: ignore[import-untyped]

from tests.thinned import thinned
from torchglm.cli.entry import COMMANDS, main

VALUES: list[Any] = [
    None, True, 0, -1, 3, 10**30, float("nan"), float("inf"), -1e-300, "", "x", "y ~ a", "\x00", [], [1], ["a", "a"],
    [[["b"]]], {}, {"a": 1}, {"name": ["x"]}, {"class_path": "os.system"}, {1: 2},
]  # fmt: skip
READERS = (("summary", "bad"), ("predict", "bad", "rows.csv", "--out", "p.csv"), ("evaluate", "bad", "rows.csv"))
OTHERS = (("check", "bad"), ("report", "bad"), ("compare", "bad", "run"), ("compare", "run", "bad"))
Path_ = tuple[Any, ...]


def outcome(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """`done`, or `refused` with exit code 2 and one line; fails at all else, and where it takes long."""
    began = time.perf_counter()
    code, said = main(list(command)), capsys.readouterr().err
    assert time.perf_counter() - began < 30
    if code == 0:
        return "done"
    errors = [line for line in said.splitlines() if line.startswith("torchglm: error: ")]
    assert code == 2 and len(errors) == 1 and said.rstrip().endswith(errors[0]), (code, said)
    assert "Traceback" not in said and len(errors[0]) < 2000
    return "refused"


def places(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Where values stand in nested lists and mappings; of a list the first two."""
    yield at
    inside = value if isinstance(value, dict) else range(min(len(value), 2)) if isinstance(value, list) else ()
    for key in inside:
        yield from places(value[key], (*at, key))


def changed(value: Any, at: Path_, change: Callable[[Any, Any], None]) -> Any:
    """A copy with a change made at a place."""
    whole = {"": copy.deepcopy(value)}
    inside: Any = whole
    for key in ("", *at)[:-1]:
        inside = inside[key]
    change(inside, ("", *at)[-1])
    return whole.get("")


def mutants(value: Any, each: int) -> Iterator[tuple[Path_, Any]]:
    """At every place the value dropped, and `each` of `VALUES` in its stead."""
    turn = itertools.cycle(VALUES)
    for at in places(value):
        if at:
            yield at, changed(value, at, lambda inside, key: inside.pop(key))
        for new in itertools.islice(turn, each):

            def put(inside: Any, key: Any, new: Any = new) -> None:
                inside[key] = copy.deepcopy(new)

            yield at, changed(value, at, put)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a config and two runs of it, one of groups."""
    folder, g = tmp_path_factory.mktemp("hostile"), np.random.default_rng(0)
    table = pd.DataFrame({"y": g.poisson(2, 60), "a": g.normal(size=60), "t": g.uniform(1, 2, 60)})
    table["g"], table["s"] = list("pqr" * 20), list("uv" * 30)
    table.to_csv(folder / "rows.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, by in (("run", None), ("groups", "s")):
            Path(f"{name}.yaml").write_text(yaml.safe_dump(config(name, by)))
            assert main(["fit", f"{name}.yaml"]) == 0
    return folder


def config(name: str = "out", by: str | None = None) -> dict[str, Any]:
    data = {"path": "rows.csv", "formula": "y ~ bs(a, df=4) + g", "exposure": "t", "by": by, "rare": 0, "types": {}}
    solver = {"name": "irls", "tol": 1e-8, "max_iter": 20, "singular": "drop"}
    return {"data": data, "family": "poisson", "penalty": None, "solver": solver, "seed": 0, "output_dir": name}


@pytest.fixture(autouse=True)
def inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("torchglm.cli.fit._write", lambda *every: None)  # the runs of `home` stand


def broken(run: str) -> Path:
    """A fresh copy of a run, to be spoilt."""
    shutil.rmtree("bad", ignore_errors=True)
    shutil.copytree(run, "bad")
    return Path("bad")


@pytest.mark.filterwarnings("ignore")
def test_configs_of_other_keys_and_types(capsys: pytest.CaptureFixture[str]) -> None:
    came = Counter[str]()
    for at, mutant in mutants(config(), 4):
        if at == ("output_dir",) or not isinstance(mutant, dict):
            mutant = {"x": mutant}
        Path("c.yaml").write_text(yaml.safe_dump(mutant, allow_unicode=True))
        came[outcome(capsys, "fit", "c.yaml", "--output_dir", "out")] += 1
    assert came["refused"] > 3 * came["done"] > 0, came


ODD = (
    """
null | [] | - a | 3 | &a [*a] | a: &a [*a] | a: &a {b: *a} | a: *nope | family: !foo poisson
family: !!binary aGk= | family: !!set {a, b} | data: !!omap [a: 1] | family: !!timestamp 2020-01-01 | seed: 0o17
seed: 12:30:45 | timeout: .inf | timeout: .nan | timeout: !!int x | timeout: !!float z | timeout: !!timestamp z
timeout: !!bool maybe | solver: | dtype: | <<: {family: gaussian} | <<: [1, 2] | <<: 3 | ? [a, b] | ? {a: b}
a: b: c | family: "\\x00" | x: !!python/name:os.system | x: !!python/object/apply:os.system ['true'] | 1: 2
null: 3 | true: x | [a]: b | 2020-01-01: x | data: {<<: *x} | seed: 99999999999999999999999999
data: {path: {a: b}} | data.path: rows.csv | config: c.yaml | help: 1 | family: !!map [a]
family: {name: poisson, <<: {a: 1}} | solver: {class_path: x} | solver: {name: sgd, epochs: 1e400}
""".replace("\n", " | ")
    .strip(" |")
    .split(" | ")
)
GROWING = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12))


@pytest.mark.parametrize(
    "extra", thinned([*ODD, "x: " + "[" * 3000 + "]" * 3000, "x: " + "{a: " * 400 + "}" * 400, GROWING], 3, 1)
)
@pytest.mark.filterwarnings("ignore")
def test_tags_aliases_and_odd_scalars(extra: str, capsys: pytest.CaptureFixture[str]) -> None:
    good = yaml.safe_dump(config())
    for text in (extra, good + extra + "\n", f"---\n{extra}\n...\n---\n{good}"):
        Path("c.yaml").write_text(text)
        outcome(capsys, "fit", "c.yaml", "--output_dir", "out")


BYTES = [b"", b"\xff\xfe\x00", b"\x80a: b", bytes(range(256)), "a: é".encode("utf-16"), b"\0" * 9]


@pytest.mark.parametrize("data", BYTES)
def test_bytes_that_are_no_text(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_bytes(data)
    assert outcome(capsys, "fit", "c.yaml") == "refused"


@pytest.mark.parametrize("run", [pytest.param("run", marks=pytest.mark.slow), "groups"])
@pytest.mark.filterwarnings("ignore")
def test_runs_whose_facts_have_other_keys_and_types(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    came, facts = Counter[str](), json.loads(Path(run, "result.json").read_text())
    for i, (_, mutant) in enumerate(mutants(facts, 2)):
        (broken(run) / "result.json").write_text(json.dumps(mutant))
        came[outcome(capsys, *READERS[i % 3])] += 1
    assert came["refused"] > 3 * came["done"] > 0, came
    for text in ("", "{", "null", "[]", "3", "\x00", "NaN", '{"a":' * 3000, "[" * 100_000, '{"format": 1e999}'):
        (broken(run) / "result.json").write_text(text)
        assert outcome(capsys, "summary", "bad") == "refused"


TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "dropped": lambda value: None,
    "no tensor": lambda value: "x",
    "a number": lambda value: torch.tensor(1.0),
    "empty": lambda value: value.reshape(-1)[:0],
    "twice": lambda value: torch.cat([value, value]),
    "deeper": lambda value: value.unsqueeze(0),
    "truth": lambda value: value.bool() if value.dtype != torch.bool else value.double(),
    "whole": lambda value: value.nan_to_num().to(torch.int8),
    "complex": lambda value: value.to(torch.complex128),
    "half": lambda value: value.half(),
    "single": lambda value: value.float(),
    "sparse": lambda value: value.double().to_sparse(),
    "absent": lambda value: value.to("meta"),
}


@pytest.mark.parametrize("change", thinned(TENSORS, 2))
@pytest.mark.parametrize("run", ["run", "groups"])
def test_runs_whose_tensors_have_other_shapes_and_types(
    run: str, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = torch.load(Path(run, "tensors.pt"), weights_only=True)
    for i, (name, value) in enumerate(tensors.items()):
        new = TENSORS[change](value)
        kept = tensors | {name: new} if change != "dropped" else {k: v for k, v in tensors.items() if k != name}
        torch.save(kept, broken(run) / "tensors.pt")
        came = outcome(capsys, *(READERS + OTHERS)[i % 7])
        assert came == "refused" or (change == "dropped" and name in ("null_deviance", "loglik")), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_runs_whose_numbers_are_other_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    tensors = torch.load("run/tensors.pt", weights_only=True)
    for i, (name, value) in enumerate(tensors.items()):
        for fill in (float("nan"), float("inf"), -1e300, 0.0):
            if not value.is_floating_point() and fill != 0:
                continue
            torch.save(tensors | {name: torch.full_like(value, fill)}, broken("run") / "tensors.pt")
            for command in (READERS[i % 3], OTHERS[i % 4]):
                outcome(capsys, *command)


WHOLE = [None, [1], "x", {}, torch.zeros(3), {"a": {}}, {1: torch.zeros(3)}, {"family.alpha": torch.zeros(2)}]


@pytest.mark.parametrize("whole", WHOLE, ids=repr)
def test_tensors_that_are_no_fit(whole: Any, capsys: pytest.CaptureFixture[str]) -> None:
    held = torch.load("run/tensors.pt", weights_only=True)
    for found in [whole, held | whole] if isinstance(whole, dict) and whole else [whole]:
        torch.save(found, broken("run") / "tensors.pt")
        assert outcome(capsys, "summary", "bad") == "refused"


FILES = {
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "empty": lambda file: file.write_bytes(b""),
    "binary": lambda file: file.write_bytes(bytes(range(256))),
    "a list": lambda file: file.write_text("[1]"),
    "no mapping of data": lambda file: file.write_text("data: 3"),
    "no text for a path": lambda file: file.write_text("data: {path: [1, null]}"),
    "a class that is none": lambda file: file.write_text("family: {class_path: os.system}\ndata: {path: rows.csv}"),
    "a number for a class": lambda file: file.write_text("family: {class_path: 3}\ndata: {path: rows.csv}"),
    "a tag": lambda file: file.write_text("family: !x y\ndata: {path: rows.csv}"),
    "an alias to itself": lambda file: file.write_text("a: &a [*a]"),
    "a key twice": lambda file: file.write_text("a: 1\na: 2"),
    "a link to itself": lambda file: (file.unlink(), file.symlink_to(file.name)),
}


@pytest.mark.parametrize("change", FILES)
@pytest.mark.filterwarnings("ignore")
def test_runs_whose_files_are_others(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    for i, name in enumerate(("config.yaml", "result.json", "tensors.pt")):
        FILES[change](broken("run") / name)
        for command in (*READERS, OTHERS[i], ("fit", "run.yaml", "--resume", "bad")):
            if command[0] == "fit":
                FILES[change](broken("run") / name)
            outcome(capsys, *command)


STATES: list[Any] = [3, "x", [], {}, *(torch.zeros(shape) for shape in ((0,), (3,), (1, 4), (2, 2, 2)))]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_other_shapes_and_types(capsys: pytest.CaptureFixture[str]) -> None:
    p, text = 7, Path("run/config.yaml").read_text()
    good = {"format": 1, "config": text, "rows": [str(Path("rows.csv").resolve())]}
    state = {"coef": torch.zeros(1, p), "n_iter": torch.zeros(1, dtype=torch.int64), "deviance": torch.ones(1)}
    state = {name: value if name == "n_iter" else value.double() for name, value in state.items()}
    for name, value in itertools.product([*good, *state, "shape", "dispersion"], STATES):
        shutil.rmtree("bad", ignore_errors=True)
        Path("bad").mkdir()
        torch.save({**good, **state, name: value}, "bad/checkpoint.pt")
        outcome(capsys, "fit", "run.yaml", "--resume", "bad")
    for whole in (None, [], 3, "x", {}):
        torch.save(whole, "bad/checkpoint.pt")
        assert outcome(capsys, "fit", "run.yaml", "--resume", "bad") == "refused"


FORMULAS = [
    "y ~ (a + t)**99999999999", "y ~ I(a**(9**9**9))", "y ~ {10**10**10}*a", "y ~ a*10**10**8", "y ~ I(9**9**9*a)",
    f"y ~ {'(' * 5000}a{')' * 5000}", f"y ~ {'log(' * 300}a{')' * 300}", f"y ~ I({'-' * 5000}a)", f"y ~ {'-' * 3000}a",
    f"y ~ I({'+'.join(['a'] * 20_000)})", f"y ~ ({'+'.join(f'x{i}' for i in range(400))})**3", f"y ~ `{'a' * 10**6}`",
    f"y ~ {'a' * 10**6}", f"y ~ I({'9' * 20_000}*a)", "y ~ I([a]*10**9)", "y ~ I('x'*10**10)", "y ~ bs(a, df=10**9)",
    "y ~ poly(a, degree=9**9**9)", f"y ~ {'lambda: ' * 1000}a", f"y ~ {'a if ' * 3000}a", "~" * 5000, "(" * 4000,
    f"y ~ {'(' * 30}a+t{')**9' * 30}", "y ~ clip(a, 10**10**10, 3)",
]  # fmt: skip


@pytest.mark.parametrize("formula", thinned(FORMULAS, 2), ids=range(len(FORMULAS)))
def test_huge_and_deep_formulas_end_at_once(formula: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text(yaml.safe_dump({**config(), "data": {"path": "rows.csv", "formula": formula}}))
    began = time.perf_counter()
    outcome(capsys, "fit", "c.yaml", "--output_dir", "out")
    assert time.perf_counter() - began < 15


SAID = {
    "torch": RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: "
                          "you tried to allocate 8589934592 bytes. Error code 12"),
    "arrow": pa.ArrowMemoryError("malloc of size 8589934592 failed"),
    "numpy": MemoryError("Unable to allocate 8.00 GiB for an array with shape (1073741824,)"),
    "python": MemoryError(),
    "card": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB."),
}  # fmt: skip


@pytest.mark.parametrize("who", SAID)
def test_out_of_memory_is_said_in_words(
    who: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*every: Any) -> None:
        raise SAID[who]

    monkeypatch.setitem(COMMANDS, "summary", fails)
    assert main(["summary", "run"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "out of memory" in said and ("8.0 GiB" in said) == (who in ("torch", "arrow"))


def test_another_error_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*every: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setitem(COMMANDS, "summary", fails)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["summary", "run"])
