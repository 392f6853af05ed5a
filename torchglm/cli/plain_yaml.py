"""YAML as a tree of bounded size: no key twice, no alias to itself, nothing that grows without end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

DEEPEST = 50  # levels of lists and mappings
MOST = 100_000  # values, those behind aliases counted wherever they stand


def loaded(text: str, load: Callable[[str], Any]) -> Any:
    """What `load` makes of text that `check` has looked at. Raises ValueError, too, where a tag does not fit."""
    check(text)
    try:
        return load(text)
    except (AttributeError, TypeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"a tag (!!) does not fit its value: {error}. Leave it out.") from None


def check(text: str) -> None:
    """Raise ValueError, with its lines, for a key that stands twice, and for YAML nested too deep or too large.

    Raises `yaml.YAMLError` for text that is no YAML.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise ValueError(_deep(1)) from None
    if root is not None:
        _counted(root, 1, 0)


def mapping(file: Path) -> dict[str, Any]:
    """The keys and values of a file; none where it is absent or empty. Raises ValueError where it holds others."""
    if not file.is_file():
        return {}
    try:
        found = loaded(file.read_text(encoding="utf-8"), yaml.safe_load)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{file} must hold lines of 'key: value', got a {type(found).__name__}.")
    return found or {}


def _counted(node: yaml.Node, depth: int, count: int) -> int:
    """How many values there are with those of a node, `count` having come before it at the depth `depth`."""
    line, count = node.start_mark.line + 1, count + 1
    if depth > DEEPEST:
        raise ValueError(_deep(line))
    if count > MOST:
        raise ValueError(f"more than {MOST:,} values, aliases written out, up to line {line}. Repeat less.")
    if isinstance(node, yaml.SequenceNode):
        for part in node.value:
            count = _counted(part, depth + 1, count)
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node)
        for key, value in node.value:
            count = _counted(value, depth + 1, _counted(key, depth + 1, count))
    return count


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        line = key.start_mark.line + 1
        if key.value in lines:
            also = "" if lines[key.value] == line else f" and in line {lines[key.value]}"
            raise ValueError(f"the key {key.value!r} stands twice, in line {line}{also}. Keep one.")
        lines[key.value] = line


def _deep(line: int) -> str:
    return f"lists and mappings lie over {DEEPEST} deep in one another (line {line}), or in themselves by an alias."
