"""Dispersion and shape by maximum likelihood, with standard errors and profile likelihood limits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchglm import special
from torchglm.families import Gamma
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import take_family
from torchglm.fitting.shape import RowMeans, dispersion_ml, maximise
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.status import Status
from torchglm.inference.apart import part_by_part
from torchglm.inference.by_plan import answered_by
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.nested import unpenalised
from torchglm.inference.levels import check_level
from torchglm.inference.limits.crossing import crossing
from torchglm.inference.limits.profile import profile_interval
from torchglm.inference.several import family_of
from torchglm.inference.table import Table
from torchglm.inference.vector.columns import plan_of
from torchglm.rows.ranks import members

STEP = 1e-2  # of the five-point second difference, on the log or logit scale
TOL = 1e-12  # of the refits
Profile = Callable[[Tensor, Tensor], Tensor]  # models (T,) and a parameter on its own scale (T,) -> log-likelihood


@torch.no_grad()
def _shape_parameters_several(result: Fitted, level: float = 0.95) -> Table:
    """`shape_parameters` of several predictors: those after the first that are constant."""
    check_level(level)
    unpenalised(result, "a shape by maximum likelihood")
    family, plan = family_of(result), plan_of(result)
    places = {
        name: place.start
        for name, block, place in zip(family.predictors, plan.blocks, plan.slices, strict=False)
        if name in family.others and plan.is_constant(block)
    }
    if not places:
        raise ValueError(
            f"this {family.said} fit has no parameter beside the first that is one number for all rows. Ask "
            "result[name] for the coefficients of one, or predict(x, kind=name)."
        )
    limits = part_by_part(result, lambda part: profile_interval(part, level, list(places.values())))
    errors = result.flat_covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    rows: dict[str, Tensor] = {}
    for name, j in places.items():
        link = family.links[name]
        eta = result.flat.coef[:, j].where(result.flat.keep[:, j] & ~result.flat.failed, torch.nan)
        three = torch.stack([eta, *limits[:, j].unbind(-1)])
        value, lower, upper = family.parameter(name, three)
        rows[name] = torch.stack([value, errors[:, j] * link.inverse_deriv(eta).abs(), lower, upper], -1)
    rows |= {"theta": _reciprocal(rows["alpha"])} if "alpha" in rows else {}
    return _table(result, rows, level)


@answered_by(_shape_parameters_several)
@torch.no_grad()
def shape_parameters(result: Fitted, level: float = 0.95) -> Table:
    """What a fit estimates beside its coefficients, for every model of a batch.

    Rows, where they are estimated: `dispersion` `phi`, and for the Gamma its `shape` `1 / phi`; for the negative
    binomial `alpha` and `theta = 1 / alpha`; for the Tweedie `power`. Columns: `estimate` by maximum likelihood,
    `std_err` by the observed information (of a dispersion by the curvature of its profile), and the limits `lower` and
    `upper` where twice the log-likelihood has fallen by `z^2`, the other parameters refitted (the dispersion of a
    Tweedie with estimated power is at that power). At the Poisson boundary `alpha = 0` the error is NaN and the lower
    limit 0; a lower limit of alpha is 0 too where the Poisson likelihood is within reach, and a limit of a power 1 or 2
    likewise.
    Of several predictors the parameters after the first that are one number for all rows (a scale, a precision, the
    probability of a zero), their errors by the delta method. NaN for models that were not fitted or fit perfectly.
    Raises `ValueError` where nothing but coefficients was estimated, for a level outside (0, 1), and for penalised and
    robust fits.
    Source: McCullagh & Nelder (1989), sections 8.3.6 and 11; Venables & Ripley (2002), 7.4 (glm.nb, gamma.shape).
    """
    check_level(level)
    unpenalised(result, "a shape by maximum likelihood")
    target = float(special.normal_icdf(torch.tensor(0.5 + level / 2, dtype=torch.float64)))
    rows: dict[str, Tensor] = {}
    if result.estimated_shape:
        rows |= _alpha(result, target) if has_alpha(result.family) else _power(result, target)
    if result.family.has_dispersion and result.dispersion_kind != "number":
        rows |= _dispersion(result, target)
    if not rows:
        raise ValueError(f"this {result.family.said} fit estimated its coefficients alone: no dispersion, no shape.")
    return _table(result, rows, level)


def _table(result: Fitted, rows: dict[str, Tensor], level: float) -> Table:
    """The table of estimates, errors and limits (B, 4)."""
    columns = {
        name: result.shaped(torch.stack([row[:, i] for row in rows.values()], -1))
        for i, name in enumerate(("estimate", "std_err", "lower", "upper"))
    }
    return Table(f"Dispersion and shape by maximum likelihood, {100 * level:g} % profile limits", list(rows), columns)


def _dispersion(result: Fitted, target: float) -> dict[str, Tensor]:
    """(B, 4) `phi` and where the family has one its shape; the means do not depend on `phi`."""
    flat = result.flat
    start = flat.deviance / flat.nobs
    best = dispersion_ml(result.source, result.family, result.link, flat.coef, start)

    def loglik(model: Tensor, log_phi: Tensor) -> Tensor:
        means = RowMeans(members(result.source, model), result.link, flat.coef[model])
        return means.loglik(take_family(result.family, model), log_phi.exp())

    usable = (best > 0) & torch.isfinite(best)
    found = _limits(loglik, torch.where(usable, best, torch.nan).log(), target)
    phi = torch.stack([best, found[:, 0] * best, best * found[:, 1].exp(), best * found[:, 2].exp()], -1)
    phi = torch.where(usable.unsqueeze(-1), phi, torch.nan)
    rows = {"dispersion": phi}
    return rows | {"shape": _reciprocal(phi)} if type(result.family) is Gamma else rows


def _alpha(result: Fitted, target: float) -> dict[str, Tensor]:
    """(B, 4) alpha and theta of negative binomial models."""
    flat = result.flat
    alpha = result.family.get_parameter("log_alpha").exp().expand(flat.coef.shape[0])
    known = flat.status != int(Status.NOT_FINITE)
    inner = known & (alpha > 0)

    def loglik(model: Tensor, log_alpha: Tensor) -> Tensor:
        return _refitted(result, model, "log_alpha", log_alpha, None)

    found = _limits(loglik, torch.where(inner, alpha, torch.nan).log(), target, flat.shape_error)
    out = torch.stack([alpha, found[:, 0] * alpha, alpha * found[:, 1].exp(), alpha * found[:, 2].exp()], -1)
    edge = (known & (alpha == 0)).nonzero()[:, 0]
    if edge.numel():
        out[edge] = _from_zero(result, loglik, edge, target)
    out = torch.where(known.unsqueeze(-1), out, torch.nan)
    return {"alpha": out, "theta": _reciprocal(out)}


def _from_zero(result: Fitted, loglik: Profile, edge: Tensor, target: float) -> Tensor:
    """(E, 4) estimate, error and limits of models whose likelihood falls from `alpha = 0` on."""
    means = RowMeans(members(result.source, edge), result.link, result.flat.coef[edge])
    squares = means.sum(lambda rows, mu: (rows.weight * mu.square()).sum(-1))
    zero = torch.zeros_like(squares)
    top = loglik(edge, zero.log())
    first = target / (squares / 2).sqrt()  # the information of alpha at 0 is half the sum of the squared means

    def root(which: Tensor, value: Tensor) -> Tensor:
        return (2 * (top[which] - loglik(edge[which], value.log()))).clamp(min=0).sqrt()

    upper = crossing(root, first, torch.full_like(zero, torch.nan), target)
    return torch.stack([zero, zero * torch.nan, zero, upper], -1)


def _power(result: Fitted, target: float) -> dict[str, Tensor]:
    """(B, 4) the variance power of Tweedie models, on the logit scale of `power - 1`."""
    flat = result.flat
    raw = result.family.get_parameter("raw_power").expand(flat.coef.shape[0])
    known = flat.status != int(Status.NOT_FINITE)
    phi = (flat.deviance / flat.nobs).log()

    def loglik(model: Tensor, value: Tensor) -> Tensor:
        return _refitted(result, model, "raw_power", value, phi[model])

    found = _limits(loglik, torch.where(known, raw, torch.nan), target, flat.shape_error)
    share = raw.sigmoid()
    out = torch.stack(
        [
            1 + share,
            found[:, 0] * share * (1 - share),
            1 + (raw + found[:, 1]).sigmoid(),
            1 + (raw + found[:, 2]).sigmoid(),
        ],
        -1,
    )
    return {"power": torch.where(known.unsqueeze(-1), out, torch.nan)}


def _refitted(result: Fitted, model: Tensor, name: str, value: Tensor, log_phi: Tensor | None) -> Tensor:
    """(T,) the log-likelihood with a shape parameter at a value, coefficients (and a dispersion) at their maximum."""
    family, source = take_family(result.family, model).with_parameters({name: value}), members(result.source, model)
    start = result.flat.coef[model]
    solution = irls(source, family, result.link, start=start, tol=TOL)
    means = RowMeans(source, result.link, solution.coef)
    if log_phi is None:
        return means.loglik(family, torch.ones_like(value))
    best = maximise(lambda at: means.loglik(family, at.exp()), log_phi, -100.0, 100.0)
    return means.loglik(family, best.exp())


def _limits(loglik: Profile, centre: Tensor, target: float, known: Tensor | None = None) -> Tensor:
    """(B, 3) the error and the distances to the lower and upper limit of a parameter, on the scale of the profile.

    The error is by differences of the profile where it is not `known` (B,).
    """
    out = torch.full((centre.numel(), 3), torch.nan, dtype=torch.float64, device=centre.device)
    model = torch.isfinite(centre).nonzero()[:, 0]
    if not model.numel():
        return out
    at = centre[model]
    top = loglik(model, at)
    error = torch.full_like(at, torch.nan) if known is None else known[model].clone()
    unknown = torch.isnan(error).nonzero()[:, 0]
    if unknown.numel():
        error[unknown] = _error(loglik, model[unknown], at[unknown], top[unknown])
    lane, side = (
        model.repeat(2),
        torch.tensor([-1.0, 1.0], dtype=torch.float64, device=centre.device).repeat_interleave(model.numel()),
    )
    best = top.repeat(2)
    scale = torch.where(torch.isfinite(error), error, 1.0).repeat(2)

    def root(which: Tensor, distance: Tensor) -> Tensor:
        fall = best[which] - loglik(lane[which], centre[lane[which]] + side[which] * distance)
        return (2 * fall).clamp(min=0).sqrt()

    distance = (side * crossing(root, target * scale, error.repeat(2), target)).reshape(2, -1)
    out[model] = torch.stack([error, distance[0], distance[1]], -1)
    return out


def _error(loglik: Profile, model: Tensor, at: Tensor, top: Tensor) -> Tensor:
    """(T,) the error by five-point second differences of the profile."""
    near, far = ((loglik(model, at - step) + loglik(model, at + step)) / 2 for step in (STEP, 2 * STEP))
    bend = (32 * (near - top) - 2 * (far - top)) / (12 * STEP**2)
    return torch.where(bend < 0, -bend, torch.nan).rsqrt()


def _reciprocal(rows: Tensor) -> Tensor:
    """(B, 4) estimate, error and limits of `1 / v` from those of `v`."""
    value, error, lower, upper = rows.unbind(-1)
    return torch.stack([1 / value, error / value.square(), 1 / upper, 1 / lower], -1)
