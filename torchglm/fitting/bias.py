"""Mean bias reduction: estimates that are finite where classes separate, and nearer the truth in small samples.

The score has `phi sum h_i (d2mu/deta2) / (2 dmu/deta) x_i` added, with `h` the leverages: what the bias of maximum
likelihood takes from it to first order. Under the canonical link of a family without dispersion that is the slope of
`log det(X'WX) / 2`, Jeffreys' prior. Source: Firth (1993), Biometrika 80(1); Kosmidis & Firth (2009), Biometrika 96(4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.grams import Dense, Gram
from torchglm.rows.inverses import GramInverse
from torchglm.rows.products import linear_predictor, project, quadratic
from torchglm.rows.ranks import own_rows, ranks_of, seen
from torchglm.rows.rows import Rows, in_pairs, to_float64
from torchglm.rows.threads import small_operators
from torchglm.writing.answering import answering_init

DISTANCE = 1e-10  # in standard errors, of the last step
STEPS = 200
SHORTEST = 2.0**-30


@answering_init
@dataclass(frozen=True)
class Jeffreys:
    """Mean bias reduction by an adjusted score, the remedy for separation and for small samples; see `fitting.bias`.

    Coefficients are finite whatever the rows (of full rank), standard errors are those of the expected information,
    and `conf_int(method="profile")` gives limits by the penalised likelihood. `penalized_loglik` is
    `loglik + log det(X'WX) / 2`. A shape that the family estimates is that of maximum likelihood given the
    coefficients, which are bias-reduced given the shape.
    """

    def take(self, models: Tensor) -> Jeffreys:
        """That of some of the models."""
        return self

    def check(self, family: Family) -> None:
        """Raise `ValueError` for a family whose bias is not known here."""
        if isinstance(family, VectorFamily):
            raise ValueError(f"Jeffreys() reduces the bias of families of one predictor, not of {family.name}.")


@dataclass
class Climb:
    """Where the climb stands: coefficients (B, p), the moments there, and the inverse of the expected information.

    `score` (B, p) is the adjusted one of the coefficients that move, `size` (B,) its length in standard errors,
    squared; `merit` (B,) falls along the way.
    """

    coef: Tensor
    moments: Moments
    inverse: GramInverse
    keep: Tensor
    score: Tensor
    size: Tensor
    merit: Tensor


@torch.no_grad()
def bias_reduced(
    source: Iterable[Rows], family: Family, link: Link, rank_tol: float, skip: Tensor | None, max_iter: int
) -> Solution:
    """The bias-reduced fit of `B` models, from the first step of maximum likelihood."""
    source = seen(source, in_pairs)
    first = irls(source, family, link, max_iter=1, rank_tol=rank_tol, skip=skip)
    coef = torch.where(first.keep, first.coef, 0.0)
    end, turns = climb(source, family, link, coef, first.keep, first.keep, max(STEPS, max_iter))
    done = (end.size <= DISTANCE**2) & end.moments.valid
    failed = first.status == int(Status.NOT_FINITE)
    status = torch.where(done, int(Status.CONVERGED), int(Status.STALLED))
    status = torch.where(failed, first.status, status)
    root = end.inverse.root.only(end.inverse.positive)
    moments = replace(end.moments, factor=None, statistics=None)
    return replace(first, coef=end.coef, moments=moments, root=root, status=status, n_iter=turns)


@torch.no_grad()
@small_operators()
def climb(
    source: Iterable[Rows], family: Family, link: Link, coef: Tensor, keep: Tensor, move: Tensor, most: int
) -> tuple[Climb, Tensor]:
    """The zero of the adjusted score in the coefficients that `move` (B, p), and the steps made of each model.

    Broyden's method from Fisher scoring on: what a step has shown of the slope of the adjusted score, which has no
    simple form, is kept for the next. A step is halved where the penalised likelihood falls, or where there is none
    where the adjusted score grows; halved often, it is one of Fisher scoring again.
    """
    here = _at(source, family, link, coef, keep, move)
    bend = _fisher(here, move)  # (B, p, p), of which the step is made
    plain = torch.ones_like(here.size, dtype=torch.bool)  # nothing is learned of the slope yet
    part, turns = torch.ones_like(here.size), torch.zeros(coef.shape[0], dtype=torch.int64, device=coef.device)
    for _ in range(most):
        open_ = (here.size > DISTANCE**2) & (part > SHORTEST)
        if not bool(open_.any()):
            break
        delta = torch.where(open_, part, 0.0).unsqueeze(-1) * (bend @ here.score.unsqueeze(-1)).squeeze(-1)
        there = _at(source, family, link, here.coef + delta, keep, move)
        slack = 1e-12 * (here.merit.abs() + 1)
        good = there.moments.valid & torch.isfinite(there.size) & (there.merit <= here.merit + slack)
        taken = good & open_
        turns = turns + taken.to(turns.dtype)
        bend = torch.where(taken[:, None, None], _learned(bend, delta, here.score - there.score), bend)
        here = _where(taken, there, here)
        part, plain = torch.where(taken, 1.0, part / 2), plain & ~taken
        again = open_ & ~plain & (part == 0.25)
        if bool(again.any()):
            bend, plain = torch.where(again[:, None, None], _fisher(here, move), bend), plain | again
            part = torch.where(again, 1.0, part)
    return here, turns


def _fisher(here: Climb, move: Tensor) -> Tensor:
    """(B, p, p) the inverse of the expected information of the coefficients that move, zero elsewhere."""
    inverse = here.moments.gram.invert(move)
    both = move.unsqueeze(-1) & move.unsqueeze(-2)
    return torch.where(both & inverse.positive[:, None, None], inverse.root.inverse(), 0.0)


def _learned(bend: Tensor, delta: Tensor, fall: Tensor) -> Tensor:
    """The inverse slope that has what a step `delta` (B, p) has shown: the score fell by `fall` (B, p)."""
    shown = (bend @ fall.unsqueeze(-1)).squeeze(-1)
    along = (delta.unsqueeze(-2) @ bend).squeeze(-2)
    size = (delta * shown).sum(-1, keepdim=True)
    sound = size.abs() > 1e-3 * (delta * delta).sum(-1, keepdim=True)
    update = (delta - shown).unsqueeze(-1) * along.unsqueeze(-2) / torch.where(sound, size, 1.0).unsqueeze(-1)
    return torch.where(sound.unsqueeze(-1), bend + update, bend)


def is_penalty(family: Family, link: Link) -> bool:
    """Whether the adjustment is the slope of `log det(X'WX) / 2`."""
    return family.is_canonical(link) and not family.has_dispersion


def information_term(gram: Gram, keep: Tensor) -> Tensor:
    """(B,) `log det(X'WX) / 2` on the kept columns."""
    assert isinstance(gram, Dense)  # rows are seen with all pairs of columns
    both = keep.unsqueeze(-1) & keep.unsqueeze(-2)
    matrix = torch.where(both, gram.matrix, torch.diag_embed((~keep).to(gram.matrix.dtype)))
    return torch.linalg.slogdet(matrix).logabsdet / 2


def _at(source: Iterable[Rows], family: Family, link: Link, coef: Tensor, keep: Tensor, move: Tensor) -> Climb:
    """The step from coefficients (B, p), in two passes: the leverages take the inverse of the first."""
    moments = fold(source, Point(coef, False, before=coef), family, link)
    inverse = moments.gram.invert(keep)
    phi = torch.ones_like(moments.objective)
    if family.has_dispersion:
        phi = moments.pearson / (moments.count - keep.sum(-1)).clamp(min=1)
    score = moments.score + phi.unsqueeze(-1) * _adjustment(source, coef, inverse, family, link)
    score = torch.where(move, score, 0.0)
    size = (score * moments.gram.invert(move).solve(score)).sum(-1) / phi
    merit = size
    if is_penalty(family, link):
        merit = moments.objective - information_term(moments.gram, keep)
    return Climb(coef, moments, inverse, keep, score, torch.where(inverse.positive, size, math.inf), merit)


def _adjustment(source: Iterable[Rows], coef: Tensor, inverse: GramInverse, family: Family, link: Link) -> Tensor:
    """(B, p) `sum h (d2mu/deta2) / (2 dmu/deta) x`."""
    total, ranks = torch.zeros_like(coef), ranks_of(source)
    with ranks.together():
        for rows in (piece for chunk in own_rows(source) for piece in to_float64(chunk).pieces()):
            eta = linear_predictor(rows, coef)
            mu = link(eta)
            weight = family.score_and_weight(rows.response, eta, mu, link, False)[1] * rows.weight
            value = weight * quadratic(rows, inverse.root) * link.inverse_curvature(eta) / 2
            total = total + project(rows, torch.where(rows.weight > 0, value, 0.0))
    [total] = ranks.sum(total)
    return total


def _where(taken: Tensor, there: Climb, here: Climb) -> Climb:
    """Each model where its step led, if it was taken."""
    index = taken.nonzero()[:, 0]
    if index.numel() == taken.numel():
        return there
    both = taken.unsqueeze(-1)
    moments = here.moments.place(index, there.moments.take(index))
    return Climb(
        torch.where(both, there.coef, here.coef),
        moments,
        moments.gram.invert(here.keep),
        here.keep,
        torch.where(both, there.score, here.score),
        torch.where(taken, there.size, here.size),
        torch.where(taken, there.merit, here.merit),
    )
