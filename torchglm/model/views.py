"""A result seen otherwise: one member of a batch, or plain facts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.fitting.kernel import take_family
from torchglm.fitting.status import Status
from torchglm.inference.limits.refit import lanes

if TYPE_CHECKING:
    from torchglm.model.result import Result

NUMBERS = (
    "nobs",
    "rank",
    "df_resid",
    "df_null",
    "deviance",
    "null_deviance",
    "pearson_chi2",
    "dispersion",
    "loglik",
    "aic",
    "bic",
    "n_iter",
    "converged",
)


def member(result: Result, model: int) -> Result:
    """One model of a batch; of a batch of several dimensions the slice. The rows of a stream stay where they are."""
    from torchglm.model.result import Result

    batch, state = result.batch_shape, result._state
    index = torch.arange(batch.numel()).reshape(batch)[model]
    flat = index.reshape(-1).to(state["coef"].device)
    own = {k: v[flat] if isinstance(v, Tensor) else v for k, v in state.items()}
    groups = result.groups
    own |= {
        "family": take_family(result.family, flat if index.dim() else flat[0]),
        "batch": index.shape,
        "context": result.context | {"groups": None, "group": None if groups is None else groups[int(model)]},
    }
    return Result(own, None if result._source is None else lanes(result._source, flat))


def describe(result: Result) -> dict[str, Any]:
    """See `Result.describe`."""
    codes = [str(Status(code)) for code in result._state["status"].tolist()]
    facts: dict[str, Any] = {
        "family": str(result.family),
        "link": result.link.name,
        "formula": result.formula,
        "penalty": None if result.penalty is None else str(result.penalty),
        "dispersion_kind": result.dispersion_kind,
        "covariance": result.covariance_kind,
        "status": codes if result.batch_shape else codes[0],
    }
    return facts | {name: _plain(getattr(result, name).tolist()) for name in NUMBERS}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
