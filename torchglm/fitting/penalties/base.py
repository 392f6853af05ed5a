"""A penalty as a step sees it: its value, a part with derivatives, and one without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm.fitting.quadratic import soft_step
from torchglm.writing.answering import answering_init

ONE = torch.Size()  # of one model


class Penalty(ABC):
    """A penalty as a step sees it: its value, a part with a slope and a curvature, and perhaps one with kinks.

    All methods take `coef` (B, p) and the total weight `(B,)` of the rows; the quadratic model of a step `d` is
    `d' gram d / 2 - score' d`. A penalty without kinks states `value` and `ridge`. One that is absolute values of
    single coefficients states `nonsmooth` as well; of any other kind `smooth`, `kink`, `step` and `excess`.
    """

    diagonal = True  # its quadratic part has no products of two coefficients
    each = False  # every model of a batch has its own
    selects = False  # it chooses coefficients by the same rows, which leaves them without standard errors

    def __init_subclass__(cls) -> None:
        answering_init(cls)

    @property
    def smooth(self) -> bool:
        """Whether it has no kinks."""
        return type(self).nonsmooth is Penalty.nonsmooth

    @abstractmethod
    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B,) the penalty times the total weight."""

    @abstractmethod
    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B, p) the diagonal its quadratic part adds to the information, or (B, p, p) where it is no diagonal."""

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B, p) the derivative of the part that has one."""
        return self.ridge(coef, total) * coef

    def bend(self, coef: Tensor, total: Tensor) -> Tensor | None:
        """(B, p) the curvature, at most 0, of a concave part whose slope is in `slope`; None where there is none."""
        return None

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        """(B, p) the weights of the absolute values, or None where there are none."""
        return None

    def kink(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B,) the part of the value that has kinks."""
        l1 = self.nonsmooth(coef, total)
        return torch.zeros_like(total) if l1 is None else (l1 * coef.abs()).sum(-1)

    def curved(self, coef: Tensor, total: Tensor) -> Tensor | None:
        """(B, p, p) the curvature that the part with kinks has beside them; None where it has none."""
        return None

    def free(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B, p) the coefficients in which the penalty has a derivative: not those that it holds at zero."""
        l1 = self.nonsmooth(coef, total)
        return torch.ones_like(coef, dtype=torch.bool) if l1 is None else (coef != 0) | (l1 == 0)

    def holds(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B, p) the coefficients that have a value by its kinks, whatever the design says of them."""
        l1 = self.nonsmooth(coef, total)
        return torch.zeros_like(coef, dtype=torch.bool) if l1 is None else l1 > 0

    def step(self, curvature: Tensor, score: Tensor, coef: Tensor, total: Tensor, keep: Tensor) -> Tensor:
        """(B, p) the step that minimises the quadratic model with the kinks, `curvature` (B, p, p) and `score` (B, p)
        being those of everything that has derivatives; coefficients outside `keep` stay."""
        l1 = self.nonsmooth(coef, total)
        assert l1 is not None
        return soft_step(curvature, score, coef, l1, keep)

    def excess(self, curvature: Tensor, score: Tensor, coef: Tensor, total: Tensor, keep: Tensor) -> Tensor:
        """(B, p) by how much the slope of each coefficient misses what its kinks ask for: 0 at the optimum.

        These are the conditions of Karush, Kuhn and Tucker: the slope of a coefficient that is held lies within its
        threshold, that of any other equals it.
        """
        l1 = self.nonsmooth(coef, total)
        if l1 is None:
            return score.abs()
        return torch.where(coef == 0, (score.abs() - l1).clamp(min=0), (score - l1 * coef.sign()).abs())

    def settled(self, coef: Tensor) -> Tensor:
        """`coef` (B, p) with what stands on a kink up to rounding put there exactly."""
        return coef

    def projected(self, curvature: Tensor, coef: Tensor, keep: Tensor) -> Tensor:
        """(B, p) the nearest coefficients that it allows."""
        return coef

    def scaled(self, strength: Tensor) -> Penalty:
        """The same penalty, expanded, with its strength times a number or one for each model (B,)."""
        raise ValueError(f"{type(self).__name__} has no one strength that could be multiplied.")

    def named(self, names: Sequence[str]) -> Penalty:
        """The same penalty with positions for names. Raises `ValueError` for a name that is not there, or twice."""
        return self

    @abstractmethod
    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Penalty:
        """The same penalty on a design of `p` columns, of which `constants` are intercepts and are not penalised.

        `batch` are the batch dimensions of the models that it is for.
        """

    def take(self, models: Tensor) -> Penalty:
        """That of some of the models."""
        return self


def numbers(value: object, name: str, kind: str = "numbers") -> Tensor:
    """What is given for the option `name` as a tensor of float64.

    Raises `TypeError` for what are no numbers: text, truth values, None, lists of unlike lengths, and none at all.
    """
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.dtype == torch.bool or found.dtype.is_complex or not found.numel():
        raise TypeError(f"{name} must be {kind}, got {value!r} ({type(value).__name__}).")
    return torch.as_tensor(value, dtype=torch.float64)


def is_number(value: object) -> bool:
    """Whether a value is one number, of Python or numpy, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def listed_in(value: object, name: str, kind: str) -> list[Any]:
    """The entries of what is given for the option `name`. Raises `TypeError` for text, mappings and what is no list."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be {kind}, got {value!r} ({type(value).__name__}).")
    return list(value.tolist()) if isinstance(value, (np.ndarray, Tensor)) and value.ndim else list(value)


def columns_in(value: object, name: str) -> list[int | str]:
    """Columns by name or place. Raises `TypeError` for what is none."""
    kind = "a list of columns, by their names or their places in coef from 0"
    found = listed_in(value, name, kind)
    if not all(isinstance(one, (str, Integral)) and not isinstance(one, bool) for one in found):
        raise TypeError(f"{name} must be {kind}, got {value!r}.")
    return [one if isinstance(one, str) else int(one) for one in found]


def slope_places(constants: Sequence[int], p: int) -> list[int]:
    """The places of `p` columns that are no constants."""
    none = set(constants)
    return [j for j in range(p) if j not in none]


def position(column: int | str, names: Sequence[str], where: str) -> int:
    """The place of a column that is given by its name or its place. Raises `ValueError` for one that is not there."""
    if not isinstance(column, str):
        return int(column)
    if list(names).count(column) != 1:
        raise ValueError(f"{where} names column {column!r}, which is not one of {', '.join(names)}.")
    return list(names).index(column)
