"""Models with rows in unlike number, fitted part by part: those of like size together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.state import Solution
from torchglm.rows.ragged import Ragged
from torchglm.rows.rows import Rows


def together(source: Ragged, fitted: Callable[[Tensor, Rows], Solution]) -> Solution:
    """The solutions of all models, `fitted` giving those of a part: its models (b,) and their rows."""
    whole = None
    for models, rows in source.parts:
        part = fitted(models, rows)
        if whole is None:
            whole = Solution.blank(source.models, part.moments.gram.layout, source.sizes.device)
        for name in ("coef", "keep", "root", "status", "n_iter", "cut"):
            getattr(whole, name)[models] = getattr(part, name)
        own: dict[str, Any] = {name: _among(whole, part, name, models) for name in ("shape_error", "kkt", "multiplier")}
        whole = replace(whole, **own)
        whole = replace(whole, moments=whole.moments.place(models, replace(part.moments, factor=None)))
    assert whole is not None  # a source has rows
    return whole


def replaced(whole: Solution, models: Tensor, part: Solution) -> Solution:
    """The solution with that of some models in their place; what is not known of these is NaN."""
    for name in ("coef", "keep", "root", "status", "n_iter", "cut"):
        getattr(whole, name)[models] = getattr(part, name)
    error = whole.shape_error
    if error is not None:
        error = error.index_fill(0, models, torch.nan)
    moments = replace(whole.moments, factor=None).place(models, replace(part.moments, factor=None))
    return replace(whole, moments=moments, shape_error=error)


def _among(whole: Solution, part: Solution, name: str, models: Tensor) -> Tensor | None:
    """What all models have of a tensor that not every fit leaves, with that of some; NaN for those to come."""
    known, new = getattr(whole, name), getattr(part, name)
    if new is None:
        return known
    known = new.new_full((len(whole.coef), *new.shape[1:]), torch.nan) if known is None else known
    return known.index_copy(0, models, new)


class Told:
    """What observers of parts are told, as of all models; NaN where a part was not begun."""

    def __init__(self, source: Ragged, columns: int, observe: Observer, before: Progress | None) -> None:
        self.models, self.observe = source.models, observe
        blank = torch.full((source.models,), torch.nan, dtype=torch.float64, device=source.sizes.device)
        none = Progress(blank.unsqueeze(-1).repeat(1, columns), torch.zeros_like(source.sizes), blank)
        self.state = none if before is None else before

    def of(self, models: Tensor) -> Observer:
        """An observer of some of the models."""

        def tell(now: Progress) -> None:
            known: dict[str, Any] = {f.name: self._with(f.name, models, now) for f in fields(Progress)}
            self.state = replace(self.state, **known)
            self.observe(self.state)

        return tell

    def _with(self, name: str, models: Tensor, now: Progress) -> Tensor | None:
        whole, part = getattr(self.state, name), getattr(now, name)
        if part is None:
            return whole
        if whole is None:
            whole = part.new_full((self.models,), torch.nan)
        return whole.index_copy(0, models, part.to(whole.dtype))


def resumed(before: Progress | None, models: Tensor) -> Progress | None:
    """Where an earlier fit left some of the models; None where it did not begin with them."""
    if before is None or bool(before.coef[models].isnan().any()):
        return None
    parts = {f.name: value[models] for f in fields(Progress) if (value := getattr(before, f.name)) is not None}
    return Progress(**{name: value for name, value in parts.items() if not bool(value.isnan().any())})
