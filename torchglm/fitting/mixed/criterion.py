"""The marginal likelihood of models with random effects by Laplace's approximation, and its exact gradient.

At the maximum `u` of the penalised likelihood, with the observed information `W` there and `G = X'WX` of all columns,

    V = -l(c) + u'Ru / (2 phi) + (log|Lambda'G Lambda + R| - log|S|_+) / 2 - M log(2 pi phi) / 2,    c = Lambda u

with `R` the identity on random effects and the penalty `S` on smooths. `"reml"` integrates over all coefficients
(`M` of which are not penalised); `"ml"` over the penalised ones, at the fixed effects that minimise `V` (as `glmer`).
A dispersion that is estimated minimises `V` at each point.
Source: Bates, Maechler, Bolker & Walker (2015), J. Stat. Software 67(1); Wood (2011), J. R. Stat. Soc. B 73(1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.dispersions import least_dispersion
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.mixed.crossed import AnyEliminated, AnyInner, EliminatedCrossed
from torchglm.fitting.mixed.effects import Groupings, Lambda
from torchglm.fitting.mixed.mark import Mark
from torchglm.fitting.mixed.order import order_of
from torchglm.fitting.mixed.pulls import pulls
from torchglm.fitting.mixed.quadrature import correction
from torchglm.fitting.mixed.system import Eliminated, Inner
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.penalties import Quadratic
from torchglm.fitting.ranges import Ranges
from torchglm.fitting.shape import RowMeans
from torchglm.links import Identity, Link
from torchglm.rows.arrow import Arrow, arrowed
from torchglm.rows.meetings import EffectGram, crossed, effect_gram, same
from torchglm.rows.planned_arrow import planned_arrowed
from torchglm.rows.planned_meetings import planned_crossed
from torchglm.rows.ranks import members, seen
from torchglm.rows.rows import Rows

NEAR = 1e-14  # a decrement of the modes from which one step more leaves the square
ROUNDING = 1e-14  # and a share of the criterion as well
STEPS = 100  # of the modes
HALVINGS = 30
TOGETHER = 1 << 20  # rows of all models that are gone over at once
SHARE = 1e-3  # step of the differences of what quadrature adds, as a share of a parameter


class MixedCriterion:
    """`V` of models on a source as a function of `psi`, and its gradient.

    `psi` (B, K) are the parameters of the roots of the covariances, the log strengths of smooths, the raw shape that is
    estimated, and (by ML of a likelihood that is not Gaussian) the fixed effects. `units` (B, q, q) are those of the
    effects of each grouping, `keep` (B, p) the columns that are independent, `phi` a dispersion that is held or None,
    `name` the shape parameter that is estimated, or empty.
    """

    def __init__(
        self,
        source: Iterable[Rows],
        family: Family,
        link: Link,
        effects: Groupings,
        penalty: Quadratic | None,
        keep: Tensor,
        restricted: bool,
        phi: float | Tensor | None,
        name: str,
    ) -> None:
        self.effects, self.family, self.link, self.restricted = effects, family, link, restricted
        grouping = effects.groupings[effects.large]
        self.grouping, self.keep, self.phi, self.name = grouping, keep, phi, name
        self.order = order_of(source, effects, len(keep))
        if self.order is None:
            effects.check(len(keep))
            self.source = seen(source, lambda rows: (arrowed if rows.plan is None else planned_arrowed)(rows, grouping))
        else:
            known = self.order.meetings
            self.source = seen(source, lambda rows: (crossed if rows.plan is None else planned_crossed)(rows, known))
        self.last: list[tuple[Tensor, EliminatedCrossed]] = []
        self.flat = family.least_squares and type(link) is Identity
        p = effects.columns
        self.ranges = None if penalty is None else Ranges(penalty, p, keep.device)
        self.rotation = torch.eye(p, dtype=torch.float64, device=keep.device)
        inside = torch.zeros(p, dtype=torch.bool, device=keep.device)
        if self.ranges is not None:
            self.rotation, inside = self.ranges.rotation, self.ranges.inside
        beside = effects.width - p - grouping.levels * grouping.effects
        random = torch.ones(beside, dtype=torch.bool, device=keep.device)
        self.penalised = torch.cat([inside, random]).nonzero()[:, 0]  # of the columns that are not eliminated
        self.every = torch.arange(p + beside, device=keep.device)
        self.fixed = (~inside).nonzero()[:, 0]  # places in u
        self.apart = not restricted and not self.flat  # the fixed effects are parameters
        self.nodes = 1  # of quadrature; 1 is Laplace's approximation
        self.base: Moments | None = None
        self.at_base = keep.new_zeros(0)
        self._lane: Tensor | None = None
        self._rows = self.source
        self.units: list[Tensor] = []
        self.count = self.ends = keep.new_zeros(0)
        self.vague = dict[str, Tensor]()  # of which models rows cannot tell the effects, by what is said of it
        self.constant = keep.new_zeros(0)  # what the log-likelihood has beside half the deviance

    # the parameters -----------------------------------------------------------------------------------------

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """How many parameters of roots, log strengths, shapes and fixed effects there are."""
        strengths = 0 if self.ranges is None else self.ranges.count
        return len(self.effects.entries), strengths, int(bool(self.name)), len(self.fixed) if self.apart else 0

    def parts(self, psi: Tensor) -> tuple[Tensor, ...]:
        """The parameters of `psi` by kind."""
        return psi.split(self.counts, -1)

    def turn(self, lane: Tensor, psi: Tensor) -> Lambda:
        """`Lambda` of some models."""
        rotation = None if self.ranges is None else self.rotation
        return Lambda(self.effects, rotation, self.effects.roots(self.parts(psi)[0], self.units_of(lane)))

    def units_of(self, lane: Tensor) -> list[Tensor]:
        """The units of the effects of some models."""
        return [unit[lane] for unit in self.units]

    def law(self, lane: Tensor, psi: Tensor) -> Family:
        """The family of some models at a point."""
        if self.name:
            return self.family.with_parameters({self.name: self.parts(psi)[2][:, 0]})
        return take_family(self.family, lane)

    def rows_of(self, lane: Tensor) -> Iterable[Rows]:
        """The rows of some models; they are made once for passes that follow one another."""
        if len(self.keep) == 1 and len(lane) == 1:
            return self.source
        if self._lane is None or not torch.equal(self._lane, lane):
            self._lane, self._rows = lane, members(self.source, lane)
        return self._rows

    def ridge(self, psi: Tensor) -> Tensor:
        """(B, p, p) `R` on the first columns."""
        if self.ranges is not None:
            return self.ranges.whole(self.parts(psi)[1].exp())
        return psi.new_zeros(len(psi), self.effects.columns, self.effects.columns)

    def drawn(self, psi: Tensor, u: Tensor) -> Tensor:
        """(B, P) `R u`."""
        p = self.effects.columns
        first = torch.zeros_like(u[:, :p])
        if self.ranges is not None:
            first = (self.ranges.whole(self.parts(psi)[1].exp()) @ u[:, :p].unsqueeze(-1)).squeeze(-1)
        return torch.cat([first, u[:, p:]], 1)

    def rebase(self, coef: Tensor) -> None:
        """Take the one pass of least squares anew at coefficients (B, P)."""
        self.base = fold(self.source, Point(coef, True, before=coef), self.family, self.link)
        self.at_base = coef

    # the modes ----------------------------------------------------------------------------------------------

    def eliminated(self, lane: Tensor, gram: EffectGram, turn: Lambda, psi: Tensor) -> AnyEliminated:
        """The curvature at a point, its levels eliminated; columns that depend stand in it as unit columns."""
        keep = self.keep[lane]
        if not bool(keep.all()):
            gram = gram.of_columns(keep)
        if isinstance(gram, Arrow):
            return Eliminated(gram, turn, self.ridge(psi))
        assert self.order is not None
        for at, known in self.last:
            if torch.equal(at, psi) and same(known.gram, gram):
                return known  # which takes the cube of the core to make
        found = EliminatedCrossed(gram, turn, self.ridge(psi), self.order)
        self.last = [*self.last[-1:], (psi, found)]
        return found

    def known(self, lane: Tensor, score: Tensor) -> Tensor:
        """A score (B, P) without what belongs to columns that are not kept."""
        p = self.effects.columns
        return torch.cat([torch.where(self.keep[lane], score[:, :p], 0.0), score[:, p:]], 1)

    def pass_at(
        self, lane: Tensor, family: Family, coef: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor, EffectGram]:
        """Half the deviance (infinite where it has none), score and information at coefficients `c`."""
        if self.flat and self.base is not None:
            base = self.base.take(lane)
            gram, move = effect_gram(base.gram, self.grouping), coef - self.at_base[lane]
            pulled = gram.times(move)
            half = base.objective - (base.score * move).sum(-1) + (pulled * move).sum(-1) / 2
            return half, base.score - pulled, gram
        source = self.rows_of(lane)
        here = fold(source, Point(coef, observed, before=coef), family, self.link)
        half = torch.where(here.valid, here.objective, torch.inf)
        return half, here.score, effect_gram(here.gram, self.grouping)

    def modes(
        self, lane: Tensor, psi: Tensor, u: Tensor, all_columns: bool, least: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor, EffectGram, Tensor, Tensor]:
        """The maxima of the penalised likelihood from `u` (b, P): `u`, half the deviance, and the rest.

        No closer than a decrement of `least` (None: `NEAR`). The rest are score and information of the coefficients
        there, half the penalty, and (b,) where the maximum was found. With `all_columns` fixed effects move too.
        """
        turn, family, at = self.turn(lane, psi), self.law(lane, psi), self.every if all_columns else self.penalised
        observed, least = torch.ones_like(lane, dtype=torch.bool), NEAR if least is None else least
        half, score, gram = self.pass_at(lane, family, turn.times(u), observed)
        value = half + (u * self.drawn(psi, u)).sum(-1) / 2
        done = torch.zeros_like(observed)
        for turns in range(STEPS):
            inner = self.eliminated(lane, gram, turn, psi).on(at)
            slope = turn.transposed(self.known(lane, score)) - self.drawn(psi, u)
            step = inner.solve(slope)
            sharp = (slope * step).sum(-1)
            bad = ~inner.sound | ~(sharp >= 0)
            if bool((bad & observed & ~done).any()) and not self.flat:
                observed = observed & ~bad
                half, score, gram = self.pass_at(lane, family, turn.times(u), observed)
                if turns < STEPS - 1:
                    continue
            near = (sharp <= least + ROUNDING * value.abs()) & ~bad
            done = near & torch.isfinite(value)
            if bool((done | ~torch.isfinite(value)).all()) or self.flat:
                break
            u, half, value, score, gram, stuck = self._moved(
                lane, psi, turn, family, u, torch.where(done.unsqueeze(-1), 0.0, step), value, observed
            )
            observed = observed | True if bool((~observed).any()) else observed
            if bool((stuck | done).all()):
                break
        if not bool(observed.all()):
            half, score, gram = self.pass_at(lane, family, turn.times(u), torch.ones_like(observed))
            inner = self.eliminated(lane, gram, turn, psi).on(at)
            slope = turn.transposed(self.known(lane, score)) - self.drawn(psi, u)
            step = inner.solve(slope)
        # the last step, its square left out
        found = inner.sound & (done | self.flat)
        step = torch.where(found.unsqueeze(-1), step, 0.0)
        move = turn.times(step)
        pulled = gram.times(move)
        half = half - (score * move).sum(-1) + (pulled * move).sum(-1) / 2
        u, score = u + step, score - pulled
        penalty = (u * self.drawn(psi, u)).sum(-1) / 2
        return u, half, score, gram, penalty, found

    def _moved(
        self, lane: Tensor, psi: Tensor, turn: Lambda, family: Family, u: Tensor, step: Tensor, value: Tensor,
        observed: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, EffectGram, Tensor]:  # fmt: skip
        """A step of the modes, halved until it does not rise."""
        share = torch.ones_like(value)
        for _ in range(HALVINGS):
            new = u + share.unsqueeze(-1) * step
            half, score, gram = self.pass_at(lane, family, turn.times(new), observed)
            after = half + (new * self.drawn(psi, new)).sum(-1) / 2
            rises = ~(after <= value + 1e-12 * value.abs()) & torch.isfinite(value)
            if not bool(rises.any()):
                return new, half, after, score, gram, rises
            share = torch.where(rises, share / 2, share)
        share = torch.where(rises, 0.0, share)
        new = u + share.unsqueeze(-1) * step
        half, score, gram = self.pass_at(lane, family, turn.times(new), observed)
        return new, half, half + (new * self.drawn(psi, new)).sum(-1) / 2, score, gram, rises

    # the criterion ------------------------------------------------------------------------------------------

    def place_fixed(self, psi: Tensor, u: Tensor) -> Tensor:
        """`u` with the fixed effects that are parameters."""
        if not self.apart:
            return u
        u = u.clone()
        u[:, self.fixed] = self.parts(psi)[3]
        return u

    @property
    def integrated(self) -> Tensor:
        return self.every if self.restricted else self.penalised

    def at(self, lane: Tensor, psi: Tensor, u: Tensor) -> Mark:
        """The criterion of some models at `psi` (b, K), its modes sought from `u` (b, P)."""
        u, half, score, gram, penalty, found = self.modes(lane, psi, self.place_fixed(psi, u), not self.apart)
        turn, family = self.turn(lane, psi), self.law(lane, psi)
        inner = self.eliminated(lane, gram, turn, psi).on(self.integrated)
        logs = inner.log - (0.0 if self.ranges is None else self.ranges.log_determinant(self.parts(psi)[1].exp())[0])
        free = self.free[lane]
        phi, loglik = self._likelihood(lane, family, turn.times(u), half, penalty, free)
        value = penalty / phi - loglik + logs / 2 - free * torch.log(2 * math.pi * phi) / 2
        if self.nodes > 1:
            value = value + self._correction(lane, family, turn, u, inner, phi)
        sound = found & inner.sound & torch.isfinite(value)
        return Mark(psi, u, torch.where(sound, value, torch.inf), phi, score, gram)

    @property
    def free(self) -> Tensor:
        """(B,) the coefficients over which is integrated, and that are not penalised."""
        rank = 0 if self.ranges is None else self.ranges.rank
        count = self.keep.sum(-1) - rank if self.restricted else torch.zeros_like(self.keep.sum(-1))
        return count.to(torch.float64)

    def _likelihood(
        self, lane: Tensor, family: Family, coef: Tensor, half: Tensor, penalty: Tensor, free: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(b,) the dispersion where the criterion is least, and the log-likelihood with it."""
        constant, count = self.constant[lane], self.count[lane]
        if family.least_squares:
            phi = 2 * (half + penalty) / (count - free).clamp(min=1e-300)
            phi = phi if self.phi is None else self.phi + torch.zeros_like(half)
            return phi, constant - half / phi - count * phi.log() / 2
        if not family.has_dispersion and not self.name:
            phi = torch.ones_like(half) * (1.0 if self.phi is None else self.phi)
            return phi, constant - half / phi
        means = RowMeans(self.rows_of(lane), self.link, coef)
        phi = torch.ones_like(half) * (1.0 if self.phi is None else self.phi)
        if self.phi is None and family.has_dispersion:
            phi = least_dispersion(means, family, 2 * (half + penalty), count, free)[0]
        return phi, means.loglik(family, phi)

    def _correction(
        self, lane: Tensor, family: Family, turn: Lambda, u: Tensor, inner: AnyInner, phi: Tensor
    ) -> Tensor:
        """(b,) what quadrature with `nodes` adds."""
        assert isinstance(inner, Inner)  # of one grouping
        own = inner.blocks[..., 0, 0]
        return correction(self.rows_of(lane), family, self.link, turn, u, own, phi, self.nodes)

    def _correction_slopes(self, lane: Tensor, mark: Mark) -> Tensor:
        """(b, K) the derivatives of that by `psi`, by differences; it is small."""
        models, many = mark.psi.shape
        size = SHARE * mark.psi.abs().clamp(min=0.1)
        moves = torch.diag_embed(size)  # (b, K, K)
        around = torch.cat([mark.psi.unsqueeze(1) + moves, mark.psi.unsqueeze(1) - moves], 1).flatten(0, 1)
        lanes = lane.repeat_interleave(2 * many)
        group = max(1, TOGETHER // max(1, int(self.count.max())))
        parts = []
        for first in range(0, len(lanes), group):  # of so many that their rows fit memory
            own = slice(first, first + group)
            at, psi, u = lanes[own], around[own], mark.u.repeat_interleave(2 * many, 0)[own]
            u, _, _, gram, _, _ = self.modes(at, psi, self.place_fixed(psi, u), False)
            turn, family = self.turn(at, psi), self.law(at, psi)
            inner = self.eliminated(at, gram, turn, psi).on(self.integrated)
            phi = mark.phi.repeat_interleave(2 * many, 0)[own]
            parts.append(self._correction(at, family, turn, u, inner, phi))
        above, below = torch.cat(parts).view(models, 2, many).unbind(1)
        return (above - below) / (2 * size)

    def gradient(self, lane: Tensor, mark: Mark) -> Tensor:
        """(b, K) the derivatives of the criterion by `psi`, as modes and dispersion follow."""
        psi, u, phi = mark.psi, mark.u, mark.phi.unsqueeze(-1)
        turn, family = self.turn(lane, psi), self.law(lane, psi)
        eliminated = self.eliminated(lane, mark.gram, turn, psi)
        inner = eliminated.on(self.integrated)
        score = self.known(lane, mark.score)
        follow, moved, own = score / -phi, torch.zeros_like(u), None
        if not self.flat:
            found = pulls(self.rows_of(lane), family, self.link, turn.times(u), inner.covariance(), self.name)
            pull = self.known(lane, found.pull)
            moved = inner.solve(turn.transposed(pull))
            follow = follow + pull - self.known(lane, mark.gram.times(turn.times(moved)))
            if self.name:
                assert found.slope is not None and found.score is not None
                own = (moved * turn.transposed(self.known(lane, found.score))).sum(-1) - found.slope
        pieces = [self._root_slopes(lane, inner, follow, score, u, moved)]
        if self.ranges is not None:
            pieces.append(self._strength_slopes(psi, inner, u, moved, mark.phi))
        if own is not None:
            pieces.append(own.unsqueeze(-1))
        if self.apart:
            p = self.effects.columns
            pieces.append((follow[:, :p] @ self.rotation)[:, self.fixed])
        whole = torch.cat(pieces, -1)
        return whole if self.nodes == 1 else whole + self._correction_slopes(lane, mark)

    def _root_slopes(
        self, lane: Tensor, inner: AnyInner, follow: Tensor, score: Tensor, u: Tensor, moved: Tensor
    ) -> Tensor:
        slopes = inner.traces()
        for k, grouping in enumerate(self.effects.groupings):
            shape = (grouping.effects, grouping.levels)
            one, two, modes, move = (v[:, grouping.columns].unflatten(1, shape) for v in (follow, score, u, moved))
            slopes[k] = slopes[k] + one @ modes.mT + two @ move.mT
        own = [unit.mT @ slope for unit, slope in zip(self.units_of(lane), slopes, strict=True)]
        return torch.stack([own[k][:, r, c] for k, r, c in self.effects.entries], -1)

    def _strength_slopes(self, psi: Tensor, inner: AnyInner, u: Tensor, moved: Tensor, phi: Tensor) -> Tensor:
        assert self.ranges is not None
        strength, p = self.parts(psi)[1].exp(), self.effects.columns
        own = self.ranges.log_determinant(strength)[1]
        place = torch.full_like(self.every, -1)
        place[inner.at] = torch.arange(len(inner.at), device=place.device)
        found = []
        for j, (at, matrix) in enumerate(self.ranges.blocks):
            among = place[at]
            trace = (inner.inverse[:, among.unsqueeze(-1), among] * matrix).sum((-1, -2))
            drawn = u[:, :p][:, at] @ matrix
            pulled = (drawn * u[:, :p][:, at]).sum(-1) / phi + trace
            along = (drawn * moved[:, :p][:, at]).sum(-1)
            found.append(strength[:, j] * (pulled / 2 - along) - own[:, j] / 2)
        return torch.stack(found, -1)
