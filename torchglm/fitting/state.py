"""What a search knows of each model: those on their way, and where they stopped; and how it asks for a pass."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from torchglm.fitting.moments import Moments, Point
from torchglm.rows.grams import Layout
from torchglm.rows.inverses import Root

Value = TypeVar("Value")


class Ask(NamedTuple):
    """A pass that a search asks for: where it evaluates, and the models `lane` (B,) whose rows it takes, ascending."""

    point: Point
    lane: Tensor


Passes = Generator[Ask, Moments, Value]  # a part of a search: every pass is a `yield`


@dataclass(frozen=True)
class Solution:
    """Where the search stopped, for `B` models: dropped columns are zero in `coef` and False in `keep`.

    `moments` are taken at `coef` with the expected information; `root root'` is the inverse of that information
    plus the penalty's quadratic part.
    """

    coef: Tensor
    keep: Tensor
    moments: Moments
    root: Root
    status: Tensor
    n_iter: Tensor
    cut: Tensor  # (B,) a step was shortened to stay where link or mean are valid
    minnorm: bool = False  # dropped columns have coefficients after all
    kkt: Tensor | None = None  # (B,) the certificate of a penalty with kinks, see `certified`
    multiplier: Tensor | None = None  # (B, c) those of constraints
    shape_error: Tensor | None = None  # (B,) the standard error of a raw shape parameter that was sought with them

    @staticmethod
    def blank(models: int, layout: Layout, device: torch.device) -> Solution:
        """A solution of no model yet."""
        zero = Moments.zero(models, layout, device)
        whole = torch.zeros(models, dtype=torch.int64, device=device)
        no = torch.zeros_like(zero.score, dtype=torch.bool)
        return Solution(zero.score.clone(), no, zero, layout.root(models, device), whole, whole.clone(), whole.bool())

    def to(self, device: torch.device) -> Solution:
        """The same on a device."""
        if self.coef.device == device:
            return self
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in held.items() if isinstance(v, (Tensor, Moments, Root))}
        return replace(self, **moved)


@dataclass
class State:
    """The state of every model still being fitted."""

    lane: Tensor  # (B,) which model of the call
    coef: Tensor
    keep: Tensor
    moments: Moments
    objective: Tensor
    first: Tensor  # half the deviance at the first point
    total: Tensor  # sum of the weights
    count: Tensor  # rows of positive weight, with their repeats
    volume: Tensor  # sum of the responses, each with its weight
    factored: Tensor  # the condition asks for a QR factor
    fisher: Tensor  # accepted steps for which the expected information is kept
    delta: Tensor
    decrement: Tensor
    light: Tensor  # the next pass needs no Gram
    single: Tensor  # its Gram, if it needs one, may be summed in float32
    stale: Tensor  # the Gram at hand is that of an earlier point
    step: Tensor
    closing: Tensor  # the next pass is the last if the step is small
    refresh: Tensor  # the next pass re-evaluates this point with other curvature
    drift: Tensor
    stagnant: Tensor
    hit: Tensor  # along this direction a mean left its range
    cut: Tensor  # along any direction
    shortened: Tensor  # accepted steps in a row that such a mean had cut short
    n_iter: Tensor

    def take(self, models: Tensor) -> State:
        """Some of them."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {k: v.take(models) if isinstance(v, Moments) else v[models] for k, v in parts.items()}
        return State(**taken)


@dataclass(frozen=True)
class Columns:
    """What the first pass finds of the design of models `lane`: columns that are kept, and what was counted.

    `factored` (B,) says that the condition asks for a QR factor; `first` are the moments of that pass.
    """

    lane: Tensor
    keep: Tensor
    factored: Tensor
    first: Moments

    def take(self, models: Tensor) -> Columns:
        """Those of some of the models."""
        return Columns(self.lane[models], self.keep[models], self.factored[models], self.first.take(models))
