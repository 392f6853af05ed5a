"""What a saved fit must look like: the kind of every fact, looked at before any is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchglm.inputs.roles import ROLES

# A kind is a type, a set of kinds of which one must fit, `[kind]` a list of them, `{str: kind}` a mapping of names to
# them, or `{name: kind}` a mapping that must have these names and may have others.
Kind = Any
MAYBE_TEXT = (str, None)
COUNTS = {str: int}
PART = {"name": str, "learned": [str]}
FACTS: dict[str, Kind] = {
    "names": [str],
    "cuts": [str],
    "plan": ({"predictors": int, "ones": [int], "blocks": [{"columns": [int], "contrast": [[float]]}]}, None),
    "family": PART,
    "link": PART,
    "estimated": bool,
    "penalty": MAYBE_TEXT,
    "intercept": bool,
    "dispersion_kind": str,
    "covariance_kind": str,
    "batch": [int],
    "levels": ([int], None),
    "minnorm": bool,
    "tol": float,
    "context": {},
    "spec": ({}, None),
}
CONTEXT: dict[str, Kind] = {
    **dict.fromkeys(ROLES, bool),
    "offset": [str],
    "added": bool,
    "counted": bool,
    "inputs": ([str], None),
    "formula": MAYBE_TEXT,
    "method": str,
    "held_dispersion": (float, None),
    "quadrature": int,
    "predictors": {str: str},
    "terms": {str: [int]},
    "columns": {str: str},
    "constraints": [str],
    "group_names": ([str], None),
    "groups": ([[object]], None),
    "group": ([object], None),
    "absorbed": {"singletons": int, "separated": int, "levels": [int], "df": int, "exact": bool, "components": int},
    "tally": {"rows": int, "missing": COUNTS, "unseen": COUNTS},
}
SPEC: dict[str, Kind] = {
    "formula": str,
    "missing": str,
    "unseen": str,
    "types": {str: str},
    "reading": {},
    "factors": [{"text": str}],
    "terms": [{"name": str, "parts": [{}]}],
}


def check_facts(facts: Any) -> None:
    """Raise `TypeError` for facts of another kind, and for counts that contradict one another."""
    _check(facts, FACTS, "result.json")
    context, columns = facts["context"], len(facts["names"]) + len(facts["cuts"])
    _check(context, {name: kind for name, kind in CONTEXT.items() if name in context}, "context")
    if facts["spec"] is not None:
        _check(facts["spec"], SPEC, "spec")
    keys, groups, group = (context.get(name) for name in ("group_names", "groups", "group"))
    labels = [*(groups or []), *([] if group is None else [group])]
    levels, places = facts["levels"], [place for held in context.get("terms", {}).values() for place in held]
    wrong = {
        "tol": not 0 < facts["tol"] < 1,
        "batch": any(size < 1 for size in facts["batch"]) or math.prod(facts["batch"]) > 2**40,
        "levels": levels is not None and not (len(levels) == 2 and 0 <= levels[0] <= levels[1] <= columns),
        "groups": groups is not None and len(groups) != math.prod(facts["batch"]),
        "group_names": any(len(label) != len(keys or []) for label in labels),
        "terms": any(not 0 <= place < columns for place in places),
    }
    for name, found in wrong.items():
        if found:
            raise TypeError(f"{name} does not go with the other facts")


def check_tensors(tensors: Any) -> None:
    """Raise `TypeError` for what are no plain tensors on the CPU, by name."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors.pt holds {_named(tensors)}, expected tensors by name")
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TypeError(f"{name!r} in tensors.pt is {_named(value)}, expected a tensor")
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
            raise TypeError(f"{name} in tensors.pt is no plain tensor of real numbers")


def _check(value: Any, kind: Kind, where: str) -> None:
    """Raise `TypeError` where a value is not of a kind."""
    if isinstance(kind, tuple):
        if not any(_fits(value, one, where) for one in kind):
            raise TypeError(f"{where} is {_named(value)}")
    elif isinstance(kind, list):
        if not isinstance(value, list):
            raise TypeError(f"{where} is {_named(value)}, expected a list")
        for part in value:
            _check(part, kind[0], f"a part of {where}")
    elif isinstance(kind, dict):
        if not isinstance(value, dict):
            raise TypeError(f"{where} is {_named(value)}, expected a mapping")
        for name, inner in kind.items():
            for key in value if name is str else [name]:
                if key not in value:
                    raise TypeError(f"{where} lacks {key}")
                _check(value[key], inner, f"{where}.{key}")
    elif kind is None and value is not None or kind is not None and not _is(value, kind):
        raise TypeError(f"{where} is {_named(value)}")


def _fits(value: Any, kind: Kind, where: str) -> bool:
    try:
        _check(value, kind, where)
    except TypeError:
        return False
    return True


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of a type; a truth value is no number, a whole number is a number too."""
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _named(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
