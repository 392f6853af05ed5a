"""Parameters beside the coefficients by maximum likelihood: dispersion, NB alpha, Tweedie power."""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.moments import linear_predictor
from torchglm.fitting.rows import Rows, wide
from torchglm.links import Link

STEP = 1e-4  # of the central differences, on a log or logit scale


class Fitted:
    """The rows of a source with their means at coefficients `(B, p)`; held where the source is a list in memory."""

    def __init__(self, source: Iterable[Rows], link: Link, coef: Tensor) -> None:
        self.source, self.link, self.coef = source, link, coef
        self._held = list(self._made()) if isinstance(source, list) else None

    def _made(self) -> Iterator[tuple[Rows, Tensor]]:
        for chunk in self.source:
            rows = wide(chunk)
            yield rows._replace(x=rows.x[..., :0]), self.link(linear_predictor(rows, self.coef))

    def __iter__(self) -> Iterator[tuple[Rows, Tensor]]:
        return self._made() if self._held is None else iter(self._held)

    def loglik(self, family: Family, dispersion: Tensor) -> Tensor:
        """(B,) the fully normalised log-likelihood at dispersions `(B,)`."""
        total = torch.zeros_like(dispersion)
        for rows, mu in self:
            total = total + _row_loglik(rows, family, mu, dispersion)
        return total


@torch.no_grad()
def loglik(source: Iterable[Rows], family: Family, link: Link, coef: Tensor, dispersion: Tensor) -> Tensor:
    """(B,) the fully normalised log-likelihood at coefficients `(B, p)` and dispersions `(B,)`."""
    return Fitted(source, link, coef).loglik(family, dispersion)


def _row_loglik(rows: Rows, family: Family, mu: Tensor, dispersion: Tensor) -> Tensor:
    used = rows.weight > 0
    repeats = torch.ones_like(rows.weight) if rows.repeats is None else rows.repeats.to(rows.weight.dtype)
    prior = torch.where(used, rows.weight / torch.where(used, repeats, 1.0), 1.0)
    logs = family.log_prob(rows.y, mu, dispersion.unsqueeze(-1), prior)
    return torch.where(used, repeats * logs, 0.0).sum(-1)


def maximise(function: Callable[[Tensor], Tensor], start: Tensor, lower: float, upper: float,
             iterations: int = 60) -> Tensor:
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
    positive = (start > 0) & torch.isfinite(start)
    fitted = Fitted(source, link, coef)
    best = maximise(lambda log_phi: fitted.loglik(family, log_phi.exp()), torch.where(positive, start, 1.0).log(),
                    -700.0, 700.0).exp()
    return torch.where(positive, best, start)


@torch.no_grad()
def alpha_ml(fitted: Fitted, family: Family, start: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the maximum likelihood alpha of negative binomial models at fixed means, and where it is on its limit 0.

    At `alpha = 0` the slope of the log-likelihood is `sum w ((y - mu)^2 - y) / 2`; where it is not positive the
    likelihood falls from the Poisson limit on.
    """
    slope = torch.zeros_like(start)
    for rows, mu in fitted:
        slope = slope + (rows.weight * ((rows.y - mu).square() - rows.y)).sum(-1)
    limit, one = slope <= 0, torch.ones_like(start)

    def at(log_alpha: Tensor) -> Tensor:
        return fitted.loglik(family.with_parameters({"log_alpha": log_alpha}), one)

    best = maximise(at, torch.where(start > 0, start, 1.0).log(), -40.0, 40.0).exp()
    return torch.where(limit, 0.0, best), limit


@torch.no_grad()
def power_ml(fitted: Fitted, family: Family, start: Tensor, dispersion: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the maximum likelihood Tweedie power in (1.01, 1.99) and dispersion at fixed means."""
    phi = dispersion.log()

    def inner(raw: Tensor) -> tuple[Tensor, Tensor]:
        member = family.with_parameters({"raw_power": raw})
        best = maximise(lambda log_phi: fitted.loglik(member, log_phi.exp()), phi, -100.0, 100.0)
        return best, fitted.loglik(member, best.exp())

    limit = math.log(0.99 / 0.01)
    raw = maximise(lambda value: inner(value)[1], (start - 1).logit(), -limit, limit)
    return 1 + raw.sigmoid(), inner(raw)[0].exp()
