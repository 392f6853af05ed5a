"""Triangular factors of the working rows of a step, which keep the digits of nearly dependent columns."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.rows.products import stack_factors, triangle
from torchglm.rows.rows import Rows, whole


def working_factor(rows: Rows, score: Tensor, information: Tensor, beside: Tensor | None = None) -> Tensor:
    """The triangular factor of `[sqrt(W) x, v / sqrt(W), s / sqrt(W)]`, rows without information left out.

    `score` and `information` (B, n) are those of the linear predictor, `beside` (S, B, n) what rows have of it with
    parameters behind the coefficients.
    """
    root = information.clamp(min=0).sqrt()
    inverse = torch.where(root > 0, 1 / torch.where(root > 0, root, 1.0), 0.0)
    behind = [score * inverse] if beside is None else [*(beside * inverse), score * inverse]
    total, start = None, 0
    for piece in rows.pieces():
        stop = start + piece.y.shape[-1]
        x = whole(piece).unsqueeze(0) if rows.shared else whole(piece)
        own = [x * root[:, start:stop].unsqueeze(-1), *(value[:, start:stop].unsqueeze(-1) for value in behind)]
        total, start = stack_factors(total, triangle(torch.cat(own, -1))), stop
    assert total is not None
    return total
