"""What jsonargparse says of a config, in one line and in plain words."""

from __future__ import annotations

import re

from torchglm.cli import short_names
from torchglm.cli.schema import DataConfig, Job
from torchglm.writing.nearest import nearest

KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "Tensor": "a list of numbers",
    "collections.abc.Mapping": "a mapping",
    "collections.abc.Sequence": "a list",
}

_KEY = re.compile(r'Parser key "([\w.]+)":')
_UNKNOWN = re.compile(r"(?:Group '(?P<group>\w+)' does not accept option|Option) '(?P<key>[\w.]+)'")
_TYPE = re.compile(
    r"Expected an? (?:<class '(?P<kind>[\w.]+)'>|(?P<list>list)\[|typing\.Literal\[(?P<words>[^]]*)\]|\S)|"
    r"Not of type (?P<object>\w+)"
)
_GROUP = re.compile(r"""(?P<group>data)"?: Unable to load config ['"](?P<value>[^'"]+)""")
_VALUE = re.compile(r"(?:Got|Given) value: (.*)")
_ERRORS = re.compile(r"^( *)Errors:$", re.MULTILINE)
_NONE = "Expected a <class 'NoneType'>"
_CLASS = "Problem with given class_path"
_PATH = re.compile(r"Expected a dot import path string: ?(.*)")
_MISSING = re.compile(r"the following arguments are required: (?P<keys>\w+(?:, \w+)*)")
_KINDS = re.compile(r"Expected an? |Not of type |Parser key |Problem with ")
_WORDS = {
    r'^Parser key "config": ': "",
    r'Parser key "([\w.]+)":': r"\1:",
    r"<class '([\w.]+)'>": r"\1",
    "typing[.]": "",
    "the following arguments are required:": "missing:",
}


def one_line(message: str) -> str:
    """A parser's message in one line: what a key must be and what it got, with the nearest name where one is near."""
    shown = re.sub(r"(value: ?)$", r"\1''", re.sub(r"\x1b\[[0-9;]*m", "", message), flags=re.MULTILINE)
    plain = _nearest_miss(shown)
    text = " ".join(line.strip() for line in plain.splitlines() if line.strip())
    if found := _GROUP.search(text):
        group, value = found["group"], found["value"]
        return f"{group}: got {value!r}, and it holds keys, such as {group}: {{path: {value}, formula: y ~ x}}."
    keys = [key for key in _KEY.findall(text) if key != "config"]
    if found := _UNKNOWN.search(text):
        return _unknown(found["key"], found["group"], ".".join(keys), re.findall(r"class_path[= ]'([\w.]+)'", text))
    if text.startswith("Unexpected config:"):
        return f"the config must hold lines of 'key: value', got {text[18:60].strip()!r}."
    if keys and (said := _expected(plain)):
        return f"{'.'.join(keys)}: {said}"
    if keys and (found := _MISSING.search(text)):
        return f"{'.'.join(keys)}: {found['keys']} {'are' if ',' in found['keys'] else 'is'} missing."
    if keys and (found := _PATH.search(text)):
        return f"{'.'.join(keys)}: must be a mapping of keys to values, got {found[1].strip()}."
    for ugly, nice in _WORDS.items():
        text = re.sub(ugly, nice, text)
    return text


def _nearest_miss(message: str) -> str:
    """A message in which of a value that may be of several types the one is left that it was meant for.

    A class that was named is; else those that have no name of their own, and are not null.
    """
    found = _ERRORS.search(message)
    if found is None:
        return message
    inside = f"{found[1]} "  # by one place or two, the value being empty or not
    lines = message[found.end() + 1 :].splitlines()
    many = next((k for k, line in enumerate(lines) if not line.startswith(inside)), len(lines))
    tries = re.split(rf"^{inside} ?- ", "\n".join(lines[:many]), flags=re.MULTILINE)[1:]
    tries = [one.rstrip() for one in tries if not one.startswith(_NONE)]
    meant = [one for one in tries if one.startswith(_CLASS)] or [one for one in tries if not _PATH.match(one)] or tries
    if len(meant) > 1 or _PATH.match(meant[0]):
        return message
    if not _KINDS.match(meant[0]):
        return meant[0]
    before = [line for line in message[: found.start()].splitlines() if line.strip().startswith("Parser key")]
    value = [] if meant[0].startswith((_CLASS, "Parser key")) else lines[many:]
    return _nearest_miss("\n".join([*before, meant[0], *value]))


def _unknown(key: str, group: str | None, where: str, paths: list[str]) -> str:
    """What is said of a key that is unknown at the top, in a group or to the class at the last path."""
    if group:
        return short_names.unknown_key(group, key, list(DataConfig.__dataclass_fields__))
    if paths:
        known = short_names.parameters(paths[-1])
        named = short_names.KEYS.get(where, dict)()
        if not known and named and paths[-1] not in named.values():
            return f"{where}: {key!r} is given before what it is of. Name that first: {', '.join(named)}."
        return short_names.unknown_key(where, key, known)
    return short_names.unknown_key("config", key, list(Job.__dataclass_fields__))


def _expected(message: str) -> str:
    """What a value must be and what it is, where the message says so in types with a plain name; else ""."""
    kinds: list[str] = []
    words: list[str] = []
    for found in _TYPE.finditer(message):
        if found["words"] is not None:
            words += re.findall(r"'(\w+)'", found["words"])
        elif (kind := found["kind"] or found["list"] or found["object"]) != "NoneType":
            kinds.append(KINDS.get(kind or "", ""))
    value = _VALUE.search(message)
    wanted = [*dict.fromkeys(kinds), *words]
    if value is None or not all(wanted) or not wanted:
        return ""
    got = value[1].strip()
    listed = f"{', '.join(wanted[:-1])} or {wanted[-1]}" if len(wanted) > 1 else wanted[0]
    return f"must be {listed}, got {got}{nearest(got, words)}.{_quoting(got) if 'text' in kinds else ''}"


def _quoting(got: str) -> str:
    """How to write as text what YAML takes for something else."""
    if got in ("True", "False"):
        return " YAML reads on, off, yes and no as true and false: put the name in quotes, such as 'off'."
    return f" Put it in quotes: '{got}'." if re.fullmatch(r"[-+.\w]+", got) else ""
