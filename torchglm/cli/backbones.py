"""The class of a backbone that a config names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn


def class_of(backbone: Any) -> type[nn.Module]:
    """The class that `{class_path: package.Class, init_args: {...}}` names.

    Raises ValueError where this is something else, or names no class of torch.nn.Module that can be imported.
    """
    path = backbone.get("class_path") if isinstance(backbone, Mapping) else None
    if not isinstance(path, str) or set(backbone) - {"class_path", "init_args"}:
        raise ValueError(
            f"model.backbone is {{class_path: package.Class, init_args: {{...}}}}, got {backbone!r}. Name a class of "
            "torch.nn.Module by its full path."
        )
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"model.backbone: {path!r} cannot be imported: {error}. Name a class by its full path, in a package "
            "that is installed or in a file of this directory."
        ) from None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"model.backbone: {path} is no class of torch.nn.Module.")
    return kind
