"""A family or a link as plain data, and back: the one form in which fits, checkpoints and run folders hold them.

What torchglm has is told by its name and made again. A class of one's own can be made by its owner alone, since reading
runs no code: held are its name, where the class was, and some of its values, by which the object that is given back
is known again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchglm import families, links
from torchglm.families import Family, several
from torchglm.families.counts import NegativeBinomialCanonical
from torchglm.families.several import VectorFamily
from torchglm.links import Link

FAMILIES: dict[str, type[Family]] = {**families.BY_NAME, **several.BY_NAME}
LINKS: dict[str, type[Link]] = links.BY_NAME | {links.Power.name: links.Power}
_MADE: dict[str, dict[str, Any]] = {
    "family": {**FAMILIES, **{kind.name: kind for kind in several.MEMBERS}},
    "link": {**LINKS, NegativeBinomialCanonical.name: NegativeBinomialCanonical},
}
ETA = torch.tensor([-2.5, -1.0, -0.3, 0.2, 0.7, 1.4, 3.0], dtype=torch.float64)
MU = torch.tensor([0.1, 0.3, 0.5, 0.8], dtype=torch.float64)  # in the range of every family
ALIKE = 1e-6  # relative, of values in float32 or wider


def ours(part: Family | Link) -> bool:
    """Whether torchglm can make the like by itself: of one of its own classes, not of a subclass, and so its parts."""
    return _MADE[_kind(part)].get(part.name) is type(part) and all(map(ours, _parts(part).values()))


def encode(family: Family, link: Link) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts that are JSON, under `family` and `link`, and the tensors that go with them, on the CPU."""
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    parts: tuple[tuple[str, Family | Link], ...] = (("family", family), ("link", link))
    for kind, part in parts:
        held = {name: value.detach().cpu().clone() for name, value in part.state_dict().items()}
        tensors |= {f"{kind}.{name}": value for name, value in held.items()}
        facts[kind] = {
            "name": part.name,
            "learned": [name for name, value in part.named_parameters() if value.requires_grad],
            **(_recipe(part) if ours(part) else {"class": _path(part), "values": _values(part)}),
        }
    return facts, tensors


def _recipe(part: Family | Link) -> dict[str, Any]:
    """What makes a part anew: its arguments, and of the families and links among these in turn the same."""
    within = {
        argument: {"kind": _kind(inner), "name": inner.name, **_recipe(inner)}
        for argument, inner in _parts(part).items()
    }
    return {"arguments": part.arguments(), **({"parts": within} if within else {})}


def _parts(part: Family | Link) -> dict[str, Family | Link]:
    return part.parts() if isinstance(part, VectorFamily) else {}


def holds(tensor: str) -> bool:
    """Whether a tensor of this name is one of `encode`."""
    return tensor.startswith(("family.", "link."))


def decode(
    facts: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    place: Any,
    family: Family | None = None,
    link: Link | None = None,
) -> tuple[Family, Link]:
    """The family and link of `encode`; those of one's own are given, and come back with the tensors held.

    `place` is where they were read, for refusals. Raises `ValueError` where one is given that is not the one held, or
    none where one is needed.
    """
    return _decoded("family", facts, tensors, place, family), _decoded("link", facts, tensors, place, link)


def _decoded(kind: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], place: Any, given: Any) -> Any:
    fact = facts[kind]
    name, mine = fact["name"], "arguments" not in fact
    held = {key.removeprefix(f"{kind}."): value for key, value in tensors.items() if key.startswith(f"{kind}.")}
    if not mine and given is not None:
        raise ValueError(f"{place} has torchglm's own {kind} {name}; {kind}= is for one of your own. Leave it out.")
    if not mine:
        return _filled(_made(kind, fact, place), held, fact["learned"])
    short = fact["class"].rpartition(".")[2]
    if given is None:
        raise ValueError(
            f"{place} has the {kind} {name!r} of your own class {fact['class']}, and loading runs no code of a file. "
            f"Pass it: torchglm.load(path, {kind}={short}())."
        )
    if not isinstance(given, {"family": Family, "link": Link}[kind]):
        raise ValueError(f"{kind}= must be a {kind} object, such as {short}(), got {given!r}.")
    if ours(given) or given.name != name or held.keys() != given.state_dict().keys():
        raise ValueError(f"{place} has the {kind} {name!r} of the class {fact['class']}, got {given!r}. Pass that one.")
    found = _filled(copy.deepcopy(given), held, fact["learned"])
    before, after = (torch.tensor(values, dtype=torch.float64) for values in (fact["values"], _values(found)))
    if before.shape != after.shape or not torch.allclose(before, after, rtol=ALIKE, atol=ALIKE, equal_nan=True):
        raise ValueError(
            f"the {kind} {given!r} has other values than the {kind} {name!r} that {place} was saved with "
            f"(class {fact['class']}). Pass the one it was fitted with."
        )
    return found


def _made(kind: str, fact: Mapping[str, Any], place: Any) -> Any:
    """A family or link of torchglm by its recipe."""
    name = fact["name"]
    if name not in _MADE[kind]:
        raise ValueError(f"{place} has the unknown {kind} {name!r}. Known: {', '.join(_MADE[kind])}.")
    parts = {argument: _made(inner["kind"], inner, place) for argument, inner in fact.get("parts", {}).items()}
    made = _MADE[kind][name](**fact["arguments"], **parts)
    if json.dumps(made.arguments(), sort_keys=True) != json.dumps(fact["arguments"], sort_keys=True):
        raise ValueError(f"{place} has the {kind} {name} with arguments that it does not take.")
    return made


def _filled(part: Family | Link, held: Mapping[str, Tensor], learned: list[str]) -> Family | Link:
    """The part with these tensors, of whatever shape and dtype, in place of its own."""
    known = part.state_dict()
    for name, value in held.items():
        if name not in known or not value.is_floating_point() or value.dim() > max(1, known[name].dim()):
            raise TypeError(f"{name} is no tensor of {part!r}")
        owner, _, last = name.rpartition(".")
        module = part.get_submodule(owner)
        if last in module._parameters:
            setattr(module, last, nn.Parameter(value.clone(), requires_grad=name in learned))
        else:
            setattr(module, last, value.clone())
    return part


@torch.no_grad()
def _values(part: Family | Link) -> list[float]:
    """What tells a link or family from another of its name: means, variances, deviances, parameters on a grid."""
    part = copy.deepcopy(part).cpu()
    if isinstance(part, Link):
        found = part.inverse(torch.where(part.lower < ETA, ETA, part.lower + ETA.abs()))
    elif isinstance(part, VectorFamily):
        eta = torch.stack([ETA.roll(k) for k in range(len(part.predictors))])
        each = [part.parameter(name, eta[k]) for k, name in enumerate(part.predictors)]
        return torch.cat([part.mean(eta).reshape(-1), *each]).double().tolist()
    else:
        found = torch.cat([part.variance(MU), part.unit_deviance(MU.flip(0), MU)], -1)
    return found.double().reshape(-1, found.shape[-1])[0].tolist()  # of the first model, where there are several


def _kind(part: Family | Link) -> str:
    return "link" if isinstance(part, Link) else "family"


def _path(part: Family | Link) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"
