"""Very many small matrices at once."""

from __future__ import annotations

import torch
from torch import Tensor


def times(a: Tensor, b: Tensor) -> Tensor:
    """`a b` for very many small matrices, of which numbers alone are multiplied as such."""
    return a * b if a.shape[-1] == 1 else a @ b


def inverted(own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inverses (*, n, q, q) of symmetric matrices, the sum (*) of the log-determinants, and whether all exist."""
    if own.shape[-1] == 1:
        return 1 / own, own[..., 0, 0].log().sum(-1), (own > 0).flatten(-3).all(-1)
    lower, info = torch.linalg.cholesky_ex(own)
    sound = (info == 0).all(-1)
    eye = torch.eye(own.shape[-1], dtype=own.dtype, device=own.device)
    lower = torch.where(sound[..., None, None, None], lower, eye)
    log = 2 * lower.diagonal(dim1=-2, dim2=-1).log().flatten(-2).sum(-1)
    return torch.cholesky_inverse(lower), log, sound
