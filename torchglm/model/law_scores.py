"""The continuous ranked probability score of any law that has tails and quantiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchglm import special
from torchglm.distributions import ScaledPoisson
from torchglm.families import Family
from torchglm.families.several import Classes
from torchglm.special.incomplete import NODES, WEIGHTS

MOST = 4096  # counts up to which their probabilities are summed
REST = 1e-12  # of the probability, that a sum over counts may leave out
POWER = 3  # of the substitution that draws nodes to the ends, where quantiles run away


@torch.no_grad()
def crps(law: Any, value: Tensor) -> Tensor:
    """`integral (F(x) - 1{value <= x})^2 dx` of a law (*batch) at responses (*S, *batch); NaN where there is none.

    Nor is there one (it is NaN) where the law has no finite mean.
    Its closed form where the family has one; of counts the sum over them; else by quantiles `q`, with `u = F(value)`,
    `2 int_0^u p (y - q(p)) dp + 2 int_u^1 (1 - p) (q(p) - y) dp` at fixed nodes.
    Source: Gneiting & Raftery (2007), J. Am. Stat. Assoc. 102, section 4.2; Laio & Tamea (2007), HESS 11.
    """
    y = value.double().expand(torch.broadcast_shapes(value.shape, law.batch_shape))
    known = _closed(law, y)
    if known is None:
        most = law.icdf(torch.full_like(y, 1 - REST)).nan_to_num(0.0).maximum(y) if _whole(law) else None
        summed = most is not None and (not most.numel() or float(most.max()) <= MOST)
        known = (
            _sum(law, y, int(most.max()) if most.numel() else 0) if summed and most is not None else _integral(law, y)
        )
    scored = law.known if isinstance(law.family, Classes) else law.known & law.mean.isfinite()
    return torch.where(scored.expand_as(known), known, torch.nan).to(value.dtype)


def _closed(law: Any, y: Tensor) -> Tensor | None:
    """The closed form, where there is one."""
    exact = law.torch_law
    if isinstance(exact, ScaledPoisson):
        return exact.dispersion * special.poisson_crps(y / exact.dispersion, exact.mean / exact.dispersion)
    family = law.family
    if exact is None or not hasattr(law, "phi") or type(family).crps is Family.crps:
        return None
    mean, phi = exact.mean, law.phi.double().expand_as(exact.mean)
    if law.trials is not None:
        trials = law.trials.double().expand_as(mean)
        return special.binomial_crps(y, trials, mean / trials)
    each = {name: part.double().expand(mean.shape) for name, part in family.shapes.items() if part.dim()}
    family = family.with_parameters(each) if each else family
    response = family.encode(y)[0]
    try:
        return family.crps(*(part.unsqueeze(-1) for part in (response, mean.expand_as(y), phi.expand_as(y)))).squeeze(
            -1
        )
    except ValueError:  # of some parameters alone
        return None


def _whole(law: Any) -> bool:
    """Whether responses are whole numbers."""
    exact = law.torch_law
    return law.ends.whole if exact is None else bool(exact.support.is_discrete)


def _sum(law: Any, y: Tensor, most: int) -> Tensor:
    """Over counts, one after the other."""
    total = torch.zeros_like(y)
    for k in range(most + 1):
        total = total + (law.cdf(torch.full_like(y, float(k))) - (y <= k).to(y.dtype)).square()
    return total


def _integral(law: Any, y: Tensor) -> Tensor:
    """By quantiles; a mass at 0 apart."""
    t, weight = (torch.tensor(part, dtype=torch.float64, device=y.device) for part in (NODES, WEIGHTS))
    t, weight = (part.reshape(-1, *[1] * y.dim()) for part in (t**POWER, weight * POWER * t ** (POWER - 1)))
    u, nothing = law.cdf(y).double(), torch.zeros_like(y)
    atom = law.cdf(nothing).double() if float(law.family.support.check(torch.tensor(-1.0))) == 0 else nothing
    atom = torch.minimum(atom, u)
    low = atom + (u - atom) * t
    below = (weight * low * (y - law.icdf(low).double())).sum(0) * (u - atom)
    high = (1 - u) * t
    above = (weight * high * (law.icdf(1 - high).double() - y)).sum(0) * (1 - u)
    return 2 * (below.nan_to_num(0.0) + above.nan_to_num(0.0)) + atom.square() * y
