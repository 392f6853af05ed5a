"""Losses whose slopes are known in closed form: they are kept beside the values, so that a gradient is one product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from torchglm.rows.responses import Pair, Response
from torchglm.special.tracing import values_are_known


def has_closed_form(y: Response, *moved: Tensor) -> bool:
    """Whether slopes may be taken in closed form: in plain calls, where nothing but `moved` has a derivative.

    Under `torch.compile`, a `torch.func` transform and forward differentiation the formulas of the values are followed.
    """
    parts = (*y, *moved) if isinstance(y, Pair) else (y, *moved)
    if not values_are_known(moved[0]) or any(forward_ad.unpack_dual(part).tangent is not None for part in parts):
        return False
    return not any(part.requires_grad for part in parts[: -len(moved)])


def closed(found: tuple[Tensor, ...], formula: Callable[..., Tensor], *moved: Tensor) -> Tensor:
    """`formula(*moved)`, of which the values and their slopes by the first of `moved`, or by all, are `found`.

    A slope has the shape of the values, or those of several predictors before it; what is the same for all rows has
    the sum. Slopes that are missing, and a gradient that is to be differentiated again, are those of the formula.
    """
    value: Tensor = _Closed.apply(found, formula, *moved)
    return value


class _Closed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: tuple[Tensor, ...], formula: Callable[..., Tensor], *moved: Tensor) -> Tensor:
        value, *slopes = found
        ctx.save_for_backward(*moved, *slopes)
        ctx.formula, ctx.many = formula, len(moved)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        [gradient] = gradients
        saved = ctx.saved_tensors  # asked for once: activation checkpointing hands them out once
        moved, slopes = saved[: ctx.many], saved[ctx.many :]
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            return None, None, *_by_formula(ctx.formula, moved, gradient, True)
        products = [gradient * slope for slope in slopes]
        known = [
            product if product.shape == part.shape else product.sum().reshape(part.shape)
            for product, part in zip(products, moved, strict=False)
        ]
        if len(known) < len(moved):
            with torch.enable_grad():
                leaves = [part.detach().requires_grad_() for part in moved]
                known += _by_formula(ctx.formula, leaves, gradient, False)[len(known) :]
        return None, None, *known


def _by_formula(
    formula: Callable[..., Tensor], moved: Sequence[Tensor], gradient: Tensor, graph: bool
) -> list[Tensor | None]:
    """What autograd makes of the formula for each of `moved` that wants a gradient."""
    asked = [part for part in moved if part.requires_grad]
    found = iter(torch.autograd.grad(formula(*moved), asked, gradient, create_graph=graph, allow_unused=True))
    return [next(found) if part.requires_grad else None for part in moved]
