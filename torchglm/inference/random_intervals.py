"""Intervals of the standard deviations of random effects by the profile of the marginal likelihood."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from torchglm import special
from torchglm.fitting.mixed.criterion import MixedCriterion
from torchglm.fitting.mixed.effects import Groupings
from torchglm.fitting.mixed.fit import based
from torchglm.fitting.mixed.profile import AlongSd, Profile, first_in_its_set, limit
from torchglm.fitting.penalties import Quadratic
from torchglm.inference.fitted import Fitted
from torchglm.inference.levels import check_level
from torchglm.inference.mixed import RandomEffects, random
from torchglm.inference.table import Table
from torchglm.inputs.specs import effects_of


def variance_components(result: Fitted, level: float = 0.95) -> Table:
    """The standard deviations of random effects, and of the residuals, with profile intervals; correlations without.

    Limits are those where twice the rise of the negative log marginal likelihood, all other parameters following, is
    the `level` quantile of chi-squared with one degree of freedom; a lower limit is 0 where it is not reached before.
    Raises `ValueError` for a fit without random effects, or without its rows, and a level outside (0, 1); `TypeError`
    for a batch.
    """
    if result.batch_shape:
        raise TypeError("profiles are those of one model: variance_components() of result[i], fitted by itself.")
    check_level(level)
    groups, effects = random(result), effects_of(result.spec, len(result.all_names), result.family)
    if result.context.get("effect_rows") is None or effects is None:
        raise ValueError("this result holds no rows (it was loaded), and profiles need them. Fit it again.")
    tail = torch.tensor(0.5 + level / 2, dtype=torch.float64)
    root = float(special.normal_icdf(tail))
    rows, values = list[str](), list[tuple[float, float, float]]()
    for k, (name, group) in enumerate(groups.items()):
        for r, effect in enumerate(group.effects):
            rows.append(f"{name} sd {effect}")
            sd = float(group.sd[r])
            values.append((sd, *_limits(result, effects, list(groups.values()), k, r, root, sd)))
        rows += [f"{name} correlation {one}, {two}" for one, two, _ in _correlations(group)]
        values += [(value, math.nan, math.nan) for _, _, value in _correlations(group)]
    if result.family.has_dispersion and result.dispersion_kind != "number":
        rows.append("residual sd")
        sd = float(result.dispersion.sqrt())
        values.append((sd, *_limits(result, effects, list(groups.values()), None, 0, root, sd)))
    columns = torch.tensor(values, dtype=torch.float64).unbind(-1)
    names = ("estimate", f"{50 - 50 * level:g} %", f"{50 + 50 * level:g} %")
    return Table("Variance components, profile intervals", rows, dict(zip(names, columns, strict=True)))


def _correlations(group: RandomEffects) -> list[tuple[str, str, float]]:
    place = {name: i for i, name in enumerate(group.effects)}
    return [
        (one, two, float(group.correlation[place[one], place[two]]))
        for inside in group.sets
        for i, one in enumerate(inside)
        for two in inside[i + 1 :]
    ]


def _limits(
    result: Fitted, effects: Groupings, groups: list[RandomEffects], k: int | None, r: int, root: float, sd: float
) -> tuple[float, float]:
    """The limits of the standard deviation of effect `r` of grouping `k`, of the residuals where that is None."""
    layout = effects if k is None else first_in_its_set(effects, k, r)
    criterion, psi, u = _criterion(result, layout, groups, MixedCriterion if k is None else AlongSd)
    best, held = -float(result.loglik), None
    least = math.exp(-12.0) * float(criterion.units[k or 0].diagonal(dim1=-2, dim2=-1)[0, r])
    start = max(sd, least)
    if isinstance(criterion, AlongSd) and k is not None:
        criterion.entry = layout.entries.index((k, r, r))
        criterion.unit = float(criterion.units[k][0, r, r])
        criterion.follows = result.family.has_dispersion and criterion.phi is None
        criterion.sd = start
        held = None if criterion.follows else criterion.entry
        psi[:, criterion.entry] = (
            start / criterion.unit / (float(result.dispersion) ** 0.5 if criterion.follows else 1.0)
        )
    upper = Profile(copy.copy(criterion), psi, u, best, held)
    high = math.exp(limit(upper, math.log(start), 0.5, root))
    if sd <= least:
        return 0.0, high
    lower = Profile(copy.copy(criterion), psi, u, best, held)
    return math.exp(limit(lower, math.log(start), -0.5, root)), high


def _criterion(
    result: Fitted, layout: Groupings, groups: list[RandomEffects], kind: type[MixedCriterion]
) -> tuple[MixedCriterion, Tensor, Tensor]:
    """The criterion of a fit with the effects in the units of their own columns, and its parameters and modes there."""
    flat, phi = result.flat, result.flat.dispersion
    shape = "log_alpha" if result.estimated_shape else ""
    smooth = result.penalty if isinstance(result.penalty, Quadratic) else None
    held, restricted = result.context["held_dispersion"], result.context["method"] == "reml"
    criterion = kind(
        result.context["effect_rows"], result.family, result.link, layout, smooth, flat.keep, restricted, held, shape
    )
    criterion.nodes = result.context["quadrature"]
    fixed = torch.where(flat.keep, flat.coef, 0.0)
    based(criterion, fixed)
    covariances = []
    for unit, group in zip(criterion.units, groups, strict=True):
        size = unit.diagonal(dim1=-2, dim2=-1)
        unit.copy_(torch.diag_embed(size.abs()))
        whole = group.covariance / phi
        covariances.append((whole + 1e-10 * torch.diag_embed(whole.diagonal() + size[0].square())).unsqueeze(0))
    roots = layout.theta(covariances, criterion.units)
    psi = [roots] if smooth is None else [roots, smooth.strength.log().reshape(1, -1).to(roots)]
    if criterion.name:
        psi.append(result.family.shapes["log_alpha"].detach().reshape(1, 1).to(roots))
    assert flat.modes is not None
    u = torch.cat([fixed @ criterion.rotation, torch.zeros_like(flat.modes)], -1)
    if criterion.apart:
        psi.append(u[:, criterion.fixed])
    return criterion, torch.cat(psi, -1), u
