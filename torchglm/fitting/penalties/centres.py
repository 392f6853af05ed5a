"""What penalties draw coefficients to: numbers of columns, of models, or by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from torchglm.fitting.penalties.base import numbers, slope_places

Centre: TypeAlias = Mapping[str, float] | Sequence[float] | Tensor | None
SHOWN = 6  # numbers that are written out


def centre_of(given: Centre) -> Tensor | dict[str, float] | None:
    """What coefficients are drawn to, as given. Raises `ValueError` where it is not finite.

    Raises `TypeError` for what are no numbers.
    """
    kind = "numbers, one for each column (and model) or by name"
    if given is None:
        return None
    if isinstance(given, Mapping):
        named = {str(name): float(numbers(value, f"centre of {name}", "a number")) for name, value in given.items()}
        if not named or not all(map(math.isfinite, named.values())):
            raise ValueError(f"centre must be finite numbers by the names of columns, got {dict(given)!r}.")
        return named
    value = numbers(given, "centre", kind)
    if value.dim() == 0 or not bool(torch.isfinite(value).all()):
        raise ValueError(
            f"centre must be finite {kind}, got {value.tolist()}. Give 0 where the other model has no such column."
        )
    return value


def by_place(centre: Tensor | dict[str, float] | None, names: Sequence[str]) -> Tensor | None:
    """A centre by name as numbers of all coefficients, 0 where there is none."""
    if not isinstance(centre, dict):
        return centre
    strange = [name for name in centre if list(names).count(name) != 1]
    if strange:
        raise ValueError(f"centre names {strange[0]!r}, which is not one of {', '.join(names)}.")
    return torch.tensor([centre.get(name, 0.0) for name in names], dtype=torch.float64)


def on_all(
    centre: Tensor | dict[str, float] | None, constants: Sequence[int], p: int, batch: torch.Size
) -> Tensor | None:
    """(p,) or (B, p) a centre on all coefficients. Raises `ValueError` for another number of columns or models."""
    if centre is None:
        return None
    if isinstance(centre, dict):
        raise ValueError("centre= by name is for torchglm.fit. Give one number for each column.")
    kept = slope_places(constants, p)
    if centre.shape[:-1] not in (torch.Size(), batch):
        raise ValueError(
            f"centre has shape {tuple(centre.shape)} and the models are {tuple(batch)}. Give one number for each "
            "column, or (*B, p), a row for each model."
        )
    if centre.shape[-1] not in (p, len(kept)):
        raise ValueError(
            f"centre has {centre.shape[-1]} values for {len(kept)} columns. Give one for each, or by name."
        )
    whole = centre
    if centre.shape[-1] != p:
        whole = centre.new_zeros(*centre.shape[:-1], p)
        whole[..., kept] = centre
    return whole.reshape(-1, p) if centre.dim() > 1 else whole


def of_models(centre: Tensor | dict[str, float] | None, models: Tensor) -> Tensor | dict[str, float] | None:
    several = isinstance(centre, Tensor) and centre.dim() > 1
    return centre[models.to(centre.device)] if several and isinstance(centre, Tensor) else centre


def away_from(coef: Tensor, centre: Tensor | dict[str, float] | None) -> Tensor:
    """(B, p) coefficients less their centre."""
    if centre is None:
        return coef
    assert isinstance(centre, Tensor)  # by `expand`
    return coef - centre.to(coef)


def in_words(centre: Tensor | dict[str, float]) -> str:
    """A centre in a few words."""
    if isinstance(centre, dict):
        return "{" + ", ".join(f"{name}: {value:.6g}" for name, value in list(centre.items())[:SHOWN]) + "}"
    found = centre.reshape(-1).tolist()
    if len(found) > SHOWN:
        return f"{len(found)} numbers from {min(found):.6g} to {max(found):.6g}"
    return "[" + ", ".join(f"{one:.6g}" for one in found) + "]"
