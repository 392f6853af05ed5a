"""A fit on disk: a folder with tensors and JSON. Loading it runs no code and needs no row of data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from torchglm import families, links
from torchglm.model.result import Result

TENSORS = (
    "coef",
    "keep",
    "root",
    "gram",
    "deviance",
    "pearson",
    "nobs",
    "rank",
    "status",
    "n_iter",
    "dispersion",
    "observed",
    "covariance",
)
REQUIRED = {"coef", "keep", "root", "gram", "deviance", "pearson", "nobs", "rank", "status", "n_iter", "dispersion"}
FORMAT = 1


def save(result: Result, path: Any) -> None:
    """Write `result.json` and `tensors.pt` into the folder `path`, made where it is missing."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    state = result._state
    tensors = {name: state[name].cpu() for name in TENSORS if name in state}
    tensors["null_deviance"], tensors["loglik"] = result._flat_null_deviance.cpu(), result._flat_loglik.cpu()
    tensors |= {f"family.{name}": value.detach().cpu() for name, value in result.family.named_parameters()}
    context = {k: v for k, v in result.context.items() if k != "spec"}
    spec = result.spec
    facts = {
        "format": FORMAT,
        "names": result.names,
        "family": result.family.name,
        "link": result.link.name,
        "link_power": getattr(result.link, "power", None),
        "power": _fixed_power(result.family),
        "estimated": state["estimated_shape"],
        "penalty": None if result.penalty is None else str(result.penalty),
        "intercept": result.intercept,
        "dispersion_kind": result.dispersion_kind,
        "covariance_kind": result.covariance_kind,
        "batch": list(result.batch_shape),
        "minnorm": state["minnorm"],
        "tol": state["tol"],
        "context": context,
        "spec": None if spec is None else spec.to_dict(),
    }
    torch.save(tensors, folder / "tensors.pt")
    (folder / "result.json").write_text(json.dumps(facts, indent=1, default=_json))


def load(path: Any) -> Result:
    """The Result saved in a folder, without rows. Raises `ValueError` where it does not hold one, whole."""
    folder = Path(path)
    if not (folder / "result.json").is_file():
        raise ValueError(f"no saved result in {folder}: result.json is missing. Give the folder passed to save().")
    try:
        facts = json.loads((folder / "result.json").read_text())
        if facts.get("format") != FORMAT:
            raise ValueError(f"{folder} has format {facts.get('format')}, this version reads {FORMAT}.")
        tensors = torch.load(folder / "tensors.pt", weights_only=True)
        return Result(_state(facts, tensors))
    except (
        OSError,
        EOFError,
        KeyError,
        AttributeError,
        TypeError,
        RuntimeError,
        UnicodeDecodeError,
        json.JSONDecodeError,
        UnpicklingError,
    ) as error:
        raise ValueError(
            f"{folder} does not hold a whole saved result ({type(error).__name__}: {error}). Save it again."
        ) from error


def _state(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a Result is made of. Raises `TypeError` for tensors of other shapes than the facts say."""
    shape = {k.removeprefix("family."): v for k, v in tensors.items() if k.startswith("family.")}
    state: dict[str, Any] = {k: v for k, v in tensors.items() if not k.startswith("family.")}
    models, p = math.prod(facts["batch"]), len(facts["names"])
    for name in sorted(REQUIRED - state.keys()):
        raise KeyError(name)
    for name, want in (("coef", (models, p)), ("keep", (models, p)), ("root", (models, p)), ("status", (models,))):
        if state[name].shape[: len(want)] != want:
            raise TypeError(f"{name} has shape {tuple(state[name].shape)}, expected {want}")
    context = facts["context"]
    if facts["spec"] is not None:
        from torchglm.design import DesignSpec

        context["spec"] = DesignSpec.from_dict(facts["spec"])
    link = links.Power(facts["link_power"]) if facts["link"] == "power" else links.get(facts["link"])
    return state | {
        "names": facts["names"],
        "family": _family(facts, shape),
        "link": link,
        "penalty": facts["penalty"],
        "intercept": facts["intercept"],
        "dispersion_kind": facts["dispersion_kind"],
        "batch": facts["batch"],
        "minnorm": facts["minnorm"],
        "tol": facts["tol"],
        "context": context,
        "estimated_shape": facts["estimated"],
        "covariance_kind": facts["covariance_kind"],
    }


def _fixed_power(family: families.Family) -> float | None:
    power: Any = getattr(family, "power", None)
    return float(power.mean()) if isinstance(power, torch.Tensor) else None


def _family(facts: dict[str, Any], shape: dict[str, torch.Tensor]) -> families.Family:
    arguments = {}
    if facts["power"] is not None:
        arguments["power"] = facts["power"]
    if "log_alpha" in shape:
        arguments["alpha"] = 1.0
    return families.get(facts["family"], **arguments).with_parameters(shape)


def _json(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (tuple, set)):
        return list(value)
    return str(value)
