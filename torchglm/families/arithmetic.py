"""What the formulas of the families share: products and differences that neither overflow nor cancel."""

import torch
from torch import Tensor

from torchglm import special


def like(value: "Tensor | float", mu: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=mu.dtype, device=mu.device)


def rows_of(parameter: Tensor, mu: Tensor) -> Tensor:
    """A shape parameter `(*B)` beside rows `(*B, n)`, in their dtype."""
    value = parameter.to(mu.dtype)
    return value.unsqueeze(-1) if value.dim() else value


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a b`, and 0 where `a` is 0 though `b` is infinite."""
    return torch.where(a == 0, 0.0, a * torch.where(a == 0, 0.0, b))


def log_less_excess(y: Tensor, mu: Tensor) -> Tensor:
    """`log(y / mu) - (y - mu) / mu`, without cancellation where they are close nor rounding where they are far."""
    excess = (y - mu) / mu
    return excess * special.log_one_plus_minus_over(excess, torch.log(y / mu))


def minus_expm1_excess(t: Tensor) -> Tensor:
    """`t - (exp(t) - 1)`, without cancellation."""
    excess = torch.expm1(t)
    return excess * special.log_one_plus_minus_over(excess, t)


def any_observed(observed: "Tensor | bool") -> bool:
    return observed if isinstance(observed, bool) else bool(observed.any())


def mask(observed: "Tensor | bool", like: Tensor) -> Tensor:
    return torch.as_tensor(observed, device=like.device)


def text(value: Tensor) -> str:
    return f"{float(value):.6g}" if value.dim() == 0 else f"tensor{tuple(value.shape)}"
