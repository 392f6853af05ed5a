"""Effects on what the law of several predictors says: probabilities of classes, means, dispersions, shares of zeros.

With `g` the slopes of a quantity by the predictors of a row (K) and `h` their slopes (K, K), the average effect of a
column that enters the predictors by the coefficients `theta` (K) is `mean_i g_i' theta`; its derivative by the
coefficients is `mean_i Z_i' h_i theta` and that of `theta` itself. Both are by automatic differentiation of the law.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchglm.inference.estimates import Estimates, delta, errors, estimates
from torchglm.inference.factor_terms import FactorTerm, factor_terms
from torchglm.inference.fitted import Fitted
from torchglm.inference.margins import (
    Slice,
    changes,
    chosen_roles,
    labelled,
    repeats,
    settings_of,
    settle,
    table_values,
)
from torchglm.inference.several import family_of
from torchglm.inference.vector.columns import design_columns, designs_of, plan_of
from torchglm.inference.vector.quantities import LawQuantity, limits_of, quantity
from torchglm.rows.planned import predictors, project_each
from torchglm.rows.rows import Rows, wide

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


def marginal_effects_several(
    result: Fitted,
    variables: Sequence[str] | None = None,
    data: Any = None,
    *,
    kind: str = "mean",
    level: float = 0.95,
    **roles: Unpack[RoleValues],
) -> Estimates:
    """(*B, C k) average effects on a quantity of the law, for classes those on each one's probability in turn.

    An effect goes through all predictors that the variable is part of. See `effects.marginal_effects`.
    """
    asked, beside = quantity(family_of(result), kind), chosen_roles(result, roles, data)
    if result.spec is None:
        known = _variables(result)
        names = list(known if variables is None else variables)
        value, slope = _at_the_margin(result, asked, [_known(name, known) for name in names])
    else:
        part, found = changes(result, variables, data, beside)
        names = [one.name for one in found]
        at, bends = _averages(result, asked, iter([part]))
        value = torch.stack([(at[one.plus] - at[one.minus]) / one.divisor for one in found], -2)
        slope = torch.stack([(bends[one.plus] - bends[one.minus]) / one.divisor for one in found], -3)
    # (C, k, B) and (C, k, B, P)
    return estimates(
        result, value.flatten(0, 1).mT, errors(result, slope.flatten(0, 1).movedim(0, 1)), asked.names(names), level
    )


def predictions_several(
    result: Fitted,
    at: Mapping[str, Any],
    data: Any = None,
    *,
    kind: str = "mean",
    level: float = 0.95,
    **roles: Unpack[RoleValues],
) -> Estimates:
    """(*B, C k) averages of a quantity of the law with variables set to chosen values, see `effects.predictions`."""
    asked, beside = quantity(family_of(result), kind), chosen_roles(result, roles, data)
    settings = settings_of(at)
    if result.spec is None:
        known = _variables(result)
        columns = [{place: value for name, value in one.items() for place in _known(name, known)} for one in settings]
        slices = _held(result, columns)
    else:
        slices = iter([settle(result, settings, data, beside)])
    values, bends = _averages(result, asked, slices)  # of each setting (C, B), (C, B, P)
    value = torch.stack(values, 1).flatten(0, 1).mT
    error = errors(result, torch.stack(bends, 1).flatten(0, 1).movedim(0, 1))
    found = estimates(result, value, error, asked.names([labelled(one) for one in settings]), level)
    half = result.quantile(level).unsqueeze(-1)
    low, high = limits_of(asked, found.value, found.std_err, half)
    return replace(found, low=low, high=high)


def variables_several(result: Fitted) -> list[str]:
    """What can be moved, see `effects.variables`."""
    return result.spec.columns if result.spec is not None else list(_variables(result))


def variable_values_several(result: Fitted, name: str) -> list[Any] | np.ndarray:
    """The levels of a variable, or its values in the rows of the fit, see `effects.variable_values`."""
    if result.spec is not None:
        return table_values(result, name)
    place = _known(name, _variables(result))[0]
    return torch.cat([part.rows.x[..., place].reshape(-1) for part in _held(result)]).cpu().numpy()


def contrasts_several(result: Fitted, factor: str, level: float = 0.95) -> Estimates:
    """(*B, k) differences of the coefficients of all pairs of levels, in each predictor that has the factor.

    Those of an ordinal model are of slopes: positive leads to higher classes. See `effects.contrasts`.
    """
    place_of = design_columns(result)
    own = {place: name for design in designs_of(result).values() for name, place in design.items()}
    found: list[tuple[list[int], FactorTerm, list[str]]] = []
    for term in factor_terms(result, factor):
        groups: dict[str, list[int]] = {}  # by what stands before the name of a column: "Medium:", "dispersion:"
        for j, name in enumerate(result.all_names):
            if place_of[j] in term.columns:
                groups.setdefault(name.removesuffix(own[place_of[j]]), []).append(j)
        for before, places in groups.items():
            found.append((places, term, [f"{before}{name}" for name in term.names]))

    def differences(coef: Tensor) -> Tensor:
        return torch.cat([coef[:, places] @ term.coding.T for places, term, _ in found], -1)

    return delta(result, differences, [name for *_, names in found for name in names], level)


def _at_the_margin(result: Fitted, asked: LawQuantity, variables: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(C, k, B) average effects of columns of arrays on the rows of the fit, and (C, k, B, P) their derivatives."""
    mean, bend, count = 0.0, 0.0, 0.0  # type: Any, Any, Any
    for part in _held(result):
        used = part.times > 0
        first, second = _slopes(asked, predictors(part.rows, result.flat.coef))
        first, second = (torch.where(used, value, 0.0) * part.times for value in (first, second))
        mean, count = mean + first.sum(-1), count + part.times.sum(-1)
        bend = bend + torch.stack([torch.stack([project_each(part.rows, h) for h in one]) for one in second])
    mean, bend = mean / count, bend / count.unsqueeze(-1)  # (C, K, B), (C, K, B, P)
    entering = _entering(result, variables)  # (k, K, P)
    theta = torch.einsum("vkp,bp->vkb", entering, result.flat.coef)
    value = torch.einsum("ckb,vkb->cvb", mean, theta)
    slope = torch.einsum("ckbp,vkb->cvbp", bend, theta) + torch.einsum("ckb,vkp->cvbp", mean, entering)
    return value, slope


