"""What a criterion of strengths says at a point, and where the fits stand that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from torchglm.fitting.by_model import ByModel
from torchglm.fitting.moments import Moments


@dataclass
class Marginal(ByModel):
    """The criterion of `B` models at `theta` (B, K): the log strengths (J), and the raw shape that is estimated.

    `coef` (B, p) are the penalised maxima, `value` (B,) the criterion (infinite where there is none), `phi` (B,) the
    dispersion; `root` (B, p, p) of the inverse of `X'WX + S`, and `inner` of that of the determinant, whose logarithm
    is `log` (B,); `squares` (B, J) `lambda_j b'S_jb`, `traces` (B, J) `lambda_j tr A S_j`, `own` and `twice` the
    derivatives of `log|S|_+`; `bend` (B,) the second derivative of the criterion by `log phi`, infinite where it is
    held; `gram` (B, p, p) is `X'WX`.
    """

    theta: Tensor
    coef: Tensor
    value: Tensor
    phi: Tensor
    root: Tensor
    inner: Tensor
    log: Tensor
    squares: Tensor
    traces: Tensor
    own: Tensor
    twice: Tensor
    bend: Tensor
    gram: Tensor

    @staticmethod
    def cat(parts: Sequence[Marginal]) -> Marginal:
        """The models of several, one after another."""
        return Marginal(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Marginal)})


@dataclass
class Stand(ByModel):
    """Some models at coefficients `coef` (b, p): the sums of the pass there, and what they say.

    `root`, `inner` and `log` are as in `Marginal`, `sound` (b,) where they are; `left` (b, p) is the Newton step from
    there, of `decrement` (b,), and `unit` (b,) about the dispersion, in which decrements are measured. `close` (b,)
    says that the information at hand is that of the maximum, as far as the criterion tells.
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
    close: Tensor
