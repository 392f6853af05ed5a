"""What the coefficients mean: ratios, effects on the mean, predictions at chosen values, contrasts, common scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchglm import links
from torchglm.families.several import Multinomial
from torchglm.inference.by_plan import answered_by
from torchglm.inference.estimates import Estimates, delta, errors, estimates, jacobian
from torchglm.inference.factor_terms import factor_terms
from torchglm.inference.fitted import Fitted
from torchglm.inference.intervals import mean_limits
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
from torchglm.inference.vector.columns import plan_of
from torchglm.inference.vector.effects import (
    contrasts_several,
    marginal_effects_several,
    predictions_several,
    variable_values_several,
    variables_several,
)
from torchglm.links import Link
from torchglm.rows.rows import wide
from torchglm.writing.nearest import unknown

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

KINDS = ("mean", "link")
RATIO_LINKS = tuple(link.name for link in links.MEMBERS if link.multiplies)


def coefficients(result: Fitted, level: float = 0.95) -> Estimates:
    """The coefficients themselves, so that `coefficients(result).exp()` are ratios."""
    found = delta(result, lambda coef: coef, result.names, level)
    return replace(found, value=result.coef, std_err=torch.where(result.coef.isnan(), torch.nan, found.std_err))


def ratios(result: Fitted, level: float = 0.95) -> Estimates:
    """(*B, p) `exp(coef)` with limits: ratios of means (log), odds (logit) or hazards (cloglog).

    Of several predictors those of the coefficients, thresholds left out, whose predictors have such a link: relative
    risk ratios of a multinomial model, odds ratios of higher classes of an ordinal one, time ratios, ratios of
    dispersions. Raises `ValueError` for other links, under which a unit of a column multiplies nothing.
    """
    if result.plan is not None:
        return _ratios_of_several(result, level)
    if not result.link.multiplies:
        raise ValueError(
            f"under the link {result.link.name} exp(coef) is not a ratio. Use marginal_effects(), or one "
            f"of the links {', '.join(RATIO_LINKS)}."
        )
    return coefficients(result, level).exp()


def _ratios_of_several(result: Fitted, level: float) -> Estimates:
    family, plan = family_of(result), plan_of(result)
    known = [
        isinstance(family, Multinomial) or bool(link.multiplies) or (family.durations and name == "location")
        for name, link in family.links.items()
    ]
    entered = [[k for k, _ in e] for block in plan.blocks for e in block.entries for _ in block.columns]
    index = [j for j, _ in enumerate(result.names) if all(known[k] for k in entered[j])]
    if not index:
        raise ValueError(
            f"no predictor of this {family.said} fit has a link under which exp(coef) is a ratio. Use predict(..., "
            "se=True), or delta() of the coefficients."
        )
    found = delta(result, lambda coef: coef[:, index], [result.names[j] for j in index], level)
    aliased = result.coef[..., index].isnan()
    value, error = (torch.where(aliased, torch.nan, part) for part in (found.value, found.std_err))
    return replace(found, value=value, std_err=error).exp()


# averages over rows ----------------------------------------------------------------------------------------


def _predictor(x: Tensor, offset: Tensor, coef: Tensor) -> Tensor:
    """`x coef + offset`, (B, n), through which derivatives go."""
    return (coef @ x.mT if x.dim() == 2 else (x @ coef.unsqueeze(-1)).squeeze(-1)) + offset


def _average(
    result: Fitted, slices: Iterator[Slice], quantities: Callable[[Slice, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(B, k) averages of `quantities` (B, k, n) over the rows, and their derivatives (B, k, p)."""
    coef = result.flat.coef
    total, slope, count = 0.0, 0.0, 0.0  # type: Any, Any, Any
    for part in slices:

        def summed(at: Tensor, part: Slice = part) -> Tensor:
            return (
                torch.where(part.times.unsqueeze(-2) > 0, quantities(part, at), 0.0)
                .mul(part.times.unsqueeze(-2))
                .sum(-1)
            )

        value, row = jacobian(summed, coef)
        total, slope, count = total + value, slope + row, count + part.times.sum(-1, keepdim=True)
    return total / count, slope / count.unsqueeze(-1)


@answered_by(marginal_effects_several)
def marginal_effects(
    result: Fitted,
    variables: Sequence[str] | None = None,
    data: Any = None,
    *,
    kind: str = "mean",
    level: float = 0.95,
    **roles: Unpack[RoleValues],
) -> Estimates:
    """(*B, k) average effects on the mean: of one unit more at the margin, or of a level against the reference.

    `kind` is `"mean"` or `"link"`; of a fit of several predictors also the name of one, for effects on the parameter it
    stands for. Effects on the probabilities of classes are `(*B, C k)`, named `"Medium:age"`, class by class.

    For a fit on arrays the variables are columns, and the effect of column `j` is the average of
    `dmu/deta coef_j` over the rows of the fit (streamed ones too). A formula fit averages over its table, or over
    `data`: the effect of a numeric variable goes through all terms it is part of, and a category has one effect for
    each level but the first, all rows being moved from the first level to it. `offset` and `exposure` are part of the
    means, and each row of `data` counts `freq` times: columns or values, by default the columns of the fit. Raises
    `ValueError` for unknown variables, and for roles without `data`. Source: Williams (2012), Stata Journal 12(2).
    """
    link, beside = _scale(result, kind), chosen_roles(result, roles, data)
    if result.spec is None:
        every = [j for j, name in enumerate(result.names) if name != "(Intercept)"]
        index = every if variables is None else [_column(result, name) for name in variables]
        names = [result.names[j] for j in index]

        def slopes(part: Slice, coef: Tensor) -> Tensor:
            eta = _predictor(part.rows.x, part.rows.offset, coef)
            return (eta * 0.0 + 1.0 if kind == "link" else result.link.inverse_deriv(eta)).unsqueeze(-2)

        mean, bend = _average(result, _held(result), slopes)  # of dmu/deta, and its derivatives: (B, 1), (B, 1, p)
        beta = result.flat.coef[:, index].unsqueeze(-1)
        unit = torch.eye(result.flat.coef.shape[-1]).to(mean)[index]
        slope = mean.unsqueeze(-1) * unit + beta * bend
        return estimates(result, (beta * mean.unsqueeze(-1))[..., 0], errors(result, slope), names, level)
    part, found = changes(result, variables, data, beside)

    def by_variable(part: Slice, coef: Tensor) -> Tensor:
        means = [link(_predictor(x, part.rows.offset, coef)) for x in part.designs]
        return torch.stack([(means[one.plus] - means[one.minus]) / one.divisor for one in found], -2)

    value, slope = _average(result, iter([part]), by_variable)
    return estimates(result, value, errors(result, slope), [one.name for one in found], level)


