"""Heads found in models, and as plain data, so that a checkpoint needs no module to be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchglm.families import Family
from torchglm.inputs import GLMBatch
from torchglm.links import Link
from torchglm.metrics import Coverage, LiftTable
from torchglm.model import codec
from torchglm.model.face import GLMHead, VectorHead

KINDS = ("learned", "estimated")


def check_head(head: GLMHead, door: str) -> None:
    """Raise `ValueError` for a head of several linear predictors, which `door` does not train."""
    if isinstance(head, VectorHead):
        raise ValueError(
            f"{door} trains heads of one linear predictor, and this one of {head.family.name} has several. Fit it, "
            "head.fit(x, y), or step down its loss in a loop of your own."
        )


def split(model: nn.Module) -> tuple[nn.Module | None, GLMHead]:
    """What comes before the head (None: nothing), and the head. `ValueError` where there is none of one predictor."""
    backbone, head = _parts(model)
    check_head(head, "LitGLM")
    return backbone, head


def _parts(model: nn.Module) -> tuple[nn.Module | None, GLMHead]:
    if isinstance(model, GLMHead):
        return None, model
    if isinstance(model, nn.Sequential) and len(model) and isinstance(model[-1], GLMHead):
        return model[:-1], model[-1]
    backbone, head = getattr(model, "backbone", None), getattr(model, "head", None)
    if isinstance(backbone, nn.Module) and isinstance(head, GLMHead):
        return backbone, head
    raise ValueError(
        "LitGLM needs a GLMHead, an nn.Sequential that ends in one, or a module with .backbone "
        f"and .head; got {type(model).__name__}. For example: nn.Sequential(net, GLMHead(...))."
    )


def check_arguments(optimizer: Any, scheduler: Any, metrics: Any, interval: str) -> None:
    """Raise `TypeError` or `ValueError` for arguments of a `LitGLM` that cannot be meant."""
    for name, given, takes in (("optimizer", optimizer, "parameters"), ("scheduler", scheduler, "optimizer")):
        if given is not None and (isinstance(given, Optimizer) or not callable(given)):
            raise TypeError(
                f"{name} must be a class or a function of the {takes}, got {type(given).__name__} that is "
                f"made already. Pass, for example, lambda {takes}: {type(given).__name__}({takes}, ...)."
            )
    if interval not in ("epoch", "step"):
        raise ValueError(f"scheduler_interval must be 'epoch' or 'step', got {interval!r}.")
    if metrics is None:
        return
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"metrics must be a dict of names and metrics, such as {{'gini': metrics.Gini}}, got "
            f"{type(metrics).__name__}."
        )
    for name, metric in metrics.items():
        if name == "loss" or not isinstance(name, str) or "." in name or not name:
            raise ValueError(
                f"a metric cannot be named {name!r}: 'loss' is what is trained on, and a dot parts names "
                "of modules. Choose another name."
            )
        if not callable(metric):
            raise TypeError(
                f"the metric {name!r} must be a class, a function of family and link, or a torchmetrics "
                f"object, got {type(metric).__name__}."
            )
        kind = metric if isinstance(metric, type) else type(metric)
        if issubclass(kind, (Coverage, LiftTable)):
            raise ValueError(
                f"{kind.__name__} is not one number made of means and responses, which is what LitGLM "
                "logs. Log CalibrationError or Gini, and score trainer.predict with it."
            )


def config_of(head: GLMHead) -> dict[str, Any]:
    """What makes a head like this one, as plain data and tensors."""
    facts, tensors = codec.encode(head.family, head.link)
    facts["family"]["learned"] = [name for name, _ in head.family.named_parameters()]  # frozen ones too
    return {
        "in_features": head.in_features,
        "out_features": head.out_features,
        "bias": head.bias is not None,
        "dtype": str(head.weight.dtype).removeprefix("torch."),
        "dispersion": kind if (kind := head.dispersion_kind) in KINDS else float(kind),
        "parts": facts,
        "tensors": tensors,
    }


def head_from(
    config: Mapping[str, Any], place: Any = "the checkpoint", family: Family | None = None, link: Link | None = None
) -> GLMHead:
    """The head of a `config_of`; a family or link of one's own is given. Raises `ValueError` as `codec.decode` does."""
    of_head = {name: config[name] for name in ("in_features", "out_features", "bias", "dispersion")}
    family, link = codec.decode(config["parts"], config["tensors"], place, family, link)
    return GLMHead(**of_head, family=family, link=link, dtype=getattr(torch, config["dtype"]))


def predicted(head: GLMHead, features: Any, rows: GLMBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The means, the responses and what stands beside them in a batch, as metrics take it: all in the shape of `y`.

    Raises `ValueError` where there is no `y`, or where `y` or a value for each row has another shape than the means.
    """
    if rows.y is None:
        raise ValueError("A batch without y cannot be trained or scored on. Give y, or call predict.")
    mu, y = head(features, rows.offset), rows.y
    head.per_response(y, mu, "y")
    given = {
        name: value if value.shape == y.shape else head.per_response(value, mu, name).reshape(y.shape)
        for name, value in rows._asdict().items()
        if name not in ("x", "y") and value is not None
    }
    return mu.view(y.shape), y, given
