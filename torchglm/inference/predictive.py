"""The mean of a response yet to be seen, over what a fit leaves open of its coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchglm.families.several import Classes, VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.inference.predict import predict
from torchglm.inference.several import new_rows
from torchglm.inference.vector.intervals import spread_of
from torchglm.inputs import Roles

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

NODES = 32  # of the quadrature over a linear predictor
DRAWS, MOST = 4096, 3  # draws of more predictors than so many


@torch.no_grad()
def predictive_mean(result: Fitted, x: Any, **roles: Unpack[RoleValues]) -> Tensor:
    """(*B, m) `E[mu(eta)]` with `eta` normal about its estimate; of classes the probabilities (*B, m, C).

    By quadrature; of more than three predictors by draws with a fixed seed. Where a predictor leaves the range of its
    link the estimate stands for it. `x` and roles are as for `predict`.
    """
    family = result.family
    if not isinstance(family, VectorFamily):
        eta, error = predict(result, x, kind="link", se=True, **roles)
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        moved = eta.unsqueeze(-1) + error.unsqueeze(-1) * torch.from_numpy(nodes).to(eta)
        mean = result.link(moved)
        inside = result.link.inside(moved) & family.valid_mean(mean)
        mean = torch.where(inside, mean, result.link(eta).unsqueeze(-1))
        return mean @ torch.from_numpy(weights / weights.sum()).to(eta)
    rows = new_rows(result, x, {}, Roles.of(roles, "predictive_mean", ("offset", "exposure")))
    size = len(family.predictors)
    at = weights_ = None
    if size > MOST:
        at = torch.randn(DRAWS, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        weights_ = torch.full((DRAWS,), 1 / DRAWS, dtype=torch.float64)
    eta, share = spread_of(result, rows, at, weights_)  # (K, J, B, m)
    mean = family.mean(eta)
    if isinstance(family, Classes):
        return result.shaped((mean * share[:, None, None]).sum(1).permute(1, 2, 0))
    return result.shaped((mean * share[:, None, None]).sum(0))
