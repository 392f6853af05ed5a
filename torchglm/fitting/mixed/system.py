"""The curvature `H = Lambda' G Lambda + R` of a penalised likelihood: one grouping eliminated, the rest factored."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from torchglm.fitting.mixed.effects import Lambda
from torchglm.fitting.mixed.small import inverted, times
from torchglm.fitting.ranges import scaled_root
from torchglm.rows.arrow import Arrow


class Eliminated:
    """`H` with the levels of the large grouping eliminated; the other `m` columns are in the order of the Gram.

    `R` is a `ridge` (B, p, p) on the first columns, and the identity on the levels of other groupings.

    `inverse` (B, L, q, q) of the blocks, `share` (B, L, q, m) these times the border, `schur` (B, m, m) what is left of
    the others, `log` (B,) the log-determinant of the blocks, `sound` (B,) whether these are positive definite.
    """

    def __init__(self, gram: Arrow, turn: Lambda, ridge: Tensor) -> None:
        self.gram, self.turn = gram, turn
        root = turn.root.unsqueeze(1)  # (B, 1, q, q)
        eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        own = times(times(root.mT, gram.own), root) + eye
        self.border = turn.right(gram.across)  # (B, L, q, m), of the rows as they are
        across = times(root.mT, self.border)
        self.inverse, self.log, self.sound = inverted(own)
        self.share = times(self.inverse, across)
        corner, p = turn.both(gram.corner), ridge.shape[-1]
        corner = corner.clone() if corner is gram.corner else corner
        corner[:, :p, :p] += ridge
        corner.diagonal(dim1=-2, dim2=-1)[:, p:] += 1.0
        self.schur = corner - across.flatten(1, 2).mT @ self.share.flatten(1, 2)

    def places(self, at: Tensor) -> Tensor:
        """Which of `schur` are left of columns `at` of all that are not eliminated: all."""
        return at

    def on(self, columns: Tensor) -> Inner:
        """The system of some of the other columns (s,), and of all levels."""
        return Inner(self, columns)


class Inner:
    """The curvature in the eliminated levels and in the columns `at` (s,) of the others; the rest is held."""

    def __init__(self, eliminated: Eliminated, at: Tensor) -> None:
        self.own, self.at = eliminated, at
        self.root, log, sound = scaled_root(eliminated.schur[:, at.unsqueeze(-1), at])
        self.log, self.sound = eliminated.log + log, sound & eliminated.sound

    @cached_property
    def inverse(self) -> Tensor:
        """(B, s, s) the inverse on the other columns."""
        return self.root @ self.root.mT

    @cached_property
    def share(self) -> Tensor:
        return self.own.share[..., self.at]  # (B, L, q, s)

    @cached_property
    def across(self) -> Tensor:
        return (self.share.flatten(1, 2) @ self.inverse).view_as(
            self.share
        )  # (B, L, q, s), less the inverse between levels and columns

    @cached_property
    def blocks(self) -> Tensor:
        """(B, L, q, q) the inverse on each level."""
        return self.own.inverse + self.across @ self.share.mT

    def solve(self, value: Tensor) -> Tensor:
        """(B, P) `H^-1 g`; zero for what is held."""
        others, levels = self.own.gram.split(value)
        flat = self.own.share.flatten(1, 2)[..., self.at]  # (B, L q, s)
        right = others[:, self.at] - (flat.mT @ levels.flatten(1).unsqueeze(-1)).squeeze(-1)
        found = self.root @ (self.root.mT @ right.unsqueeze(-1))
        own = (self.own.inverse @ levels.unsqueeze(-1)).squeeze(-1) - (flat @ found).squeeze(-1).view_as(levels)
        out = torch.zeros_like(others)
        out[:, self.at] = found.squeeze(-1)
        return self.own.gram.joined(out, own)

    def covariance(self) -> Arrow:
        """`Lambda H^-1 Lambda'`, the covariance of the coefficients `c` over `phi`, as far as rows see it."""
        turn, gram = self.own.turn, self.own.gram
        m = gram.corner.shape[-1]
        inner = gram.corner.new_zeros(len(gram.corner), m, m)
        inner[:, self.at.unsqueeze(-1), self.at] = self.inverse
        corner = turn.right(turn.right(inner, True).mT, True)
        across = gram.across.new_zeros(gram.across.shape)
        root = turn.root.unsqueeze(1)
        across[..., self.at] = -(root @ self.across)
        return Arrow(corner, turn.right(across, True), root @ self.blocks @ root.mT, gram.grouping)

    def traces(self) -> list[Tensor]:
        """(B, q, q) for each grouping `sum_l (G Lambda H^-1)` between effect `r` and coordinate `c` of a level."""
        turn, gram = self.own.turn, self.own.gram
        root = turn.root.unsqueeze(1)
        border = self.own.border[..., self.at]
        large = (gram.own @ (root @ self.blocks) - border @ self.across.mT).sum(1)
        found = []
        if turn.beside:
            part = turn.right(gram.corner)[..., self.at]
            part = part - gram.across.flatten(1, 2).mT @ (root @ self.share).flatten(1, 2)
            whole = gram.corner.new_zeros(gram.corner.shape)
            whole[..., self.at] = part @ self.inverse  # (B, m, m)
            for at, grouping, _ in turn.beside:
                shape = (grouping.effects, grouping.levels)
                block = whole[:, at, at].unflatten(2, shape).unflatten(1, shape)  # (B, r, l, c, l)
                found.append(block.diagonal(dim1=2, dim2=4).sum(-1))
        found.insert(turn.large, large)
        return found
