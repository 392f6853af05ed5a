"""Inference by splitting the sample: half of the rows chooses the columns, the other half fits them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import Multinomial
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.moments import Point
from torchglm.fitting.problem import Problem
from torchglm.fitting.state import Solution
from torchglm.inference.build import build
from torchglm.inference.fitted import Fitted
from torchglm.links import Link
from torchglm.rows.ranks import members, own_rows, seen
from torchglm.rows.rows import Rows, select


def split(chosen: Fitted, source: Iterable[Rows], free: Tensor, seed: int) -> Fitted:
    """The maximum-likelihood fit, on rows that had no part in it, of the columns that a penalised fit has `chosen`.

    Columns that are `free` (P,) of the penalty are among them. Their errors and intervals are the usual ones, whatever
    chose them; what they estimate is the model of the chosen columns, which is the true one where all that matter were
    chosen. The others are zero, without errors.
    Raises `ValueError` where the other half has no more rows than there are chosen columns, or no regular maximum.
    Source: Wasserman & Roeder (2009), Ann. Statist. 37, 2178-2201.
    """
    family, link, flat = chosen.family, chosen.link, chosen.flat
    if isinstance(family, Multinomial) and family.baseline is None:
        raise ValueError("inference='split' fits without a penalty, which classes without a baseline need. Name one.")
    coef, keep, status, steps = _fitted(source, family, link, (flat.coef != 0) | free)
    problem = Problem.of(source, next(iter(own_rows(source))), family, link)
    observed = problem.several and not problem.canonical
    moments = fold(source, Point(coef, observed, before=coef, census=True), family, link)
    none = torch.zeros_like(status, dtype=torch.bool)
    said = {"by": str(chosen.penalty), "seed": seed, "rows": int(flat.nobs.max()), "left": int(moments.count.max())}
    inverse = problem.inverse(moments, coef, keep, none, moments.weight)
    return build(
        Solution(coef, keep, moments, inverse.root.only(inverse.positive), status, steps, none, minnorm=True),
        source,
        family,
        link,
        chosen.batch_shape,
        [*chosen.names, *chosen.cuts],
        constant=chosen.intercept,
        penalty=None,
        dispersion=None,
        tol=1e-8,
        context={k: v for k, v in chosen.context.items() if k != "path"} | {"split": said},
        plan=chosen.plan,
    )


def _fitted(
    source: Iterable[Rows], family: Family, link: Link, active: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, P) coefficients of `active` columns (B, P) and whether each was fitted, and (B,) the status and the steps."""
    models = len(active)
    coef, keep = torch.zeros(active.shape, dtype=torch.float64, device=active.device), torch.zeros_like(active)
    status, steps = torch.zeros(2, models, dtype=torch.int64, device=active.device).unbind()
    for b, own in enumerate(active):
        lane, at = torch.tensor([b], device=active.device), own.nonzero()[:, 0]
        rows = seen(members(source, lane), partial(_chosen, at))
        found = irls(rows, take_family(family, lane), link, tol=1e-10)
        if int(found.moments.count[0]) <= at.numel():
            raise ValueError(
                f"inference='split': {at.numel()} columns were chosen and the other half has "
                f"{int(found.moments.count[0])} rows. Choose a stronger penalty: which='bic', say."
            )
        coef[b, at], keep[b, at] = torch.where(found.keep[0], found.coef[0], 0.0), found.keep[0]
        status[b], steps[b] = found.status[0], found.n_iter[0]
    return coef, keep, status, steps


def _chosen(columns: Tensor, rows: Rows) -> Rows:
    return select(rows, columns)
