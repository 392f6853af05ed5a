"""What a criterion of strengths says at a point, and where the fits stand that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from torchglm.fitting.moments import Moments

CLOSE = 1e-12  # share of the objective by which a square may move the criterion


@dataclass
class Marginal:
    """The criterion of `B` models at `theta` (B, K): the log strengths (J), and the raw shape that is estimated.

    `coef` (B, p) are the penalised maxima, `value` (B,) the criterion (infinite where there is none), `phi` (B,) the
    dispersion; `root` (B, p, p) of the inverse of `X'WX + S`, and `inner` of that of the determinant; `squares` (B, J)
    `lambda_j b'S_jb`, `traces` (B, J) `lambda_j tr A S_j`, `own` and `twice` the derivatives of `log|S|_+`; `bend` (B,)
    the second derivative of the criterion by `log phi`, infinite where it is held; `gram` (B, p, p) is `X'WX`.
    `close` (B,) says that the fit is so near the maximum that the value has its last digits.
    """

    theta: Tensor
    coef: Tensor
    value: Tensor
    phi: Tensor
    root: Tensor
    inner: Tensor
    squares: Tensor
    traces: Tensor
    own: Tensor
    twice: Tensor
    bend: Tensor
    gram: Tensor
    close: Tensor

    def take(self, models: Tensor) -> Marginal:
        """Those of some of the models."""
        return Marginal(**{f.name: getattr(self, f.name)[models] for f in fields(self)})

    @staticmethod
    def cat(parts: Sequence[Marginal]) -> Marginal:
        """The models of several, one after another."""
        return Marginal(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Marginal)})

    def place(self, models: Tensor, part: Marginal) -> Marginal:
        """These with some of the models replaced."""
        new = {f.name: getattr(self, f.name).index_copy(0, models, getattr(part, f.name)) for f in fields(self)}
        return Marginal(**new)


@dataclass
class Stand:
    """Some models at coefficients `coef` (b, p): the sums of the pass there, and what they say.

    `root`, `inner` and `log` are as in `Marginal`, `sound` (b,) where they are; `left` (b, p) is the Newton step from
    there, of `decrement` (b,), and `unit` (b,) about the dispersion, in which decrements are measured.
    """

    coef: Tensor
    here: Moments
    root: Tensor
    inner: Tensor
    log: Tensor
    sound: Tensor
    left: Tensor
    decrement: Tensor
    unit: Tensor

    def take(self, models: Tensor) -> Stand:
        """Those of some of the models."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {k: v.take(models) if k == "here" else v[models] for k, v in parts.items()}
        return Stand(**taken)

    def place(self, models: Tensor, part: Stand) -> Stand:
        """These with some of the models replaced."""
        new: dict[str, Any] = {"here": self.here.place(models, part.here)}
        names = (f.name for f in fields(self) if f.name != "here")
        return Stand(**new, **{n: getattr(self, n).index_copy(0, models, getattr(part, n)) for n in names})

    def is_close(self, tol: float) -> Tensor:
        """(b,) where the information at hand is that of the maximum, as far as the criterion tells.

        A step of decrement `d` moves the logarithm of the determinant by about `p sqrt(d / n)`.
        """
        size, p = self.here.objective.abs().clamp(min=1.0), self.coef.shape[-1]
        return self.sound & (self.decrement <= ((CLOSE * size / p).square() * self.here.count + tol) * self.unit)
