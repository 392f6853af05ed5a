"""Quadratic penalties on coefficients of which some may not be negative, and their strengths: smooths of a shape.

A fit is Newton's method over quadratic programmes, each solved on a face: some coefficients stand at zero. Given it,
this is a penalised fit of the others, whose strengths the restricted marginal likelihood gives, by generalised
Fellner-Schall steps: at their end `strength_j b'S_jb / phi` equals the freedom that block `j` takes away there.
Source: Pya & Wood (2015), Statistics and Computing 25, 543-559; Wood & Fasiolo (2017), Biometrics 73(4), 1071-1081.
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
from torchglm.fitting.cone_fits import ConeFits, ConePoint
from torchglm.fitting.dispersions import least_dispersion
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.penalties import Quadratic
from torchglm.fitting.progress import Observer
from torchglm.fitting.ranges import EMPTY, connected, scaled_root
from torchglm.fitting.shape import RowMeans, alpha_ml, power_ml
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.fitting.strengths import Estimated, part_by_part, scales_of
from torchglm.links import Link
from torchglm.rows.inverses import DenseRoot
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import members, own_rows, seen
from torchglm.rows.rows import Rows, in_pairs
from torchglm.rows.threads import small_operators

STEPS = 200  # of the strengths
CLOSE = 1e-9  # a step of a log strength so short is the last
SETTLED = 1e-8  # relative change of a shape that is the last
NEAR = 0.1  # a step of a log strength beyond which a shape waits
LONGEST = 4.0  # step of a log strength
FASTEST = 8.0  # times a Fellner-Schall step that the secant may ask for
TIRED = 60  # steps after which they shrink: where faces change the slope jumps over zero, and the jump is the end
NONE = 1e-7  # degrees of freedom of a penalised part that are none


@torch.no_grad()
@small_operators()
def solve_in_cone(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    penalty: Quadratic,
    start: Tensor | None,
    options: dict[str, Any],
    phi: float | None = None,
    observe: Observer | None = None,
) -> tuple[Family, Solution, Estimated]:
    """The fit whose coefficients `penalty.nonnegative` are not, at strengths given or estimated by REML.

    `observe` is told of the steps of the fit without limits that it begins with, and of all that follow.

    A shape that the family estimates is that of the largest likelihood at the means. Columns that stand at zero have no
    variance: the root of the solution is that of the others, as are the criterion and the freedom. Where the slope of
    the criterion jumps over zero, as the face changes, the strength is that of the jump. Raises `ValueError` for ML,
    and for families of several predictors.
    """
    if isinstance(family, VectorFamily):
        raise ValueError(f"terms of a shape are for families of one predictor, not {family.name}. Leave shape= out.")
    if penalty.method == "ml":
        raise ValueError("terms of a shape have their strengths by 'reml', not 'ml'. Write smoothing='reml'.")
    if isinstance(source, Ragged):
        return part_by_part(solve_in_cone, source, family, link, penalty, start, options, phi, observe)
    if next(iter(own_rows(source))).layout.levels is not None:
        source = seen(source, in_pairs)
    return _Cone(source, family, link, penalty, options, phi, observe).solved(start)


class _Cone:
    """The search of all models at once: fits at given strengths, and steps of the strengths."""

    def __init__(
        self,
        source: Iterable[Rows],
        family: Family,
        link: Link,
        penalty: Quadratic,
        options: dict[str, Any],
        phi: float | None,
        observe: Observer | None,
    ) -> None:
        self.source, self.family, self.link, self.penalty, self.observe = source, family, link, penalty, observe
        self.options, self.phi, self.groups = options, phi, connected(penalty)

    def solved(self, start: Tensor | None) -> tuple[Family, Solution, Estimated]:
        """From the fit without limits to the end."""
        free = self.penalty.without_limits()
        ends, theta = scales_of(self.source, self.family, self.link, free)
        if self.penalty.method is None:
            theta = self.penalty.strength.to(theta).expand_as(theta).clamp(min=1e-300).log()
        given = {"max_iter", "rank_tol", "skip"}
        begun = {name: value for name, value in self.options.items() if name in given}
        first = irls(
            self.source,
            _without_shape(self.family),
            self.link,
            start=start,
            penalty=free.with_strength(theta.exp()),
            tol=max(1e-6, self.options["tol"]),
            observe=self.observe,
            **begun,
        )
        most = self.options["max_iter"]
        self.fits = ConeFits(self.source, self.family, self.link, self.penalty, first, most, self.observe)
        lane = (~torch.isin(first.status, first.status.new_tensor([int(Status.NOT_FINITE)]))).nonzero()[:, 0]
        self.tired = torch.zeros_like(first.status, dtype=torch.bool)  # the strengths have not settled
        self.phis = torch.full_like(theta[:, 0], torch.nan)
        coef = self.fits.start(first)
        if lane.numel():
            theta, coef = self._strengths(lane, theta, coef, ends)
        return self._result(first, theta, coef, ends)

    # the strengths ---------------------------------------------------------------------------------------

    def _strengths(self, every: Tensor, theta: Tensor, coef: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """The log strengths (B, J) and coefficients (B, p) at the end, of the models `every`."""
        theta, coef, lane = theta.clone(), coef.clone(), every
        before = torch.full_like(theta, torch.nan)
        speed, wanted = torch.ones_like(theta), torch.zeros_like(theta)
        for turn in range(STEPS):
            at = self.fits.fit(lane, theta[lane], coef[lane])
            coef[lane] = at.coef
            near = ~((wanted[lane].abs() > NEAR).any(-1)) | (turn == 0)
            moved = self._shape(lane, at.coef) if bool(near.any()) else torch.ones_like(at.value)
            want = self._wanted(lane, theta[lane], at)
            if self.penalty.method is None:
                want = torch.zeros_like(want)
            low, high = ends[lane].unbind(-1)
            stays = ((theta[lane] >= high) & (want > 0)) | ((theta[lane] <= low) & (want < 0))
            want = torch.where(stays, 0.0, want)
            last, gone = wanted[lane], theta[lane] - before[lane]
            bend = (last - want) / gone  # how fast the wish fades along the way
            fast = torch.where((bend > 0) & torch.isfinite(bend), 1 / bend, speed[lane]).clamp(0.1, FASTEST)
            speed[lane], wanted[lane], before[lane] = fast, want, theta[lane]
            tired = max(1.0, 1.3 ** (turn - TIRED))
            step = (want * fast).clamp(-LONGEST, LONGEST) / tired
            new = torch.maximum(torch.minimum(theta[lane] + step, high), low)
            going = ((new - theta[lane]).abs() > CLOSE).any(-1) | (moved > SETTLED)
            theta[lane] = torch.where(going.unsqueeze(-1), new, theta[lane])
            lane = lane[going]
            if not lane.numel():
                return theta, coef
        self.tired[lane] = True
        return theta, coef

    def _wanted(self, lane: Tensor, theta: Tensor, at: ConePoint) -> Tensor:
        """(b, J) the Fellner-Schall steps of the log strengths, and the dispersion beside them."""
        strength, face = theta.exp(), self.fits.face(lane, at.coef)
        root = self._bent(lane, at, strength, face)
        own, _, rank = self._ranks(strength, face)
        self.phis[lane] = phi = self._dispersion(lane, at, strength, face.sum(-1) - rank)
        freedom, squares = [], []
        for j, (places, matrix) in enumerate(self.penalty.placed(at.coef.device)):
            part, b = root[:, places], at.coef[:, places]
            taken = strength[:, j] * ((matrix @ part) * part).sum((-1, -2))
            freedom.append(own[:, j] - taken)
            squares.append(strength[:, j] * ((b @ matrix) * b).sum(-1))
        left, drawn = torch.stack(freedom, -1), torch.stack(squares, -1)
        ratio = phi.unsqueeze(-1) * left.clamp(min=1e-12) / drawn.clamp(min=1e-300)
        endless = torch.where(left < NONE, LONGEST, ratio.log().clamp(-LONGEST, LONGEST))
        return torch.where(own < 0.5, 0.0, endless)  # where all columns of a block stand at zero it has no strength

    def _bent(self, lane: Tensor, at: ConePoint, strength: Tensor, face: Tensor) -> Tensor:
        """(b, p, p) the root on the face, of the observed information where that is positive definite."""
        root, _, _ = self._root(at.moments, strength, face)
        if self.family.is_canonical(self.link):
            return root
        here = fold(members(self.source, lane), Point(at.coef, True), self.fits.member(lane), self.link)
        bent, _, sound = self._root(here, strength, face)
        return torch.where(sound[:, None, None], bent, root)

    def _dispersion(self, lane: Tensor, at: ConePoint, strength: Tensor, free: Tensor) -> Tensor:
        """(b,) where the criterion is least, `free` (b,) being the dimension of what is not penalised."""
        if self.phi is not None or not self.family.has_dispersion:
            return torch.full_like(at.value, 1.0 if self.phi is None else self.phi)
        drawn = 2 * self.fits.penalty.with_strength(strength).value(at.coef, at.moments.weight)
        return self._least(lane, at.moments, at.coef, drawn, free, self.fits.member(lane))

    def _least(self, lane: Tensor, here: Moments, coef: Tensor, drawn: Tensor, free: Tensor, family: Family) -> Tensor:
        total = 2 * here.objective + drawn
        if family.least_squares:
            return total / (here.count - free)
        means = RowMeans(members(self.source, lane), self.link, coef)
        return least_dispersion(means, family, total, here.count, free)[0]

    def _shape(self, lane: Tensor, coef: Tensor) -> Tensor:
        """(b,) by how much the shape that is estimated has moved; 0 where none is."""
        if not self.family.estimates_shape:
            return torch.zeros_like(coef[:, 0])
        rows, old = RowMeans(members(self.source, lane), self.link, coef), self.fits.shapes[lane]
        family = self.fits.member(lane)
        if has_alpha(self.family):
            new, _ = alpha_ml(rows, family, old)
        else:
            phi = torch.where(torch.isfinite(self.phis[lane]), self.phis[lane], 1.0)
            new, _, _ = power_ml(rows, family, old, phi)
        self.fits.shapes[lane] = new
        return ((new - old).abs() / (new + 1e-3 * old + 1e-300)).nan_to_num()

    # on the face -----------------------------------------------------------------------------------------

    def _root(self, here: Moments, strength: Tensor, face: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, p, p) a root of the inverse of `X'WX + S` on the face, zero beside it; (b,) its log-determinant, and
        whether it is positive definite."""
        penalty = self.fits.penalty.with_strength(strength)
        whole = here.gram.written_out() + penalty.ridge(torch.zeros_like(face, dtype=strength.dtype), here.weight)
        both = face.unsqueeze(-1) & face.unsqueeze(-2)
        root, log, sound = scaled_root(torch.where(both, whole, torch.diag_embed((~face).to(whole.dtype))))
        return torch.where(face.unsqueeze(-1), root, 0.0), log, sound

    def _ranks(self, strength: Tensor, face: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """On the face: `strength_j tr S^- S_j` (b, J), the logarithm of the positive eigenvalues of `S` and their
        number (b,)."""
        own, p, blocks = torch.zeros_like(strength), face.shape[-1], self.penalty.placed(face.device)
        log, rank = torch.zeros_like(strength[:, 0]), torch.zeros_like(strength[:, 0])
        for group in self.groups:
            parts = strength.new_zeros(len(group), p, p)
            for i, j in enumerate(group):
                at, matrix = blocks[j]
                parts[i, at.unsqueeze(-1), at] = matrix
            both = face.unsqueeze(-1) & face.unsqueeze(-2)
            each = [torch.where(both, strength[:, j, None, None] * parts[i], 0.0) for i, j in enumerate(group)]
            values, vectors = torch.linalg.eigh(sum(each[1:], each[0]))
            held = values > EMPTY * values[:, -1:].clamp(min=1e-300)
            inverse = (vectors * torch.where(held, 1 / values, 0.0).unsqueeze(-2)) @ vectors.mT
            for j, one in zip(group, each, strict=True):
                own[:, j] = (inverse * one).sum((-1, -2))
            log = log + torch.where(held, values, 1.0).log().sum(-1)
            rank = rank + held.sum(-1)
        return own, log, rank

    # the end ---------------------------------------------------------------------------------------------

    def _result(self, first: Solution, theta: Tensor, coef: Tensor, ends: Tensor) -> tuple[Family, Solution, Estimated]:
        every = torch.arange(len(coef), device=coef.device)
        family = self.family
        if family.estimates_shape:
            shapes = self.fits.shapes[0] if len(coef) == 1 else self.fits.shapes
            family = family.with_parameters(self.fits.raw(shapes))
        here = fold(self.source, Point(coef, False, before=coef, census=True), family, self.link)
        strength, face = theta.exp(), self.fits.face(every, coef)
        root, log, _ = self._root(here, strength, face)
        lost = first.status == int(Status.NOT_FINITE)
        regular = ~lost & self.fits.finished & ~self.tired
        status = torch.where(regular, int(Status.CONVERGED), int(Status.ITERATION_LIMIT))
        status[lost] = int(Status.NOT_FINITE)
        estimated = self.penalty.method is not None
        top = (theta >= ends[..., 1]) & estimated
        status[regular & top.any(-1)] = int(Status.STRENGTH_LIMIT)
        solution = replace(
            first,
            coef=coef,
            moments=here,
            root=DenseRoot(torch.where(lost[:, None, None], torch.nan, root)),
            status=status,
            n_iter=self.fits.steps,
        )
        penalty = self.penalty.with_strength(strength)
        said = torch.where(lost.unsqueeze(-1), torch.nan, torch.where(top, torch.inf, strength))
        value = self._criterion(here, coef, family, penalty, face, log)
        return family, solution, Estimated(penalty, said, torch.where(lost, torch.nan, value), self.phis)

    def _criterion(
        self, here: Moments, coef: Tensor, family: Family, penalty: Quadratic, face: Tensor, log: Tensor
    ) -> Tensor:
        """(B,) the criterion of `fitting.laplace` of the columns on the face, with Fisher's weights."""
        _, size, rank = self._ranks(penalty.strength, face)
        free = face.sum(-1) - rank
        means, drawn = RowMeans(self.source, self.link, coef), 2 * penalty.value(coef, here.weight)
        phi = torch.full_like(drawn, 1.0 if self.phi is None else self.phi)
        if self.phi is None and family.has_dispersion:
            every = torch.arange(len(coef), device=coef.device)
            phi = self._least(every, here, coef, drawn, free, family)
        value = drawn / (2 * phi) - means.loglik(family, phi) + (log - size) / 2
        return value - free * torch.log(2 * math.pi * phi) / 2


def _without_shape(family: Family) -> Family:
    """The family at some shape, where it estimates one."""
    if not family.estimates_shape:
        return family
    one = torch.zeros((), dtype=torch.float64)
    return family.with_parameters({"log_alpha" if has_alpha(family) else "raw_power": one})
