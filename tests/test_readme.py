"""The README does what it says: every Python block runs, every command and every linked file exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from torchglm.cli.entry import COMMANDS as COMMANDS_KNOWN

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


class Block(NamedTuple):
    language: str
    line: int
    text: str
    shown: str | None  # what the page says it prints: the ```text block that follows at once


def blocks(page: str) -> list[Block]:
    fences = list(re.finditer(r"^```(\w+)\n(.*?)^```\n", page, flags=re.MULTILINE | re.DOTALL))
    found = []
    for fence, after in zip(fences, [*fences[1:], None], strict=True):
        follows = after is not None and after[1] == "text" and not page[fence.end() : after.start()].strip()
        line = page.count("\n", 0, fence.start()) + 2
        found.append(Block(fence[1], line, fence[2], after[2] if after and follows else None))
    return found


PAGE = README.read_text(encoding="utf-8")
PYTHON = [block for block in blocks(PAGE) if block.language == "python"]
COMMANDS = [
    command.split("#")[0].strip()
    for block in blocks(PAGE)
    if block.language == "sh"
    for command in block.text.splitlines()
    if command.split("#")[0].strip()
]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"line-{block.line}")
def test_python_block_runs(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the README
    exec(compile(source, str(README), "exec"), {"__name__": "readme"})
    if block.shown is not None:
        assert capsys.readouterr().out.split() == block.shown.split()


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_command_exists(command: str) -> None:
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
        paths = [word for word in words[1:] if "/" in word and not word.startswith(made)]
        assert all((ROOT / path).exists() for path in paths)
    else:
        assert program in {"pip", "git", "cd"}


def test_the_first_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    shown = next(block.text for block in blocks(PAGE) if "Report: runs/" in block.text)
    command = ["-m", "torchglm", "fit", "configs/poisson.yaml", "--output_dir", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    summary, report = done.stdout.rsplit("Report:", 1)
    assert summary == shown.rsplit("Report:", 1)[0]
    assert Path(report.strip()).is_file()


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGE)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_picture_of_the_report_is_small() -> None:
    picture = ROOT / "docs" / "report.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 300_000


def test_what_the_page_names_as_a_place_is_there() -> None:
    named = re.findall(r"`((?:torchglm|configs|benchmarks|tests|examples|docs)/[\w./]*)`", PAGE)
    assert named and [place for place in named if not (ROOT / place).exists()] == []


def test_a_block_knows_its_line_and_its_output() -> None:
    page = "intro\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\nwords\n\n```sh\nmake\n```\n"
    assert blocks(page)[0] == Block("python", 4, "print(1)\n", "1\n")
    assert blocks(page)[2] == Block("sh", 14, "make\n", None)
