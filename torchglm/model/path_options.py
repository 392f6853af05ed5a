"""What `path` is told of its columns, strengths and folds, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchglm import inputs
from torchglm.fitting.lanes import Terms
from torchglm.fitting.standard import Standard
from torchglm.inputs import Data
from torchglm.rows.rows import Rows, whole

LEAST = (1e-4, 1e-2)  # of the largest strength, with more rows than columns and with fewer


def column_values(data: Data, standard: Standard, factor: Any, lower: Any, upper: Any, ratio: float) -> Terms:
    """(1, P) the factors of all coefficients and their limits. Raises `ValueError` for what cannot be meant."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"l1_ratio must lie between 0 (ridge) and 1 (lasso), got {ratio}.")
    if "spec" in data.context:
        data.context["spec"].check_fixed("torchglm.path")
    factors = _values(data, standard, factor, "factor", 1.0, 0.0)
    low = _values(data, standard, lower, "lower", -math.inf, -math.inf)
    high = _values(data, standard, upper, "upper", math.inf, math.inf)
    for name, wrong in (("factor", ~(factors >= 0) | factors.isinf()), ("lower", ~(low <= 0)), ("upper", ~(high >= 0))):
        if bool(wrong.any()):
            at = int(wrong[0].nonzero()[0, 0])
            value = {"factor": factors, "lower": low, "upper": high}[name][0, at]
            need = "a finite number >= 0" if name == "factor" else "a limit that lets the coefficient be 0"
            raise ValueError(f"{name} of {data.names[at]} is {float(value):g}. Give {need}.")
    return Terms(factors, factors, low, high)


def _values(data: Data, standard: Standard, value: Any, name: str, default: float, ones: float) -> Tensor:
    """(1, P) values given for all columns but the intercept, alike in every class."""
    columns = int(standard.of.max()) + 1 if standard.of.numel() else 0
    first = int(bool(standard.ones.any()) and columns > 0)
    if value is None or isinstance(value, int | float) and not isinstance(value, bool):
        given = torch.tensor(float(default if value is None else value), dtype=torch.float64)
    else:
        given = inputs.tensor(_by_name(data, value, name, default) if isinstance(value, Mapping) else value, name)
    given = given.to(device=data.device, dtype=torch.float64)
    if given.dim() > 1 or given.dim() == 1 and given.shape[0] != columns - first:
        raise ValueError(
            f"{name} has shape {tuple(given.shape)} for {columns - first} columns. Give a number, or one for each "
            "column (the intercept has none)."
        )
    whole = given.new_full((columns,), ones)
    whole[first:] = given
    out = whole[standard.of]
    return torch.where(standard.ones, ones, out).unsqueeze(0)


def _by_name(data: Data, value: Mapping[str, float], name: str, default: float) -> list[float]:
    """A value for each column but the intercept, given for some by their names."""
    own = data.names[len(data.constants) :]
    if data.plan is not None:
        raise ValueError(f"{name} by name is for families of one predictor. Give a number, or one for each column.")
    unknown = [column for column in value if column not in own]
    if unknown:
        raise ValueError(f"{name} names {unknown[0]!r}, which is no column. Known: {', '.join(own)}.")
    return [float(value.get(column, default)) for column in own]


def strengths_of(
    strength: Any, largest: Tensor, batch: torch.Size, n: int, smallest: float | None, source: Iterable[Rows]
) -> Tensor:
    """(B, L) the strengths: those given, or a geometric sequence from the largest of each model down."""
    if strength is None:
        return _sequence(largest, n, smallest, source)
    one = isinstance(strength, int | float)
    given = inputs.tensor([strength] if one else strength, "strength", largest.device).to(torch.float64)
    given = given.reshape(1) if given.dim() == 0 else given
    if given.shape[:-1] not in (torch.Size(), batch):
        raise ValueError(
            f"strength has shape {tuple(given.shape)} and the models are {tuple(batch)}. Give (L,), or (*B, L)."
        )
    if not given.shape[-1] or not bool((torch.isfinite(given) & (given >= 0)).all()):
        raise ValueError("strength must hold at least one number, all of them finite and >= 0.")
    rising = given.diff(dim=-1) > 0
    if bool(rising.any()):
        at = int(rising.nonzero()[0, -1])
        last = float(given[tuple(rising.nonzero()[0])])
        raise ValueError(
            f"strength must fall, each fit beginning at the last; after value {at} ({last:g}) it rises. "
            "Pass it sorted, the largest first."
        )
    return given.expand(*batch, given.shape[-1]).reshape(largest.shape[0], -1)


def _sequence(largest: Tensor, n: int, smallest: float | None, source: Iterable[Rows]) -> Tensor:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a whole number of strengths >= 1, got {n!r}.")
    used, columns = torch.zeros((), device=largest.device), 0
    for rows in source:
        used, columns = used + (rows.weight > 0).sum(-1), whole(rows.between(0, 1)).shape[-1]
    least = LEAST[0 if int(used.min()) > columns else 1] if smallest is None else float(smallest)
    if not 0 < least < 1:
        raise ValueError(f"smallest is a share of the largest strength, between 0 and 1; got {smallest}.")
    flat = ~(largest > 0) | ~torch.isfinite(largest)
    if bool(flat.any()):
        raise ValueError(
            "no strength has all penalised coefficients at zero and some not below it: no column moves the null model "
            "within its limits. Give strength=."
        )
    share = torch.arange(n, dtype=torch.float64, device=largest.device) / max(n - 1, 1)
    return largest.unsqueeze(-1) * torch.exp(math.log(least) * share)
