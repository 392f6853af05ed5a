"""The rows of a fit of several predictors as a batch that a head of them is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchglm.design import DesignSpec
from torchglm.families import Family
from torchglm.families.several import Multinomial, VectorFamily
from torchglm.inputs import GLMBatch
from torchglm.rows.responses import Counts, Intervals
from torchglm.rows.rows import Rows, kept_columns, whole


def varying(spec: DesignSpec) -> list[int]:
    """The columns of a design that are not ones, which a head takes; its constants are its own."""
    return [j for j in range(len(spec.names)) if j not in spec.ones]


def batch_of_several(part: Rows, family: Family, kept: Sequence[int]) -> GLMBatch:
    """Rows of one model, the columns `kept` of their design being `x`; prior weights stand apart from repeats."""
    assert isinstance(family, VectorFamily)
    x, offset = kept_columns(whole(part), kept), part.offset[0]  # (n, p), (n, K)
    weight, repeats = part.weight[0].to(x.dtype), None
    place = None if family.weighted is None else family.predictors.index(family.weighted)
    if place is not None:
        weight, repeats = torch.exp(-offset[:, place]).to(x.dtype), weight
    second = None if part.second is None else part.second[0].to(x.dtype)
    roles: dict[str, Tensor | None] = {
        "trials": second if part.pair is Counts else None,
        "until": second if part.pair is Intervals else None,
        "event": None if second is None or part.pair in (Counts, Intervals) else second,
    }
    return GLMBatch(x, part.y[0].to(x.dtype), weights=weight, freq=repeats, offset=_shift(offset, family, x), **roles)


def _shift(offset: Tensor, family: VectorFamily, x: Tensor) -> Tensor | None:
    """(n,) what was added to the predictors, in the units of the offset; None where it is nothing."""
    if isinstance(family, Multinomial):
        return None
    shifts = family.shifts()
    place = int(shifts.abs().argmax())
    own = offset[:, place] / float(shifts[place])
    return own.to(x.dtype) if bool((own != 0).any()) else None
