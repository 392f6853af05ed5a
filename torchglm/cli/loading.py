"""The fit of a run, for the commands that read one: a family or link of one's own is made as its config names it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torchglm.cli import plain_yaml
from torchglm.families import Family
from torchglm.links import Link
from torchglm.model import codec, path_storage
from torchglm.model.face import Result
from torchglm.store import saved
from torchglm.store.runs import NETWORK, PATH

KINDS = {"family": Family, "link": Link}


def load_run(run: Path) -> Result:
    """The fit of a run folder, without rows.

    Raises ValueError where it is of a family or link of one's own that the config of the run does not name by its
    `class_path`: a fit that Python saved is loaded there, by `torchglm.load(run, link=...)`.
    """
    own = _own_parts(run)
    fit: Result = saved.load(run, **own)
    if (run / NETWORK).is_file():
        from torchglm.cli.network import load_network

        model = plain_yaml.mapping(run / "config.yaml").get("model") or {}
        fit = replace(fit, context=fit.context | {"network": load_network(run / NETWORK, model.get("backbone") or {})})
    if not path_storage.holds(run / PATH):
        return fit
    return replace(fit, context=fit.context | {"path": saved.load(run / PATH, **own)})


def _own_parts(run: Path) -> dict[str, Any]:
    """The family and the link of the config that are not torchglm's, as objects."""
    file = run / "config.yaml"
    config = plain_yaml.mapping(file)
    named = {key: config[key] for key in KINDS if isinstance(config.get(key), dict) and "class_path" in config[key]}
    if not named:
        return {}
    import jsonargparse

    reader = jsonargparse.ArgumentParser(exit_on_error=False)
    for key in named:
        reader.add_subclass_arguments(KINDS[key], key)
    try:
        made = reader.instantiate(reader.parse_object(named))
    except jsonargparse.ArgumentError as error:
        raise ValueError(f"{file} names a class that cannot be made here: {error}") from None
    return {key: made[key] for key in named if not codec.ours(made[key])}
