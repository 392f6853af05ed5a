"""What stays fixed while a search goes on, and the step that its quadratic model asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting import linalg
from torchglm.fitting.edges import Ends, edges
from torchglm.fitting.judge import BLOCKED, EPS, SHORTEST
from torchglm.fitting.kinked import falls, kinked_direction, within
from torchglm.fitting.kinks import firm_inverse
from torchglm.fitting.moments import Moments
from torchglm.fitting.penalties import Penalty, Quadratic, RowWise
from torchglm.links import Link
from torchglm.rows.grams import Layout
from torchglm.rows.inverses import GramInverse
from torchglm.rows.ranks import rows_in_memory
from torchglm.rows.rows import Rows

ARRIVED = (1e-3, 1e-9)  # share of the tolerance that a step with a Gram of its own may still show after such steps:
# of a canonical link, where the last such step is taken as well and squares what is left, and of the others
LEAST = 1e-9  # share of an l1 threshold that an excess over it may be
KINKED = 1e-18  # share of the objective that one column alone may still gain where a penalty has kinks
CHORD_COLUMNS = 24  # with fewer columns a Gram costs no more than the rest of a pass
DESK = 1 << 17  # numbers of all Grams up to which a CPU takes a step in less time than a GPU is told of it
CHORD_PRODUCTS = 1 << 28  # and below so many products in one, a few more of them are no matter

Solve = Callable[[Tensor], Tensor]  # (B, p) -> (B, p): a score by the inverse of an information


@dataclass(frozen=True)
class Problem:
    """`B` models of one family and link on `p` columns, and how exactly their maxima are sought.

    `device` is where the search computes, `home` where the rows are (there too, if None). `layout` is that of their
    Grams, `held` the rows in memory (0 where they are read at each pass), `fence` the strength of a logarithmic barrier
    before the edges of the means. With `several` every row has more than one predictor; so many `shapes` of the family
    are sought behind the coefficients, of which `layout` knows.
    """

    family: Family
    link: Link
    penalty: Penalty | None
    models: int
    layout: Layout
    device: torch.device
    tol: float = 1e-8
    max_iter: int = 50
    rank_tol: float = 1e-12
    held: int = 0
    fence: float = 0.0
    several: bool = False
    shapes: int = 0
    home: torch.device | None = None

    def __post_init__(self) -> None:
        if isinstance(self.penalty, Quadratic) and self.penalty.nonnegative:
            raise ValueError(
                "the fit has terms with a shape=, whose coefficients have limits: torchglm.fit knows them, and what "
                "refits or updates a model does not. Leave shape= out for it."
            )

    @classmethod
    def of(
        cls,
        source: Iterable[Rows],
        head: Rows,
        family: Family,
        link: Link,
        penalty: Penalty | None = None,
        tol: float = 1e-8,
        max_iter: int = 50,
        rank_tol: float = 1e-12,
    ) -> Problem:
        """The problem of a source whose first rows are `head`. Raises `ValueError` for Grams too large to be made."""
        if head.indexed is not None:
            head.layout.check()
        models, device, held = head.y.shape[0], head.y.device, rows_in_memory(source)
        several = head.plan is not None
        numbers = (family, link, penalty, models, head.layout, device, tol, max_iter, rank_tol, held)
        return cls(*numbers, several=several, home=device)

    @property
    def p(self) -> int:
        """The number of columns."""
        return self.layout.columns

    def in_pairs(self) -> Problem:
        """The same problem on Grams of all pairs of columns. Raises `ValueError` where these are too large."""
        layout = Layout(self.p)
        layout.check()
        return replace(self, layout=layout)

    def at_desk(self) -> Problem:
        """The same problem, searched on the CPU where the rows are on a GPU and all else is small.

        Of a pass come its sums, in one copy; a step would be hundreds of launches of a few numbers each. A penalty, or
        an edge of the means, has values beside the rows.
        """
        if self.device.type == "cpu":
            return self
        small = self.models * self.p**2 <= DESK and self.layout.levels is None and self.layout.made
        plain = self.penalty is None and self.open_ended and not (self.several or self.shapes or self.fence)
        return replace(self, device=torch.device("cpu")) if small and plain else self

    def fenced(self, strength: float) -> Problem:
        """The same problem behind a barrier."""
        return replace(self, fence=strength)

    @cached_property
    def ends(self) -> Ends | None:
        """Between which values every linear predictor must lie; None where any has a mean in range."""
        if self.several:
            return None
        ends = edges(self.family, self.link)
        return ends if any(map(math.isfinite, ends)) else None

    @property
    def whole(self) -> bool:
        """Whether the objective is a negative log-likelihood, which may cross zero, and its curvature the observed."""
        return self.several or self.shapes > 0

    @property
    def open_ended(self) -> bool:
        """Whether any linear predictor has a mean in range."""
        return self.ends is None

    @cached_property
    def canonical(self) -> bool:
        """Whether observed and expected information are one."""
        return self.family.is_canonical(self.link) and not self.fence and not self.shapes

    @cached_property
    def constant_information(self) -> bool:
        """Whether the expected information of a row is the same at every mean."""
        return self.family.constant_information(self.link)

    @cached_property
    def smooth_penalty(self) -> bool:
        """Whether the objective has a derivative everywhere."""
        return self.penalty is None or self.penalty.smooth

    @cached_property
    def needs_pairs(self) -> bool:
        """Whether the penalty takes Grams of all pairs of columns, and they are kept as border and diagonal."""
        apart = self.penalty is None or self.penalty.diagonal
        return self.layout.levels is not None and not (apart and self.smooth_penalty)

    @cached_property
    def creep(self) -> tuple[int, float]:
        """How many steps in a row, and how short a one, an edge may cut before it is said to stand in the way.

        Where a barrier can take over, a search that an edge stops need not creep up to it.
        """
        return (4, SHORTEST) if self.open_ended or self.fence else (2, BLOCKED)

    @cached_property
    def chord(self) -> bool:
        """One model over many rows in memory: the Gram is the dearest part of a pass."""
        large = self.models == 1 and self.p >= CHORD_COLUMNS and self.held * self.p**2 >= CHORD_PRODUCTS
        return large and self.smooth_penalty and self.open_ended and (self.canonical or not self.several)

    @cached_property
    def arrived(self) -> float:
        """The tolerance of an arrival by steps with the Gram of an earlier point."""
        return ARRIVED[0 if self.canonical else 1] * self.tol

    def among(self, lane: Tensor) -> Problem:
        """The problem of models `lane`, where each has a penalty of its own; its Grams are those of all."""
        if self.penalty is None or not self.penalty.each:
            return self
        return replace(self, penalty=self.penalty.take(lane))

    def objective(self, moments: Moments, coef: Tensor, total: Tensor) -> Tensor:
        """(B,) half the deviance and the penalty."""
        if self.penalty is None:
            return moments.objective
        return moments.objective + self.penalty.value(coef, total)

    def size(self, objective: Tensor, total: Tensor) -> Tensor:
        """(B,) what a change of the objective is small beside: where that may cross zero, the weights as well."""
        return objective.abs() + total if self.whole else objective.abs()

    def smooth(self, coef: Tensor, keep: Tensor, total: Tensor) -> Tensor:
        """(B, p) the kept columns in which the objective has a derivative: not those a penalty holds at zero."""
        return keep if self.penalty is None else keep & self.penalty.free(coef, total)

    def settled(self, coef: Tensor) -> Tensor:
        """Coefficients (B, p) that stand on a kink of the penalty up to rounding, put there."""
        return coef if self.smooth_penalty or self.penalty is None else self.penalty.settled(coef)

    def projected(self, moments: Moments, coef: Tensor, keep: Tensor, total: Tensor) -> Tensor:
        """The nearest coefficients (B, p) that the penalty allows."""
        if self.penalty is None or self.smooth_penalty:
            return coef
        return self.penalty.projected(self.curvature(moments, coef, total), coef, keep)

    def inverse(self, moments: Moments, coef: Tensor, keep: Tensor, factored: Tensor, total: Tensor) -> GramInverse:
        """The inverse of the information with the penalty's quadratic part."""
        if isinstance(self.penalty, RowWise):
            return firm_inverse(self.curvature(moments, coef, total), self.penalty.kinks(total), keep, coef)
        ridge = None if self.penalty is None else self.penalty.ridge(coef, total)
        return linalg.invert(moments, self.smooth(coef, keep, total), factored, ridge, self.shapes)

    def bent(self, moments: Moments, coef: Tensor, keep: Tensor, total: Tensor) -> Tensor:
        """(B,) whether the quadratic model falls for ever along columns that an l1 penalty cannot hold at zero."""
        if self.penalty is None or self.canonical or self.penalty.nonsmooth(coef, total) is None:
            return torch.zeros_like(total, dtype=torch.bool)
        inside = within(self.penalty, self._score(moments, coef, total), coef, total)
        return falls(self.curvature(moments, coef, total), keep, ~inside) & ~inside.all(-1)

    def optimal(self, moments: Moments, coef: Tensor, keep: Tensor, objective: Tensor, total: Tensor) -> Tensor:
        """(B,) whether a penalty with kinks stands where it says: the conditions of Karush, Kuhn and Tucker.

        What a slope misses would gain next to nothing of the objective (`e^2 / (x' W x)` for an excess `e`, which the
        columns' size leaves as it is).
        """
        if self.penalty is None or self.smooth_penalty:
            return torch.ones_like(total, dtype=torch.bool)
        curvature = self.curvature(moments, coef, total)
        excess = self.penalty.excess(curvature, self._score(moments, coef, total), coef, total, keep)
        bend = curvature.diagonal(dim1=-2, dim2=-1).abs()
        terms = moments.scale.abs() + (coef.square() * bend).sum(-1)  # of eta, which may cancel there
        least = KINKED * self.size(objective, total) + (10 * EPS) ** 2 * terms
        small = excess.square() <= least.unsqueeze(-1) * bend
        l1 = self.penalty.nonsmooth(coef, total)
        if l1 is not None:
            small = small | (excess <= LEAST * l1)
        return (small | ~keep).all(-1)

    def direction(
        self,
        moments: Moments,
        coef: Tensor,
        keep: Tensor,
        factored: Tensor,
        total: Tensor,
        inverse: GramInverse | None = None,
    ) -> tuple[Tensor, Tensor, GramInverse]:
        """The step that minimises the quadratic model, its Newton decrement, and the inverse behind it (if given)."""
        inverse = self.inverse(moments, coef, keep, factored, total) if inverse is None else inverse
        score = self.slope(moments, coef, keep, total)
        if self.penalty is not None and not self.smooth_penalty:
            curvature = self.curvature(moments, coef, total)
            return *kinked_direction(self.penalty, curvature, score, coef, keep, total, self.canonical), inverse
        delta = inverse.solve(score)
        if moments.factor is not None and bool(factored.any()):
            exact = linalg.factor_step(moments, keep, *self._quadratic(coef, total), self.shapes)
            delta = torch.where(factored.unsqueeze(-1), exact, delta)
        return delta, (score * delta).sum(-1), inverse

    def curvature(self, moments: Moments, coef: Tensor, total: Tensor) -> Tensor:
        """(B, p, p) the information with the curvature of the penalty's quadratic part."""
        ridge = None if self.penalty is None else self.penalty.ridge(coef, total)
        return moments.gram.with_ridge(ridge).written_out()

    def unit(self, objective: Tensor, count: Tensor) -> Tensor:
        """(B,) what decrements are measured in: about the dispersion, where the family has one, and 1 where not."""
        known = self.shapes or not self.family.has_dispersion
        return torch.ones_like(objective) if known else 2 * objective.abs() / count

    def slope(self, moments: Moments, coef: Tensor, keep: Tensor, total: Tensor) -> Tensor:
        """(B, p) the score with the slope of the penalty's quadratic part, 0 for columns that are not kept."""
        return torch.where(keep, self._score(moments, coef, total), 0.0)

    def _score(self, moments: Moments, coef: Tensor, total: Tensor) -> Tensor:
        return moments.score if self.penalty is None else moments.score - self.penalty.slope(coef, total)

    def _quadratic(self, coef: Tensor, total: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Curvature and slope of the penalty's quadratic part."""
        return (
            (None, None) if self.penalty is None else (self.penalty.ridge(coef, total), self.penalty.slope(coef, total))
        )

    def polished(
        self,
        coef: Tensor,
        last: Moments,
        inverse: GramInverse,
        sound: Tensor,
        total: Tensor,
        observed: Solve | None = None,
    ) -> tuple[Tensor, Moments]:
        """Converged models, where `sound` (B,), taken along the step that the last sums show: it costs no pass.

        The step is the square of a small one: the sums are those of its end, to their last digits. Where two fits
        of the same rows came by different ways (from a part of them, say) their coefficients then agree to rounding.
        Off the canonical link the sums hold the expected information, with which a step leaves a tenth or so of what
        was left; `observed` solves with the one that the last step was made of, and leaves about its square. Nothing
        moves that stands nearer to an edge of the means than its last step was long.
        """
        if not self.smooth_penalty:
            return coef, last
        score = torch.where(sound.unsqueeze(-1), self._score(last, coef, total), 0.0)
        delta = inverse.solve(score) if observed is None else observed(score)
        decrement = (score * delta).sum(-1)
        sound = sound & inverse.positive & torch.isfinite(decrement) & (decrement >= 0)
        if self.ends is not None:
            sound = sound & (last.margin > last.change)
        return (
            torch.where(sound.unsqueeze(-1), coef + delta, coef),
            replace(last, objective=torch.where(sound, last.objective - decrement / 2, last.objective)),
        )
