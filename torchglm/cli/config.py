"""The parser of `torchglm fit`: a YAML file and flags become a Job, and a Job's config YAML again."""

from __future__ import annotations

import json
from abc import ABC
from argparse import SUPPRESS, Action, ArgumentError
from collections.abc import Sequence
from glob import iglob
from pathlib import Path
from typing import Any

import jsonargparse
import torch
import yaml  # type: ignore[import-untyped]
from jsonargparse.typing import register_type

from torchglm.cli import plain_yaml, short_names
from torchglm.cli.backbones import class_of
from torchglm.cli.config_errors import one_line
from torchglm.cli.schema import DataConfig, Job
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.penalties import Penalty
from torchglm.writing.nearest import nearest

MODE = "torchglm"
DESCRIPTION = """Fit a generalised linear model as CONFIG.yaml says, and write a run folder with its report.
Every key of the config is also a flag, and flags come after it:
torchglm fit configs/poisson.yaml --family negative_binomial --solver.tol 1e-10
Go on with a fit that was interrupted or killed: torchglm fit CONFIG.yaml --resume RUN
Share the rows out to four processes: torchrun --nproc_per_node 4 -m torchglm fit CONFIG.yaml"""

SHORT = {**short_names.KEYS, **{f"solver.{key}": known for key, known in short_names.INNER.items()}}

_yaml_load = jsonargparse.get_loader("yaml")


def _strict_load(text: str) -> Any:
    """YAML that `plain_yaml.check` has looked at. Raises ValueError where it refuses."""
    return plain_yaml.loaded(text, _yaml_load)


def load_yaml(text: str) -> Any:
    """YAML with short names expanded, see `names`."""
    return short_names.expand(_with_head(_strict_load(text)))


def _with_head(config: Any) -> Any:
    """A config whose `model.head` stands at the top: its family, link and dispersion are those of the fit.

    Its `predictors` stay with the model.

    Raises ValueError for other keys, for what is said twice, and for a backbone that cannot be made.
    """
    model = config.get("model") if isinstance(config, dict) else None
    if model is None:
        return config
    if not isinstance(model, dict):
        raise ValueError(f"model is {{backbone: {{class_path: package.Class, ...}}, head: {{...}}}}, got {model!r}.")
    short_names.check_keys("model", model, ("backbone", "head", "predictors"))
    class_of(model.get("backbone"))
    if "head" not in model:
        return config
    head = dict(model["head"]) if isinstance(model["head"], dict) else {"family": model["head"]}
    short_names.check_keys("model.head", head, ("family", "link", "dispersion", "predictors"))
    own = {key: value for key, value in model.items() if key != "head"}
    twice = sorted(set(head) & {*config, *own})
    if twice:
        raise ValueError(f"{twice[0]} stands in model.head and beside it. Write it once.")
    if "predictors" in head:
        named = head.pop("predictors")
        own["predictors"] = [named] if isinstance(named, str) else named
    return {**config, "model": own, **head}


def dump_yaml(config: dict[str, Any]) -> str:
    """YAML with short names where there are."""
    text: str = yaml.safe_dump(short_names.contract(config), sort_keys=False, allow_unicode=True)
    return text


jsonargparse.set_loader(MODE, load_yaml, (yaml.YAMLError,))
jsonargparse.set_dumper(MODE, dump_yaml)


def _numbers(values: Any) -> torch.Tensor:
    """A strength or a parameter for each column, which is a list in YAML."""
    if (
        isinstance(values, bool)
        or values == []
        or isinstance(values, list)
        and any(isinstance(v, bool) for v in values)
    ):
        raise ValueError("no numbers")
    return torch.tensor(values, dtype=torch.float64)


register_type(torch.Tensor, lambda tensor: tensor.tolist(), _numbers, fail_already_registered=False)


class _AnyPenalty(ABC):  # noqa: B024
    """What `penalty` may be, as one class: of a union the parser would go on to the wrong one and speak of it."""


