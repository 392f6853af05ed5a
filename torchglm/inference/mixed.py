"""Random effects of a fit: their covariances, and the modes of each level with their errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.mixed.found import MixedFound
from torchglm.fitting.mixed.rows import conditional, without_effects
from torchglm.fitting.status import Status
from torchglm.inference.fitted import Fitted, Kind
from torchglm.inference.null import null_deviance
from torchglm.inputs.specs import effects_of, groupings_of
from torchglm.links import Link
from torchglm.rows.rows import Rows
from torchglm.tables.frames import frame
from torchglm.writing.nearest import ByName


def of_effects(
    found: MixedFound, family: Family, link: Link, constant: bool, tol: float, status: Tensor, given: object
) -> tuple[str, Tensor, dict[str, Tensor]]:
    """How the dispersion was found (or `given`), what it is, and what a fit keeps of its effects, by name in `Flat`."""
    phi, models = found.phi, len(found.phi)
    covariances = [(root @ root.mT * phi[:, None, None]).reshape(models, -1) for root in found.roots]
    spreads = [(spread * phi.view(-1, 1, 1, 1)).reshape(models, -1) for spread in found.spread]
    failed = status == int(Status.NOT_FINITE)
    plain = without_effects(found.rows, found.columns)
    kept = {
        "null_deviance": null_deviance(plain, family, link, constant, tol, failed),
        "criterion": found.criterion,
        "loglik": -found.criterion,
        "modes": found.coef[:, found.columns :],
        "effect_cov": torch.cat(covariances, -1),
        "effect_spread": torch.cat(spreads, -1),
        "effect_psi": found.psi,
        "effect_psi_cov": found.psi_covariance.reshape(models, -1),
        "effect_units": torch.cat([unit.flatten(1) for unit in found.units], -1),
        "effect_shares": found.explained,
    }
    if found.freedom is not None:
        kept["effect_df"] = found.freedom
    if found.used.numel():
        kept["strength"] = found.strength
    return "number" if given is not None else "reml" if family.has_dispersion else "fixed", phi, kept


def satterthwaite(result: Kind) -> Kind:
    """The same fit with random effects, its tests and intervals by t with Satterthwaite's degrees of freedom.

    They are one for each coefficient, `result.satterthwaite().reference_df`; those of Gaussian fits are lmerTest's.
    With few groups the variances are not well known, and `df_resid` or a normal law make intervals too narrow. Degrees
    of freedom are infinite where a variance was found to be 0. Raises `ValueError` for fits that have none: without
    random effects, with smooths, with a covariance of another kind.
    """
    flat = result.flat
    if flat.effect_df is None or flat.covariance is not None:
        raise ValueError(
            "satterthwaite() is for fits with random effects, (1 | group), without smooths and with the model's "
            "covariance. Other fits have tests by their own law."
        )
    return replace(result, flat=replace(flat, reference=flat.effect_df))


def conditional_rows(result: Fitted, source: Iterable[Rows]) -> Iterable[Rows]:
    """Rows with the columns of random effects as those of the fit: the effects in the offset."""
    effects = result.spec and effects_of(result.spec, len(result.all_names), result.family)
    if effects is None or result.flat.modes is None:
        return source
    return conditional(source, effects, torch.cat([result.flat.coef, result.flat.modes], -1))


@dataclass(frozen=True)
class RandomEffects:
    """The random effects of one factor, for a fit or a batch `(*B)` of them.

    `effects` (q) are their names, `levels` (L) those of the factor, in order; `covariance` (*B, q, q), `sd` (*B, q) and
    `correlation` (*B, q, q) are those of the effects between levels; `modes` (*B, L, q), the effects of each level
    where their density given the data is largest, and `std_err` (*B, L, q), the standard deviations given the data,
    the fixed effects and the covariances.
    """

    name: str
    effects: list[str]
    levels: list[Any]
    covariance: Tensor
    modes: Tensor
    spread: Tensor = field(repr=False)  # (*B, L, q, q)
    sets: list[list[str]] = field(repr=False)  # effects that are correlated

    @property
    def sd(self) -> Tensor:
        return self.covariance.diagonal(dim1=-2, dim2=-1).sqrt()

    @property
    def correlation(self) -> Tensor:
        scale = self.sd
        found = self.covariance / scale.unsqueeze(-1) / scale.unsqueeze(-2)
        eye = torch.eye(found.shape[-1], dtype=torch.bool, device=found.device)
        return torch.where(eye & (scale > 0).unsqueeze(-1), 1.0, found)

    @property
    def std_err(self) -> Tensor:
        return self.spread.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()

    def to_frame(self) -> Any:
        """The modes and their errors as a pandas frame, a row for each level (and model)."""
        columns = {name: self.modes[..., j] for j, name in enumerate(self.effects)}
        errors = {f"{name} std_err": self.std_err[..., j] for j, name in enumerate(self.effects)}
        return frame([str(level) for level in self.levels], columns | errors, self.modes.shape[:-2])


def random(result: Fitted) -> dict[str, RandomEffects]:
    """The random effects of each factor by its name: `result.random["clinic"].sd`.

    Raises `ValueError` for a fit without random effects.
    """
    flat = result.flat
    if flat.modes is None or flat.effect_cov is None or flat.effect_spread is None or result.spec is None:
        raise ValueError("this fit has no random effects. Write them into its formula: y ~ x + (1 | group).")
    found, start, cov, spread = ByName[RandomEffects]("group of random effects"), 0, 0, 0
    for group in groupings_of(result.spec, result.family):
        levels, q = len(group.levels), group.effects
        size = levels * q
        modes = flat.modes[:, start : start + size].unflatten(1, (q, levels)).mT
        own = flat.effect_cov[:, cov : cov + q * q].unflatten(1, (q, q))
        each = flat.effect_spread[:, spread : spread + size * q].unflatten(1, (levels, q, q))
        names = [name for inside in group.sets for name in inside]
        found[group.name] = RandomEffects(
            group.name, names, group.levels, result.shaped(own), result.shaped(modes), result.shaped(each), group.sets
        )
        start, cov, spread = start + size, cov + q * q, spread + size * q
    return found
