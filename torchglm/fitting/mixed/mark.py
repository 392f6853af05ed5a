"""Where a search over covariances stands: parameters, modes, and what the criterion left there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from torchglm.fitting.by_model import ByModel
from torchglm.rows.meetings import EffectGram


@dataclass
class Mark(ByModel):
    """The criterion of `B` models at `psi` (B, K), see `MixedCriterion`.

    `u` (B, P) are the modes, `value` (B,) the criterion (infinite where there is none), `phi` (B,) the dispersion,
    `score` (B, P) that of the coefficients `c`, `gram` their information.
    """

    psi: Tensor
    u: Tensor
    value: Tensor
    phi: Tensor
    score: Tensor
    gram: EffectGram

    @staticmethod
    def cat(parts: Sequence[Mark]) -> Mark:
        """The models of several, one after another."""
        first, own = parts[0], {f.name: [getattr(part, f.name) for part in parts] for f in fields(Mark)}
        grams = own.pop("gram")
        return Mark(**{name: torch.cat(values) for name, values in own.items()}, gram=first.gram.cat(grams[1:]))
