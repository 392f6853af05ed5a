"""Profile likelihood limits of coefficients: all coefficients, both sides and all models of a batch together."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from torchglm import special
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import take_family
from torchglm.fitting.status import FitWarning, Status
from torchglm.inference.fitted import Fitted
from torchglm.inference.limits.beside import limits_beside
from torchglm.inference.limits.crossing import crossing
from torchglm.inference.limits.refit import ROOM, Held, HeldPlanned
from torchglm.rows.planned import expanded
from torchglm.rows.rows import Rows, wide
from torchglm.writing.warning import tell

MOST, MOST_SEVERAL = 50, 20  # steps of a refit; with several predictors some creep along an edge of the law
TOL = 1e-10  # of the refits: their deviance is then good to far more digits than the limits ask for


@torch.no_grad()
def profile_interval(result: Fitted, level: float, columns: Sequence[int] | None = None) -> Tensor:
    """(B, p, 2) the profile likelihood limits of every coefficient of the flat models, or of some (the others NaN).

    A limit is the value `b` of the coefficient, all others refitted, with `(D(b) - D) / phi = z^2`, where `D` is the
    deviance and `z` the two-sided normal quantile. The dispersion stays at its estimate and shape parameters at
    theirs, as in R's `confint.glm`. A limit is infinite where the profile never rises that far (separation, or the
    edge of the parameter space comes first), NaN for aliased columns, models without a dispersion, and those of several
    predictors that ended on an edge. Raises
    `ValueError` for a penalised fit and for a robust covariance.
    Source: Venables & Ripley (2002), Modern Applied Statistics with S, 8.4.
    """
    if result.penalty is not None:
        raise ValueError(
            "profile limits need the likelihood alone and this fit has a penalty. Use method='wald', or fit without it."
        )
    if result.covariance_kind not in ("model", "observed"):
        raise ValueError(
            f"profile limits come from the likelihood and cannot use the covariance "
            f"{result.covariance_kind}. Use method='wald', or the fit without robust()."
        )
    flat = result.flat
    tail = torch.tensor(0.5 + level / 2, dtype=torch.float64)
    target = float(special.normal_icdf(tail))
    if flat.absorbed is not None:
        return limits_beside(result, target)
    out = torch.full((*flat.coef.shape, 2), torch.nan, dtype=torch.float64, device=flat.coef.device)
    known = (flat.status != int(Status.NOT_FINITE)) & (flat.dispersion > 0)
    if result.plan is not None:  # on an edge of the law the refits creep along it
        known &= flat.status != int(Status.BOUNDARY)
    wanted = flat.keep & known.unsqueeze(-1)
    if columns is not None:
        wanted &= torch.tensor([j in columns for j in range(flat.keep.shape[-1])], device=wanted.device)
    model, column = wanted.nonzero().unbind(-1)
    p = out.shape[-2]
    lanes = max(2, ROOM // max(p * p, 64 * p))
    for alike in _alike(result, model, column):
        for chosen in alike.split(lanes // 2):
            out[model[chosen], column[chosen]] = _limits(result, model[chosen], column[chosen], target)
    return out


def _alike(result: Fitted, model: Tensor, column: Tensor) -> list[Tensor]:
    """The coefficients that are held in one search: all, or of several predictors those that leave the same plan."""
    every = torch.arange(model.numel(), device=model.device)
    if result.plan is None:
        return [every]
    patterns = torch.unique(result.flat.keep, dim=0, return_inverse=True)[1][model]
    groups = torch.unique(torch.stack([column, patterns]), dim=1, return_inverse=True)[1]
    return [every[groups == group] for group in range(int(groups.max()) + 1 if groups.numel() else 0)]


def _limits(result: Fitted, model: Tensor, column: Tensor, target: float) -> Tensor:
    """(T, 2) the lower and upper limits of coefficients `column[t]` of the models `model[t]`."""
    side = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=model.device).repeat_interleave(model.numel())
    profile = _Profile(result, model.repeat(2), column.repeat(2), side)
    distance = crossing(
        profile.root, target * profile.scale, profile.error, target, target * profile.size, result.plan is not None
    )
    if profile.lower:
        tell(
            "a refit of the profile has a lower deviance than the fit, which has not converged: the limits "
            "are measured from the fit. Raise max_iter or lower tol.",
            FitWarning,
        )
    return (profile.centre + side * distance).reshape(2, -1).mT


class _Profile:
    """The signed root deviance of lanes, each a model with one coefficient moved to one side."""

    def __init__(self, result: Fitted, model: Tensor, column: Tensor, side: Tensor) -> None:
        flat, lane = result.flat, torch.arange(model.numel(), device=model.device)
        self.family, self.link, self.side, self.model = result.family, result.link, side, model
        self.most = MOST if result.plan is None else MOST_SEVERAL
        coef, root = flat.coef[model], flat.root[model]
        self.held = (Held if result.plan is None else HeldPlanned)(result.source, model, column, flat.keep)
        self.rows = sum(rows.y.shape[-1] for rows in result.source) if isinstance(result.source, list) else None
        self.deviance, self.phi = flat.deviance[model], flat.dispersion[model]
        self.centre = coef[lane, column]
        self.others = torch.gather(coef, 1, self.held.others)
        covariance = root.inverse_column(column)  # (T, p) with the coefficient's own
        variance = covariance[lane, column]
        self.error = (variance * self.phi).sqrt()
        self.error = torch.where(self.error > 0, self.error, torch.nan)  # of a level set apart nothing is known
        poor = ~flat.converged[model] | ~torch.isfinite(self.error)
        self.scale = self.size = self.error
        if bool(poor.any()):  # such a fit says little of its own width: the size of the coefficient says more
            size = torch.fmax(self.centre.abs(), 1 / largest(result.source)[model, column])
            self.scale = torch.where(poor, torch.fmin(self.error, size), self.error)
            self.size = torch.where(poor, size, self.error)
        tangent = torch.gather(covariance, 1, self.held.others) / variance.unsqueeze(-1) * side.unsqueeze(-1)
        self.slope = torch.where(torch.isfinite(tangent), tangent, 0.0)  # of the others, where refits start
        self.lower = False

    def root(self, lanes: Tensor, distance: Tensor) -> Tensor:
        """(T,) the root of the scaled rise of the deviance at distances from the estimate."""
        held = self.held.at(lanes, self.centre[lanes] + self.side[lanes] * distance)
        start = self.others[lanes] + self.slope[lanes] * distance.unsqueeze(-1)
        small = self.rows is not None and lanes.numel() * self.others.shape[-1] * self.rows <= ROOM
        source = list(held) if small else held
        coef, deviance, status = self._refit(source, lanes, start)
        if bool((status == int(Status.STALLED)).any()):
            again, other, ended = self._refit(source, lanes, None)
            better = (status == int(Status.STALLED)) & (other < deviance)
            coef = torch.where(better.unsqueeze(-1), again, coef)
            deviance, status = torch.where(better, other, deviance), torch.where(better, ended, status)
        fitted = (status != int(Status.INVALID_START)) & torch.isfinite(deviance)
        moved = (coef - self.others[lanes]) / distance.unsqueeze(-1)
        self.slope[lanes] = torch.where(fitted.unsqueeze(-1), moved, self.slope[lanes])
        rise = (deviance - self.deviance[lanes]) / self.phi[lanes]
        self.lower |= bool((fitted & (rise < -1e-3)).any())
        return torch.where(fitted, rise.clamp(min=0).sqrt(), torch.nan)

    def _refit(self, source: Iterable[Rows], lanes: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The other coefficients, the deviance and the status of refits from a start, or from the solver's own."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a start out of range: the solver then takes its own
            family = take_family(self.family, self.model[lanes])
            solution = irls(source, family, self.link, start=start, tol=TOL, max_iter=self.most)
        return solution.coef, 2 * solution.moments.objective, solution.status


def largest(source: Iterable[Rows]) -> Tensor:
    """(B, p) the largest size of each column on the rows of positive weight."""
    found: Tensor | None = None
    for rows in (piece for chunk in source for piece in chunk.pieces()):
        x = wide(rows).x if rows.plan is None else expanded(rows).abs().amax(0)
        part = (x.abs() * (rows.weight > 0).unsqueeze(-1)).amax(-2)
        found = part if found is None else torch.maximum(found, part)
    assert found is not None
    return found
