"""From a solution to what is kept of it: degrees of freedom, dispersion, information."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import Ordinal, VectorFamily
from torchglm.fitting.apart import Apart
from torchglm.fitting.mixed.found import MixedFound
from torchglm.fitting.penalties import Constrained, Penalty, Quadratic, RowWise
from torchglm.fitting.ranges import left_by
from torchglm.fitting.shape import dispersion_fletcher, dispersion_ml
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.fitting.strengths import Estimated
from torchglm.inference.absorbed import Beside
from torchglm.inference.covariance import observed_inverse
from torchglm.inference.fitted import Fitted
from torchglm.inference.flat import Flat
from torchglm.inference.mixed import of_effects
from torchglm.links import Link
from torchglm.rows.plan import Plan
from torchglm.rows.ranks import ranks_of
from torchglm.rows.rows import Rows


def build(
    solution: Solution,
    source: Iterable[Rows],
    family: Family,
    link: Link,
    batch: torch.Size,
    names: list[str],
    *,
    constant: bool,
    penalty: Penalty | None,
    dispersion: str | float | None,
    tol: float,
    context: dict[str, Any],
    plan: Plan | None = None,
    apart: Apart | None = None,
    estimated: Estimated | None = None,
    mixed: MixedFound | None = None,
    beside: Beside | None = None,
) -> Fitted:
    """What is left of a solution on a re-iterable source; `constant` says that the first column is an intercept.

    With a `plan` the rows have several predictors; `apart` are the separated levels that were set apart, `estimated` is
    what was found with the strengths of the penalty, `mixed` what was found of random effects, which are in the
    offset of the rows, and `beside` what of absorbed factors, which are there too and out of their columns.
    Raises `ValueError` for an unknown dispersion.
    """
    shape_estimated = family.estimates_shape
    both = shape_estimated and family.has_dispersion  # a Tweedie power and its dispersion are of one criterion
    family = family.settled()
    moments, coef = solution.moments, solution.coef
    nobs, rank = moments.count, solution.keep.sum(-1, dtype=torch.float64)
    rank = rank if beside is None else rank + beside.rank
    edf, unknown = _penalised(solution, penalty, estimated, mixed)
    df, levels = rank if edf is None else edf.sum(-1), {} if beside is None else beside.tensors
    if apart is not None:
        unknown, df = apart.infinite != 0, df + apart.rows - apart.levels
        levels = {"infinite": apart.infinite, "apart_rows": apart.rows, "apart_levels": apart.levels}
    deviance, pearson = 2 * moments.objective, moments.pearson if plan is None else moments.pearson + torch.nan
    if mixed is not None:
        kind, phi, levels = of_effects(mixed, family, link, constant, tol, solution.status, dispersion)
    elif estimated is not None and dispersion is None and (family.least_squares or both):
        kind, phi = "reml", estimated.dispersion
    else:
        own = "fletcher" if estimated is not None and dispersion is None and family.has_dispersion else dispersion
        kind, phi = _dispersion(own, source, family, link, coef, deviance, pearson, nobs, df)
    censored = plan is None and context.get("event")  # with a plan the information is the observed one already
    flat = Flat(
        coef=coef,
        keep=solution.keep,
        root=solution.root,
        gram=moments.gram,
        deviance=deviance,
        pearson=pearson,
        dispersion=torch.where(solution.status == int(Status.NOT_FINITE), torch.nan, phi),
        nobs=nobs,
        rank=rank,
        status=solution.status,
        n_iter=solution.n_iter,
        edf=edf,
        unknown=unknown,
        **(_strengths(penalty, estimated, coef) | levels | _ends(solution)),
        observed=observed_inverse(source, family, link, coef, solution.keep) if censored else None,
    )
    cuts = family.predictors if isinstance(family, Ordinal) else ()
    fitted = Fitted(
        flat,
        names[: len(names) - len(cuts)],
        family,
        link,
        penalty,
        batch,
        intercept=constant,
        dispersion_kind=kind,
        estimated_shape=shape_estimated,
        minnorm=solution.minnorm,
        tol=tol,
        context=context,
        covariance_kind="model" if plan is None else "observed",
        chunks=source,
        plan=plan,
        cuts=cuts,
    )
    if ranks_of(source).size == 1:
        return fitted
    # while all processes are here: later one may ask alone
    return replace(fitted, flat=replace(flat, **fitted.numbers_of_rows()))


def _ends(solution: Solution) -> dict[str, Tensor | None]:
    """What not every search leaves."""
    return {name: getattr(solution, name) for name in ("shape_error", "kkt", "multiplier")}


def _strengths(penalty: Penalty | None, estimated: Estimated | None, coef: Tensor) -> dict[str, Tensor]:
    """Strengths (B, J) and criterion of a `Quadratic` penalty."""
    if estimated is not None:
        return {"strength": estimated.strength, "criterion": estimated.criterion}
    if not isinstance(penalty, Quadratic):
        return {}
    return {"strength": penalty.strength.to(coef.device).expand(len(coef), len(penalty.blocks))}


def _penalised(
    solution: Solution, penalty: Penalty | None, estimated: Estimated | None, mixed: MixedFound | None
) -> tuple[Tensor | None, Tensor | None]:
    """(B, p) the effective degrees of freedom, and the coefficients that have no errors.

    These are all of a model whose penalty chooses columns, and those that constraints leave no freedom.

    `diag((G + S)^-1 G) = 1 - diag((G + S)^-1 S)` on the columns that are not held at zero; where a strength is infinite
    the coefficients share the freedom of the null space that is left.
    """
    if penalty is None or mixed is not None:
        return None if mixed is None else mixed.edf, None
    coef, total = solution.coef, solution.moments.weight
    active = solution.keep & penalty.free(coef, total)
    if penalty.diagonal and not isinstance(penalty, RowWise) and penalty.curved(coef, total) is None:
        each = 1 - solution.root.inverse_diagonal() * penalty.ridge(coef, total)
    else:
        gram = solution.moments.gram.written_out()
        if estimated is not None and bool(torch.isinf(estimated.strength).any()):
            gram = left_by(estimated.penalty, torch.isinf(estimated.strength), gram.shape[-1]) @ gram
        each = (solution.root.inverse() * gram).sum(-1)
    edf = torch.where(active, each, 0.0)
    if penalty.smooth:
        return edf, None
    if penalty.selects:
        chosen = penalty.inner if isinstance(penalty, Constrained) and penalty.inner is not None else penalty
        return edf, chosen.holds(coef, total).any(-1, keepdim=True).expand_as(active).clone()
    return edf, solution.root.inverse_diagonal() == 0


def _dispersion(
    dispersion: str | float | None,
    source: Iterable[Rows],
    family: Family,
    link: Link,
    coef: Tensor,
    deviance: Tensor,
    pearson: Tensor,
    nobs: Tensor,
    df: Tensor,
) -> tuple[str, Tensor]:
    if isinstance(family, VectorFamily) and dispersion is not None:
        raise ValueError(f"dispersion= has no meaning for {family.said}, whose law has its own. Leave it out.")
    if dispersion is None and not family.has_dispersion:
        return "fixed", torch.ones_like(deviance)
    kind = "pearson" if dispersion is None else dispersion
    freedom = torch.where(nobs > df, nobs - df, torch.nan)
    if kind == "pearson":
        return "pearson", pearson / freedom
    if kind == "fletcher":
        return "fletcher", dispersion_fletcher(source, family, link, coef, pearson / freedom)
    if kind == "deviance":
        return "deviance", deviance / freedom
    if kind == "ml":
        if not family.has_dispersion:
            raise ValueError(f"the {family.said} family has no dispersion to maximise. Use 'pearson' for a quasi fit.")
        return "ml", dispersion_ml(source, family, link, coef, deviance / nobs)
    return "number", torch.full_like(deviance, float(kind))
