"""The house: no import points up, no files in a circle, heavy packages late, one class a name, `import torchglm` light.

All imports count: those at the top of a file, inside functions, and for types alone.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
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
    {"nn", "optim", "training", "sklearn", "marginaleffects"},
    {"store"},
    {"cli", "__main__"},
    {"__init__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MATHEMATICS = {"special", "links", "rows", "families", "distributions", "fitting", "inference"}
# They cost tenths of a second to seconds, so they come in when a function first needs them.
HEAVY = """lightning pytorch_lightning torchmetrics pandas polars pyarrow formulaic scipy
matplotlib rich jsonargparse jinja2 markupsafe onnx onnxscript triton""".split()
MOST_LINES = 400  # of a file: past 300 ask what it is made of
MOST_STEPS = 60  # lines of a function without its docstring: past 40 ask
NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make"}  # public in spite of their underscore


class Import(NamedTuple):
    target: str
    line: int
    kind: str  # "load": runs with the module; "late": inside a function; "types": under TYPE_CHECKING


def modules() -> dict[str, Path]:
    """Dotted name -> file, the package's own `__init__.py` as `torchglm`."""
    named = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


MODULES = modules()


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(tree: ast.AST, known: set[str], kind: str = "load") -> Iterator[Import]:
    """Every import below `tree`; names taken `from` a package resolve to the submodule where there is one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(ast.Module(node.body, []), known, "types")
            yield from imports(ast.Module(node.orelse, []), known, kind)
        elif isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, kind) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = str(node.module)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield Import(submodule if submodule in known else base, node.lineno, kind)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(node, known, "late" if inside and kind == "load" else kind)


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    return tuple(imports(tree_of(module), set(MODULES)))


def own_imports(module: str) -> list[Import]:
    return [found for found in imports_of(module) if found.target in MODULES and found.target != module]


@cache
def loaded_by(module: str) -> frozenset[str]:
    """The modules of the package that come in with one: those it imports on load, and the packages they lie in."""
    found, left = set[str](), [module]
    while left:
        now = left.pop()
        if now in found:
            continue
        found.add(now)
        left += [f.target for f in own_imports(now) if f.kind == "load"]
        parts = now.split(".")
        left += [".".join(parts[:i]) for i in range(2, len(parts))]  # its packages, save the whole
    return frozenset(found)


def is_heavy(module: str) -> bool:
    """Whether importing it brings in a package that is slow to load."""
    if module not in MODULES:
        return module.split(".")[0] in HEAVY
    brought = (found for one in loaded_by(module) for found in imports_of(one) if found.kind == "load")
    return any(found.target.split(".")[0] in HEAVY for found in brought)


# imports ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_no_import_points_up(module: str) -> None:
    assert room(module) in FLOOR, f"{module} is a new room: place it in FLOORS"
    for found in own_imports(module):
        assert FLOOR[room(found.target)] <= FLOOR[room(module)], (
            f"{module}, line {found.line}, imports {found.target}, which stands above it"
        )


@pytest.mark.parametrize("module", MODULES)
def test_warnings_point_at_the_line_of_the_reader(module: str) -> None:
    if module != "torchglm.writing.warning":
        assert "warnings.warn(" not in MODULES[module].read_text(encoding="utf-8"), "torchglm.writing.warning.tell"


def test_no_circle_of_files() -> None:
    graph = {module: {found.target for found in own_imports(module)} for module in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, naming the circle


@pytest.mark.parametrize("module", MODULES)
def test_only_what_is_slow_to_load_comes_in_late(module: str) -> None:
    for found in imports_of(module):
        if found.kind == "late":
            assert is_heavy(found.target), f"{module}, line {found.line}: import {found.target} at the top of the file"


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in MATHEMATICS])
def test_the_mathematics_knows_torch_and_numpy_only(module: str) -> None:
    allowed = {"torch", "numpy", "threadpoolctl", "triton", "typing_extensions", "torchglm", *sys.stdlib_module_names}
    for found in imports_of(module):
        assert found.target.split(".")[0] in allowed, f"{module}, line {found.line}, imports {found.target}"


def test_import_torchglm_is_light() -> None:
    code = f"import sys, torchglm; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"import torchglm also imports {done.stdout.split()}"


# names -----------------------------------------------------------------------------------------------------


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLE and name != "_"


@cache
def given_by(path: Path) -> frozenset[str]:
    """Private names that a file gives: those it defines or stores."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return frozenset(name for name in names if private(name))


def foreign_private(path: Path, others: Iterable[Path]) -> Iterator[str]:
    """The private names of other files of the package that a file reaches for, other than through itself."""
    elsewhere = frozenset[str]().union(*(given_by(other) for other in others if other != path)) - given_by(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in elsewhere:
            if ast.unparse(node.value) not in ("self", "cls", "super()"):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("torchglm"):
            yield from (f"line {node.lineno}: {a.name} of {node.module}" for a in node.names if private(a.name))


@pytest.mark.parametrize("module", MODULES)
def test_what_is_private_stays_in_its_file(module: str) -> None:
    found = list(foreign_private(MODULES[module], MODULES.values()))
    assert not found, f"{module} reaches for what is private elsewhere: {'; '.join(found)}"


def test_no_class_name_is_used_twice() -> None:
    places: dict[str, list[str]] = {}
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice, f"classes of one name: {twice}"


# size ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_are_small(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{module} has {lines} lines: see what it is made of"
    for node in ast.walk(tree_of(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            steps = int(node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert steps <= MOST_STEPS, f"{module}.{node.name} has {steps} lines: see what it is made of"


# the rules themselves --------------------------------------------------------------------------------------

SAMPLE = """
from typing import TYPE_CHECKING
from torchglm.rows import rows
from torchglm.links import Log
if TYPE_CHECKING:
    import pandas
    from torchglm.model.face import Result
def f(x):
    import rich
    return x._state
class A:
    import torch
    def g(self):
        return self._state
"""


def test_the_reader_of_imports_sees_what_it_should() -> None:
    known = {"torchglm.rows.rows", "torchglm.links", "torchglm.model.face"}
    assert {(found.target, found.kind) for found in imports(ast.parse(SAMPLE), known)} == {
        ("typing", "load"),
        ("torchglm.rows.rows", "load"),
        ("torchglm.links", "load"),
        ("pandas", "types"),
        ("torchglm.model.face", "types"),
        ("rich", "late"),
        ("torch", "load"),
    }


def test_the_reader_of_private_names_sees_what_it_should(tmp_path: Path) -> None:
    holder, reader = tmp_path / "holder.py", tmp_path / "reader.py"
    holder.write_text("class Holder:\n    def __init__(self):\n        self._state = {}\n")
    reader.write_text(SAMPLE + "from torchglm.rows.rows import _wide\n")
    found = set(foreign_private(reader, [holder, reader]))
    assert found == {"line 10: x._state", "line 15: _wide of torchglm.rows.rows"}
    assert list(foreign_private(holder, [holder, reader])) == []
