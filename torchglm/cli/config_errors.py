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
}

_KEY = re.compile(r'Parser key "([\w.]+)":')
_UNKNOWN = re.compile(r"(?:Group '(?P<group>\w+)' does not accept option|Option) '(?P<key>[\w.]+)'")
_TYPE = re.compile(
    r"Expected an? (?:<class '(?P<kind>\w+)'>|(?P<list>list)\[|typing\.Literal\[(?P<words>[^]]*)\]|\S)|"
    r"Not of type (?P<object>\w+)"
)
_GROUP = re.compile(r"""(?P<group>data)"?: Unable to load config ['"](?P<value>[^'"]+)""")
_VALUE = re.compile(r"(?:Got|Given) value: (.*)")
_WORDS = {
    r'^Parser key "config": ': "",
    r'Parser key "([\w.]+)":': r"\1:",
    r"<class '([\w.]+)'>": r"\1",
    "typing[.]": "",
    "the following arguments are required:": "missing:",
}


def one_line(message: str) -> str:
    """A parser's message in one line: what a key must be and what it got, with the nearest name where one is near."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message)
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
    for ugly, nice in _WORDS.items():
        text = re.sub(ugly, nice, text)
    return text


def _unknown(key: str, group: str | None, where: str, paths: list[str]) -> str:
    """What is said of a key that is unknown at the top, in a group or to the class at the last path."""
    if group:
        return short_names.unknown_key(group, key, list(DataConfig.__dataclass_fields__))
    if paths:
        return short_names.unknown_key(where, key, short_names.parameters(paths[-1]))
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
