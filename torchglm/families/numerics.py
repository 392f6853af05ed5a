"""What the formulas of the families share: products and differences that neither overflow nor cancel."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm import special
from torchglm.special.tracing import values_are_known


def like(value: Tensor | float, mu: Tensor) -> Tensor:
    """`value` as a tensor of the dtype and device of `mu`."""
    return torch.as_tensor(value, dtype=mu.dtype, device=mu.device)


def number(value: Tensor | float) -> Tensor:
    """A parameter as a float64 tensor where it lies; a number on the CPU, whatever device torch makes tensors on."""
    return value.double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")


def rows_of(parameter: Tensor, mu: Tensor) -> Tensor:
    """A shape parameter `(*B)` beside rows `(*B, n)`, or one for each element, in their dtype and on their device."""
    value = parameter.to(device=mu.device, dtype=mu.dtype)
    return value.unsqueeze(-1) if 0 < value.dim() < mu.dim() else value


def within(value: Tensor, most: float) -> bool:
    """Whether all lie between `-most` and `most`, told by one look at them."""
    low, high = torch.aminmax(value)
    return -most < float(low) and float(high) < most


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a b`, and 0 where `a` is 0 though `b` is infinite; its slope by `a` is `b` wherever that is finite."""
    return a * torch.where((a == 0) & ~torch.isfinite(b), 0.0, b)


def log_less_excess(y: Tensor, mu: Tensor) -> Tensor:
    """`log(y / mu) - (y - mu) / mu`, without cancellation where they are close nor rounding where they are far."""
    excess = (y - mu) / mu
    # the quotient of the roots neither overflows nor underflows
    return excess * special.log_one_plus_minus_over(excess, 2 * torch.log(y.sqrt() / mu.sqrt()))


def checking() -> bool | None:
    """What a distribution is told of looking at its parameters: torch's own way, but never where a graph is traced."""
    return None if values_are_known() else False


def any_observed(observed: Tensor | bool) -> bool:
    """Whether the observed information is asked for in any row."""
    return observed if isinstance(observed, bool) else bool(observed.any())


def mask(observed: Tensor | bool, like: Tensor) -> Tensor:
    """Where the observed information is asked for, on the device of `like`."""
    return torch.as_tensor(observed, device=like.device)


def text(value: Tensor) -> str:
    """A shape parameter as `repr` shows it: its value, or its shape where there is one per model."""
    if value.is_meta:
        return "meta"
    return f"{float(value):.6g}" if value.dim() == 0 else f"tensor{tuple(value.shape)}"
