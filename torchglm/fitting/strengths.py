"""Strengths of quadratic penalties by the marginal likelihood, model by model, and the fits at these strengths.

Models whose columns are plainly independent take the short road: strengths and coefficients begin together, from the
first pass on. The others, and those that come to no end there, begin from a fit at strengths in the middle.
Source: Wood (2011), J. R. Stat. Soc. B 73(1), 3-36.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.laplace import Criterion
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.parts import Told, together
from torchglm.fitting.penalties import Quadratic
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.ranges import EMPTY
from torchglm.fitting.sample import sample
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.solve import solve
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status, converged
from torchglm.fitting.strength_search import ENDLESS, StrengthSearch
from torchglm.fitting.working import frozen, performed
from torchglm.links import Link
from torchglm.rows.grams import Layout
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import own_rows, seen
from torchglm.rows.rows import Rows, in_pairs
from torchglm.rows.threads import small_operators

COARSE = 1e-5  # tolerance of a first fit
ALPHA = (-25.0, 12.0)  # limits of the logarithm of a negative binomial alpha


@dataclass(frozen=True)
class Estimated:
    """What was estimated of `B` models: `strength` (B, J), infinite where that is the limit, and at the last point the
    `criterion` and the `dispersion` (B,); `penalty` has the strengths of the fit, large ones for infinite ones.
    """

    penalty: Quadratic
    strength: Tensor
    criterion: Tensor
    dispersion: Tensor


@torch.no_grad()
@small_operators()
def solve_with_strengths(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    penalty: Quadratic,
    start: Tensor | None,
    options: dict[str, Any],
    phi: float | None = None,
    observe: Observer | None = None,
) -> tuple[Family, Solution, Estimated]:
    """The fit at the strengths, the dispersion and the alpha where the criterion of `penalty.method` is least.

    `options` are those of `irls` but for the penalty; a dispersion `phi` is held; `observe` is told of the passes
    before the search for the strengths and of those behind it. A model with a strength at its limit has the status
    STRENGTH_LIMIT. Raises `ValueError` for families whose criterion is not known.
    """
    _check(family)
    if isinstance(source, Ragged):
        return part_by_part(solve_with_strengths, source, family, link, penalty, start, options, phi, observe)
    if next(iter(own_rows(source))).layout.levels is not None:
        source = seen(source, in_pairs)
    sums = first_sums(source, family, link)
    fit = _Fit(source, family, link, penalty, sums, options, phi, observe)
    fit.run(start)
    return fit.result()


class _Fit:
    """Models on their way from the `sums` of the first pass over their rows to a result."""

    def __init__(
        self,
        source: Iterable[Rows],
        family: Family,
        link: Link,
        penalty: Quadratic,
        sums: Moments,
        options: dict[str, Any],
        phi: float | None,
        observe: Observer | None,
    ) -> None:
        self.source, self.family, self.link, self.penalty = source, family, link, penalty
        self.sums, self.options, self.phi, self.observe = sums, options, phi, observe
        self.name = "log_alpha" if family.estimates_shape else ""
        self.ends, self.scales = scales_from(sums, penalty)
        blank = Solution.blank(len(self.scales), Layout(sums.score.shape[-1]), sums.score.device)
        self.first = replace(blank, moments=sums, keep=torch.ones_like(blank.keep))
        self.search = StrengthSearch(self._criterion(), self.ends, self.scales, blank.coef, options["max_iter"])

    def run(self, start: Tensor | None) -> None:
        """Search for the strengths of all models that have a fit."""
        short = self._regular()
        if short.numel():
            theta, coef, near = self._nearby(short, *self._begun(short, start))
            self._to_the_end(short[near], theta[near], coef[near])
        rest = (~converged(self.search.status)).nonzero()[:, 0]
        if rest.numel():
            self._fit(rest, start)
            lane = rest[converged(self.first.status[rest])]
            theta, coef, _ = self._nearby(lane, self.search.theta[lane], self.first.coef[lane])
            self._to_the_end(lane, theta, coef)

    def _criterion(self) -> Criterion:
        given = (self.source, self.family, self.link, self.penalty, self.first, self.options, self.phi, self.name)
        return Criterion(*given)

    def _regular(self) -> Tensor:
        """The models whose first pass shows that every column has a coefficient of its own."""
        if self.name or isinstance(self.family, VectorFamily):
            return torch.zeros_like(self.first.status[:0])
        penalty, skip = self.penalty.with_strength(self.scales.exp()), self.options.get("skip")
        ridge = penalty.ridge(self.first.coef, self.sums.weight)
        keep, unclear = self.sums.gram.with_ridge(ridge).independent(torch.zeros_like(self.first.keep))
        fine = keep.all(-1) & ~unclear & self.sums.valid
        return (fine if skip is None else fine & ~skip).nonzero()[:, 0]

    def _begun(self, lane: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """Strengths and coefficients that regular models begin with: one large model with those of some of its rows."""
        theta, zero = self.scales[lane], self.first.coef[lane]
        if start is not None:
            return theta, start[lane]
        part = sample(self.source, zero.shape[-1]) if len(self.scales) == 1 else None
        if part is not None:
            sums = first_sums(part, self.family, self.link)
            own = _Fit(part, self.family, self.link, self.penalty, sums, self.options, self.phi, None)
            if own._regular().numel():
                *found, near = own._nearby(lane, *own._begun(lane, None))
                if bool(near.all()):
                    return found[0], found[1]
        return theta, self.search.criterion.standing(lane, theta, zero, self.sums.take(lane)).left

    def _nearby(self, lane: Tensor, theta: Tensor, coef: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Strengths and coefficients near an end, and (b,) where there are such; else those given."""
        criterion, many = self.search.criterion, len(self.penalty.blocks)
        if criterion.flat or not lane.numel():
            return theta, coef, torch.ones_like(lane, dtype=torch.bool)
        own, coef, passes, near = performed(criterion, self.ends, lane, theta[:, :many], coef, self._tell)
        self.first.n_iter[lane] += passes
        return torch.cat([own, theta[:, many:]], -1), coef, near

    def _to_the_end(self, lane: Tensor, theta: Tensor, coef: Tensor) -> None:
        if lane.numel():
            self.search.criterion = frozen(self.search.criterion, lane, theta, coef)
            self.search.run(lane, theta, coef, self.scales)

    def _fit(self, rest: Tensor, start: Tensor | None) -> None:
        """Begin models anew, with fits at strengths in the middle."""
        done, skip = torch.ones_like(self.first.status, dtype=torch.bool), self.options.get("skip")
        done[rest] = False
        if bool(done.any()):
            skip = done if skip is None else done | skip
        penalty, tol = self.penalty.with_strength(self.scales.exp()), max(COARSE, self.options["tol"])
        own = self.options | {"penalty": penalty, "tol": tol, "skip": skip}
        self.family, found = solve(self.source, self.family, self.link, start, own, self.observe)
        self.first = _placed(self.first, rest, found)
        theta, ends = self.scales, self.ends
        if self.name:
            alpha = self.family.shapes[self.name].expand(len(theta)).clamp(*ALPHA)
            theta = torch.cat([theta, alpha.unsqueeze(-1)], -1)
            ends = torch.cat([ends, ends.new_tensor(ALPHA).expand(len(ends), 1, 2)], 1)
        search = StrengthSearch(self._criterion(), ends, theta, self.first.coef, self.options["max_iter"])
        search.status.copy_(self.first.status)
        self.search = search.with_those_of(self.search, done.nonzero()[:, 0])

    def result(self) -> tuple[Family, Solution, Estimated]:
        """The fit at the points that were reached."""
        search, many, family = self.search, len(self.penalty.blocks), self.family
        penalty = self.penalty.with_strength(search.theta[:, :many].exp())
        zero = torch.zeros_like(search.phi, dtype=torch.bool)
        if self.name:
            zero = search.limit[:, -1] & (search.theta[:, -1] <= ALPHA[0])
            raw = torch.where(zero, -torch.inf, search.theta[:, -1])
            family = family.with_parameters({self.name: raw[0] if raw.numel() == 1 else raw})
        steps, found = self.first.n_iter + search.steps, self._found(family, penalty)
        solution = self._criterion().ended(found, search.theta, family)
        regular, limit = solution.status == int(Status.CONVERGED), search.limit[:, :many]
        solution.status[regular] = search.status[regular].to(solution.status.dtype)
        regular = solution.status == int(Status.CONVERGED)
        solution.status[regular & limit.any(-1)] = int(Status.STRENGTH_LIMIT)
        solution.status[regular & zero] = int(Status.SHAPE_LIMIT)
        ends = torch.where(search.theta[:, :many] >= search.ends[:, :many, 1], torch.inf, 0.0)
        strength = torch.where(limit, ends, penalty.strength)
        strength[solution.status == int(Status.NOT_FINITE)] = torch.nan
        if self.observe is not None:
            self.observe(Progress(solution.coef, steps, 2 * solution.moments.objective))
        estimated = Estimated(penalty, strength, search.value, search.phi)
        return family, replace(solution, n_iter=steps), estimated

    def _found(self, family: Family, penalty: Quadratic) -> Solution:
        """Where the search has left the models: those that did not come to a minimum are fitted once more there."""
        status = self.search.status
        rest, found = ~converged(status), replace(self.first, coef=self.search.coef, status=status.clone())
        if not bool(rest.any()):
            return found
        skip = self.options.get("skip")
        own = self.options | {"penalty": penalty, "skip": ~rest if skip is None else ~rest | skip}
        again = irls(self.source, family, self.link, start=self.search.coef, **own)
        return _placed(found, rest.nonzero()[:, 0], again)

    def _tell(self, lane: Tensor, coef: Tensor, passes: int) -> None:
        """Tell what models `lane` have reached after so many passes, where anyone asks."""
        if self.observe is None:
            return
        whole = self.search.coef.index_copy(0, lane, coef)
        here = fold(self.source, Point(whole, curved=False), self.family, self.link)
        self.observe(Progress(whole, self.first.n_iter + passes, 2 * here.objective))


