"""Heads found in models, and as plain data, so that a checkpoint needs no module to be loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from torchglm import families, links
from torchglm.head import GLMHead


def split(model: nn.Module) -> tuple[nn.Module | None, GLMHead]:
    """What comes before the head (None: nothing), and the head. `ValueError` where there is no head."""
    if isinstance(model, GLMHead):
        return None, model
    if isinstance(model, nn.Sequential) and len(model) and isinstance(model[-1], GLMHead):
        return model[:-1], model[-1]
    backbone, head = getattr(model, "backbone", None), getattr(model, "head", None)
    if isinstance(backbone, nn.Module) and isinstance(head, GLMHead):
        return backbone, head
    raise ValueError("LitGLM needs a GLMHead, an nn.Sequential that ends in one, or a module with .backbone "
                     f"and .head; got {type(model).__name__}. For example: nn.Sequential(net, GLMHead(...)).")


def config_of(head: GLMHead) -> dict[str, Any] | None:
    """What makes a head like this one, as plain data; None where family or link has no name of ours."""
    family, link = head.family, head.link
    if family.name not in families.names() or link.name not in links.names():
        return None
    shape = [name for name in inspect.signature(type(family)).parameters if hasattr(family, name)]
    known = {} if family.estimates_shape else {name: getattr(family, name).tolist() for name in shape}
    return {"in_features": head.in_features, "out_features": head.out_features, "bias": head.bias is not None,
            "family": {"family": family.name, **known}, "link": link.name}


def head_from(config: Mapping[str, Any]) -> GLMHead:
    """The head of a `config_of`."""
    return GLMHead(**{**config, "family": families.get(**config["family"])})
