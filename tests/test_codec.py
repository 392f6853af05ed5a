"""A family and a link come back from fits, checkpoints and runs as they were; one's own are given, and known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import Tensor, nn

import torchglm
from torchglm import GLMHead, families, links
from torchglm.cli import main
from torchglm.families import Family
from torchglm.links import Link
from torchglm.model import codec


class Log2(Link):
    name = "log2"

    def inverse(self, eta: Tensor) -> Tensor:
        return torch.exp2(eta)

    def link(self, mu: Tensor) -> Tensor:
        return torch.log2(mu)


class Disguised(Log2):
    name = "log"


class Another(Link):
    """Of the name of `Log2`, with other values."""

    name = "log2"

    def inverse(self, eta: Tensor) -> Tensor:
        return torch.exp(eta)

    def link(self, mu: Tensor) -> Tensor:
        return mu.log()


class Based(Log2):
    """A base of one's choice, which is a parameter."""

    name = "based"

    def __init__(self, base: float = 2.0) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.tensor(base, dtype=torch.float64), requires_grad=False)

    def inverse(self, eta: Tensor) -> Tensor:
        return self.base**eta

    def link(self, mu: Tensor) -> Tensor:
        return mu.log() / self.base.log()


class Renamed(families.Gamma):
    name = "poisson"


LINKS: list[Link] = [
    *(kind() for kind in links.MEMBERS),
    links.Power(0.4),
    links.Power(-2),
    families.NegativeBinomial(torch.tensor([0.3, 0.4])).canonical_link,
]
FAMILIES: list[Family] = [
    *(kind() for kind in families.MEMBERS),
    families.NegativeBinomial(0.0),
    families.NegativeBinomial(torch.tensor([0.2, 0.7])),
    families.NegativeBinomial(0.3).float(),
    families.Tweedie(1.3),
    families.Tweedie(2.3),
    families.Tweedie(3.0),
    families.Tweedie(0.0),
]
OWN: list[Link] = [Log2(), Disguised(), Based(3.0)]


def alike(one: nn.Module, other: nn.Module) -> None:
    assert type(one) is type(other) and repr(one) == repr(other)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert mine.requires_grad == theirs.requires_grad
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert value.dtype == theirs[name].dtype and torch.equal(value, theirs[name])


@pytest.mark.parametrize("link", [*LINKS, *OWN], ids=repr)
def test_a_link_comes_back_from_json(link: Link) -> None:
    facts, tensors = codec.encode(families.Poisson(), link)
    given = None if codec.ours(link) else type(link)()
    _, found = codec.decode(json.loads(json.dumps(facts)), tensors, "file", None, given)
    alike(found, link)
    assert all(map(codec.holds, tensors))


@pytest.mark.parametrize("family", [*FAMILIES, Renamed()], ids=repr)
def test_a_family_comes_back_from_json(family: Family) -> None:
    facts, tensors = codec.encode(family, links.Log())
    found, _ = codec.decode(json.loads(json.dumps(facts)), tensors, "file", None if codec.ours(family) else Renamed())
    alike(found, family)


def test_what_is_no_class_of_torchglm_is_not_taken_for_one() -> None:
    assert codec.ours(links.Log()) and codec.ours(families.Tweedie()) and codec.ours(LINKS[-1])
    assert not any(map(codec.ours, [*OWN, Another(), Renamed()]))


X = torch.arange(6.0)[:, None]
Y = torch.tensor([3.0, 6.0, 11.0, 24.0, 50.0, 96.0])


def saved_fit(link: Link, folder: Path) -> tuple[Callable[..., Any], Tensor]:
    fit = torchglm.fit(X, Y, family="poisson", link=link)
    fit.save(folder / "fit")
    return lambda **given: torchglm.load(folder / "fit", **given).predict(X), fit.predict(X)


def saved_head(link: Link, folder: Path) -> tuple[Callable[..., Any], Tensor]:
    from lightning.pytorch import Trainer

    from torchglm.training import LitGLM

    head = GLMHead(1, "poisson", link)
    nn.init.constant_(head.weight, 0.3)
    run = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder)
    run.strategy.connect(LitGLM(head))
    run.save_checkpoint(folder / "head.ckpt")
    return lambda **given: torchglm.load(folder / "head.ckpt", **given)(X), head(X)


EVERY_DOOR = pytest.mark.parametrize("save", [saved_fit, saved_head])


@EVERY_DOOR
@pytest.mark.parametrize("link", OWN, ids=repr)
def test_a_link_of_ones_own_is_saved_and_loaded_by_handing_it_over(link: Link, save: Any, tmp_path: Path) -> None:
    load, want = save(link, tmp_path)
    assert torch.equal(load(link=type(link)()), want)
    with pytest.raises(ValueError, match=rf"link '{link.name}' of your own class .*{type(link).__name__}.*Pass it:"):
        load()


@EVERY_DOOR
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Another(), "other values than the link 'log2'"),
        (Disguised(), "link 'log2' of the class .*Log2, got Disguised"),
        (Based(), "link 'log2' of the class .*Log2, got Based"),
        (links.Log(), "link 'log2' of the class .*Log2, got Log"),
        ("log2", "must be a link object, such as Log2"),
    ],
    ids=repr,
)
def test_another_link_than_that_of_the_file_is_refused(given: Any, said: str, save: Any, tmp_path: Path) -> None:
    load, _ = save(Log2(), tmp_path)
    with pytest.raises(ValueError, match=said):
        load(link=given)


