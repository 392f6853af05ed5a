"""What a head is made of once and for all: a family of its own, and the way it comes by its dispersion."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.special.tracing import values_are_known

NORM = "_WeightNorm"  # the parametrization of torch.nn.utils.parametrizations.weight_norm


def kind_of(dispersion: str | float | None, family: Family) -> str:
    """How a head comes by its dispersion: `"learned"`, `"estimated"`, or a number that `float` reads.

    Raises `ValueError` for other words, a number that is not finite and above 0, and one other than 1 for a family
    without a dispersion.
    """
    if dispersion is None or isinstance(dispersion, str):
        if dispersion not in (None, "learned", "estimated"):
            raise ValueError(f"dispersion must be 'learned', 'estimated' or a number, got {dispersion!r}.")
        joint = family.has_dispersion and family.estimates_shape  # the likelihood of the shape depends on it
        return "learned" if dispersion == "learned" or joint else "estimated" if family.has_dispersion else "1.0"
    number = float(dispersion)
    if isinstance(dispersion, bool) or not math.isfinite(number) or number <= 0:
        raise ValueError(f"dispersion must be 'learned', 'estimated' or a number above 0, got {dispersion!r}.")
    if number != 1 and not family.has_dispersion:
        raise ValueError(
            f"the family {family.said} has no dispersion, it is 1; got dispersion={number:g}. Leave it out."
        )
    return repr(number)


def start_of(kind: str, family: Family) -> float:
    """The logarithm of the dispersion of a new head: infinite where it is to be estimated."""
    if kind == "estimated":
        return math.inf
    return 0.0 if kind == "learned" else math.log(float(kind))


def own_family(family: Family, responses: int) -> Family:
    """A copy of a family for one head: what it does not learn is constant, and each response has shapes of its own.

    Raises `ValueError` where there are shapes for another number of responses.
    """
    if isinstance(family, VectorFamily):
        raise ValueError(
            f"this kind of head has one linear predictor, {family.said} has several. Use GLMHead(in_features, ...)."
        )
    own = family.fixed()
    for name, value in own.shapes.items():
        if value.numel() not in (1, responses):
            raise ValueError(
                f"{name} of the family {family.said} has shape {tuple(value.shape)}, this head {responses} responses. "
                "Give one value, or one for each response."
            )
        each = value.detach().expand(responses).clone() if responses > 1 and value.numel() == 1 else value.detach()
        each = each.reshape((responses,) if responses > 1 else ())
        setattr(own, name, nn.Parameter(each, requires_grad=True) if isinstance(value, nn.Parameter) else each)
    return own


def make_weight(head: nn.Module, x: Tensor) -> None:
    """Have a weight that is no parameter as it is in a call: by the hooks that make it, `weight_norm` not of 0 / 0.

    The weight of a null model is 0 and has no direction; its norm is kept, and the direction of ones taken.
    """
    made = getattr(head, "parametrizations", {})
    if "weight" in made:
        originals = list(made["weight"].parameters(recurse=False)) if type(made["weight"][0]).__name__ == NORM else []
    else:
        originals = [head._parameters[name] for name in ("weight_v",) if name in head._parameters]
    if originals and values_are_known():
        with torch.no_grad():
            if not bool(originals[-1].any()):
                originals[-1].fill_(1.0)
    if "weight" in vars(head):  # as weight_norm, spectral_norm and prune leave it
        for hook in head._forward_pre_hooks.values():
            hook(head, (x,))
