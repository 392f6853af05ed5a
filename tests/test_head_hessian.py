"""Second derivatives of the loss of a head in all that it learns, by backward twice: every family, zeros of y too."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from family_cases import ALL, Case
from several_cases import draws, families, title
from torch import Tensor
from torch.autograd import gradgradcheck
from torch.func import functional_call

from torchglm import GLMHead, NegativeBinomial, Tweedie
from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.nn import WithLoss

N = 12


def agrees(head: GLMHead, x: Tensor, y: Tensor, roles: dict[str, Any]) -> bool:
    """Whether backward twice through the loss, by all parameters, is what differences of its gradient say."""
    with torch.no_grad():
        for k, value in enumerate(head.parameters()):
            value.add_(0.1 * torch.cos(torch.arange(value.numel()) + k).reshape(value.shape).to(value))
    loss, learned = WithLoss(head), {n: p for n, p in head.named_parameters() if p.requires_grad}
    names, values = (
        [f"model.{name}" for name in learned],
        [p.detach().clone().requires_grad_() for p in learned.values()],
    )

    def value(*given: Tensor) -> Tensor:
        return functional_call(loss, dict(zip(names, given, strict=True)), (x, y), roles)

    return bool(gradgradcheck(value, tuple(values), fast_mode=True, atol=1e-5, rtol=1e-3))


@pytest.mark.parametrize("case", ALL, ids=repr)
def test_of_one_predictor(case: Case) -> None:
    y = case.y.double()
    x = torch.sin(torch.arange(2.0 * len(y), dtype=torch.float64)).reshape(-1, 2)
    learned = "learned" if case.family.has_dispersion and "2.5" not in repr(case) and "4.5" not in repr(case) else None
    assert agrees(GLMHead(2, copy.deepcopy(case.family), dispersion=learned, dtype=torch.float64), x, y, {})


@pytest.mark.parametrize("family", [Tweedie(), NegativeBinomial()], ids=["power", "alpha"])
def test_of_a_shape_that_is_learned(family: Family) -> None:
    y = torch.tensor([0.0, 1.0, 0.0, 3.0, 7.0, 2.0], dtype=torch.float64)
    x = torch.sin(torch.arange(2.0 * len(y), dtype=torch.float64)).reshape(-1, 2)
    learned = "learned" if family.has_dispersion else None
    assert agrees(GLMHead(2, family, dispersion=learned, dtype=torch.float64), x, y, {})


@pytest.mark.parametrize("family", families(), ids=title)
def test_of_several_predictors(family: VectorFamily) -> None:
    x = torch.sin(torch.arange(2.0 * N, dtype=torch.float64)).reshape(-1, 2)
    head = GLMHead(2, copy.deepcopy(family), predictors=family.others, dtype=torch.float64)
    drawn = draws(family, (N,))
    assert agrees(head, x, drawn["y"], drawn.roles)
