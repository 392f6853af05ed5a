"""What a sum of quadratic penalties holds, and what it leaves free: range and null space, in a basis of their own.

In the rotated basis the null space has exact zeros, so that strengths of any size leave its digits alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.fitting.penalties import Quadratic

TWICE = 1e-9  # share of itself below which what is left of a sum of columns is none
SEEN = 1e-3  # share of the largest part of such a sum that counts as one of its own
EMPTY = 1e-10  # share of the largest eigenvalue of a sum of penalties below which one is zero


class Overlap(NamedTuple):
    """Blocks that share columns: the places of their range (r,), and which blocks, each (r, r) on the range."""

    at: Tensor
    blocks: list[int]
    matrices: Tensor  # (blocks, r, r)


class Ranges:
    """The `rank` of a sum of penalties, its orthonormal basis `rotation` (p, p), and what is penalised, `inside` (p,).

    `groups` hold the penalties in that basis, `blocks` the place (r,) and the matrix (r, r) of each.
    """

    def __init__(self, penalty: Quadratic, p: int, device: torch.device) -> None:
        self.rotation = torch.eye(p, dtype=torch.float64, device=device)
        self.inside = torch.zeros(p, dtype=torch.bool, device=device)
        self.count = len(penalty.blocks)
        self.groups = [self._group(penalty, members, device) for members in connected(penalty)]
        self.rank = int(self.inside.sum())
        each = {
            j: (group.at, matrix)
            for group in self.groups
            for j, matrix in zip(group.blocks, group.matrices, strict=True)
        }
        self.blocks = [each[j] for j in range(self.count)]

    def _group(self, penalty: Quadratic, members: Sequence[int], device: torch.device) -> Overlap:
        columns = sorted({int(column) for j in members for column in penalty.blocks[j][0]})
        place = {column: i for i, column in enumerate(columns)}
        whole = torch.zeros(len(members), len(columns), len(columns), dtype=torch.float64, device=device)
        for i, j in enumerate(members):
            at = torch.tensor([place[int(column)] for column in penalty.blocks[j][0]], device=device)
            whole[i, at.unsqueeze(-1), at] = penalty.blocks[j][1].to(device)
        size = whole.flatten(1).norm(dim=-1)
        values, vectors = torch.linalg.eigh((whole / size.view(-1, 1, 1)).sum(0))
        vectors, held = vectors.flip(-1), int((values > EMPTY * values[-1]).sum())
        where = torch.tensor(columns, device=device)
        self.rotation[where.unsqueeze(-1), where] = vectors
        self.inside[where[:held]] = True
        return Overlap(where[:held], list(members), vectors[:, :held].mT @ whole @ vectors[:, :held])

    def whole(self, strength: Tensor) -> Tensor:
        """(B, p, p) the penalty of strengths (B, J) in the rotated basis."""
        out = strength.new_zeros(strength.shape[0], *self.rotation.shape)
        for group in self.groups:
            out[:, group.at.unsqueeze(-1), group.at] = self._sum(group, strength)
        return out

    @staticmethod
    def _sum(group: Overlap, strength: Tensor) -> Tensor:
        return torch.einsum("bj,jrs->brs", strength[:, group.blocks], group.matrices)

    def log_determinant(self, strength: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logarithm of the product of the positive eigenvalues of the penalty (B,), and its derivatives.

        `(B, J)` and `(B, J, J)` by the logarithms of the strengths (B, J).
        """
        models, many = strength.shape
        value = strength.new_zeros(models)
        first, second = strength.new_zeros(models, many), strength.new_zeros(models, many, many)
        for group in self.groups:
            if len(group.blocks) == 1:  # a multiple of one matrix
                [j], rank = group.blocks, len(group.at)
                value, first[:, j] = value + rank * strength[:, j].log() + scaled_root(group.matrices)[1], float(rank)
                continue
            own, at = strength[:, group.blocks], torch.tensor(group.blocks, device=strength.device)
            root, log, _ = scaled_root(self._sum(group, strength))
            parts = own[..., None, None] * (root.mT.unsqueeze(1) @ group.matrices @ root.unsqueeze(1))
            traces = parts.diagonal(dim1=-2, dim2=-1).sum(-1)
            value, first[:, at] = value + log, traces
            products = torch.einsum("bjrs,bkrs->bjk", parts, parts)
            second[:, at.unsqueeze(-1), at] = torch.diag_embed(traces) - products
        return value, first, second


def repeated(penalty: Quadratic, gram: Tensor) -> Tensor:
    """(B, p) the columns of a Gram (B, p, p) that a sum without penalty and without effect is made of."""
    ranges = Ranges(penalty, gram.shape[-1], gram.device)
    free = ranges.rotation[:, ~ranges.inside]
    small = free.mT @ gram @ free
    size = small.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    whole = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0)
    scale = torch.where(size > TWICE * whole.amax(-1, keepdim=True).sqrt(), 1 / size, 0.0)
    values, vectors = torch.linalg.eigh(small * scale.unsqueeze(-1) * scale.unsqueeze(-2))
    lost = torch.where((values < TWICE).unsqueeze(-2), vectors, 0.0)
    lost = lost * torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
    effect = (free @ lost).abs() * torch.where(whole > 0, whole, 1.0).sqrt().unsqueeze(-1)
    return (effect > SEEN * effect.amax(-2, keepdim=True).clamp(min=1e-300)).any(-1)


def left_by(penalty: Quadratic, infinite: Tensor, p: int) -> Tensor:
    """(B, p, p) the projection on what the blocks leave whose strengths are `infinite` (B, J)."""
    whole = torch.zeros(infinite.shape[0], p, p, dtype=torch.float64, device=infinite.device)
    for j, (columns, matrix) in enumerate(penalty.blocks):
        at = torch.tensor(columns, device=infinite.device)
        own = (matrix / matrix.norm()).to(infinite.device)
        whole[:, at.unsqueeze(-1), at] += infinite[:, j, None, None] * own
    values, vectors = torch.linalg.eigh(whole)
    free = values <= EMPTY * values[:, -1:].clamp(min=1.0)
    return (vectors * free.unsqueeze(-2)) @ vectors.mT


def scaled_root(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`R` (B, p, p) with `R R'` the inverse, the log-determinant (B,), and (B,) whether it is positive definite."""
    size = matrix.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(size > 0, size, 1.0).rsqrt()
    lower, info = torch.linalg.cholesky_ex((matrix * scale.unsqueeze(-1)).mul_(scale.unsqueeze(-2)))
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    sound = (info == 0) & torch.isfinite(lower).flatten(1).all(-1)
    if lower.is_cuda or not bool(sound.all()):
        lower = torch.where(sound[:, None, None], lower, eye)
    log = 2 * (lower.diagonal(dim1=-2, dim2=-1).log() - scale.log()).sum(-1)
    root = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False).mT
    return root.mul_(scale.unsqueeze(-1)), log, sound


def connected(penalty: Quadratic) -> list[list[int]]:
    """The blocks in groups that share columns."""
    groups: list[tuple[set[int], list[int]]] = []
    for j, (columns, _) in enumerate(penalty.blocks):
        own, members = {int(column) for column in columns}, [j]
        apart = [group for group in groups if not group[0] & own]
        for group in groups:
            if group[0] & own:
                own, members = own | group[0], [*group[1], *members]
        groups = [*apart, (own, members)]
    return [sorted(members) for _, members in groups]
