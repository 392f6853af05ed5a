"""The page on the architecture: it names what is there, and its picture is drawn from the imports as they are."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT, PAGE = ROOT / "docs" / "architecture.py", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("architecture_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_script_draws_the_picture(tmp_path: Path) -> None:
    target = tmp_path / "house.png"
    done = subprocess.run([sys.executable, SCRIPT, target], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes().startswith(b"\x89PNG")
    picture = ROOT / "docs" / "architecture.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 300_000


def test_every_room_is_drawn_and_no_arrow_points_up(script: ModuleType) -> None:
    graph = script.imports()
    files = [path for path in (ROOT / "torchglm").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    rooms = {path.stem for path in files} - script.LEFT_OUT
    assert set(graph) == rooms
    at = script.places(graph)
    assert len(set(at.values())) == len(rooms)  # no box lies on another
    assert all(at[upper][1] > at[lower][1] for upper, names in graph.items() for lower in names)


def test_arrows_that_others_imply_are_left_out(script: ModuleType) -> None:
    graph = {"c": {"a", "b"}, "b": {"a"}, "a": set()}
    assert script.floors(graph) == {"a": 0, "b": 1, "c": 2}
    assert sorted(script.direct(graph)) == [("b", "a"), ("c", "b")]
    with pytest.raises(ValueError, match="in a circle"):
        script.floors(graph | {"a": {"c"}})


def test_what_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:torchglm|docs|tests)/[\w./]*)`", PAGE)
    assert len(named) > 20 and [place for place in named if not (ROOT / place).exists()] == []
    pictures = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert pictures and [target for target in pictures if not (ROOT / "docs" / target).exists()] == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Z][A-Za-z]+)`", PAGE))))
def test_the_classes_of_the_page_are_there(name: str) -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "torchglm").rglob("*.py"))
    assert re.search(rf"^class {name}\b", source, re.M), f"the page speaks of {name}, and there is no such class"
