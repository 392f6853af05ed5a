"""Pages do what they say: every Python block runs, every command, place and link exists."""

from __future__ import annotations

import importlib
import inspect
import posixpath
import pydoc
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import torchglm
from torchglm.cli.entry import COMMANDS as COMMANDS_KNOWN

ROOT = Path(__file__).resolve().parent.parent
OPTIONAL = ("glum", "pyfixest", "onnxruntime", "gluonts")  # peers that a page may show and the tests need not have


class Block(NamedTuple):
    language: str
    line: int
    text: str
    shown: str | None  # what the page says it prints: the ```text block that follows at once


def blocks(page: str) -> list[Block]:
    fences = list(re.finditer(r"^```(\w+)\n(.*?)^```\n", page, flags=re.MULTILINE | re.DOTALL))
    found = []
    for fence, after in zip_longest(fences, fences[1:]):
        follows = after is not None and after[1] == "text" and not page[fence.end() : after.start()].strip()
        line = page.count("\n", 0, fence.start()) + 2
        found.append(Block(fence[1], line, fence[2], after[2] if after and follows else None))
    return found


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    return sorted({command for line in lines if (command := line.split("#")[0].strip())})


def without_code(page: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", page, flags=re.MULTILINE | re.DOTALL)


PAGES = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
page = pytest.mark.parametrize("page", PAGES)
RUN_ELSEWHERE = {"docs/textbooks.md"}  # its code is that of tests/textbooks, by test_textbooks.py


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the files of the repository that pages read."""
    for name in ("examples", "configs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", sorted(set(PAGES) - RUN_ELSEWHERE))
@pytest.mark.filterwarnings("ignore")  # pages show what is said of hard data
def test_the_code_of_a_page_runs(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Block after block, in one scope; what a block says it prints, it prints; what the text claims of it holds."""
    scope: dict[str, Any] = {"__name__": "page"}
    for block in blocks(PAGES[page]):
        if block.language != "python":
            continue
        for name in OPTIONAL:
            if re.search(rf"^(import|from) {name}\b", block.text, re.MULTILINE):
                pytest.importorskip(name)
        source = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the page
        exec(compile(source, page, "exec"), scope)
        printed = capsys.readouterr().out
        if block.shown is not None:
            assert printed.split() == block.shown.split()
    CLAIMS.get(page, lambda scope: None)(scope)
    if page.startswith("docs/coming-from/"):
        compare_sides(page, scope)


def numbers(value: Any) -> np.ndarray:
    return np.asarray([float(part) for part in value] if isinstance(value, list) else value, dtype=float)


def rows_of(page: str) -> list[list[str]]:
    """The rows of a page's tables that set two pieces of code side by side."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if line.startswith("| `")]
    cells = [[cell.strip().replace("\\|", "|") for cell in row] for row in rows]
    return [row for row in cells if all(re.fullmatch(r"`[^`]+`", cell) for cell in row[:2])]


def compare_sides(page: str, scope: dict[str, Any]) -> None:
    """What a peer says in the left cell of a row is what torchglm says in the right one; R's side is only read."""
    for theirs, ours, *_ in rows_of(PAGES[page]):
        said = eval(ours.strip("`"), scope)  # noqa: S307  the page's own code
        if not page.endswith("/r.md"):
            wanted = eval(theirs.strip("`"), scope)  # noqa: S307
            np.testing.assert_allclose(numbers(said), numbers(wanted), rtol=1e-6, atol=1e-7, err_msg=ours)


def heads(left: dict[str, Any]) -> None:
    network, x, counts, done = (left[name] for name in ("network", "x", "counts", "done"))
    assert [str(status) for status in done.status] == ["CONVERGED"] and bool(done.after < done.before)
    features = network[:-1](x).detach().double()
    want = torchglm.fit(features, counts, family=torchglm.ZeroInflated("poisson"), tol=1e-12)
    torch.testing.assert_close(network[-1].coef[0], want.flat.coef[0], rtol=1e-3, atol=1e-3)
    inside = (counts >= left["low"][:, 0]) & (counts <= left["high"][:, 0])
    assert float(inside.float().mean()) > 0.85
    assert all(bool(part.grad.isfinite().all()) for part in left["features"].parameters())
    assert set(left["heads"].log_scale) == {"grade"}


def paths(left: dict[str, Any]) -> None:
    assert bool((left["bounded"].coef[1:] >= 0).all())


def clusters(left: dict[str, Any]) -> None:
    assert bool(left["firth"].conf_int(method="profile").isfinite().all())
    assert int(left["fit"].absorbed.df) == 499 and bool((left["small"].reference_df < 11).all())


def smooths(left: dict[str, Any]) -> None:
    assert float(left["age"].edf) > 3 and left["value"].shape == (3,)


def gallery(left: dict[str, Any]) -> None:
    """What the code of the page draws is what the page shows, and lies beside it; a text says what is seen."""
    shown = dict(re.findall(r"^!\[([^\]]+)\]\(gallery/(\w+\.svg)\)$", PAGES["docs/gallery.md"], re.MULTILINE))
    kept = ROOT / "docs" / "gallery"
    assert sorted(shown.values()) == sorted(file.name for file in Path.cwd().glob("*.svg")) and len(shown) == 12
    assert sorted(shown.values()) == sorted(file.name for file in kept.iterdir())
    assert all(len(text) > 80 for text in shown)
    assert sum(file.stat().st_size for file in kept.iterdir()) < 600_000


def penalties(left: dict[str, Any]) -> None:
    levels = torch.cat([torch.zeros(1).double(), left["rising"].coef[1:7]])
    assert (levels.diff() >= 0).all() and left["equal"].coef[5] == left["equal"].coef[6]
    assert all(float(left[name].kkt) < 1e-8 for name in ("rising", "bounded", "equal", "bands", "sparse", "unshrunk"))
    assert len(left["bands"].coef[1:7].unique()) < 6 and bool(left["path"].converged.all())


CLAIMS: dict[str, Callable[[dict[str, Any]], None]] = {
    "docs/gallery.md": gallery,
    "docs/heads.md": heads,
    "docs/paths.md": paths,
    "docs/penalties.md": penalties,
    "docs/clusters.md": clusters,
    "docs/smooths.md": smooths,
}


@page
def test_commands_of_a_page_exist(page: str) -> None:
    for command in commands(PAGES[page]):
        program, *words = shlex.split(command)
        if program == "torchrun":
            program, *words = words[words.index("-m") + 1 :]
        if program == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        elif program == "python":
            assert (ROOT / words[0]).is_file() or (words[0] == "-m" and (ROOT / words[1]).is_dir())
        elif program == "torchglm":
            assert words[0] in COMMANDS_KNOWN
            made = "runs/"  # a run folder is written by the command before it
            files = [word for word in words[1:] if "/" in word and not word.startswith(made)]
            assert all((ROOT / file).exists() for file in files)
        else:
            assert program in {"pip", "git", "cd"}


def test_the_first_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    shown = next(block.text for block in blocks(PAGES["docs/start.md"]) if "Report: runs/" in block.text)
    command = ["-m", "torchglm", "fit", "configs/poisson.yaml", "--output_dir", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    summary, report = done.stdout.rsplit("Report:", 1)
    assert summary == shown.rsplit("Report:", 1)[0]
    assert Path(report.strip()).is_file()


@page
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", without_code(PAGES[page]))
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_links_lead_somewhere_on_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook of the site moves links from the places of the repository to its own."""
    for name in ("latex2mathml", "latex2mathml.converter", "mkdocs", "mkdocs.structure", "mkdocs.structure.files"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(convert=str, File=None, Files=None))
    hook = runpy.run_path(str(ROOT / "docs" / "neighbours.py"))
    beside = {str(file.relative_to(ROOT)) for pattern in hook["SHOWN"] for file in ROOT.glob(pattern)}
    inside = {str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*") if file.is_file()}
    pages = {name.removeprefix("docs/"): page for name, page in PAGES.items() if name != "README.md"}
    pages |= {"index.md": PAGES["README.md"]} | {
        name: (ROOT / name).read_text() for name in beside if name[-3:] == ".md"
    }
    dead = []
    for place, page in pages.items():
        moved = hook["_relinked"](without_code(page), place)
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", moved):
            there = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
            dead += [] if there in beside | inside else [f"{place}: {target}"]
    assert dead == [] and len(pages) > 30


def test_the_picture_of_the_report_is_small() -> None:
    picture = ROOT / "docs" / "report.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 300_000


@page
def test_what_a_page_names_as_a_place_is_there(page: str) -> None:
    named = re.findall(r"`((?:torchglm|configs|benchmarks|tests|examples|docs)/[\w./]*)`", PAGES[page])
    assert [place for place in named if not (ROOT / place).exists()] == []


def test_every_page_is_in_the_menu_of_the_site() -> None:
    _, menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")
    listed = re.findall(r"[\w/-]+\.md", menu)
    assert sorted(f"docs/{name}" for name in listed) == sorted(set(PAGES) - {"README.md"})


PUBLIC = ("", ".families", ".links", ".nn", ".metrics", ".training", ".special", ".distributions", ".sklearn", ".optim")


@pytest.mark.parametrize("room", PUBLIC)
def test_every_public_name_is_in_the_reference_with_an_example(room: str) -> None:
    pages = [page for name, page in PAGES.items() if name.startswith("docs/reference/")]
    told = [(pydoc.locate(name), page) for page in pages for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]
    module = importlib.import_module(f"torchglm{room}")
    for name in module.__all__:
        public = getattr(module, name)
        if inspect.ismodule(public):
            continue
        page = next((page for thing, page in told if thing is public), None)
        assert page is not None, f"torchglm{room}.{name} is on no page of docs/reference"
        code = "\n".join(block.text for block in blocks(page) if block.language == "python")
        spelled = name.replace("_", "").lower()  # by the class, or by its name: NegativeBinomial, "negative_binomial"
        assert spelled in code.replace("_", "").lower(), f"{name} has no example on its page"


def test_every_question_to_a_result_is_in_the_reference() -> None:
    """Those that `Result` takes from elsewhere, which the site does not find in the class, by a heading each."""
    page = PAGES["docs/reference/result.md"]
    for name, member in vars(torchglm.Result).items():
        asked = member.fget if isinstance(member, property) else inspect.unwrap(member) if callable(member) else None
        if asked is None or name.startswith("_") or asked.__qualname__.startswith("Result."):
            continue
        place = (
            f"::: {asked.__module__}.{asked.__qualname__}\n    options: {{heading: result.{name}, toc_label: {name}}}\n"
        )
        assert place in page, f"result.{name} is not on docs/reference/result.md"


def test_the_readme_is_one_screen() -> None:
    assert len(PAGES["README.md"]) < 6_000


def test_a_block_knows_its_line_and_its_output() -> None:
    page = "intro\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\nwords\n\n```sh\nmake\n```\n"
    assert blocks(page)[0] == Block("python", 4, "print(1)\n", "1\n")
    assert blocks(page)[2] == Block("sh", 14, "make\n", None)