@answered_by(predictions_several)
def predictions(
    result: Fitted,
    at: Mapping[str, Any],
    data: Any = None,
    *,
    kind: str = "mean",
    level: float = 0.95,
    **roles: Unpack[RoleValues],
) -> Estimates:
    """(*B, k) average predicted means with variables set to chosen values in every row, all combinations of them.

    `at` maps variables (columns of a fit on arrays) to a value or a list of them. The other variables are as in the
    rows of the fit, or in `data`, a table of a formula fit (one loaded, of files or of groups needs it). The limits are
    those of the link of the average, mapped back. The roles and `kind` are as in `marginal_effects`. Raises
    `ValueError` for unknown variables.
    """
    link, beside = _scale(result, kind), chosen_roles(result, roles, data)
    settings = settings_of(at)
    names = [labelled(one) for one in settings]
    if result.spec is None:
        index = {name: _column(result, name) for name in at}
        slices = _held(result, [{index[name]: float(value) for name, value in one.items()} for one in settings])
    else:
        slices = iter([settle(result, settings, data, beside)])

    def means(part: Slice, coef: Tensor) -> Tensor:
        return torch.stack([link(_predictor(x, part.rows.offset, coef)) for x in part.designs], -2)

    value, slope = _average(result, slices, means)
    found = estimates(result, value, errors(result, slope), names, level)
    if kind == "link":
        return found
    # limits of a mean stay in its range
    eta = result.link.link(found.value)
    half = result.quantile(level).unsqueeze(-1) * found.std_err / result.link.inverse_deriv(eta).abs()
    low, high = mean_limits(torch.stack([eta - half, eta + half], -1), eta, result.link, result.family).unbind(-1)
    return replace(found, low=low, high=high)


@answered_by(variables_several)
def variables(result: Fitted) -> list[str]:
    """What can be moved: the columns that the formula reads, or those of arrays but the intercept."""
    return result.spec.columns if result.spec is not None else [name for name in result.names if name != "(Intercept)"]


@answered_by(variable_values_several)
def variable_values(result: Fitted, name: str) -> list[Any] | np.ndarray:
    """The levels of a variable that is a category, else its values (n,) in the rows of the fit.

    Raises `ValueError` for unknown variables, and where a formula fit holds no table.
    """
    if result.spec is not None:
        return table_values(result, name)
    place = _column(result, name)
    return torch.cat([part.rows.x[..., place].reshape(-1) for part in _held(result)]).cpu().numpy()


def _scale(result: Fitted, kind: str) -> Link:
    """What makes a quantity of the linear predictor."""
    if kind not in KINDS:
        raise ValueError(unknown("kind", kind, KINDS))
    return links.Identity() if kind == "link" else result.link


def _column(result: Fitted, name: str) -> int:
    if name not in result.names:
        raise ValueError(f"no column {name!r}. Known: {', '.join(result.names)}.")
    if result.names.count(name) > 1:
        raise ValueError(f"{name!r} is the name of several columns. Give each a name of its own.")
    return result.names.index(name)


def _held(result: Fitted, settings: Sequence[Mapping[int, float]] = ()) -> Iterator[Slice]:
    """The rows of the fit, chunk by chunk, with a design for each setting of columns."""
    for rows in (wide(piece) for chunk in result.source for piece in chunk.pieces()):
        designs = []
        for setting in settings:
            x = rows.x.clone()
            for column, value in setting.items():
                x[..., column] = value
            designs.append(x)
        yield Slice(rows, repeats(rows), designs)


# contrasts -------------------------------------------------------------------------------------------------


@answered_by(contrasts_several)
def contrasts(result: Fitted, factor: str, level: float = 0.95) -> Estimates:
    """(*B, k) differences of the linear predictor between all pairs of levels of a factor, `"b - a"`.

    `.exp()` of them are ratios under a log or logit link. Of several predictors they are those of each that has the
    factor, `"Medium:b - a"`; those of an ordinal model are positive where b leads to higher classes. `factor` is its
    text in the formula, `"region"` or `"C(region)"`. Raises `ValueError` where the fit has no such factor, or where it
    is part of an interaction, so that its levels differ by different amounts: see `predictions` then.
    """
    [term] = factor_terms(result, factor)
    return delta(result, lambda coef: coef[:, term.columns] @ term.coding.T, term.names, level)
