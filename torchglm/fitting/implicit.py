"""Derivatives of fitted coefficients by all that a fit was made of, by the implicit function theorem.

At a maximum `g(coef, parts) = 0`, where `g` is the score less the slope of the penalty. So `d coef / d parts` is
`H^-1 dg / d parts` with `H = -dg / d coef`, the observed information and the penalty's curvature: the backward pass is
one solve with `H` and one vector-Jacobian product of `g`, by whatever way the fit came there.
Source: Krantz & Parks (2003), The Implicit Function Theorem; Christianson (1994), Optim. Methods Softw. 3(4).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import Compound, VectorFamily
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.penalties import Penalty
from torchglm.links import Link
from torchglm.rows.inverses import Root
from torchglm.rows.planned import expanded, part
from torchglm.rows.rows import Rows, whole

Given = tuple[Rows, Penalty | None]  # what the equations are made of


@dataclass(frozen=True)
class Equations:
    """The equations that coefficients (B, P) solve, of rows and a penalty that `made` makes of tensors in their graph.

    `known` (B, P) are those that the equations are of: not those dropped, nor those that an l1 penalty holds at zero.
    `root` is that of the inverse of `H`, where the fit left it: where observed and expected information are one.
    """

    family: Family
    link: Link
    made: Callable[[Sequence[Tensor]], Given]
    known: Tensor
    root: Root | None = None

    def pulled(self, given: Given, coef: Tensor, along: Tensor) -> Tensor:
        """`sum along' g`, a number: its derivative by a tensor is the vector-Jacobian product of the equations."""
        rows, penalty = given
        eta = _predictors(rows, coef)
        score = self._score(rows, eta)
        total = (rows.weight * score * _contributions(rows, along)).sum()
        if penalty is None:
            return total
        weight = rows.weight.sum(-1)
        slope, l1 = penalty.slope(coef, weight), penalty.nonsmooth(coef, weight)
        return total - (along * (slope if l1 is None else slope + l1 * coef.sign())).sum()

    def information(self, given: Given, coef: Tensor) -> Tensor:
        """(B, P, P) `H` in its graph, with ones in the diagonal for coefficients that are not `known`."""
        rows, penalty = given
        eta = _with_graph(_predictors(rows, coef))
        score = self._score(rows, eta)
        gram = torch.zeros((), dtype=coef.dtype, device=coef.device)
        designs = _designs(rows)  # (K, n, P) or (K, B, n, P)
        for k, own in enumerate(designs):
            [bend] = torch.autograd.grad(score[k].sum(), eta, create_graph=True)  # rows do not meet
            scaled = torch.einsum("k...np,kbn->...bnp" if own.dim() == 2 else "kbnp,kbn->bnp", designs, bend)
            gram = gram - own.mT @ (rows.weight.unsqueeze(-1) * scaled)
        if penalty is not None:
            gram = gram + _matrix(penalty.ridge(coef, rows.weight.sum(-1)))
        both = self.known.unsqueeze(-1) & self.known.unsqueeze(-2)
        return torch.where(both, gram, torch.eye(coef.shape[-1], dtype=coef.dtype, device=coef.device))

    def solved_in_graph(self, given: Given, coef: Tensor, values: Tensor) -> Tensor:
        """(B, P) `H^-1 values` in its graph."""
        return torch.linalg.solve(self.information(given, coef), values.unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def solved(self, given: Given, coef: Tensor, values: Tensor) -> Tensor:
        """(B, P) the same without a graph, by one pass over the rows; NaN where `H` is not positive definite."""
        if self.root is not None:
            return (self.root.inverse() @ values.unsqueeze(-1)).squeeze(-1)
        rows, penalty = given
        plain: dict[str, Any] = {name: v.detach() for name, v in rows._asdict().items() if isinstance(v, Tensor)}
        rows = rows._replace(**plain)
        sums = fold([rows], Point(coef, True, census=True), self.family, self.link)
        ridge = None if penalty is None else penalty.ridge(coef, sums.weight)
        inverse = sums.gram.with_ridge(ridge).invert(self.known)
        return torch.where(inverse.positive.unsqueeze(-1), inverse.solve(values), torch.nan)

    def with_third_derivatives(self) -> Equations:
        """The same with a density that has third derivatives: the equations then have second ones."""
        if not any(isinstance(inner, Compound) for inner in self.family.modules()):
            return self
        family = copy.deepcopy(self.family)
        for inner in family.modules():
            if isinstance(inner, Compound):
                inner.thrice = True
        return replace(self, family=family)

    def _score(self, rows: Rows, eta: Tensor) -> Tensor:
        """(K, B, n) `dl / deta` of every row in its graph."""
        if isinstance(self.family, VectorFamily):
            with torch.enable_grad():
                at = _with_graph(eta)
                return -torch.autograd.grad(self.family.nll(rows.response, at).sum(), at, create_graph=True)[0]
        mu = self.link(eta[0])
        return self.family.score_and_weight(rows.response, eta[0], mu, self.link, False)[0].unsqueeze(0)


class Implicit(torch.autograd.Function):
    """The coefficients `found` (B, P) as a function of `parts`; those of models that are not `sound` (B,) are NaN.

    So are the derivatives of these, but where nothing is asked of them: a loss over the others alone has its own.
    """

    @staticmethod
    def forward(ctx: Any, equations: Equations, found: Tensor, sound: Tensor, *parts: Tensor) -> Tensor:
        """Keep what the derivatives are made of."""
        out = torch.where(sound.unsqueeze(-1), found, torch.nan)
        ctx.equations, ctx.found, ctx.sound = equations, found, sound
        ctx.save_for_backward(out, *parts)
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """One solve and one vector-Jacobian product, which have a graph where derivatives of them are wanted."""
        out, *parts = ctx.saved_tensors
        equations, again = ctx.equations, torch.is_grad_enabled()
        equations = equations.with_third_derivatives() if again else equations
        sound = ctx.sound.unsqueeze(-1)
        # nothing is asked of a coefficient that is not known, nor of a model that failed and is left out of the loss
        value = torch.where(
            sound, torch.where(equations.known, upstream[0], 0.0), torch.where(upstream[0] == 0, 0.0, torch.nan)
        )
        coef = torch.where(sound, out, ctx.found) if again else ctx.found
        with torch.enable_grad():
            # in the place of the tensors, so that what `out` itself depends on is no part of the product
            own = [part.view_as(part) if again else part.detach().requires_grad_(part.requires_grad) for part in parts]
            given = equations.made(own)
            along = equations.solved_in_graph(given, coef, value) if again else equations.solved(given, coef, value)
            along = torch.where(sound, along, value)
            wanted = [part for part, needed in zip(own, ctx.needs_input_grad[3:], strict=True) if needed]
            pulled = equations.pulled(given, coef, along)
            found = iter(torch.autograd.grad(pulled, wanted, create_graph=again, allow_unused=True))
        return None, None, None, *(next(found) if needed else None for needed in ctx.needs_input_grad[3:])


def _predictors(rows: Rows, coef: Tensor) -> Tensor:
    """(K, B, n) the linear predictors, in their graph."""
    offset = rows.offset.unsqueeze(0) if rows.plan is None else rows.offset.movedim(-1, 0)
    return _contributions(rows, coef) + offset


def _contributions(rows: Rows, coef: Tensor) -> Tensor:
    """(K, B, n) the same without the offset."""
    if rows.plan is None:
        return _times(rows, coef, rows.intercept).unsqueeze(0)
    total: Tensor | float = 0.0
    for block, place in zip(rows.plan.blocks, rows.plan.slices, strict=True):
        theta = coef[:, place].unflatten(-1, (block.width, len(block.columns)))  # (B, r, m)
        own = part(rows, block)
        inner = torch.stack([_times(own, theta[:, t], own.intercept) for t in range(block.width)])
        total = total + torch.einsum("kr,rbn->kbn", block.contrast.to(inner), inner)
    assert isinstance(total, Tensor)
    return total


def _times(rows: Rows, coef: Tensor, intercept: bool) -> Tensor:
    """(B, n) `x coef` of a plain design."""
    slopes = coef[:, int(intercept) :]
    inner = slopes @ rows.x.mT if rows.shared else (rows.x @ slopes.unsqueeze(-1)).squeeze(-1)
    return inner + coef[:, :1] if intercept else inner


def _designs(rows: Rows) -> Tensor:
    """(K, n, P) or (K, B, n, P) the design of every predictor, all columns written out."""
    return whole(rows).unsqueeze(0) if rows.plan is None else expanded(rows)


def _with_graph(value: Tensor) -> Tensor:
    return value if value.requires_grad else value.detach().requires_grad_()


def _matrix(ridge: Tensor) -> Tensor:
    """(B, P, P) a curvature that may be given by its diagonal (B, P)."""
    return ridge if ridge.dim() == 3 else torch.diag_embed(ridge)
