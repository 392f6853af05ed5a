"""Losses whose slopes are known in closed form: they are kept beside the values, so that a gradient is one product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from torchglm.rows.responses import Pair, Response
from torchglm.special.tracing import values_are_known


def has_closed_form(y: Response, *moved: Tensor) -> bool:
    """Whether slopes may be taken in closed form: in plain calls, where nothing but `moved` has a derivative.

    Under `torch.compile`, a `torch.func` transform and forward differentiation the formulas of the values are followed.
    """
    if not values_are_known(moved[0]):
        return False
    responses = y if isinstance(y, Pair) else (y,)
    if any(part.requires_grad for part in responses):
        return False
    return all(forward_ad.unpack_dual(part).tangent is None for part in (*responses, *moved))


class Closed(NamedTuple):
    """`formula(*moved)` of each row, whose values and their slopes by the first of `moved`, or by all, are known.

    A slope has the shape of the values, or those of several predictors before it; by what is the same for all rows it
    is summed. Slopes that are missing, and a gradient that is to be differentiated again, are those of the formula.
    """

    value: Tensor
    slopes: tuple[Tensor, ...]
    formula: Callable[..., Tensor]
    moved: tuple[Tensor, ...]

    def rows(self) -> Tensor:
        """The loss of each row."""
        found: Tensor = _Known.apply((self.value, *self.slopes), self.formula, 1.0, *self.moved)
        return found

    def total(self, mean: bool) -> Tensor:
        """The sum of the rows, or their mean, as one step of the graph."""
        value = self.value.mean() if mean else self.value.sum()
        scale = 1 / self.value.numel() if mean else 1.0

        def formula(*moved: Tensor) -> Tensor:
            return self.formula(*moved).sum() * scale

        found: Tensor = _Known.apply((value, *self.slopes), formula, scale, *self.moved)
        return found


class _Known(torch.autograd.Function):
    """Values of a formula, which are those of rows, or their sum times a scale; the slopes are those of rows."""

    @staticmethod
    def forward(
        ctx: Any, found: tuple[Tensor, ...], formula: Callable[..., Tensor], scale: float, *moved: Tensor
    ) -> Tensor:
        value, *slopes = found
        ctx.save_for_backward(*moved, *slopes)
        ctx.formula, ctx.scale, ctx.many = formula, scale, len(moved)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        [gradient] = gradients
        saved = ctx.saved_tensors  # asked for once: activation checkpointing hands them out once
        moved, slopes = saved[: ctx.many], saved[ctx.many :]
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            return None, None, None, *_by_formula(ctx.formula, moved, gradient, True)
        scaled = gradient if ctx.scale == 1 else gradient * ctx.scale
        wanted = ctx.needs_input_grad[3:]
        known = [
            _product(scaled, slope, part) if needed else None
            for slope, part, needed in zip(slopes, moved, wanted, strict=False)
        ]
        if any(wanted[len(known) :]):
            with torch.enable_grad():
                leaves = [part.detach().requires_grad_(needed) for part, needed in zip(moved, wanted, strict=True)]
                known += _by_formula(ctx.formula, leaves, gradient, False)[len(known) :]
        return None, None, None, *known, *[None] * (len(moved) - len(known))


def _product(gradient: Tensor, slope: Tensor, part: Tensor) -> Tensor:
    """The gradient by a part, `gradient` being that of each value or of their sum."""
    if slope.shape == part.shape:
        return gradient * slope
    product = gradient * slope.sum() if gradient.dim() == 0 else (gradient * slope).sum()
    return product.reshape(part.shape)


def _by_formula(
    formula: Callable[..., Tensor], moved: Sequence[Tensor], gradient: Tensor, graph: bool
) -> list[Tensor | None]:
    """What autograd makes of the formula for each of `moved` that wants a gradient."""
    asked = [part for part in moved if part.requires_grad]
    found = iter(torch.autograd.grad(formula(*moved), asked, gradient, create_graph=graph, allow_unused=True))
    return [next(found) if part.requires_grad else None for part in moved]