def _placed(whole: Solution, models: Tensor, found: Solution) -> Solution:
    """The solution with some of the models as they are in another one of all."""
    if len(models) == len(whole.status):
        return found
    parts = {name: getattr(whole, name).clone() for name in ("coef", "keep", "status", "n_iter", "cut")}
    for name, value in parts.items():
        value[models] = getattr(found, name)[models]
    return replace(whole, moments=whole.moments.place(models, found.moments.take(models)), **parts)


def _check(family: Family) -> None:
    if family.estimates_shape and not has_alpha(family):
        raise ValueError("strengths and a Tweedie power are not estimated at once. Give it: Tweedie(power=1.5).")


def first_sums(source: Iterable[Rows], family: Family, link: Link) -> Moments:
    """The sums of a first pass, from a mean of each row, or from one for all where those have no linear predictor."""
    first = fold(source, Point(), family, link)
    if isinstance(family, VectorFamily):
        assert first.statistics is not None
        return fold(source, Point(averages=first.statistics / first.weight.unsqueeze(-1)), family, link)
    if not bool(first.valid.all()):
        level = fold(source, Point(constant=first.response / first.weight), family, link)
        bad = (~first.valid).nonzero()[:, 0]
        first = first.place(bad, level.take(bad))
    return first


def scales_from(first: Moments, penalty: Quadratic) -> tuple[Tensor, Tensor]:
    """(B, J, 2) the log strengths that are as good as zero and as infinity, and (B, J) some in between."""
    gram, found = first.gram.written_out(), []
    for columns, matrix in penalty.blocks:
        at = torch.tensor(columns, device=gram.device)
        size = gram[:, at.unsqueeze(-1), at].diagonal(dim1=-2, dim2=-1)
        values = torch.linalg.eigvalsh(matrix)
        held = values[values > EMPTY * values[-1]]
        least, most = size.mean(-1) / float(held[-1]), size.sum(-1) / float(held[0])
        found.append(torch.stack([least / ENDLESS, most * ENDLESS, size.sum(-1) / float(values.sum())], -1))
    logs = torch.stack(found, 1).nan_to_num(1.0).clamp(1e-200, 1e200).log()
    return logs[..., :2], logs[..., 2]


