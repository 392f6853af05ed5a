"""Short names in YAML and on the command line: `family: poisson`, `solver: {name: sgd, batch_size: 4096}`.

A short form is a name, or a mapping of `name` and the arguments of the class it stands for. It is expanded to
the `class_path` and `init_args` that jsonargparse checks and builds, and contracted again when a config is
written. A class of one's own is named by its `class_path`, and needs no entry here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from torch import optim

from torchglm.model import codec
from torchglm.writing.nearest import nearest

Paths = dict[str, str]  # short name -> class path


def family_paths() -> Paths:
    """Every family by its name."""
    return {name: path_of(kind) for name, kind in codec.FAMILIES.items()}


def link_paths() -> Paths:
    """Every link by its name, and `power` with its argument."""
    return {name: path_of(kind) for name, kind in codec.LINKS.items()}


def optimizer_paths() -> Paths:
    """Every optimizer of torch by its class's name in lower case."""
    found = {name: value for name, value in vars(optim).items() if inspect.isclass(value)}
    return {
        name.lower(): f"torch.optim.{name}"
        for name, value in found.items()
        if issubclass(value, optim.Optimizer) and value is not optim.Optimizer
    }


PENALTIES = {
    "ridge": "torchglm.fitting.penalties.Ridge",
    "elastic_net": "torchglm.cli.elastic_net.ChosenNet",
    "quadratic": "torchglm.cli.quadratic.QuadraticOfBlocks",
    "group_lasso": "torchglm.fitting.penalties.groups.GroupLasso",
    "fused": "torchglm.fitting.penalties.fused.Fused",
    "mcp": "torchglm.fitting.penalties.concave.MCP",
    "scad": "torchglm.fitting.penalties.concave.SCAD",
    "jeffreys": "torchglm.fitting.bias.Jeffreys",
}
SOLVERS = {"irls": "torchglm.cli.schema.IRLS", "sgd": "torchglm.cli.sgd.SGD"}

# The keys that take a short form, and what may stand there; the second is for keys inside those.
KEYS: dict[str, Callable[[], Paths]] = {
    "family": family_paths,
    "link": link_paths,
    "penalty": PENALTIES.copy,
    "solver": SOLVERS.copy,
}
INNER: dict[str, Callable[[], Paths]] = {"optimizer": optimizer_paths}


def expand(config: Any, keys: Mapping[str, Callable[[], Paths]] = KEYS) -> Any:
    """A config with every short form replaced by class path and arguments; other values as they are.

    Raises ValueError for an unknown name or argument, with the nearest match.
    """
    if not isinstance(config, dict):
        return config
    return {key: expand_value(key, value, keys[key]()) if key in keys else value for key, value in config.items()}


def expand_value(key: str, value: Any, paths: Paths) -> Any:
    """The class path and arguments of one short form."""
    if value is None or (isinstance(value, dict) and "class_path" in value):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"{key}: got {value!r}; write a name, or {{name: …, …}}. Known: {', '.join(paths)}.")
    name, arguments = str(value["name"]), {k: v for k, v in value.items() if k != "name"}
    if name not in paths and "." not in name:
        raise ValueError(f"{key}: unknown name {name!r}{nearest(name, paths)}; known: {', '.join(paths)}.")
    path = paths.get(name, name)
    check_keys(name, arguments, parameters(path))
    return {"class_path": path, "init_args": expand(arguments, INNER)}


def contract(config: Mapping[str, Any], keys: Mapping[str, Callable[[], Paths]] = KEYS) -> dict[str, Any]:
    """The inverse of `expand`: short forms where there is one."""
    return {key: _contract_value(key, value, keys[key]()) if key in keys else value for key, value in config.items()}


def _contract_value(key: str, value: Any, paths: Paths) -> Any:
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    names = {path: name for name, path in reversed(paths.items())}
    name = names.get(value["class_path"])
    if name is None or set(value) - {"class_path", "init_args"}:
        return value
    arguments = contract(value.get("init_args") or {}, INNER)
    return {"name": name, **arguments} if arguments else name


def check_keys(where: str, got: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for a key that is not known, with its nearest match."""
    known = list(known)
    for key in got:
        if key not in known:
            raise ValueError(unknown_key(where, str(key), known))


def unknown_key(where: str, key: str, known: list[str]) -> str:
    """What is said of a key that is not known."""
    listed = ", ".join(known[:12]) + (", …" if len(known) > 12 else "") if known else "none"
    return f"{where}: unknown key {key!r}{nearest(key, known)}; known: {listed}."


def parameters(path: str) -> list[str]:
    """The names of the arguments of the class at a class path, but for what an optimizer is to optimise.

    Raises ValueError where there is no such class.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be imported: {error}. Name a class by its full path.") from None
    return [name for name in inspect.signature(found).parameters if name not in ("self", "params")]


def path_of(found: type) -> str:
    """The path by which a class is imported."""
    return f"{found.__module__}.{found.__qualname__}"
