"""Parameters beside the coefficients by maximum likelihood: dispersion, NB alpha, Tweedie power."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.kernel import take_family
from torchglm.fitting.shape_sums import POWER_END, of_power
from torchglm.links import Link
from torchglm.rows.products import linear_predictor
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows, to_float64, without_columns
from torchglm.special.roots import root

HELD = 1 << 28  # bytes of responses, weights and means that are kept of a stream
AT_ONCE = 1 << 18  # rows that a term is made of together
LONGEST = 4.0  # step of Newton's method on a log scale
STEP = 1e-4  # of the central differences, on a log or logit scale


class RowMeans:
    """The rows of a source with their means at coefficients `(B, p)`, without their design.

    They are held where the source is a list in memory, or after they were read once where they take no more than
    `HELD` bytes: a search over a shape parameter goes over them many times. `sum` goes over the rows of all
    processes, iterating over those of this one.
    """

    def __init__(self, source: Iterable[Rows], link: Link, coef: Tensor) -> None:
        self.source, self.ranks, self.link, self.coef = own_rows(source), ranks_of(source), link, coef
        self._held = list(self._made()) if isinstance(self.source, list) else None
        self._large = False

    def _made(self) -> Iterator[tuple[Rows, Tensor]]:
        for chunk in self.source:
            for start in range(0, max(chunk.y.shape[-1], 1), AT_ONCE):
                rows = to_float64(chunk.between(start, start + AT_ONCE))
                yield without_columns(rows), self.link(linear_predictor(rows, self.coef))

    def __iter__(self) -> Iterator[tuple[Rows, Tensor]]:
        if self._held is not None:
            yield from self._held
            return
        kept, size = list[tuple[Rows, Tensor]](), 0
        for rows, mu in self._made():
            size += rows.nbytes + mu.nbytes
            self._large = self._large or size > HELD
            kept = [] if self._large else [*kept, (rows, mu)]
            yield rows, mu
        self._held = None if self._large else kept

    def loglik(self, family: Family, dispersion: Tensor) -> Tensor:
        """(B,) the fully normalised log-likelihood at dispersions `(B,)`."""
        return self.sum(lambda rows, mu: _row_loglik(rows, family, mu, dispersion))

    def sum(self, term: Callable[[Rows, Tensor], Tensor]) -> Tensor:
        """The sum of `term(rows, mu)` over all pieces of the rows, on all processes."""
        total: Tensor | None = None
        with self.ranks.together():
            for rows, mu in self:
                new = term(rows, mu)
                total = new if total is None else total + new
            if total is None:
                raise ValueError("the source holds no rows (n = 0). Pass at least one row.")
        assert total is not None
        return self.ranks.sum(total)[0]


@torch.no_grad()
def loglik(source: Iterable[Rows], family: Family, link: Link, coef: Tensor, dispersion: Tensor) -> Tensor:
    """(B,) the fully normalised log-likelihood at coefficients `(B, p)` and dispersions `(B,)`."""
    if isinstance(source, Ragged):
        value = torch.empty_like(dispersion)
        for at, rows in source.parts:
            value[at] = loglik([rows], take_family(family, at), link, coef[at], dispersion[at])
        return value
    return RowMeans(source, link, coef).loglik(family, dispersion)


def _row_loglik(rows: Rows, family: Family, mu: Tensor, dispersion: Tensor) -> Tensor:
    used = rows.weight > 0
    repeats = torch.ones_like(rows.weight) if rows.repeats is None else rows.repeats.to(rows.weight.dtype)
    prior = torch.where(used, rows.weight / torch.where(used, repeats, 1.0), 1.0)
    logs = family.log_prob(rows.response, mu, dispersion.unsqueeze(-1), prior)
    return torch.where(used, repeats * logs, 0.0).sum(-1)


def maximise(
    function: Callable[[Tensor], Tensor], start: Tensor, lower: float, upper: float, iterations: int = 60
) -> Tensor:
    """(B,) the maximum of a smooth function of one parameter in each model.

    Newton's method on central differences; where the curvature is wrong, or the step is long, a unit step
    uphill; a step that does not rise is halved. Stops when no parameter moves by 1e-11.
    """
    at, step_limit = start.clamp(lower, upper), torch.ones_like(start)
    value = function(at)
    for _ in range(iterations):
        up, down = function(at + STEP), function(at - STEP)
        slope, bend = (up - down) / (2 * STEP), (up - 2 * value + down) / STEP**2
        newton = -slope / torch.where(bend < 0, bend, -1.0)
        step = torch.where(bend < 0, newton, torch.sign(slope) * step_limit)
        step = torch.maximum(torch.minimum(step, step_limit), -step_limit)
        trial = (at + step).clamp(lower, upper)
        new = function(trial)
        rises = new >= value - 1e-13 * value.abs()
        moved = torch.where(rises, trial - at, 0.0)
        at, value = at + moved, torch.where(rises, new, value)
        step_limit = torch.where(rises, torch.ones_like(step_limit), step.abs() / 2)
        if bool((torch.where(rises, moved.abs(), step.abs()) < 1e-11).all()):
            break
    return at


@torch.no_grad()
def dispersion_ml(source: Iterable[Rows], family: Family, link: Link, coef: Tensor, start: Tensor) -> Tensor:
    """(B,) the maximum likelihood dispersion at given coefficients, from a positive start; 0 where that is 0."""
    if isinstance(source, Ragged):
        value = torch.empty_like(start)
        for at, rows in source.parts:
            value[at] = dispersion_ml([rows], take_family(family, at), link, coef[at], start[at])
        return value
    positive = (start > 0) & torch.isfinite(start)
    fitted = RowMeans(source, link, coef)
    best = maximise(
        lambda log_phi: fitted.loglik(family, log_phi.exp()), torch.where(positive, start, 1.0).log(), -700.0, 700.0
    ).exp()
    return torch.where(positive, best, start)


@torch.no_grad()
def dispersion_fletcher(source: Iterable[Rows], family: Family, link: Link, coef: Tensor, pearson: Tensor) -> Tensor:
    """(B,) Pearson's dispersion (B,) over `1 + s`, `s` the mean of `V'(mu) (y - mu) sqrt(w) / V(mu)` over the rows.

    It takes out the part of Pearson's statistic that skewness makes vary.
    Source: Fletcher (2012), Biometrika 99(1), 230-237.
    """
    if isinstance(source, Ragged):
        value = torch.empty_like(pearson)
        for at, rows in source.parts:
            value[at] = dispersion_fletcher([rows], take_family(family, at), link, coef[at], pearson[at])
        return value

    def term(rows: Rows, mu: Tensor) -> Tensor:
        used = rows.weight > 0
        repeats = torch.ones_like(rows.weight) if rows.repeats is None else rows.repeats.to(mu.dtype)
        prior = torch.where(used, rows.weight / torch.where(used, repeats, 1.0), 0.0)
        each = family.variance_log_deriv(mu) * (rows.y - mu) * prior.sqrt()
        kept = torch.where(used, repeats, 0.0)
        return torch.stack([(kept * torch.where(used, each, 0.0)).sum(-1), kept.sum(-1)], -1)

    total, count = RowMeans(source, link, coef).sum(term).unbind(-1)
    return pearson / (1 + (total / count).clamp(min=-0.9))


def alpha_ml(fitted: RowMeans, family: Family, start: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the maximum likelihood alpha of negative binomial models at fixed means, and where it is on its limit 0.

    At `alpha = 0` the slope of the log-likelihood is `sum w ((y - mu)^2 - y) / 2`; where it is not positive the
    likelihood falls from the Poisson limit on.
    """
    slope = fitted.sum(lambda rows, mu: (rows.weight * ((rows.y - mu).square() - rows.y)).sum(-1))
    limit = slope <= 0

    def slopes(log_alpha: Tensor) -> tuple[Tensor, Tensor]:
        member = family.with_parameters({"log_alpha": log_alpha})

        def term(rows: Rows, mu: Tensor) -> Tensor:
            parts = torch.stack(member.shape_slopes(rows.y, mu), -2) * rows.weight.unsqueeze(-2)
            return torch.where(rows.weight.unsqueeze(-2) > 0, parts, 0.0).sum(-1)

        first, second = fitted.sum(term).unbind(-1)
        return first, second

    best = climb(slopes, torch.where(start > 0, start, 1.0).log(), -40.0, 40.0).exp()
    return torch.where(limit, 0.0, best), limit


def climb(slopes: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, lower: float, upper: float) -> Tensor:
    """(B,) where the first of two `slopes`, the derivatives of a function of one parameter, falls through zero.

    Newton's method within a bracket; two units uphill where the function is not concave or its step is long.
    """

    def step(at: Tensor) -> Tensor:
        slope, bend = slopes(at)
        newton = -slope / torch.where(bend < 0, bend, -1.0)
        sound = (bend < 0) & (newton.abs() <= LONGEST)
        return torch.where(torch.isfinite(slope), torch.where(sound, newton, 2 * slope.sign()), 0.0)

    return root(step, start, limits=(lower, upper), most=200)


@torch.no_grad()
def power_ml(fitted: RowMeans, family: Family, start: Tensor, dispersion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) the maximum likelihood Tweedie power in (1.01, 1.99) and dispersion at fixed means, and where on a limit."""

    def at(place: Tensor) -> Tensor:
        def term(rows: Rows, mu: Tensor) -> Tensor:
            found = of_power(rows, mu, place[:, :1], place[:, 1:])
            own = [found.own[pair] for pair in ((0, 0), (0, 1), (1, 1))]
            return torch.stack([found.log_prob, *found.slope, *own], -1).sum(-2)

        return fitted.sum(term)

    log_phi, raw = maximise_two(at, torch.stack([dispersion.log(), (start - 1).logit()], -1)).unbind(-1)
    return 1 + raw.sigmoid(), log_phi.exp(), raw.abs() >= POWER_END - 1e-6


def maximise_two(function: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 60) -> Tensor:
    """(B, 2) the maximum of a smooth function of two parameters, the second within `(-POWER_END, POWER_END)`.

    `function` gives (B, 6) its value, slope and negative curvature (both first, between, both second). Newton's method;
    a unit step uphill where it is not concave; a step that does not rise is cut. Ends when neither moves by 1e-10.
    """
    ends = start.new_tensor([math.inf, POWER_END])
    place = torch.minimum(torch.maximum(start, -ends), ends)
    here, limit = function(place), torch.ones_like(start[:, 0])
    for _ in range(iterations):
        step, newton = _step_of_two(here, place, ends)
        size = step.abs().amax(-1)
        scale = torch.where(newton, (limit / size.clamp(min=1e-300)).clamp(max=1.0), limit / size.clamp(min=1e-300))
        trial = torch.minimum(torch.maximum(place + scale.unsqueeze(-1) * step, -ends), ends)
        new = function(trial)
        rises = (new[:, 0] >= here[:, 0] - 1e-13 * here[:, 0].abs()).unsqueeze(-1)
        moved = (trial - place).abs().amax(-1)
        place, here = torch.where(rises, trial, place), torch.where(rises, new, here)
        limit = torch.where(rises[:, 0], 1.0, torch.minimum(limit, size) / 4)
        if bool((moved < 1e-10).all()):
            break
    return place


def _step_of_two(here: Tensor, place: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2) Newton's step, or the slope and False where the function is not concave; along an end of the second."""
    _, first, second, a, b, c = here.unbind(-1)
    held = (place[:, 1].abs() >= ends[1]) & (second * place[:, 1] > 0)
    second, b, c = torch.where(held, 0.0, second), torch.where(held, 0.0, b), torch.where(held, 1.0, c)
    det = a * c - b * b
    concave = (a > 0) & (det > 0)
    safe = torch.where(concave, det, 1.0)
    newton = torch.stack([(c * first - b * second) / safe, (a * second - b * first) / safe], -1)
    return torch.where(concave.unsqueeze(-1), newton, torch.stack([first, second], -1)), concave
