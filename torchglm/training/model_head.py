"""Heads found in models, and as plain data, so that a checkpoint needs no module to be loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from torchglm.families import Family
from torchglm.families.several import Classes, LogTimes, Ordinal, VectorFamily
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.penalties import Penalty
from torchglm.inputs import GLMBatch
from torchglm.links import Link
from torchglm.metrics import Accuracy, Concordance, Coverage, Deviance, LiftTable, RankedProbabilityScore
from torchglm.metrics.classes import ClassMetric
from torchglm.model import codec
from torchglm.model.face import GLMHead, VectorHead
from torchglm.rows.plan import Plan

KINDS = ("learned", "estimated")


def check_arguments(optimizer: Any, scheduler: Any, metrics: Any, interval: str, penalty: Any) -> None:
    """Raise `TypeError` or `ValueError` for arguments of a `LitGLM` that cannot be meant."""
    if penalty is not None and (isinstance(penalty, (Penalty, Jeffreys, type)) or not callable(penalty)):
        raise TypeError(
            "penalty must be a function of the model that gives a number, such as lambda model: 0.1 * "
            f"model.weight.square().sum(), got {penalty!r}. Penalties such as Ridge go with fit_sgd and LitIRLS."
        )
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
    if isinstance(head, VectorHead):
        own = {"bias": head.intercept, "predictors": list(head.named), "plan": _plan(head)}
    else:
        kind = head.dispersion_kind
        own = {"bias": head.bias is not None, "dispersion": kind if kind in KINDS else float(kind)}
    return {
        "in_features": head.in_features,
        "out_features": head.out_features,
        **own,
        "dtype": str(head.weight.dtype).removeprefix("torch."),
        "parts": facts,
        "tensors": tensors,
    }


def head_from(
    config: Mapping[str, Any], place: Any = "the checkpoint", family: Family | None = None, link: Link | None = None
) -> GLMHead:
    """The head of a `config_of`; a family or link of one's own is given. Raises `ValueError` as `codec.decode` does."""
    names = ("in_features", "out_features", "bias", "dispersion", "predictors")
    of_head = {name: config[name] for name in names if name in config}
    family, link = codec.decode(config["parts"], config["tensors"], place, family, link)
    dtype = getattr(torch, config["dtype"])
    if not isinstance(family, VectorFamily):
        return GLMHead(**of_head, family=family, link=link, dtype=dtype)
    plan = None if config["plan"] is None else Plan.from_dict(config["plan"])
    return VectorHead(**of_head, family=family, dtype=dtype, plan=plan)


def _plan(head: VectorHead) -> dict[str, Any] | None:
    return None if head.plan is None else head.plan.to_dict()


def mean_metrics(head: GLMHead) -> dict[str, type[Metric]]:
    """What tells how good the means of a head are, where nobody asks for something else.

    The deviance; of classes their accuracy, and in an order the ranked probability score; of times the concordance.
    """
    family = head.family
    if isinstance(family, Classes):
        ranked = {"rps": RankedProbabilityScore} if isinstance(family, Ordinal) else {}
        return {"accuracy": Accuracy, **ranked}
    if isinstance(family, LogTimes):
        return {"concordance": Concordance}
    return {} if isinstance(family, VectorFamily) else {"deviance": Deviance}


def metric_of(head: GLMHead, wanted: Metric | Callable[..., Metric]) -> Metric:
    """A metric for a head: a copy of one that is made, else made for its family and link, or for its classes."""
    if isinstance(wanted, Metric):
        return copy.deepcopy(wanted)
    if wanted is Concordance:
        return Concordance()
    if isinstance(head.family, Classes) and isinstance(wanted, type) and issubclass(wanted, ClassMetric):
        return wanted(head.family)
    make: Callable[..., Metric] = wanted
    return make(head.family, link=head.link)


def squeezed(head: GLMHead, mu: Tensor) -> Tensor:
    """The means of a head as `(n,)` of one response, else `(n, responses)`; of classes their probabilities last."""
    place = -2 if isinstance(head.family, Classes) else -1
    return mu.squeeze(place) if head.out_features == 1 else mu


def predicted(head: GLMHead, features: Any, rows: GLMBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The means, the responses and what stands beside them in a batch, as metrics take it: all in the shape of `y`.

    Raises `ValueError` where there is no `y`, or where `y` or a value for each row has another shape than the means.
    """
    if rows.y is None:
        raise ValueError("A batch without y cannot be trained or scored on. Give y, or call predict.")
    mu, y = head(features, rows.offset), rows.y
    like = mu[..., 0] if isinstance(head.family, Classes) else mu
    head.per_response(y, like, "y")
    given = {
        name: value if value.shape == y.shape else head.per_response(value, like, name).reshape(y.shape)
        for name, value in rows._asdict().items()
        if name not in ("x", "y") and value is not None
    }
    return mu.reshape(*y.shape, *mu.shape[like.dim() :]), y, given
