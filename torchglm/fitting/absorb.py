"""Absorbed factors: the maximum over coefficients and the effects of crossed factors that are never written out.

Each step of iteratively reweighted least squares solves `[X D]'W[X D]` by elimination of the effects: conjugate
gradients on the codes give `(D'WD)^-1 D'W[X, z]` for all columns at once, and what is left is a system of the p
columns (Frisch-Waugh-Lovell). At the maximum the design is taken as `X - D (D'WD)^-1 D'WX`: the information, the
scores of the rows and so every sandwich of it are those of the coefficients in the whole model.
Source: Correia, Guimaraes & Zylkin (2020), Stata J. 20; Guimaraes & Portugal (2010), Stata J. 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.isolated import Isolated, ends, isolated
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.crossed import Crossed
from torchglm.rows.rows import Rows
from torchglm.rows.threads import small_operators, spread

BLOCK = 1 << 15  # rows of a block
COLLINEAR = 1e-11  # share of a column's squared length beside the factors that is rounding
CLOSE = 1e-4  # of the square of `tol`: the relative decrement at which the last step is taken
LOOSE, TIGHT = 1e-2, 1e-11  # relative tolerances of the solutions in the first step and for the errors
MOVED, STILL = 0.05, 1e-3  # how far a step moves rows that run to infinity, and the others
HALVINGS = 30


@dataclass(frozen=True)
class Absorption:
    """Where the search stopped: `coef` (p,), `effects` (L,), and the rows with the factors taken out of their columns.

    `keep` (p,) is False for columns that depend on the factors or on columns before them.
    """

    coef: Tensor
    keep: Tensor
    effects: Tensor
    rows: Rows
    crossed: Crossed
    isolated: Isolated
    rank: int
    exact: bool
    status: Status
    n_iter: int

    def ended(self, status: Status) -> Absorption:
        """The same with another status."""
        return replace(self, status=status)


@dataclass
class _Pass:
    """What a pass over the rows leaves: half the deviance, rows without a valid mean, scores and weights `(n,)`."""

    objective: float
    invalid: int
    score: Tensor
    weight: Tensor


@torch.no_grad()
@small_operators()
def absorb(
    rows: Rows,
    counts: tuple[int, ...],
    family: Family,
    link: Link,
    *,
    tol: float = 1e-8,
    max_iter: int = 50,
    observe: Observer | None = None,
) -> Absorption:
    """The maximum for the rows of one model whose `codes` (F, n) are those of factors of `counts` levels.

    Rows that are taken out have the weight 0 in the result; `observe` is told of every step. Raises `ValueError` where
    none is left.
    """
    assert rows.codes is not None
    return _Search(rows, Crossed(rows.codes, counts), family, link).run(tol, max_iter, observe)


class _Search:
    """One model on its way."""

    def __init__(self, rows: Rows, crossed: Crossed, family: Family, link: Link) -> None:
        self.rows, self.crossed, self.family, self.link = rows, crossed, family, link
        self.x = rows.x.to(torch.float64).mT.contiguous()  # (p, n)
        self.offset = rows.offset[0]
        self.prior = rows.weight[0].to(torch.float64).clone()
        self.ends = ends(rows, family, link)
        self.out = isolated(rows, self.prior > 0, crossed, self.ends)
        self._drop()
        n = self.prior.shape[0]
        self.blocks = [slice(start, min(n, start + BLOCK)) for start in range(0, n, BLOCK)]
        self.score, self.weight = torch.empty(n, dtype=torch.float64), torch.empty(n, dtype=torch.float64)

    def _drop(self) -> None:
        """Take the rows that are isolated out."""
        self.prior[self.out.singletons | self.out.separated] = 0.0
        if not bool((self.prior > 0).any()):
            raise ValueError(
                "no row is left beside the absorbed factors: every level has one row, or responses at one end of their "
                "range alone. Absorb coarser factors."
            )

    def run(self, tol: float, max_iter: int, observe: Observer | None) -> Absorption:
        """To the maximum."""
        p = self.x.shape[0]
        coef, effects = self.x.new_zeros(p), self.x.new_zeros(self.crossed.levels)
        eta = self._start()
        here = self._pass(eta)
        centred, keep = self._centre()
        # the first step is from no coefficients at all: least squares of the working response
        residual = here.weight * (eta - self.offset) + here.score
        guess: Tensor | None
        step, ahead, guess = self._step(residual, keep, LOOSE, None)
        trial = self.offset + self._along(step, ahead)
        first = self._pass(trial)
        if first.invalid:
            return self._ended(coef, effects, eta, keep, centred, Status.INVALID_START, 0)
        coef, effects, eta, here = step, ahead, trial, first
        status, tolerance, close = Status.ITERATION_LIMIT, LOOSE, False
        n_iter = 1
        for n_iter in range(1, max_iter + 1):
            step, ahead, guess = self._step(here.score, keep, tolerance, guess)
            move = self._along(step, ahead)
            decrement = float(here.score @ move) / (abs(here.objective) + 1e-3 * float(self.prior.sum()) + 1e-300)
            largest = float(torch.where(self.prior > 0, move, 0.0).abs().max())
            if largest > MOVED and decrement < 1e-3 and self._separated(move):
                here = self._pass(eta)
                guess = None
                continue
            share, new = self._search(eta, move, here)
            if new is None:
                status = Status.CONVERGED if decrement < tol and largest < STILL else Status.STALLED
                break
            coef, effects, eta, here = coef + share * step, effects + share * ahead, eta + share * move, new
            if observe is not None:
                told = torch.tensor([2 * new.objective], dtype=torch.float64)
                observe(Progress(coef.unsqueeze(0), torch.tensor([n_iter]), told))
            if close and largest < STILL:
                status = Status.CONVERGED
                break
            close = abs(decrement) <= max(1e-26, CLOSE * tol**2)
            tolerance = min(LOOSE, max(1e-10, 1e-2 * abs(decrement) ** 0.5))
        else:
            status = Status.SEPARATED if largest > MOVED and decrement < 1e-3 else status
        return self._ended(coef, effects, eta, keep, centred, status, n_iter)

    # rows -----------------------------------------------------------------------------------------------

    def _start(self) -> Tensor:
        mean = self.family.initial_mean(self.rows.response, self.rows.weight)[0]
        return self.link.link(torch.where(self.prior > 0, mean, self.family.inner_mean))

    def _pass(self, eta: Tensor) -> _Pass:
        """The scores and weights at a linear predictor `(n,)`."""
        family, link, rows = self.family, self.link, self.rows
        score, weight = torch.empty_like(self.score), torch.empty_like(self.weight)

        def work(blocks: Sequence[slice]) -> tuple[float, int]:
            total, invalid = 0.0, 0
            for block in blocks:
                own, prior = rows.between(block.start, block.stop), self.prior[block]
                used, at = prior > 0, eta[block].unsqueeze(0)
                mu = link(at)
                good = (link.inside(at) & family.valid_mean(mu))[0] | ~used
                half = family.half_deviance(own.response, at, mu, link)[0]
                s, w = family.score_and_weight(own.response, at, mu, link, False)
                total += float(torch.where(used, half * prior, 0.0).sum())
                invalid += int((~good).sum()) + int((~torch.isfinite(half) & used).sum())
                score[block] = torch.where(used, s[0] * prior, 0.0)
                weight[block] = torch.where(used, w[0] * prior, 0.0)
            return total, invalid

        parts = spread(work, self.blocks)
        self.score, self.weight = score, weight
        return _Pass(sum(part[0] for part in parts), sum(part[1] for part in parts), score, weight)

    def _along(self, step: Tensor, ahead: Tensor) -> Tensor:
        """(n,) the change of the linear predictor."""
        return self.crossed.spread(ahead.unsqueeze(-1))[0] + step @ self.x

    def _projected(self, weight: Tensor, residual: Tensor | None) -> Tensor:
        """(L, p) `D'WX`, and beside it `D'` times a residual."""
        right = self.x.new_empty(self.crossed.levels, self.x.shape[0] + (residual is not None))
        for j, column in enumerate(self.x):
            right[:, j] = self.crossed.sums((column * weight).unsqueeze(0))[:, 0]
        if residual is not None:
            right[:, -1] = self.crossed.sums(residual.unsqueeze(0))[:, 0]
        return right

    # algebra --------------------------------------------------------------------------------------------

    def _centre(self) -> tuple[Tensor, Tensor]:
        """Take the factors out of the columns, weights as they are: (L, p) what was taken, and (p,) which are left."""
        length = (self.x.square() @ self.weight).clone()
        taken, _ = self.crossed.weighted(self.weight).solve(self._projected(self.weight, None), TIGHT, length.sqrt())
        self._subtract(taken)
        left = (self.x * self.weight) @ self.x.mT
        keep = torch.zeros(len(length), dtype=torch.bool)
        for j in range(len(length)):
            pivot = left[j, j].clone()
            keep[j] = bool(length[j] > 0) and bool(pivot > COLLINEAR * length[j])
            if keep[j]:
                left = left - torch.outer(left[:, j], left[j]) / pivot
        self.x[~keep] = 0.0
        return taken, keep

    def _subtract(self, taken: Tensor) -> None:
        """Subtract effects (L, p) from the columns."""
        for j in range(self.x.shape[0]):
            for block in self.blocks:
                self.x[j, block] -= self.crossed.spread(taken[:, j : j + 1], block)[0]

    def _step(
        self, residual: Tensor, keep: Tensor, tolerance: float, guess: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The step of coefficients (p,) and effects (L,) for a residual (n,), and the solutions for the columns."""
        right = self._projected(self.weight, residual)
        begin = None if guess is None else torch.cat([guess, guess.new_zeros(len(guess), 1)], -1)
        p, gram = self.x.shape[0], (self.x * self.weight) @ self.x.mT
        scale = torch.cat([gram.diagonal(), self.weight.sum().unsqueeze(0)]).sqrt()
        found, _ = self.crossed.weighted(self.weight).solve(right, tolerance, scale, begin)
        columns, effects = found[:, :-1], found[:, -1]
        gram = gram - right[:, :-1].mT @ columns
        gradient = self.x @ residual - right[:, :-1].mT @ effects
        step = self.x.new_zeros(p)
        if bool(keep.any()):
            inside = (gram + gram.mT)[keep][:, keep] / 2
            scale = inside.diagonal().clamp(min=1e-300).rsqrt()
            lower, info = torch.linalg.cholesky_ex(inside * scale.unsqueeze(-1) * scale)
            if int(info) == 0:
                step[keep] = scale * torch.cholesky_solve((scale * gradient[keep]).unsqueeze(-1), lower)[:, 0]
        return step, effects - columns @ step, columns

    def _search(self, eta: Tensor, move: Tensor, here: _Pass) -> tuple[float, _Pass | None]:
        """The largest of 1, 1/2, ... of a step that lowers the objective with valid means, and the pass there."""
        share = 1.0
        for _ in range(HALVINGS):
            new = self._pass(eta + share * move)
            if not new.invalid and new.objective <= here.objective + 1e-12 * abs(here.objective) + 1e-300:
                return share, new
            share /= 2
        self.score, self.weight = here.score, here.weight
        return 0.0, None

    def _separated(self, move: Tensor) -> bool:
        """Take out the rows that a step moves to their ends while it leaves all others where they are."""
        used = self.prior > 0
        far = used & (move.abs() > MOVED)
        sound = bool((self.ends[far] == move[far].sign()).all()) and bool((move[used & ~far].abs() < STILL).all())
        if not sound or not bool(far.any()) or bool(far.sum() == used.sum()):
            return False
        before = replace(self.out, separated=self.out.separated | far)
        self.out = isolated(self.rows, self.rows.weight[0] > 0, self.crossed, self.ends, before)
        self._drop()
        return True

    def _ended(
        self, coef: Tensor, effects: Tensor, eta: Tensor, keep: Tensor, centred: Tensor, status: Status, n_iter: int
    ) -> Absorption:
        """What is left at the end: columns free of the factors with the weights there, and the effects."""
        offset = eta - coef @ self.x
        right, scale = self._projected(self.weight, None), (self.x.square() @ self.weight).sqrt()
        columns, reached = self.crossed.weighted(self.weight).solve(right, TIGHT, scale)
        self._subtract(columns)
        self.x[:, self.prior <= 0] = 0.0
        self.x[~keep] = 0.0
        effects = effects - centred @ coef
        used = self.prior > 0
        offset = torch.where(used, eta - coef @ self.x, offset)
        if not reached and status == Status.CONVERGED:
            status = Status.STALLED
        present = self.crossed.sums(used.to(torch.float64).unsqueeze(0))[:, 0] > 0
        effects = torch.where(present, effects, torch.where(self.out.limits != 0, self.out.limits, torch.nan))
        rows = self.rows._replace(
            x=self.x.mT.contiguous(), weight=self.prior.unsqueeze(0), offset=offset.unsqueeze(0), codes=self.rows.codes
        )
        rank, exact = self.crossed.rank(used)
        return Absorption(coef, keep, effects, rows, self.crossed, self.out, rank, exact, status, n_iter)
