"""Imports point downward, the mathematics knows torch, numpy and threadpoolctl only, `import torchglm` is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "torchglm"

# A room may import rooms on its own floor or below, never above. A new room has to be placed here.
FLOORS = [
    {"special", "links", "rows", "version", "writing"},
    {"families", "distributions"},
    {"fitting"},
    {"tables"},
    {"design"},
    {"inputs"},
    {"inference", "metrics"},
    {"report"},
    {"model"},
    {"training"},
    {"store"},
    {"cli", "__main__"},
    {"__init__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MATHEMATICS = {"special", "links", "rows", "families", "distributions", "fitting", "inference"}
HEAVY = """lightning pytorch_lightning torchmetrics pandas polars pyarrow formulaic scipy
matplotlib rich jsonargparse jinja2""".split()


class Import(NamedTuple):
    target: str
    line: int
    on_load: bool  # runs when the module is imported, not when a function in it is called


def modules() -> dict[str, Path]:
    """Dotted name -> file, the package's own `__init__.py` as `torchglm`."""
    named = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(tree: ast.AST, package: str, known: set[str], on_load: bool = True) -> Iterator[Import]:
    """Every import below `tree`; names taken `from` a package resolve to the submodule where there is one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(ast.Module(node.orelse, []), package, known, on_load)
        elif isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, on_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield Import(submodule if submodule in known else base, node.lineno, on_load)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(node, package, known, on_load and not inside)


def imports_of(module: str) -> list[Import]:
    named = modules()
    path = named[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), package, set(named)))


MODULES = sorted(modules())


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_downward(module: str) -> None:
    assert room(module) in FLOOR, f"{module} is a new room: place it in FLOORS"
    for found in imports_of(module):
        if found.on_load and found.target.split(".")[0] == "torchglm":
            assert FLOOR[room(found.target)] <= FLOOR[room(module)], (
                f"{module}, line {found.line}, imports {found.target}, which stands above it"
            )


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in MATHEMATICS])
def test_the_mathematics_knows_torch_and_numpy_only(module: str) -> None:
    allowed = {"torch", "numpy", "threadpoolctl", "torchglm", *sys.stdlib_module_names}
    for found in imports_of(module):  # those inside functions too
        assert found.target.split(".")[0] in allowed, f"{module}, line {found.line}, imports {found.target}"


def test_no_import_cycles() -> None:
    graph = {
        module: {i.target for i in imports_of(module) if i.on_load and i.target in MODULES} - {module}
        for module in MODULES
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, naming the cycle


def test_import_torchglm_is_light() -> None:
    code = f"import sys, torchglm; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"import torchglm also imports {done.stdout.split()}"


def test_the_reader_of_imports_sees_what_it_should() -> None:
    source = """
from typing import TYPE_CHECKING
from . import rows
from ..links import Log
if TYPE_CHECKING:
    import pandas
def f():
    import rich
class A:
    import torch
"""
    known = {"torchglm.fitting.rows", "torchglm.links"}
    found = {(i.target, i.on_load) for i in imports(ast.parse(source), "torchglm.fitting", known)}
    assert found == {
        ("typing", True),
        ("torchglm.fitting.rows", True),
        ("torchglm.links", True),
        ("rich", False),
        ("torch", True),
    }