def _slopes(asked: LawQuantity, eta: Tensor) -> tuple[Tensor, Tensor]:
    """(C, K, B, n) the derivatives of the values of a quantity by the predictors (K, B, n), (C, K, K, B, n) theirs."""
    first, second = [], []
    with torch.enable_grad():
        at = eta.detach().clone().requires_grad_()
        for value in asked.stacked(at):
            [slope] = torch.autograd.grad(value.sum(), at, create_graph=True)
            first.append(slope.detach())
            second.append(torch.stack([_gradient(one, at) for one in slope]))
    return torch.stack(first), torch.stack(second)


def _gradient(value: Tensor, at: Tensor) -> Tensor:
    """The derivatives of a value by `at`, 0 where it does not depend on it."""
    if not value.requires_grad:
        return torch.zeros_like(at)
    [found] = torch.autograd.grad(value.sum(), at, retain_graph=True, allow_unused=True)
    return torch.zeros_like(at) if found is None else found


def _averages(result: Fitted, asked: LawQuantity, slices: Iterator[Slice]) -> tuple[list[Tensor], list[Tensor]]:
    """Of every design of the slices the averages (C, B) over their rows, and the derivatives (C, B, P)."""
    totals: dict[int, list[Any]] = {}
    count: Any = 0.0
    for part in slices:
        count = count + part.times.sum(-1)
        for d, design in enumerate(part.designs):
            value, slope = _sums(result, asked, part.rows._replace(x=design), part.times)
            before = totals.setdefault(d, [0.0, 0.0])
            totals[d] = [before[0] + value, before[1] + slope]
    return [value / count for value, _ in totals.values()], [
        slope / count.unsqueeze(-1) for _, slope in totals.values()
    ]


def _sums(result: Fitted, asked: LawQuantity, rows: Rows, times: Tensor) -> tuple[Tensor, Tensor]:
    used = times > 0
    with torch.enable_grad():
        eta = predictors(rows, result.flat.coef).requires_grad_()
        values = asked.stacked(eta)
        slopes = [torch.autograd.grad(value.sum(), eta, retain_graph=True)[0] for value in values]
    total = (torch.where(used, values.detach(), 0.0) * times).sum(-1)
    return total, torch.stack([project_each(rows, torch.where(used, slope, 0.0) * times) for slope in slopes])


def _held(result: Fitted, settings: Sequence[Mapping[int, Any]] = ()) -> Iterator[Slice]:
    """The rows of the fit, chunk by chunk, with a design for each setting of columns; without prior weights.

    These divide a dispersion, and a parameter is that of a row of weight 1.
    """
    family = family_of(result)
    for rows in (wide(piece) for chunk in result.source for piece in chunk.pieces()):
        if family.weighted is not None:
            offset = rows.offset.clone()
            offset[..., family.predictors.index(family.weighted)] = 0.0
            rows = rows._replace(offset=offset)
        designs = []
        for setting in settings:
            x = rows.x.clone()
            for place, value in setting.items():
                x[..., place] = float(value)
            designs.append(x)
        yield Slice(rows, repeats(rows), designs)


def _entering(result: Fitted, variables: Sequence[Sequence[int]]) -> Tensor:
    """(k, K, P) how the coefficients of variables, each some columns of the design, make their slopes by predictor."""
    plan, coef = plan_of(result), result.flat.coef
    out = coef.new_zeros(len(variables), plan.predictors, plan.columns)
    for block, place in zip(plan.blocks, plan.slices, strict=True):
        m = len(block.columns)
        for t, entries in enumerate(block.entries):
            for v, columns in enumerate(variables):
                for j, column in enumerate(block.columns):
                    if column in columns:
                        for k, factor in entries:
                            out[v, k, place.start + t * m + j] += factor
    return out


def _variables(result: Fitted) -> dict[str, list[int]]:
    """The columns of arrays by variable: one that several predictors know by a name of its own is one variable."""
    ones, beside = plan_of(result).ones, result.context["beside"]
    found: dict[str, list[int]] = {}
    for predictor, own in designs_of(result).items():
        for name, place in own.items():
            if place not in ones:
                known = not predictor or beside.get(predictor) is not None
                found.setdefault(name if known else f"{predictor}:{name}", []).append(place)
    return found


def _known(name: str, variables: Mapping[str, list[int]]) -> list[int]:
    if name not in variables:
        raise ValueError(f"no column {name!r}. Known: {', '.join(variables)}.")
    return variables[name]
