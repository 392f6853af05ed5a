"""Fits of several predictors: what each row says, predictions of every parameter, and the parts of the fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from torchglm import inputs
from torchglm.design import Design
from torchglm.families.several import Classes, VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.inference.for_each import shift_of
from torchglm.inference.mixed import conditional_rows
from torchglm.inference.rowwise import ChunkValues
from torchglm.inference.vector.columns import PART, refuse_part
from torchglm.inference.vector.quantities import quantity
from torchglm.inputs import Roles
from torchglm.inputs.columns import in_order
from torchglm.rows.grams import Dense, Unmade
from torchglm.rows.inverses import FULL, unmade
from torchglm.rows.planned import Pairs, gram_of, predictors, row_scores
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows, to_float64
from torchglm.writing.nearest import nearest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

Kind = TypeVar("Kind", bound=Fitted)


@dataclass(frozen=True)
class VectorValues(ChunkValues):
    """Values of a chunk at the fitted coefficients; `eta` and `score` (K, B, n), the latter with the row weights.

    `information` are the pairs of the observed one, with the weights.
    """

    eta: Tensor
    score: Tensor
    information: Pairs


def family_of(result: Fitted) -> VectorFamily:
    """The family of a fit of several predictors."""
    assert isinstance(result.family, VectorFamily)
    return result.family


def vector_values(source: Iterable[Rows], family: VectorFamily, coef: Tensor) -> Iterator[VectorValues]:
    """The values of every chunk, or of pieces of it, at coefficients `(B, P)`."""
    for rows in (piece for chunk in source for piece in to_float64(chunk).pieces()):
        eta, used = predictors(rows, coef), rows.weight > 0
        score, pairs = family.derivatives(rows.response, eta)
        yield VectorValues(rows, eta, torch.where(used, score * rows.weight, 0.0), weighed(rows, pairs))


def weighed(rows: Rows, pairs: Pairs) -> Pairs:
    """The information of the rows with their weights."""
    return {pair: torch.where(rows.weight > 0, value * rows.weight, 0.0) for pair, value in pairs.items()}


def fitted_means(result: Fitted) -> Tensor:
    """(*B, n) the fitted means of the rows, for classes (*B, n, C) their probabilities."""
    family = family_of(result)
    parts = [family.mean(predictors(rows, result.flat.coef)) for chunk in result.source for rows in chunk.pieces()]
    return _shaped(result, torch.cat(parts, -1))


def predict_several(
    result: Fitted,
    x: Any,
    kind: str = "mean",
    se: bool = False,
    given: Mapping[str, Any] | None = None,
    unseen: str | None = None,
    at: Any = None,
    random: bool = False,
    **roles: Unpack[RoleValues],
) -> Tensor | tuple[Tensor, Tensor]:
    """(*B, m) a parameter of the law of new rows, with delta method errors on request; for classes (*B, m, C).

    `kind` is `"mean"`, `"link"` (the first predictor, or those of all classes), `"probability"` for classes, or the
    name of a predictor for the parameter it stands for; of times also `"survival"` and `"quantile"`, with `at` the
    times or the shares, one of them or T in a list: (*B, m, T). `given` are the columns of further predictors, as in
    the fit; `random` says whether random effects are in the predictors. Raises `ValueError` for an unknown kind, and
    where the fit had an offset and none is given.
    """
    family = family_of(result)
    asked = quantity(family, kind, at)
    rows = new_rows(result, x, given or {}, Roles.of(roles, "predict", ("offset", "exposure")), unseen, random)
    coef = result.flat.coef  # that of a dropped column is 0, or with all others of least length
    with torch.enable_grad():
        eta = predictors(rows, coef).requires_grad_(se)
        value, several = asked.value(eta), asked.labels is not None
        outputs = list(value) if several else [value]
        slopes = [torch.autograd.grad(one.sum(), eta, retain_graph=True)[0] for one in outputs] if se else []
    value = _shaped(result, value.detach())
    if not se:
        return value
    cov = result.covariance().reshape(-1, *result.flat.keep.shape[-1:] * 2)
    cov = torch.where(torch.isfinite(cov), cov, 0.0)
    errors = []
    for slope in slopes:
        rowwise = row_scores(rows, slope)  # (B, m, P)
        errors.append(((rowwise @ cov) * rowwise).sum(-1).clamp(min=0).sqrt())
    return value, _shaped(result, torch.stack(errors) if several else errors[0])


def new_rows(
    result: Fitted, x: Any, given: Mapping[str, Any], roles: Roles, unseen: str | None = None, random: bool = False
) -> Rows:
    """New rows with the design of all predictors; with `random` the effects of their groups are in the offset."""
    refuse_part(result)
    family, plan, coef = family_of(result), result.plan, result.flat.coef
    assert plan is not None
    indexed = None
    if isinstance(x, Design) or result.spec is not None and not isinstance(x, Tensor):
        if given:
            raise ValueError(
                "the columns of all predictors come from the table of a formula fit. Leave predictors= out."
            )
        made = x if isinstance(x, Design) else result.spec.design(x, missing="error", unseen=unseen, random=random)
        indexed = made.whole_index if random else made.indexed
        indexed = None if indexed is None else indexed.to(coef.device, coef.dtype)
        design = made.numbers.to(coef)
    else:
        design = _arrays(result, x, given).to(coef)
    models, m = coef.shape[0], design.shape[-2]
    design = design if design.dim() == 2 else design.reshape(models, m, -1)
    shift = shift_of(result, roles, design.new_zeros(*result.batch_shape, m), x)
    offset = design.new_zeros(models, m, plan.predictors)
    if isinstance(shift, Tensor):
        offset = offset + shift.reshape(models, m, 1) * family.shifts().to(offset)
    one = design.new_ones(models, m)
    added = not isinstance(x, Design) and (result.spec is None or isinstance(x, Tensor))
    rows = Rows(design, one, one, offset, intercept=added, indexed=indexed, plan=plan)
    if not random:
        return rows
    assert result.spec is not None
    [given_effects] = conditional_rows(result, [rows._replace(plan=inputs.plan_of(family, result.spec)[0])])
    return given_effects


def _arrays(result: Fitted, x: Any, given: Mapping[str, Any]) -> Tensor:
    """The columns of arrays side by side, each found by its name where it has one."""
    family, context = family_of(result), result.context
    if result.spec is not None:
        raise ValueError("new rows of a formula fit of several predictors are a table with its columns, not a tensor.")
    inputs.check_predictors(given, family)
    missing = [name for name, own in context["designs"].items() if name and name not in given and len(own) > 1]
    if missing:
        raise ValueError(
            f"the fit has columns of its own for {', '.join(missing)}, and none are given. Pass predictors={{...}}."
        )
    inputs.check_row_labels({"x": x, **given})
    known = {name: in_order(value, context["beside"].get(name)) for name, value in given.items()}
    design, columns = inputs.whole_design(
        in_order(x, context.get("inputs")), known, family, context["added"], None, result.flat.coef.device
    )
    if [len(own) for own in columns.values()] != [len(own) for own in context["designs"].values()]:
        raise ValueError(
            f"the new rows have {[len(own) for own in columns.values()]} columns for the predictors, the fit "
            f"{[len(own) for own in context['designs'].values()]} (each with its intercept). Pass the fit's columns."
        )
    inputs.finite(design, "x")
    return design


def part(result: Kind, name: str) -> Kind:
    """The part of a fit that belongs to one predictor, with the names of its own columns.

    Raises `KeyError` for a name that is no predictor.
    """
    family, plan = result.family, result.plan
    if plan is None or not isinstance(family, VectorFamily) or name not in family.predictors:
        raise KeyError(_no_predictor(result, name))
    k, places = family.predictors.index(name), list[int]()
    for block, place in zip(plan.blocks, plan.slices, strict=True):
        m = len(block.columns)
        for t, entries in enumerate(block.entries):
            if any(predictor == k for predictor, _ in entries):
                places += range(place.start + t * m, place.start + (t + 1) * m)
    index = torch.tensor(places, device=result.flat.coef.device)
    flat, cov = result.flat, result.flat_covariance
    own = replace(flat, coef=flat.coef[:, index], keep=flat.keep[:, index], covariance=cov[:, index][:, :, index])
    prefix, names = f"{name}:", [*result.names, *result.cuts]
    own_names = [names[j].removeprefix(prefix) for j in places]
    context = result.context | {PART: name}
    return replace(result, flat=own, names=own_names, cuts=(), chunks=None, plan=plan.select(places), context=context)


def _no_predictor(result: Fitted, name: str) -> str:
    """What is said of a name in brackets that is no predictor, which may be a coefficient."""
    if name in result.names:
        return f"{name!r} is a coefficient. Its estimate is named()[{name!r}], its error named('std_err')[{name!r}]."
    known = [*(result.family.predictors if isinstance(result.family, VectorFamily) else ())]
    near = nearest(name, known)
    return f"{name!r} is no predictor of {result.family.said}{near}. Known: {', '.join(known) or 'none'}."


def expected_covariance(result: Fitted) -> Tensor:
    """(B, P, P) the inverse of the expected information; NaN for aliased columns.

    Raises `ValueError` where the family has no closed form of it, and where it is too large to be made.
    """
    family, keep, total = family_of(result), result.flat.keep, None
    if isinstance(result.flat.gram, Unmade) and keep.shape[-1] ** 2 > FULL:
        raise unmade(keep.shape[-1])
    ranks = ranks_of(result.source)
    with ranks.together():
        for rows in own_rows(result.source):
            for piece in to_float64(rows).pieces():
                pairs = family.expected(predictors(piece, result.flat.coef))
                if pairs is None:
                    raise ValueError(
                        f"the expected information of {family.said} has no closed form. Use covariance('observed')."
                    )
                used = piece.weight > 0
                own = gram_of(piece, {pair: torch.where(used, v * piece.weight, 0.0) for pair, v in pairs.items()})
                total = own if total is None else total + own
    assert total is not None  # every process has rows
    [matrix] = ranks.sum(total.matrix)
    inverse = Dense(matrix).invert(keep)
    both = keep.unsqueeze(-1) & keep.unsqueeze(-2)
    return torch.where(both, inverse.root.only(inverse.positive).inverse(), torch.nan)


def classes(result: Fitted) -> list[Any]:
    """The classes of a fit of classes, in their order. Raises `ValueError` for another family."""
    if not isinstance(result.family, Classes):
        raise ValueError(f"classes are those of a multinomial or ordinal model; this fit is {result.family.said}.")
    return result.family.known


def _shaped(result: Fitted, value: Tensor) -> Tensor:
    """(B, m) or (C, B, m) in the batch's own shape, classes last."""
    if value.dim() == 2:
        return result.shaped(value)
    return result.shaped(value.movedim(0, -1))
