"""How far columns say the same: condition indices and variance inflation, from the fitted information alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.inference.vector.columns import refuse_part, terms_of


def condition_indices(result: Fitted) -> Tensor:
    """(*B, p) largest over each singular value of `sqrt(W) X` with columns of length one, in rising order.

    Above 30 some columns nearly determine each other. The last is the scaled condition number; NaN stands for
    aliased columns. Source: Belsley, Kuh & Welsch (1980), Regression Diagnostics, section 3.2.
    """
    values, known = _spectrum(result)
    ratio = torch.where(known, values.amax(-1, keepdim=True) / values, torch.nan)
    return result.shaped(ratio.sort(-1).values)


def _scaled(result: Fitted) -> Tensor:
    """(B, p, p) the information with a unit diagonal; aliased columns are 2 on it, out of the way."""
    keep, gram = result.flat.keep, result.flat.gram.written_out()
    length = torch.where(keep, gram.diagonal(dim1=-2, dim2=-1), 1.0).clamp(min=1e-300).sqrt()
    both = keep.unsqueeze(-1) & keep.unsqueeze(-2)
    scaled = torch.where(both, gram / length.unsqueeze(-1) / length.unsqueeze(-2), 0.0)
    return torch.nan_to_num(scaled) + torch.diag_embed(2.0 * (~keep).to(scaled.dtype))


def _spectrum(result: Fitted) -> tuple[Tensor, Tensor]:
    """(B, p) singular values of the scaled design in rising order, and which belong to it.

    They come from the inverse root of the information, which is good to the condition of the design and not of its
    square; with a penalty, which the root holds too, from the information.
    """
    refuse_part(result)
    keep = result.flat.keep
    if result.penalty is not None:
        values = torch.linalg.eigvalsh(_scaled(result)).clamp(min=0).sqrt()
        outside = torch.zeros_like(values, dtype=torch.bool)
        return values, ~outside
    length = torch.where(keep, result.flat.gram.diagonal(), 0.0).sqrt()
    strength = result.flat.root.spectrum(length, keep)  # falling, zero where aliased
    return torch.where(strength > 0, 1 / strength, 0.0), strength > 0


def vif(
    result: Fitted, terms: Mapping[str, Sequence[int]] | None = None, inverse: Tensor | None = None
) -> dict[str, Tensor]:
    """How many times each term's variances (squared, for the generalised one of several columns) are inflated.

    (*B) by term: `det R_term det R_others / det R`, `R` the correlation of the estimates without the intercept, to
    the power `1 / (2 d)` for a term of `d` columns and squared, so that terms of any size compare: for one column the
    usual `1 / (1 - R^2)`. Terms are those of the formula, else the columns. Above 10 the data hardly tell the term
    from the others. With several predictors a term has its coefficients of all of them. NaN where one of its columns
    is aliased. Source: Fox & Monette (1992), JASA 87, 178-183.
    """
    if result.plan is not None:
        terms = terms_of(result) if terms is None else terms
    elif terms is None:
        terms = {name: [j] for j, name in enumerate(result.names)} if result.spec is None else result.spec.terms
    keep = result.flat.keep
    inverse = result.flat.root.inverse() if inverse is None else inverse
    inner = [j for columns in terms.values() for j in columns if result.all_names[j] != "(Intercept)"]
    covariance = torch.where(keep.unsqueeze(-1) & keep.unsqueeze(-2), inverse, torch.eye(keep.shape[-1]).to(inverse))
    size = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = covariance / size.unsqueeze(-1) / size.unsqueeze(-2)
    found = {}
    for name, columns in terms.items():
        own = [j for j in columns if j in inner]
        if not own:
            continue
        rest = [j for j in inner if j not in own]
        logs = [torch.linalg.slogdet(correlation[:, part][:, :, part]).logabsdet for part in (own, rest, inner)]
        ratio = ((logs[0] + logs[1] - logs[2]) / len(own)).exp()
        found[name] = result.shaped(torch.where(keep[:, own].all(-1), ratio, torch.nan))
    return found


def vif_of_variables(result: Fitted) -> dict[str, Tensor]:
    """`vif` of what can be dropped or combined: the terms of one variable are one, whatever their powers and bases.

    Interactions beside terms of their variables are left out, as from a fit without them at the same weights: they
    follow from these by their make. A fit on arrays knows no terms, and has its columns.
    """
    if result.spec is None:
        return vif(result)
    columns = result.spec.terms if result.plan is None else terms_of(result)
    made_of = {name: own for name, own in result.spec.variables.items() if own and name in columns}
    inside = [name for name, own in made_of.items() if not any(other < own for other in made_of.values())]
    grouped: dict[frozenset[str], list[str]] = {}
    for name in inside:
        grouped.setdefault(made_of[name], []).append(name)
    terms = {", ".join(names): [j for name in names for j in columns[name]] for names in grouped.values()}
    if len(inside) == len(made_of):
        return vif(result, terms)
    constants = ((0,) if result.spec.intercept else ()) if result.plan is None else result.plan.free
    wanted = {j for own in terms.values() for j in own} | set(constants)
    scaled = _scaled(result)
    outside = torch.tensor([j not in wanted for j in range(scaled.shape[-1])], device=scaled.device)
    alone = torch.eye(scaled.shape[-1]).to(scaled)
    scaled = torch.where(outside | outside.unsqueeze(-1), alone, scaled)
    values, vectors = torch.linalg.eigh(scaled)
    return vif(result, terms, vectors / values.clamp(min=1e-14).unsqueeze(-2) @ vectors.mT)
