"""A fit on disk: a folder with tensors and JSON. Loading it runs no code and needs no row of data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from torchglm.design import DesignSpec
from torchglm.design.values import plain, rich
from torchglm.families import Family
from torchglm.inference.fitted import Fitted
from torchglm.inference.flat import Flat
from torchglm.inference.vector.columns import refuse_part
from torchglm.links import Link
from torchglm.model import codec
from torchglm.model.saved_facts import check_facts, check_tensors
from torchglm.rows.grams import Gram, Layout
from torchglm.rows.plan import Plan
from torchglm.writing.files import replaced

FORMAT = 3
UNSAVED = (
    "spec",
    "places",
    "path",
    "network",
    "effect_rows",
    "table",
    "corrected",
)  # of the context: written elsewhere, or rows


def save(fitted: Fitted, path: Any) -> None:
    """Write `result.json` and `tensors.pt` into the folder `path`, made where it is missing.

    Of a family or link of one's own the name and some values are written, by which `load` knows it when it is given.
    """
    refuse_part(fitted)
    folder = Path(path)
    known = fitted.numbers_of_rows()
    tensors = {name: value.cpu() for name, value in (fitted.flat.tensors() | known).items()}
    parts, held = codec.encode(fitted.family, fitted.link)
    context = {k: v for k, v in fitted.context.items() if k not in UNSAVED} | _labels(fitted.context, plain)
    spec = fitted.spec
    facts = {
        "format": FORMAT,
        "names": fitted.names,
        "cuts": list(fitted.cuts),
        "plan": None if fitted.plan is None else fitted.plan.to_dict(),
        **parts,
        "estimated": fitted.estimated_shape,
        "penalty": None if fitted.penalty is None else str(fitted.penalty),
        "intercept": fitted.intercept,
        "dispersion_kind": fitted.dispersion_kind,
        "covariance_kind": fitted.covariance_kind,
        "batch": list(fitted.batch_shape),
        "levels": _levels(fitted.flat.gram),
        "minnorm": fitted.minnorm,
        "tol": fitted.tol,
        "context": context,
        "spec": None if spec is None else spec.to_dict(),
    }
    with replaced(folder / "tensors.pt") as draft:
        torch.save(tensors | held, draft)
    with replaced(folder / "result.json") as draft:
        draft.write_text(json.dumps(facts, indent=1, default=_json))


def load(path: Any, family: Family | None = None, link: Link | None = None) -> Fitted:
    """The fit saved in a folder, without rows; a family or link of one's own is given.

    Raises `ValueError` where it does not hold one, whole, or one of another family or link than those given.
    """
    folder = Path(path)
    if not (folder / "result.json").is_file():
        raise ValueError(f"no saved result in {folder}: result.json is missing. Give the folder passed to save().")
    try:
        facts = json.loads((folder / "result.json").read_text())
        if facts.get("format") != FORMAT:
            raise ValueError(f"{folder} has format {facts.get('format')}, this version reads {FORMAT}.")
        check_facts(facts)
        tensors = torch.load(folder / "tensors.pt", weights_only=True)
        check_tensors(tensors)
        known = codec.decode(facts, tensors, folder, family, link)
        return _fitted(facts, tensors, *known)
    except (
        OSError,
        EOFError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        RuntimeError,  # and RecursionError
        OverflowError,
        UnicodeDecodeError,
        json.JSONDecodeError,
        UnpicklingError,
    ) as error:
        raise ValueError(
            f"{folder} does not hold a whole saved result ({type(error).__name__}: {error}). Save it again."
        ) from error


def _fitted(facts: dict[str, Any], tensors: dict[str, torch.Tensor], family: Family, link: Link) -> Fitted:
    """What a fit is made of. Raises `TypeError` for tensors that are missing or of other shapes than the facts say."""
    columns = len(facts["names"]) + len(facts["cuts"])
    levels = None if facts["levels"] is None else slice(*facts["levels"])
    layout = Layout(columns, levels, made="gram.alone" not in tensors)
    flat = Flat.of_tensors({name: value for name, value in tensors.items() if not codec.holds(name)}, layout)
    if flat.status.shape != (math.prod(facts["batch"]),):
        raise TypeError(
            f"status has shape {tuple(flat.status.shape)}, expected one for each of {facts['batch']} models"
        )
    if flat.multiplier is not None and flat.multiplier.shape[1:] != (len(facts["context"].get("constraints", [])),):
        raise TypeError("the multipliers are not those of the constraints")
    plan = None if facts["plan"] is None else Plan.from_dict(facts["plan"])
    if plan is not None and plan.columns != columns:
        raise TypeError(f"plan has {plan.columns} coefficients, expected {columns}")
    context = facts["context"] | _labels(facts["context"], rich)
    if facts["spec"] is not None:
        spec = context["spec"] = DesignSpec.from_dict(facts["spec"])
        own = len(spec.names) == layout.columns if plan is None else plan.reach <= len(spec.names)
        if not own or _text(spec.to_dict()) != _text(facts["spec"]):
            raise TypeError("the spec is not that of the design it is read as")
    return Fitted(
        flat,
        facts["names"],
        family,
        link,
        facts["penalty"],
        torch.Size(facts["batch"]),
        facts["intercept"],
        facts["dispersion_kind"],
        facts["estimated"],
        facts["minnorm"],
        facts["tol"],
        context,
        facts["covariance_kind"],
        plan=plan,
        cuts=tuple(facts["cuts"]),
    )


def _labels(context: dict[str, Any], each: Callable[[Any], Any]) -> dict[str, Any]:
    """The labels of groups, those of all models and of one, with every value written or read."""
    groups, group = context.get("groups"), context.get("group")
    return {
        "groups": None if groups is None else [tuple(map(each, label)) for label in groups],
        "group": None if group is None else tuple(map(each, group)),
    }


def _text(facts: dict[str, Any]) -> str:
    """Facts as they are written, in one order."""
    return json.dumps(facts, sort_keys=True, default=_json)


def _levels(gram: Gram) -> list[int] | None:
    """The columns that a diagonal is kept of, if any."""
    levels = gram.layout.levels
    return None if levels is None else [levels.start, levels.stop]


def _json(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (tuple, set)):
        return list(value)
    return str(value)