_AnyPenalty.register(Penalty)  # type: ignore[type-abstract]
_AnyPenalty.register(Jeffreys)


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
    found = jsonargparse.ArgumentParser(
        prog="torchglm fit",
        description=DESCRIPTION,
        parser_mode=MODE,
        exit_on_error=False,
        formatter_class=_Help,
        usage="torchglm fit CONFIG.yaml [--key value ...] [--resume RUN]",
    )
    found.add_argument("--config", action="config", help="the YAML file, where it does not come first")
    found.add_class_arguments(Job)
    found.set_defaults(solver={"class_path": short_names.SOLVERS["irls"]})
    for action in found._actions:
        if action.dest == "penalty":
            action._typehint = _AnyPenalty | None  # type: ignore[attr-defined]
        _describe(action)
    return found


def _describe(action: Action) -> None:
    """Say in the help of an action which names it knows; leave out what serves class paths only."""
    key = action.dest
    if key in short_names.KEYS:
        action.metavar = "NAME"
        action.help = f"{action.help}. Names: {', '.join(short_names.KEYS[key]())}"
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
    except UnicodeDecodeError:
        raise ValueError(_no_text(given)) from None
    except (ArgumentError, jsonargparse.ArgumentError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(one_line(str(error))) from None
    return job, reader.dump(config, skip_unset=False)


def _no_text(arguments: Sequence[str]) -> str:
    """What is said where a file was read as YAML that is not text: the config itself, or data in the place of keys."""
    first = Path(arguments[0].removeprefix("--config=")) if arguments else Path()
    try:
        first.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return f"{first} is no text. The config is YAML, and names the data: data: {{path: {first}, formula: y ~ x}}."
    return "data: got the name of a file, and it holds keys, such as data: {path: rows.parquet, formula: y ~ x}."


def resumed(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without `--resume RUN`, in whose place stands `--output_dir RUN`, and that run (or None).

    Raises ValueError where the flag has no value.
    """
    given: list[str] = []
    run, rest = None, iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag != "--resume":
            given.append(argument)
            continue
        run = value if equals else next(rest, "")
        if not run:
            raise ValueError("--resume needs the run folder of the unfinished fit.")
    return given if run is None else [*given, "--output_dir", run], run


def differences(text: str, other: str) -> list[str]:
    """What two resolved configs set otherwise, each as `key: value, was value`, but for where and how fast they run."""
    ours, theirs = (_flat(_strict_load(one)) for one in (text, other))
    keys = sorted({*ours, *theirs} - {"output_dir", "device", "timeout"})
    found = [key for key in keys if ours.get(key) != theirs.get(key)]
    # of another family the arguments differ, too
    shown = [key for key in found if key.rpartition(".")[0] not in found]
    return [f"{key}: {ours.get(key)}, was {theirs.get(key)}" for key in shown]


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Values by dotted keys; `family: poisson` and `family: {name: poisson}` are the same."""
    if isinstance(value, dict):
        return {
            name: one
            for inner, part in value.items()
            for name, one in _flat(part, f"{key}.{inner}".removesuffix(".name") if key else str(inner)).items()
        }
    return {key: value}


def located(path: str | list[str], configs: Sequence[Path]) -> str | list[str]:
    """A path of rows where something is: in the current directory, else beside the config; else as it was."""
    if not isinstance(path, str):
        return [str(located(one, configs)) for one in path]
    for place in [Path(), *(config.parent for config in configs)]:
        candidate = place / Path(path).expanduser()
        if candidate.exists() or (any(sign in path for sign in "*?[") and any(iglob(str(candidate), recursive=True))):
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
        key = flag.removeprefix("--").removesuffix(".name")
        known = SHORT.get(key) if flag.startswith("--") else None
        if known is None:
            _check_flag(flag)
            made.append(flag + equals + value)
            continue
        if not equals:
            if not given:
                raise ValueError(f"{flag} needs a value, such as {flag} {next(iter(known()))}.")
            value = given.pop(0)
        made.append(f"--{key}={json.dumps(short_names.expand_value(key, _strict_load(value), known()))}")
    return made


def _check_flag(flag: str) -> None:
    """Raise ValueError for an unknown flag, with the nearest one."""
    known = [
        *Job.__dataclass_fields__,
        *(f"data.{key}" for key in DataConfig.__dataclass_fields__),
        "config",
        "print_config",
        "help",
        "resume",
    ]
    key = flag.removeprefix("--")
    if flag.startswith("--") and key not in known and key.split(".")[0] not in short_names.KEYS:
        near = nearest(flag, [f"--{name}" for name in known])
        raise ValueError(f"unknown flag {flag}{near}. See torchglm fit --help.")
