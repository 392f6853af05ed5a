"""Fits of the same rows by some of the columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from torchglm.fitting.irls import irls
from torchglm.inference.build import build
from torchglm.inference.fitted import Fitted
from torchglm.inference.limits.refit import ROOM, SomeColumns
from torchglm.rows.rows import Rows


@torch.no_grad()
def submodel(result: Fitted, columns: Sequence[int]) -> Fitted:
    """The fit of the same models on some of their columns, with the shape parameters they have."""
    flat = result.flat
    source: Iterable[Rows] = SomeColumns(
        result.source, torch.tensor(list(columns), dtype=torch.int64, device=flat.coef.device)
    )
    first = next(iter(result.source))
    if result.rows is not None and result.rows.x.numel() <= ROOM:
        source = list(source)
    solution = irls(
        source,
        result.family,
        result.link,
        tol=min(result.tol, 1e-8),
        rank_tol=1e-6 if first.x.dtype == torch.float32 else 1e-12,
        skip=flat.failed,
    )
    fixed = float(flat.dispersion[0]) if result.dispersion_kind == "number" else None
    kind = fixed if result.dispersion_kind in ("number", "fixed") else result.dispersion_kind
    small = build(
        solution,
        source,
        result.family,
        result.link,
        result.batch_shape,
        [result.all_names[j] for j in columns],
        constant=result.intercept and (0 in columns or result.plan is not None),
        penalty=None,
        dispersion=kind,
        tol=result.tol,
        context={},
        plan=None if result.plan is None else result.plan.select(columns),
    )
    return replace(small, estimated_shape=result.estimated_shape)
