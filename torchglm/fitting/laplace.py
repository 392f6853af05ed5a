"""The marginal likelihood of penalised fits by Laplace's approximation, with exact derivatives.

With `S = sum_j lambda_j S_j`, the maximum `b` of the penalised likelihood, and the observed information `W` there,

    V = -l(b) + b' S b / (2 phi) + (log|X'WX + S| - log|S|_+) / 2 - M log(2 pi phi) / 2

where `l` is fully normalised and `M` the dimension of what is not penalised (REML; for ML the determinants are those of
the penalised part and `M` is 0). A dispersion that is estimated minimises `V` at each strength.
Source: Wood (2011), J. R. Stat. Soc. B 73(1), 3-36; mgcv's `method = "REML"` and `"ML"`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.bends import Bends, RowBends
from torchglm.fitting.bends_several import PlannedBends
from torchglm.fitting.dispersions import least_dispersion
from torchglm.fitting.edges import edges
from torchglm.fitting.irls import pull
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.marginal import Marginal, Stand
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.penalties import Quadratic
from torchglm.fitting.problem import Problem
from torchglm.fitting.ranges import Ranges, scaled_root
from torchglm.fitting.search import Search
from torchglm.fitting.shape import RowMeans
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.links import Identity, Link
from torchglm.rows.grams import Layout
from torchglm.rows.inverses import DenseRoot
from torchglm.rows.ranks import members, rows_in_memory
from torchglm.rows.rows import Rows

QUICK = 6  # Newton steps of a fit from coefficients near by
FALLING = 0.1  # share of its decrement that a step may leave, else a search goes on
CLOSE = 1e-12  # share of the objective by which a square may move the criterion
ROUNDED = 1e-10  # a decrement that may be rounding where it does not fall


class Criterion:
    """The criterion of models on a source, by the penalty's method, as a function of `theta`.

    `first` is a fit of the same models at any strengths, `phi` a dispersion that is held or None, `name` the raw shape
    parameter that is estimated, or empty.
    """

    def __init__(
        self,
        source: Iterable[Rows],
        family: Family,
        link: Link,
        penalty: Quadratic,
        first: Solution,
        options: dict[str, Any],
        phi: float | None,
        name: str,
    ) -> None:
        self.source, self.family, self.link, self.penalty, self.name = source, family, link, penalty, name
        self.options, self.phi, self.keep = options, phi, first.keep
        self.several = isinstance(family, VectorFamily)  # of which the deviance is the whole likelihood
        known = not (self.several or family.has_dispersion)
        self.relative = known and first.coef.device.type == "cpu"  # objectives need not say what `y` alone adds
        self.ranges = Ranges(penalty, first.coef.shape[-1], first.coef.device)
        self.count, self.weight = first.moments.count, first.moments.weight
        self.saturated = torch.full_like(self.count, torch.nan)  # log-likelihood beside the objective, once it is known
        self.restricted = penalty.method == "reml"
        self.flat = family.least_squares and type(link) is Identity  # the information is the same everywhere
        self.free = self.keep.sum(-1) - self.ranges.rank if self.restricted else torch.zeros_like(self.count)

    @property
    def many(self) -> int:
        """The number of strengths."""
        return self.ranges.count

    def _rows(self, lane: Tensor) -> Iterable[Rows]:
        """The rows of models, which are not copied where these are all."""
        every = lane.numel() == self.count.numel() and bool((lane[1:] > lane[:-1]).all())
        return self.source if every else members(self.source, lane)

    def _family(self, lane: Tensor, theta: Tensor) -> Family:
        if self.name:
            return self.family.with_parameters({self.name: theta[:, -1]})
        return take_family(self.family, lane)

    def _problem(self, lane: Tensor, theta: Tensor) -> Problem:
        """The penalised fit of some models at `theta`."""
        penalty = self.penalty.take(lane).with_strength(theta[:, : self.many].exp())
        options = {name: self.options[name] for name in ("tol", "max_iter", "rank_tol")}
        layout, held, family = Layout(self.keep.shape[-1]), rows_in_memory(self.source), self._family(lane, theta)
        return Problem(
            family, self.link, penalty, len(lane), layout, lane.device, **options, held=held, several=self.several
        )

    def at(self, lane: Tensor, theta: Tensor, start: Tensor) -> Marginal:
        """The criterion of some models at `theta` (b, K), from coefficients near by (b, p)."""
        return self.said(lane, theta, self._fitted(lane, theta, start))

    def roughly(self, lane: Tensor, theta: Tensor, start: Tensor, most: float) -> Marginal:
        """The same by one pass, where the step that is left has no larger decrement than `most`."""
        stand = self._stand(lane, theta, start)
        far = (~(stand.sound & (stand.decrement <= most * stand.unit))).nonzero()[:, 0]
        if far.numel():
            stand = stand.place(far, self._fitted(lane[far], theta[far], start[far]))
        return self.said(lane, theta, stand)

    def said(self, lane: Tensor, theta: Tensor, found: Stand) -> Marginal:
        """The criterion of some models where they stand; the step they have left is taken by their quadratic model."""
        strength, coef = theta[:, : self.many].exp(), found.coef + found.left
        squares = self._squares(strength, self._away(lane, coef))
        size, own, twice = self.ranges.log_determinant(strength)
        before = self._squares(strength, self._away(lane, found.coef)).sum(-1)
        total = 2 * found.here.objective + before - found.decrement
        half, phi, bend = self._unlikely(lane, theta, found, total, squares.sum(-1))
        value = half + (found.log - size) / 2 - self.free[lane] * torch.log(2 * math.pi * phi) / 2
        value = torch.where(found.sound & torch.isfinite(value), value, torch.inf)
        traces = self._traces(found.inner, strength)
        gram = found.here.gram.written_out()
        parts = (found.root, found.inner, found.log, squares, traces, own, twice, bend, gram)
        return Marginal(theta, coef, value, phi, *parts)

    def _fitted(self, lane: Tensor, theta: Tensor, start: Tensor) -> Stand:
        """The penalised fits of some models: by Newton's steps alone where they close in, else by a search."""
        at = self._stand(lane, theta, start)
        going = ~at.close
        for _ in range(QUICK):
            index = going.nonzero()[:, 0]
            if not index.numel():
                return at
            old = at.decrement[index]
            new = self._stand(lane[index], theta[index], at.coef[index] + at.left[index])
            falls = new.sound & (new.decrement <= FALLING * old)
            moved = falls.nonzero()[:, 0]
            at = at.place(index[moved], new.take(moved))
            stays = ~falls & (old <= ROUNDED * at.unit[index])
            going[index] = ~(at.close[index] | stays)
            if not bool((falls | stays).all()):
                break
        index = going.nonzero()[:, 0]
        if index.numel():
            at = at.place(index, self._sought(lane[index], theta[index], start[index]))
        return at

    def _sought(self, lane: Tensor, theta: Tensor, start: Tensor) -> Stand:
        """The fits of models by the search that every fit is made by, which knows what to do far from the maximum."""
        problem, every = self._problem(lane, theta), bool(self.keep[lane].all())
        search = Search(problem, known=start) if every else Search(problem, start=start)
        pull(search, self._rows(lane))
        found = search.solution
        at = self._stand(lane, theta, found.coef)
        return replace(at, sound=at.sound & (found.status == int(Status.CONVERGED)))

    def _stand(self, lane: Tensor, theta: Tensor, coef: Tensor) -> Stand:
        """Some models at coefficients (b, p): one pass."""
        return self.standing(lane, theta, coef, self.sums(lane, theta, coef))

    def sums(self, lane: Tensor, theta: Tensor, coef: Tensor) -> Moments:
        """The sums of a pass at coefficients (b, p), with the observed information."""
        return fold(self._rows(lane), Point(coef, True, relative=self.relative), self._family(lane, theta), self.link)

    def standing(self, lane: Tensor, theta: Tensor, coef: Tensor, here: Moments) -> Stand:
        """Some models at coefficients (b, p) of which a pass has left the sums `here`."""
        strength, keep = theta[:, : self.many].exp(), self.keep[lane]
        root, inner, log, sound = self._roots(here.gram.written_out(), strength, keep)
        score = self._score(lane, coef, here, strength, keep)
        left = torch.where(keep, _solve(root, score.unsqueeze(1))[:, 0], 0.0)
        sound = sound & here.valid & torch.isfinite(left).all(-1)
        left = torch.where(sound.unsqueeze(-1), left, 0.0)
        count, size, decrement = self.count[lane], here.objective.abs(), (score * left).sum(-1)
        unit = torch.ones_like(log) if self.several or not self.family.has_dispersion else 2 * size / count
        # a step of decrement d moves the logarithm of the determinant by about p sqrt(d / n)
        least = (CLOSE * size.clamp(min=1.0) / coef.shape[-1]).square() * count
        return Stand(coef, here, root, inner, log, sound, left, decrement, unit, sound & (decrement <= least * unit))

    def guess(self, lane: Tensor, at: Marginal, theta: Tensor) -> Tensor:
        """(b,) what the criterion would be at `theta` if the likelihood were quadratic: it costs no pass."""
        away = self._away(lane, at.coef)
        right = (at.gram @ away.unsqueeze(-1)).squeeze(-1) + self._drawn(at.theta, away).sum(1)
        root, _, log, sound = self._roots(at.gram, theta[:, : self.many].exp(), self.keep[lane])
        before, after = ((right * _solve(own, right.unsqueeze(1))[:, 0]).sum(-1) for own in (at.root, root))
        sizes = (self.ranges.log_determinant(point[:, : self.many].exp())[0] for point in (at.theta, theta))
        old, new = ((own - size) / 2 for own, size in zip((at.log, log), sizes, strict=True))
        rise, freedom = (before - after) / at.phi, self.count[lane] - self.free[lane]
        estimated = self.phi is None and self.family.has_dispersion
        half = freedom * torch.log1p(rise.clamp(min=0) / freedom) / 2 if estimated else rise / 2
        return torch.where(sound, at.value + half + new - old, torch.inf).nan_to_num(torch.inf)

    def refined(self, found: Solution, theta: Tensor, family: Family) -> Solution:
        """A fit of all models with its last digits, and the root of its inverse information, from the rotated basis."""
        return self._refined(
            found, theta, fold(self.source, Point(found.coef, self.several, census=True), family, self.link)
        )

    def _refined(self, found: Solution, theta: Tensor, here: Moments) -> Solution:
        strength, keep = theta[:, : self.many].exp(), found.keep
        root, _, _, sound = self._roots(here.gram.written_out(), strength, keep, restricted=True)
        every = torch.arange(len(theta), device=theta.device)
        left = torch.where(sound.unsqueeze(-1), self._left(every, found.coef, here, strength, root, keep), 0.0)
        return replace(
            found, coef=found.coef + left, root=DenseRoot(torch.where(sound[:, None, None], root, torch.nan))
        )

    def ended(self, found: Solution, theta: Tensor, family: Family) -> Solution:
        """The same, with the moments that a report has, where models came to their end."""
        ends = None if self.several else edges(family, self.link)
        bounded = ends is not None and any(map(math.isfinite, ends))
        point = Point(found.coef, self.several, before=found.coef, ends=ends if bounded else None)
        here = fold(self.source, point, family, self.link)
        return replace(self._refined(found, theta, here), moments=here)

    def _away(self, lane: Tensor, coef: Tensor) -> Tensor:
        """(b, p) the coefficients of some models less what the penalty draws them to."""
        return self.penalty.take(lane).away(coef)

    def _left(self, lane: Tensor, coef: Tensor, here: Moments, strength: Tensor, root: Tensor, keep: Tensor) -> Tensor:
        """(B, p) the step that a fit has left: rounding of large strengths does not reach the null space."""
        score = self._score(lane, coef, here, strength, keep)
        return torch.where(keep, _solve(root, score.unsqueeze(1))[:, 0], 0.0)

    def _score(self, lane: Tensor, coef: Tensor, here: Moments, strength: Tensor, keep: Tensor) -> Tensor:
        """(B, p) the score less the slope of the penalty."""
        turn = self.ranges.rotation
        own = (self.ranges.whole(strength) @ (self._away(lane, coef) @ turn).unsqueeze(-1)).squeeze(-1)
        return torch.where(keep, here.score - own @ turn.mT, 0.0)

    def moves(self, lane: Tensor, at: Marginal) -> Tensor:
        """(b, J, p) the derivatives of `coef` by the log strengths, which cost no pass."""
        return -_solve(at.root, self._drawn(at.theta, self._away(lane, at.coef)))

    def slopes(self, lane: Tensor, at: Marginal) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient (b, K) and the Hessian (b, K, K) of the criterion, and (b, K, p) that of `coef`, by `theta`."""
        drawn = self._drawn(at.theta, self._away(lane, at.coef))  # lambda_j S_j b
        moves = self.moves(lane, at)
        gradient, hessian = at.squares / 2, torch.diag_embed(at.squares / 2)
        if self.name:
            slope, first, second = self._row_bends(lane, at).of_shape()
            own = _solve(at.root, slope.unsqueeze(1))
            moves, gradient = torch.cat([moves, own], 1), torch.cat([gradient, -first.unsqueeze(-1)], 1)
            hessian = torch.nn.functional.pad(hessian, (0, 1, 0, 1))
            hessian[:, -1, -1] = -second - (slope * own[:, 0]).sum(-1)
        cross = torch.einsum("bjp,bkp->bjk", drawn, moves)
        hessian[:, : self.many] += cross
        if self.name:
            hessian[:, -1, : self.many] += cross[..., -1]
        gradient, hessian = gradient / at.phi.unsqueeze(-1), hessian / at.phi[:, None, None]
        pull = gradient[:, : self.many]  # the dispersion follows the strengths
        hessian[:, : self.many, : self.many] -= pull.unsqueeze(-1) * pull.unsqueeze(-2) / at.bend[:, None, None]
        bends = None if self.flat else self._bends(lane, at, moves)
        log_slope, log_bend = self._log_slopes(at, moves, drawn, bends)
        gradient, hessian = gradient + log_slope / 2, hessian + log_bend / 2
        gradient[:, : self.many] -= at.own / 2
        hessian[:, : self.many, : self.many] -= at.twice / 2
        return gradient, (hessian + hessian.mT) / 2, moves

    def _bends(self, lane: Tensor, at: Marginal, moves: Tensor) -> Bends:
        family = self._family(lane, at.theta)
        if isinstance(family, VectorFamily):
            return PlannedBends(self._rows(lane), family, at.coef).along(at.inner, moves)
        return self._row_bends(lane, at).along(at.inner, moves)

    def _row_bends(self, lane: Tensor, at: Marginal) -> RowBends:
        return RowBends(self._rows(lane), self._family(lane, at.theta), self.link, at.coef, self.name)

    def _log_slopes(self, at: Marginal, moves: Tensor, drawn: Tensor, bends: Bends | None) -> tuple[Tensor, Tensor]:
        """The derivatives of `log|X'WX + S|` (of the penalised part, for ML), as the coefficients follow."""
        many, (models, total, _), r = self.many, moves.shape, at.inner.shape[-1]
        changes = at.inner.new_zeros(models, total, r, r)  # inner' (d information / d theta) inner
        changes[:, :many] = self._within(at.inner, at.theta[:, :many].exp())
        if bends is not None:
            changes = changes + at.inner.mT.unsqueeze(1) @ bends.grams @ at.inner.unsqueeze(1)
        slope = changes.diagonal(dim1=-2, dim2=-1).sum(-1)
        bend = -torch.einsum("bjrs,bksr->bjk", changes, changes)
        bend[:, range(many), range(many)] += at.traces
        if bends is None:
            return slope, bend
        return slope, bend + bends.twice + self._second_moves(at, moves, drawn, bends)

    def _second_moves(self, at: Marginal, moves: Tensor, drawn: Tensor, bends: Bends) -> Tensor:
        """(B, K, K) `pull' d2b`: the second derivatives of the coefficients `d2b`, along `bends.pull`."""
        many, total = self.many, moves.shape[1]
        strength = at.theta[:, :many].exp()
        # right[j, k] = -(dH/dk) b_j - lambda_j S_j b_k - [j = k] lambda_j S_j b
        right = -torch.einsum("bkpq,bjq->bjkp", bends.grams, moves)
        penalised = torch.stack([self._times(strength, moves[:, k]) for k in range(total)], 1)  # (B, K, J, p)
        right[:, :, :many] -= penalised
        right[:, :many] -= penalised.transpose(1, 2)
        right[:, range(many), range(many)] -= drawn
        if bends.mixed is not None:
            right[:, -1] = -torch.einsum("bkpq,bq->bkp", bends.grams, moves[:, -1]) + bends.mixed
            right[:, -1, :many] -= penalised[:, -1]
        along = (at.root @ (at.root.mT @ bends.pull.unsqueeze(-1))).squeeze(-1)
        return torch.einsum("bjkp,bp->bjk", right, along)

    def _roots(
        self, gram: Tensor, strength: Tensor, keep: Tensor, restricted: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Roots of the inverse of `X'WX + S` and of what the determinant is of, its logarithm, where it is sound."""
        every, turn = bool(keep.all()), self.ranges.rotation
        if not every:
            both = keep.unsqueeze(-1) & keep.unsqueeze(-2)
            gram = torch.where(both, gram, torch.diag_embed((~keep).to(gram.dtype)))
        whole = self.ranges.whole(strength).add_(turn.mT @ gram @ turn)
        root, log, sound = scaled_root(whole)
        root = turn @ root if every else torch.where(keep.unsqueeze(-1), turn @ root, 0.0)
        if self.restricted or restricted:
            return root, root, log, sound
        at = self.ranges.inside.nonzero()[:, 0]
        inner, log, own = scaled_root(whole[:, at.unsqueeze(-1), at])
        return root, torch.where(keep.unsqueeze(-1), turn[:, at] @ inner, 0.0), log, sound & own

    def _unlikely(
        self, lane: Tensor, theta: Tensor, at: Stand, total: Tensor, drawn: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(b,) the penalised negative log-likelihood at the dispersion where the criterion is least, that dispersion,
        and the curvature by its logarithm.

        `total` are the deviances with the penalty and `drawn` the penalty alone, a step `at.left` from `at`. At a known
        dispersion deviance and likelihood differ by what is the same everywhere, and no further pass is needed.
        """
        count, free, none = self.count[lane], self.free[lane], torch.full_like(total, torch.inf)
        if self.several:
            return total / 2, torch.ones_like(total), none
        known = self.phi is not None or not self.family.has_dispersion
        if self.name or not (known or self.family.least_squares):
            means, family = RowMeans(self._rows(lane), self.link, at.coef + at.left), self._family(lane, theta)
            phi = torch.full_like(total, 1.0 if self.phi is None else self.phi)
            phi, bend = (phi, none) if known else least_dispersion(means, family, total, count, free)
            return drawn / (2 * phi) - means.loglik(family, phi), phi, bend
        phi = torch.full_like(total, 1.0 if self.phi is None or not known else self.phi)
        unknown = lane[torch.isnan(self.saturated[lane])]
        if unknown.numel():
            index = torch.isnan(self.saturated[lane])
            means = RowMeans(self._rows(unknown), self.link, at.coef[index])
            loglik = means.loglik(self._family(unknown, theta[index]), phi[index])
            self.saturated[unknown] = loglik + at.here.objective[index] / phi[index]
        if known:
            return total / (2 * phi) - self.saturated[lane], phi, none
        phi, half = total / (count - free), (count - free) / 2
        return half - self.saturated[lane] + count * phi.log() / 2, phi, half

    # products with single blocks, in the basis where their null space has no rounding ---------------------

    def _drawn(self, theta: Tensor, coef: Tensor) -> Tensor:
        """(B, J, p) `lambda_j S_j b`."""
        return self._times(theta[:, : self.many].exp(), coef)

    def _times(self, strength: Tensor, coef: Tensor) -> Tensor:
        turn = self.ranges.rotation
        own = coef @ turn
        out = coef.new_zeros(coef.shape[0], self.many, coef.shape[1])
        for j, (at, matrix) in enumerate(self.ranges.blocks):
            out[:, j, at] = strength[:, j, None] * (own[:, at] @ matrix)
        return out @ turn.mT

    def _squares(self, strength: Tensor, coef: Tensor) -> Tensor:
        """(B, J) `lambda_j b' S_j b`."""
        own = coef @ self.ranges.rotation
        return strength * torch.stack([((own[:, at] @ m) * own[:, at]).sum(-1) for at, m in self.ranges.blocks], -1)

    def _traces(self, inner: Tensor, strength: Tensor) -> Tensor:
        """(B, J) the traces of `inner' lambda_j S_j inner`."""
        parts = [(self.ranges.rotation[:, at].mT @ inner, matrix) for at, matrix in self.ranges.blocks]
        return strength * torch.stack([(part * (matrix @ part)).sum((-2, -1)) for part, matrix in parts], -1)

    def _within(self, inner: Tensor, strength: Tensor) -> Tensor:
        """(B, J, r, r) `inner' lambda_j S_j inner`."""
        parts = [(self.ranges.rotation[:, at].mT @ inner, matrix) for at, matrix in self.ranges.blocks]
        return strength[..., None, None] * torch.stack([part.mT @ matrix @ part for part, matrix in parts], 1)


def _solve(root: Tensor, right: Tensor) -> Tensor:
    """(B, K, p) the inverse `root root'` times vectors (B, K, p)."""
    return (root @ (root.mT @ right.mT)).mT
