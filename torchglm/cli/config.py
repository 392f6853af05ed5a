"""The parser of `torchglm fit`: a YAML file and flags become a Job, and a Job's config YAML again."""

from __future__ import annotations

import json
import re
from argparse import SUPPRESS, Action, ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import torch
import yaml  # type: ignore[import-untyped]
from jsonargparse.typing import register_type

from torchglm.cli import names
from torchglm.cli.schema import Data, Job

MODE = "torchglm"
DESCRIPTION = """Fit a generalised linear model as CONFIG.yaml says. Every key of the config is also a flag, and
flags come after it: torchglm fit configs/poisson.yaml --family negative_binomial --solver.tol 1e-10"""

_yaml_load = jsonargparse.get_loader("yaml")


def load_yaml(text: str) -> Any:
    """YAML with short names expanded, see `names`."""
    return names.expand(_yaml_load(text))


def dump_yaml(config: dict[str, Any]) -> str:
    """YAML with short names where there are."""
    text: str = yaml.safe_dump(names.contract(config), sort_keys=False, allow_unicode=True)
    return text


jsonargparse.set_loader(MODE, load_yaml, (yaml.YAMLError,))
jsonargparse.set_dumper(MODE, dump_yaml)
register_type(torch.Tensor, lambda value: value.tolist(), lambda value: torch.tensor(value, dtype=torch.float64),
              fail_already_registered=False)  # a strength or a parameter for each column


class _Help(jsonargparse.DefaultHelpFormatter):
    """Help in the words of the docstrings, with the default, and without Python types."""

    def _get_help_string(self, action: Action) -> str:
        text = (action.help or "").replace("%", "%%")
        if action.required:
            return f"{text} (required)"
        plain = isinstance(action.default, (str, int, float)) and action.dest not in ("help", "config")
        return f"{text} (default: {action.default})" if plain and action.default != SUPPRESS else text


def parser() -> jsonargparse.ArgumentParser:
    """The parser of `torchglm fit`."""
    found = jsonargparse.ArgumentParser(prog="torchglm fit", description=DESCRIPTION, parser_mode=MODE,
                                        exit_on_error=False, formatter_class=_Help,
                                        usage="torchglm fit CONFIG.yaml [--key value ...]")
    found.add_argument("--config", action="config", metavar="FILE", help="the YAML file, where it does not come first")
    found.add_class_arguments(Job)
    found.set_defaults(solver={"class_path": names.SOLVERS["irls"]})
    for action in found._actions:
        _describe(action)
    return found


def _describe(action: Action) -> None:
    """Say in the help of an action which names it knows; leave out what serves class paths only."""
    key = action.dest
    if key in names.KEYS:
        action.metavar = "NAME"
        action.help = f"{action.help}. Names: {', '.join(names.KEYS[key]())}"
    elif key == "print_config":
        action.metavar, action.help = "", "print the whole config, itself a valid one, and exit"
    elif key == "data" or key.endswith(".help"):
        action.help = SUPPRESS
    elif action.option_strings:
        action.option_strings = [flag for flag in action.option_strings if not flag.endswith("+")]
        action.metavar = None if action.choices else key.rpartition(".")[2].upper()


def read(arguments: Sequence[str]) -> tuple[Job, str]:
    """The job of `torchglm fit`'s arguments, and its resolved config as YAML.

    Raises ValueError for a config that cannot be read, an unknown key or a value of another type.
    """
    reader = parser()
    given = _expanded(arguments)
    try:
        config = reader.parse_args(given)
        files = [Path(str(file)) for file in config.pop("config", None) or []]
        config.data.path = located(config.data.path, files)
        job = Job(**vars(reader.instantiate(config)))
    except (ArgumentError, jsonargparse.ArgumentError, TypeError, yaml.YAMLError) as error:
        raise ValueError(one_line(str(error))) from None
    return job, reader.dump(config, skip_none=False)


def located(path: str | list[str], configs: Sequence[Path]) -> str | list[str]:
    """A path of rows where something is: in the current directory, else beside the config; else as it was."""
    if not isinstance(path, str):
        return [str(located(one, configs)) for one in path]
    for place in [Path(), *(config.parent for config in configs)]:
        candidate = place / Path(path).expanduser()
        if candidate.exists() or (any(sign in path for sign in "*?[") and any(place.glob(path))):
            return str(candidate)
    return path


def _expanded(arguments: Sequence[str]) -> list[str]:
    """Arguments as jsonargparse takes them: the first may be the config, short names become class paths."""
    given = list(arguments)
    if given and not given[0].startswith("-"):
        given[0] = f"--config={given[0]}"
    made: list[str] = []
    while given:
        flag, equals, value = given.pop(0).partition("=")
        key = flag.removeprefix("--")
        short = key.removesuffix(".name")
        if not flag.startswith("--") or short not in names.KEYS:
            _check_flag(flag)
            made.append(flag + equals + value)
            continue
        if not equals:
            if not given:
                raise ValueError(f"{flag} needs a value, such as {flag} {next(iter(names.KEYS[short]()))}.")
            value = given.pop(0)
        expanded = names.expand_value(short, _yaml_load(value), names.KEYS[short]())
        made.append(f"--{short}={json.dumps(expanded)}")
    return made


def _check_flag(flag: str) -> None:
    """Raise ValueError for an unknown flag, with the nearest one."""
    known = [*Job.__dataclass_fields__, *(f"data.{key}" for key in Data.__dataclass_fields__), "config",
             "print_config", "help"]
    key = flag.removeprefix("--")
    if flag.startswith("--") and key not in known and key.split(".")[0] not in names.KEYS:
        raise ValueError(f"unknown flag {flag}{names.nearest(key, known)}. See torchglm fit --help.")


def one_line(message: str) -> str:
    """A parser's message in one line and in plain words, with the nearest key where one was misspelt."""
    text = " ".join(part.strip() for part in message.splitlines() if part.strip())
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    known = [*Job.__dataclass_fields__]
    if found := re.search(r"(?:Group '(?P<group>\w+)' does not accept option|Option) '(?P<key>[\w.]+)'", text):
        if found["group"]:
            known = [*Data.__dataclass_fields__]
        paths = re.findall(r"class_path '([\w.]+)'", text)
        where = found["group"] or (paths[-1] if paths else "config")
        known = names.parameters(paths[-1]) if paths else known
        return f"{where}: unknown key {found['key']!r}{names.nearest(found['key'], known)}; known: {', '.join(known)}."
    text = re.sub(r"^Parser key \"config\": ", "", text)
    text = re.sub(r"Parser key \"([\w.]+)\":", r"\1:", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("typing.", "")
    text = text.replace("the following arguments are required:", "missing:")
    return text
