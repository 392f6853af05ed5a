"""What a fit of models with random effects leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from torchglm.rows.rows import Rows


@dataclass(frozen=True)
class MixedFound:
    """What was found of `B` models; `criterion` (B,) is the negative log marginal likelihood.

    `coef` (B, P) are the fixed effects and the modes, `phi` (B,) the dispersion; of each grouping `roots` (B, q, q) of
    the covariance of the effects over `phi`, and `spread` (B, L, q, q) that of the effects given the data over `phi`;
    `strength` (B, J) of smooths, infinite where that is the limit, those `used` in the fit, and (B, p) the effective
    degrees of freedom; `psi` (B, E) the parameters of the roots, their covariance, and the `units` of
    the effects. The modes lie behind `columns` others. `freedom` (B, p) are Satterthwaite's degrees of
    freedom of the fixed effects where they are known, `explained` (B, 3) the
    variance of the fixed part of the linear predictor over the rows, the mean variance of the random part, and the
    mean response; `rows` are those of the fit, with the columns of the effects.
    """

    criterion: Tensor
    coef: Tensor
    phi: Tensor
    roots: list[Tensor]
    spread: list[Tensor]
    strength: Tensor
    used: Tensor
    edf: Tensor | None
    psi: Tensor
    psi_covariance: Tensor
    units: list[Tensor]
    columns: int
    explained: Tensor
    freedom: Tensor | None
    rows: Iterable[Rows]