@EVERY_DOOR
def test_a_link_of_torchglm_is_not_replaced(save: Any, tmp_path: Path) -> None:
    load, _ = save(links.Log(), tmp_path)
    with pytest.raises(ValueError, match="has torchglm's own link log"):
        load(link=Disguised())


def test_a_family_of_ones_own_comes_back(tmp_path: Path) -> None:
    fit = torchglm.fit(X, Y, family=Renamed(), link="log")
    fit.save(tmp_path)
    with pytest.raises(ValueError, match="family 'poisson' of your own class .*Renamed"):
        torchglm.load(tmp_path)
    with pytest.raises(ValueError, match="got Poisson"):
        torchglm.load(tmp_path, family=families.Poisson())
    loaded = torchglm.load(tmp_path, family=Renamed())
    assert torch.equal(loaded.coef, fit.coef) and type(loaded.family) is Renamed
    torch.testing.assert_close(loaded.coef, torchglm.fit(X, Y, family="gamma", link="log").coef, rtol=1e-9, atol=1e-9)


def test_a_fit_of_the_canonical_link_of_the_negative_binomial_comes_back(tmp_path: Path) -> None:
    family = families.NegativeBinomial(0.01)
    x, y = X / 10, torch.tensor([3.0, 2.0, 4.0, 3.0, 4.0, 5.0])
    fit = torchglm.fit(x, y, family=family, link=family.canonical_link)
    fit.save(tmp_path)
    assert torch.equal(torchglm.load(tmp_path).predict(x), fit.predict(x))


def test_a_model_has_its_own_family_and_link(tmp_path: Path) -> None:
    load, want = saved_head(Log2(), tmp_path)
    assert torch.equal(load(model=GLMHead(1, "poisson", Log2())), want)
    with pytest.raises(ValueError, match="model= has its own family and link"):
        load(model=GLMHead(1, "poisson", Log2()), link=Log2())


# the command line ----------------------------------------------------------------------------------------------

MODULE = """
import torch
from torchglm.links import Link, Log


class Log2(Link):
    name = "log2"

    def inverse(self, eta):
        return torch.exp2(eta)

    def link(self, mu):
        return torch.log2(mu)


class Stretched(Log):
    name = "log"

    def __init__(self, by: float = 1.0) -> None:
        super().__init__()
        self.by = by

    def inverse(self, eta):
        return torch.exp(self.by * eta)

    def link(self, mu):
        return mu.log() / self.by
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows, and a module of one's own links that can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_links.py").write_text(MODULE)
    draw = np.random.default_rng(5)
    x = draw.normal(size=200)
    parquet.write_table(pa.table({"y": draw.poisson(np.exp(0.5 + 0.3 * x)), "x": x}), "rows.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("link", "factor"),
    [
        ("{class_path: own_links.Log2}", np.log(2)),
        ("{class_path: own_links.Stretched, init_args: {by: 0.5}}", 0.5),
        ("{class_path: torchglm.links.Log}", 1.0),
        ("log", 1.0),
    ],
)
def test_commands_make_a_class_of_ones_own_from_the_config_of_the_run(link: str, factor: float, folder: Path) -> None:
    Path("c.yaml").write_text(
        f"data: {{path: rows.parquet, formula: y ~ x}}\nfamily: poisson\nlink: {link}\noutput_dir: run\n"
    )
    assert main(["fit", "c.yaml"]) == 0
    for command in (
        "predict run rows.parquet --out p.parquet",
        "evaluate run rows.parquet",
        "summary run",
        "check run",
    ):
        assert main(command.split()) == 0, command
    truth = torchglm.fit("y ~ x", "rows.parquet", family="poisson")
    facts = json.loads(Path("run/summary.json").read_text())
    coef = [row["estimate"] for row in facts["coefficients"]]
    np.testing.assert_allclose(np.array(coef) * factor, truth.coef, rtol=1e-8)
    np.testing.assert_allclose(parquet.read_table("p.parquet")["mean"], truth.fitted, rtol=1e-8)


def test_a_run_whose_config_names_no_class_is_refused_in_words(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchglm.store import runs

    runs.write(torchglm.fit("y ~ x", "rows.parquet", family="poisson", link=Log2()), "run")
    capsys.readouterr()
    assert main(["predict", "run", "rows.parquet"]) == 2
    said = capsys.readouterr().err
    assert "link 'log2' of your own class" in said and "torchglm.load(path, link=Log2())" in said


def test_loading_imports_no_class_that_a_file_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import own_links, torchglm; torchglm.fit('y ~ x', 'rows.parquet', family='poisson', link=own_links.Log2())"
    done = subprocess.run([sys.executable, "-c", f"{code}.save('run')"], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    monkeypatch.delitem(sys.modules, "own_links", raising=False)
    with pytest.raises(ValueError, match=r"own class own_links\.Log2"):
        torchglm.load("run")
    assert "own_links" not in sys.modules
    assert torchglm.load("run", link=Log2()).link.name == "log2"
