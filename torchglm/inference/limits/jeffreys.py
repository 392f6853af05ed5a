"""Limits of bias-reduced coefficients by the penalised likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm import special
from torchglm.fitting.bias import DISTANCE, STEPS, climb, information_term, is_penalty
from torchglm.fitting.kernel import take_family
from torchglm.inference.fitted import Fitted
from torchglm.inference.limits.crossing import crossing
from torchglm.rows.ranks import members, seen
from torchglm.rows.rows import in_pairs


@torch.no_grad()
def penalized_interval(result: Fitted, level: float) -> Tensor:
    """(B, p, 2) where `2 (max - profile)` of the penalised likelihood reaches the square of the normal quantile.

    A coefficient is held, the others maximise `loglik + log det(X'WX) / 2`, the determinant being that of all columns.
    Raises `ValueError` where the adjusted score is that of no penalised likelihood. Source: Heinze & Schemper (2002),
    A solution to the problem of separation in logistic regression, Stat. Med. 21(16).
    """
    family, link, flat = result.family, result.link, result.flat
    if not is_penalty(family, link):
        raise ValueError(
            f"the bias-reduced score of {family.name} with the link {link.name} is that of no penalised likelihood, "
            "which has no profile. Use method='wald', or the canonical link."
        )
    tail = torch.tensor(0.5 + level / 2, dtype=torch.float64)
    target = float(special.normal_icdf(tail))
    source = seen(result.source, in_pairs)
    best = flat.deviance / 2 - information_term(flat.gram, flat.keep)
    model, column = (flat.keep & ~flat.failed.unsqueeze(-1)).nonzero().unbind(-1)
    lanes = torch.arange(2 * model.numel(), device=model.device)
    side = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=model.device).repeat_interleave(model.numel())
    model, column = model.repeat(2), column.repeat(2)
    centre, held = flat.coef[model, column], torch.zeros_like(flat.keep[model])
    held[lanes, column] = True
    across = flat.root[model].inverse_column(column)  # (T, p)
    error = across[lanes, column].sqrt()
    slope = side.unsqueeze(-1) * across / error.square().unsqueeze(-1)  # along which all coefficients begin

    def root(some: Tensor, distance: Tensor) -> Tensor:
        own, keep = model[some], flat.keep[model[some]]
        coef = flat.coef[own] + slope[some] * distance.unsqueeze(-1)
        end, _ = climb(members(source, own), take_family(family, own), link, coef, keep, keep & ~held[some], STEPS)
        arrived = (end.size <= (100 * DISTANCE) ** 2) & end.moments.valid
        moved = (end.coef - flat.coef[own]) / distance.unsqueeze(-1)
        slope[some] = torch.where(arrived.unsqueeze(-1), moved, slope[some])
        return torch.where(arrived, (2 * (end.merit - best[own])).clamp(min=0).sqrt(), torch.nan)

    found = centre + side * crossing(root, target * error, error, target)
    out = torch.full((*flat.coef.shape, 2), torch.nan, dtype=torch.float64, device=flat.coef.device)
    out[model, column, (side > 0).long()] = found
    return out
