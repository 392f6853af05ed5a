"""The quadratic model of a step with kinks along rows: differences held together, limits, equations.

Every such shape is a sum of terms `max_{lower <= u <= upper} u (k'b - c)`: an absolute value of `k'b - c` has limits -l
and l, an inequality `k'b <= c` has 0 and infinity, an equation has none. The multipliers `u` solve a quadratic model
within their limits, which `faces.minimise` ends exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.fitting.faces import minimise
from torchglm.rows.inverses import DenseInverse

# share of the scaled diagonal added where the smallest squared pivot is below `LEAST`: the step then falls short, and
# is 0 at the optimum alone
DAMPING = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)
LEAST = 1e-13
SQUARES = (1.0, 1e2, 1e4)  # of the rows that stand on their kinks, in units of the scaled diagonal
NEARLY_FLAT = 1e-3  # a curvature that takes more damping than that is not positive
EMPTY = 1e-14  # of the largest curvature: a column with less has none
EXACT = 1e-13  # standard errors that a row of the solution may miss
SETTLED = 1e-12  # of the slopes: what a step may miss of them
EPS = torch.finfo(torch.float64).eps
TIED = 1e-10  # of the terms of a row: what is nearer to its kink stands on it


@dataclass(frozen=True)
class Kinks:
    """`matrix` (m, p) of the rows `k`, and of every model their kinks `centre` and limits `lower`, `upper` (B, m)."""

    matrix: Tensor
    centre: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def hard(self) -> Tensor:
        """(B, m) the rows that are constraints: a side of theirs is not allowed."""
        return torch.isinf(self.lower) | torch.isinf(self.upper)

    @property
    def equations(self) -> Tensor:
        """(m,) the rows that are equations, of every model."""
        return (torch.isinf(self.lower) & torch.isinf(self.upper)).all(0)

    def beyond(self, coef: Tensor, spread: Tensor | float = 0.0) -> Tensor:
        """(B, m) `k'b - c`, 0 where that is rounding of its terms, or of a value of such a `spread` (B, m)."""
        value = coef @ self.matrix.mT - self.centre
        size = coef.abs() @ self.matrix.abs().mT + self.centre.abs() + spread
        return torch.where(value.abs() <= TIED * size, 0.0, value)

    def value(self, coef: Tensor) -> Tensor:
        """(B,) the sum of the terms; constraints, which hold, are none."""
        beyond = self.beyond(coef)
        slope = torch.where(beyond > 0, self.upper, self.lower)
        return torch.where(self.hard | (beyond == 0), 0.0, slope * beyond).sum(-1)

    def allowed(self, coef: Tensor, spread: Tensor | float = 0.0) -> Tensor:
        """(B,) whether all constraints hold, up to rounding as in `beyond`."""
        beyond = self.beyond(coef, spread)
        over = torch.isinf(self.upper) & (beyond > 0) | torch.isinf(self.lower) & (beyond < 0)
        return ~over.any(-1)

    def put(self, coef: Tensor, on: Tensor) -> Tensor:
        """`coef` (B, p) with the rows `on` (B, m) put on their kinks exactly, where these are of one or two columns."""
        coef = coef.clone()
        for row in on.any(0).nonzero()[:, 0].tolist():
            at = self.matrix[row].nonzero()[:, 0].tolist()
            if len(at) == 1:
                exact = self.centre[:, row] / self.matrix[row, at[0]] + 0.0
            elif len(at) == 2 and float(self.matrix[row].sum()) == 0 and not bool(self.centre[:, row].any()):
                exact = coef[:, at[0]]
            else:
                continue
            coef[:, at[-1]] = torch.where(on[:, row], exact, coef[:, at[-1]])
        return coef

    def constraints(self) -> Kinks:
        """The same rows without the terms that are no constraints."""
        lower = torch.where(torch.isinf(self.lower), self.lower, 0.0)
        return replace(self, lower=lower, upper=torch.where(torch.isinf(self.upper), self.upper, 0.0))


class Firm(NamedTuple):
    """A curvature made positive: its Cholesky factor `lower` (B, p, p) in coefficients divided by `scale` (B, p).

    It holds the squares of the `equations` (B, k, p), scaled to length 1 from `length` (B, k), and `share` (B,) of its
    diagonal as damping.
    """

    lower: Tensor
    scale: Tensor
    equations: Tensor
    length: Tensor
    share: Tensor


def firm(curvature: Tensor, kinks: Kinks, keep: Tensor, coef: Tensor) -> Firm:
    """A curvature (B, p, p) on the columns `keep` (B, p), with the squares of the equations, made positive.

    Where it is not it may be so along the rows that stand on their kinks at `coef` (B, p): their squares, whose slope
    is 0 there, are added first (an augmented Lagrangian, which leaves Newton's steps along them what they are).
    """
    diagonal = curvature.diagonal(dim1=-2, dim2=-1)
    most = torch.where(keep, diagonal, 0.0).amax(-1, keepdim=True)
    used = keep & (diagonal > EMPTY * most)
    usual = torch.where(used, diagonal, 0.0).sum(-1, keepdim=True) / used.sum(-1, keepdim=True).clamp(min=1)
    usual = torch.where(usual > 0, usual, 1.0)
    scale = torch.where(keep, torch.where(used, diagonal, usual).rsqrt(), 1.0)
    both = keep.unsqueeze(-1) & keep.unsqueeze(-2)
    whole = torch.where(both, curvature * scale.unsqueeze(-1) * scale.unsqueeze(-2), 0.0)
    whole = whole + torch.diag_embed((~keep).to(whole.dtype))
    unit, length = _unit(kinks.matrix * torch.where(keep, scale, 0.0).unsqueeze(-2))  # (B, m, p)
    equal = kinks.equations
    whole = whole + unit[:, equal].mT @ unit[:, equal]
    share, lower = torch.zeros_like(whole[:, 0, 0]), torch.linalg.cholesky_ex(whole).L
    failed = _failed(whole)
    if bool(failed.any()):
        on = (kinks.beyond(coef) == 0) & (kinks.lower != kinks.upper) & ~equal
        face = torch.where(on.unsqueeze(-1), unit, 0.0)
        for weight in SQUARES:
            trial = whole + weight * (face.mT @ face)
            whole = torch.where((failed & ~_failed(trial)).view(-1, 1, 1), trial, whole)
            failed = _failed(whole)
        empty = torch.diag_embed((keep & ~used).to(whole.dtype))
        whole = torch.where(failed.view(-1, 1, 1), whole + empty, whole)
        for more in (*DAMPING, whole.shape[-1] + 1.0):
            share = torch.where(failed, more, share)
            failed = _failed(_damped(whole, share))
        lower = torch.linalg.cholesky_ex(_damped(whole, share)).L
    return Firm(lower, scale, unit[:, equal], length[:, equal], share)


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    length = rows.square().sum(-1).sqrt()
    return rows / torch.where(length > 0, length, 1.0).unsqueeze(-1), length


def _failed(matrix: Tensor) -> Tensor:
    """(B,) whether matrices are not clearly positive."""
    lower, info = torch.linalg.cholesky_ex(matrix)
    return (info != 0) | ~(lower.diagonal(dim1=-2, dim2=-1).amin(-1) >= LEAST**0.5)


def _damped(matrix: Tensor, share: Tensor) -> Tensor:
    return matrix + torch.diag_embed(share.unsqueeze(-1).expand(matrix.shape[:-1]))


def firm_inverse(curvature: Tensor, kinks: Kinks, keep: Tensor, coef: Tensor) -> DenseInverse:
    """What a search asks of the inverse of a curvature: where it has none but for the constraints it has a damped one.

    `positive` says where little damping did.
    """
    made = firm(curvature, kinks, keep, coef)
    positive = made.share <= NEARLY_FLAT
    return DenseInverse(made.lower.mT, 1 / made.scale, keep, torch.ones_like(made.share), positive)


class KinkedStep(NamedTuple):
    """A step (B, p), the multipliers (B, m) of the rows, those (B, m) that end on their kinks, and the curvature."""

    step: Tensor
    multiplier: Tensor
    on: Tensor
    made: Firm


def kinked_step(curvature: Tensor, score: Tensor, coef: Tensor, kinks: Kinks, keep: Tensor) -> KinkedStep:
    """The step `d` (B, p) to the minimum of `d'Cd/2 - score'd` and the terms at `coef + d`, and their multipliers.

    Its dual is `min u'Qu/2 - v'u` within the limits of `u`, with `Q = K C^-1 K'` and `v` the values `k'b - c` where the
    step without kinks leads. Coefficients outside `keep` stay. Source: Nocedal & Wright (2006), section 12.9.
    """
    made = firm(curvature, kinks, keep, coef)
    value = coef @ kinks.matrix.mT - kinks.centre
    miss = value[:, kinks.equations] / torch.where(made.length > 0, made.length, 1.0)
    own = torch.where(keep, score * made.scale, 0.0) - (made.equations.mT @ miss.unsqueeze(-1)).squeeze(-1)
    half, size = lengths_of(made, kinks, keep)
    half = half.mT  # (B, p, m)
    begin = torch.linalg.solve_triangular(made.lower, own.unsqueeze(-1), upper=False)  # (B, p, 1)
    target = value + (half.mT @ begin).squeeze(-1)
    moves = size > 0
    unit = torch.where(moves, size, 1.0)
    pair = half / unit.unsqueeze(-2)
    gram, pull = pair.mT @ pair, torch.where(moves, target / unit, 0.0)
    lower, upper = (torch.where(moves, end * unit, 0.0) for end in (kinks.lower, kinks.upper))
    terms = (coef.abs() @ kinks.matrix.abs().mT + kinks.centre.abs()) / unit
    rounding = torch.where(moves, EXACT * (1 + pull.abs()) + 8 * EPS * terms, 0.0)
    none = torch.zeros_like(pull)
    found = minimise(gram, pull, none, none, lower, upper, rounding.amax(-1) if pull.shape[-1] else none.sum(-1))
    left = begin - pair @ found.unsqueeze(-1)
    step = torch.linalg.solve_triangular(made.lower.mT, left, upper=True).squeeze(-1) * made.scale
    multiplier = found / unit
    pulls = torch.zeros_like(multiplier)  # the squares of the equations pull as well
    again = (made.equations @ (step / made.scale).unsqueeze(-1)).squeeze(-1) + miss
    pulls[:, kinks.equations] = again / torch.where(made.length > 0, made.length, 1.0)
    on = kinks.equations | moves & (found > lower) & (found < upper)
    return KinkedStep(torch.where(keep, step, 0.0), multiplier + pulls, on, made)


def placed_step(curvature: Tensor, score: Tensor, coef: Tensor, kinks: Kinks, keep: Tensor) -> Tensor:
    """The step (B, p) of `kinked_step` that puts rows on their kinks exactly, the others corrected for that.

    And for what damping made of the step, along the coefficients that the kinks leave free.
    """
    found = kinked_step(curvature, score, coef, kinks, keep)
    step = torch.where(keep, kinks.put(coef + found.step, found.on) - coef, 0.0)
    left = score - (curvature @ step.unsqueeze(-1)).squeeze(-1) - found.multiplier @ kinks.matrix
    made, size = found.made, (score.abs() + (curvature.abs() @ step.abs().unsqueeze(-1)).squeeze(-1)) * found.made.scale
    left = torch.where(keep, left * made.scale, 0.0)
    off = left.abs().amax(-1) > SETTLED * size.amax(-1)
    if not bool(off.any()):
        return step
    half, error = lengths_of(made, kinks, keep)
    base = base_of(half, error, found.on)
    inner = torch.linalg.solve_triangular(made.lower, left.unsqueeze(-1), upper=False)
    inner = inner - base.mT @ (base @ inner)
    more = torch.linalg.solve_triangular(made.lower.mT, inner, upper=True).squeeze(-1) * made.scale
    better = kinks.put(coef + step + torch.where(off.unsqueeze(-1) & keep, more, 0.0), found.on) - coef
    return torch.where(keep, better, 0.0)


def lengths_of(made: Firm, kinks: Kinks, keep: Tensor) -> tuple[Tensor, Tensor]:
    """(B, m, p) the rows in the coordinates in which the curvature is one, and (B, m) their lengths.

    These are their standard errors for a dispersion of 1.
    """
    rows = kinks.matrix * torch.where(keep, made.scale, 0.0).unsqueeze(-2)
    half = torch.linalg.solve_triangular(made.lower, rows.mT, upper=False).mT
    return half, half.square().sum(-1).sqrt()


def base_of(half: Tensor, length: Tensor, held: Tensor) -> Tensor:
    """(B, k, p) an orthonormal base of the rows `held` (B, m), with zeros for those that others say."""
    unit = torch.where(held.unsqueeze(-1), half / torch.where(length > 0, length, 1.0).unsqueeze(-1), 0.0)
    _, values, right = torch.linalg.svd(unit, full_matrices=False)
    return right * (values > TIED).unsqueeze(-1)