def scales_of(source: Iterable[Rows], family: Family, link: Link, penalty: Quadratic) -> tuple[Tensor, Tensor]:
    """The same of a source."""
    return scales_from(first_sums(source, family, link), penalty)


def part_by_part(
    solver: Callable[..., tuple[Family, Solution, Estimated]],
    source: Ragged,
    family: Family,
    link: Link,
    penalty: Quadratic,
    start: Tensor | None,
    options: dict[str, Any],
    phi: float | None,
    observe: Observer | None,
) -> tuple[Family, Solution, Estimated]:
    """What `solver`, such as `solve_with_strengths`, finds of models of like size together."""
    shapes: dict[str, Tensor] = {}
    told = None if observe is None else Told(source, source.parts[0][1].columns, observe, None)
    blank = torch.full((source.models, 2 * len(penalty.blocks) + 2), torch.nan, dtype=torch.float64)

    def part(models: Tensor, rows: Rows) -> Solution:
        first, skip = None if start is None else start[models], options.get("skip")
        own = options | {"skip": None if skip is None else skip[models]}
        member, tell = take_family(family, models), None if told is None else told.of(models)
        member, solution, found = solver([rows], member, link, penalty.take(models), first, own, phi, tell)
        single = torch.stack([found.criterion, found.dispersion], -1)
        blank[models.cpu()] = torch.cat([found.penalty.strength, found.strength, single], -1).cpu()
        for name, value in member.named_parameters() if family.estimates_shape else ():
            shapes.setdefault(name, value.new_empty(source.models))[models] = value
        return solution

    solution = together(source, part)
    used, strength, rest = blank.to(solution.coef.device).tensor_split(
        (len(penalty.blocks), 2 * len(penalty.blocks)), -1
    )
    found = Estimated(penalty.with_strength(used), strength, *rest.unbind(-1))
    return family.with_parameters(shapes) if shapes else family, solution, found
