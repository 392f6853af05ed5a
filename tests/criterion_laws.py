"""What every criterion of strengths obeys, whatever the law of the responses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchglm.fitting.laplace import Criterion


def check_slopes(criterion: Criterion, theta: Tensor, coef: Tensor, rel: float, near: float, bend: float) -> None:
    """Gradient (`rel`, `near`) and Hessian (`bend`) at `theta` (1, J) are differences of the criterion."""
    lane = torch.zeros(1, dtype=torch.int64)

    def value(at: Tensor) -> float:
        return float(criterion.at(lane, at, coef).value)

    gradient, hessian, _ = criterion.slopes(lane, criterion.at(lane, theta, coef))
    h = 1e-3
    for k, step in enumerate(h * torch.eye(theta.shape[1], dtype=torch.float64)):
        around = [value(theta + j * step) for j in (-2, -1, 1, 2)]
        slope = (around[0] - 8 * around[1] + 8 * around[2] - around[3]) / (12 * h)
        assert float(gradient[0, k]) == pytest.approx(slope, rel=rel, abs=near)
        ahead, behind = (criterion.slopes(lane, criterion.at(lane, theta + j * step, coef))[0] for j in (1, -1))
        torch.testing.assert_close(hessian[0, k], ((ahead - behind) / (2 * h))[0], rtol=1e-5, atol=bend)
