"""The curvature `H = Lambda' G Lambda + R` where groupings cross: levels eliminated in their order, the core factored.

What is wanted of the inverse are its elements where `G` has some: those of the core are known, and every elimination
gives those of its levels from those of what they met (Takahashi's equations).
Source: Takahashi, Fagan & Chen (1973); Davis (2006), Direct Methods for Sparse Linear Systems, chapter 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from torchglm.fitting.mixed.effects import Lambda
from torchglm.fitting.mixed.order import Front, Order
from torchglm.fitting.mixed.small import inverted, times
from torchglm.fitting.mixed.system import Eliminated, Inner
from torchglm.rows.meetings import CrossedGram
from torchglm.rows.threads import all_cores


@dataclass(frozen=True)
class LevelValues:
    """A symmetric matrix over the first columns and the levels of one model, by the places of an `Order`.

    `levels` (V + 1,) are the values between columns of levels, `border` (C + 1, p) those with the first columns,
    `corner` (p, p) those of the first columns; the last of each is padding, and 0.
    """

    levels: Tensor
    border: Tensor
    corner: Tensor

    @staticmethod
    def of(gram: CrossedGram, order: Order) -> LevelValues:
        p, like = gram.meetings.columns, gram.corner
        levels = like.new_zeros(order.values + 1)
        border = like.new_zeros(order.total + 1, p)
        for k, own in enumerate(gram.own):
            levels[order.own[k]] = own[0]
            border[order.columns[k]] = gram.border[k][0]
        for pair, block in gram.cross.items():
            levels[order.cross[pair]] = block[0]
        return LevelValues(levels, border, gram.corner[0].clone())

    def blocks(self, like: CrossedGram, order: Order) -> CrossedGram:
        """The values where a Gram has some."""
        own = [taken(self.levels, at).unsqueeze(0) for at in order.own]
        border = [self.border[at].unsqueeze(0) for at in order.columns]
        cross = {pair: taken(self.levels, at).unsqueeze(0) for pair, at in order.cross.items()}
        return CrossedGram(self.corner.unsqueeze(0), own, border, cross, like.meetings)


def taken(values: Tensor, at: Tensor) -> Tensor:
    """The values (V,) at places of any shape."""
    return values.index_select(0, at.flatten()).view(at.shape)


@dataclass(frozen=True)
class Done:
    """What is kept of levels that are eliminated: `inverse` (n, q, q), times what they meet `share` (n, q, d), and
    times their `border` (n, q, p)."""

    front: Front
    inverse: Tensor
    share: Tensor
    border: Tensor


class EliminatedCrossed:
    """`H` of one model with the levels eliminated that an `order` says; the core and the first columns are left.

    `schur` (1, p + c, p + c) is what is left, `log` (1,) the log-determinant of what is not, `sound` (1,) whether that
    is positive definite. `gram` is `Lambda' G Lambda` with the penalty `ridge` (1, p, p).
    """

    def __init__(self, gram: CrossedGram, turn: Lambda, ridge: Tensor, order: Order) -> None:
        self.gram, self.turn, self.order = gram, turn, order
        self.rotated = turn.crossed(gram)  # its border still in the coefficients of the levels
        turned = turn.crossed(gram, both=True)
        eye = [torch.eye(part.shape[-1], dtype=part.dtype) for part in turned.own]
        own = [part + one for part, one in zip(turned.own, eye, strict=True)]
        whole = CrossedGram(turned.corner + ridge, own, turned.border, turned.cross, gram.meetings)
        self.done = list[Done]()
        self.log, self.sound = ridge.new_zeros(1), torch.ones(1, dtype=torch.bool)
        left = LevelValues.of(whole, order)
        for front in order.fronts:
            self._eliminate(front, left)
        at, c = order.core, len(order.core)
        core = left.levels[len(order.keys) : -1].view(c, c)
        core = torch.tril(core) + torch.tril(core, -1).mT
        border = left.border[at]
        self.schur = torch.cat([torch.cat([left.corner, border.mT], 1), torch.cat([border, core], 1)], 0).unsqueeze(0)
        self.inners: dict[tuple[int, ...], InnerCrossed] = {}

    def _eliminate(self, front: Front, left: LevelValues) -> None:
        own, across = taken(left.levels, front.own), taken(left.levels, front.across)
        border = left.border[front.columns]
        inverse, log, sound = inverted(own)
        share, fixed = times(inverse, across), times(inverse, border)
        self.log, self.sound = self.log + log, self.sound & sound
        self.done.append(Done(front, inverse, share, fixed))
        left.corner.sub_(border.flatten(0, 1).mT @ fixed.flatten(0, 1))
        if front.beside.shape[1] == 0:
            return
        left.border.index_add_(0, front.beside.flatten(), (share.mT @ -border).flatten(0, 1))
        left.border[-1] = 0.0
        if front.wide:
            assert front.core is not None
            c = len(self.order.core)
            one, two = written(front.core, across, c), written(front.core, share, c)
            start = len(self.order.keys)
            left.levels[start:-1].view(c, c).sub_(torch.tril(one.mT @ two))
            return
        drop = across.mT @ share
        half = torch.eye(drop.shape[-1], dtype=drop.dtype).add_(1.0).div_(-2.0)  # every pair is met in both orders
        left.levels.index_add_(0, self.order.inner(front).flatten(), (drop * half).flatten())
        left.levels[-1] = 0.0

    def places(self, at: Tensor) -> Tensor:
        """Which of `schur` are left of columns `at` of all that are not those of the largest grouping."""
        p = self.gram.meetings.columns
        return torch.cat([at[at < p], torch.arange(p, self.schur.shape[-1])])

    def on(self, at: Tensor) -> InnerCrossed:
        """The system of some of the first columns, and of all levels."""
        first = at[at < self.gram.meetings.columns]
        key = tuple(first.tolist())
        if key not in self.inners:
            self.inners[key] = InnerCrossed(self, first)
        return self.inners[key]


def written(core: Tensor, values: Tensor, c: int) -> Tensor:
    """(n q, c) values (n, q, d) at the places (n, d) of the core."""
    n, q, d = values.shape
    out = values.new_zeros(n, q, c + 1)
    out.scatter_(2, core.unsqueeze(1).expand(n, q, d), values)
    return out[..., :-1].reshape(n * q, c)


class InnerCrossed:
    """The curvature in all levels and in `at` (s,) of the first columns; the others are held."""

    def __init__(self, eliminated: EliminatedCrossed, at: Tensor) -> None:
        self.own, self.at = eliminated, at
        p = eliminated.gram.meetings.columns
        self.inside = torch.cat([at, torch.arange(p, eliminated.schur.shape[-1])])
        matrix = eliminated.schur[0]
        if len(self.inside) < len(matrix):
            matrix = matrix[self.inside.unsqueeze(-1), self.inside]
        size = matrix.diagonal()
        self.scale = torch.where(size > 0, size, 1.0).rsqrt()
        with all_cores(matrix):
            lower, info = torch.linalg.cholesky_ex(matrix * self.scale.unsqueeze(-1) * self.scale)
        sound = (info == 0) & torch.isfinite(lower.diagonal()).all()
        self.lower = lower if bool(sound) else torch.eye(len(matrix), dtype=matrix.dtype)
        self.log = eliminated.log + 2 * (self.lower.diagonal().log() - self.scale.log()).sum()
        self.sound = eliminated.sound & sound

    @cached_property
    def inverse(self) -> Tensor:
        """(1, s + c, s + c) the inverse on the first columns that move, and on the core."""
        with all_cores(self.lower):
            found = torch.cholesky_inverse(self.lower)
        return (found * self.scale.unsqueeze(-1) * self.scale).unsqueeze(0)

    def solve(self, value: Tensor) -> Tensor:
        """(1, P) `H^-1 g`; zero for what is held."""
        order, gram = self.own.order, self.own.gram
        first, levels = gram.split(value)
        top = first[0].clone()
        flat = torch.cat([*(part[0].flatten() for part in levels), value.new_zeros(1)])
        for done in self.own.done:
            g = flat[done.front.columns]
            top -= torch.einsum("nqp,nq->p", done.border, g)
            flat.index_add_(0, done.front.beside.flatten(), -(done.share.mT @ g.unsqueeze(-1)).flatten())
            flat[-1] = 0.0
        right = torch.cat([top[self.at], flat[order.core]]) * self.scale
        found = torch.cholesky_solve(right.unsqueeze(-1), self.lower)[:, 0] * self.scale
        top = torch.zeros_like(top).index_copy(0, self.at, found[: len(self.at)])
        flat[order.core] = found[len(self.at) :]
        for done in reversed(self.own.done):
            at = done.front.columns
            known = done.inverse @ flat[at].unsqueeze(-1) - done.share @ flat[done.front.beside].unsqueeze(-1)
            flat[at] = known[..., 0] - done.border @ top
        sizes = [part.shape[1] * part.shape[2] for part in levels]
        parts = [one.view(1, *part.shape[1:]) for one, part in zip(flat[:-1].split(sizes), levels, strict=True)]
        return gram.joined(top.unsqueeze(0), parts)

    @cached_property
    def selected(self) -> CrossedGram:
        """The inverse where the Gram has elements."""
        order, p = self.own.order, self.own.gram.meetings.columns
        inverse, s = self.inverse[0], len(self.at)
        found = LevelValues(
            inverse.new_zeros(order.values + 1), inverse.new_zeros(order.total + 1, p), inverse.new_zeros(p, p)
        )
        found.corner[self.at.unsqueeze(-1), self.at] = inverse[:s, :s]
        found.border[order.core.unsqueeze(-1), self.at] = inverse[s:, :s]
        found.levels[len(order.keys) : -1] = inverse[s:, s:].flatten()
        for done in reversed(self.own.done):
            self._back(done, found)
        return found.blocks(self.own.gram, order)

    def _back(self, done: Done, found: LevelValues) -> None:
        front, order = done.front, self.own.order
        beside = found.border[front.beside]  # (n, d, p)
        if front.wide:
            assert front.core is not None
            n, q, d = done.share.shape
            c = len(order.core)
            core = found.levels[len(order.keys) : -1].view(c, c)
            whole = (written(front.core, done.share, c) @ core).view(n, q, c)
            whole = torch.cat([whole, whole.new_zeros(n, q, 1)], -1)
            across = -whole.gather(2, front.core.unsqueeze(1).expand(n, q, d))
        else:
            across = -(done.share @ taken(found.levels, order.inner(front)))
        across = across - done.border @ beside.mT
        border = -(done.share @ beside) - done.border @ found.corner
        own = done.inverse - across @ done.share.mT - border @ done.border.mT
        found.levels[front.across], found.levels[front.own] = across, own
        found.levels[-1] = 0.0
        found.border[front.columns] = border

    def covariance(self) -> CrossedGram:
        """`Lambda H^-1 Lambda'`, the covariance of the coefficients `c` over `phi`, as far as rows see it."""
        return self.own.turn.crossed(self.selected, both=True, transpose=True)

    def traces(self) -> list[Tensor]:
        """(1, q, q) for each grouping `sum_l (G Lambda H^-1)` between effect `r` and coordinate `c` of a level."""
        gram, inverse, roots = self.own.rotated, self.selected, self.own.turn.roots
        found = [
            torch.einsum("blrs,bst,bltc->brc", own, root, part) + torch.einsum("blrp,blcp->brc", border, across)
            for own, root, part, border, across in zip(
                gram.own, roots, inverse.own, gram.border, inverse.border, strict=True
            )
        ]
        for (k, j), block in gram.cross.items():
            part = inverse.cross[k, j]
            found[k] = found[k] + torch.einsum("bnrs,bst,bnct->brc", block, roots[j], part)
            found[j] = found[j] + torch.einsum("bnsr,bst,bntc->brc", block, roots[k], part)
        return found


AnyEliminated: TypeAlias = Eliminated | EliminatedCrossed
AnyInner: TypeAlias = Inner | InnerCrossed
