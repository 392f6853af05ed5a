"""P-values of many tests, adjusted for their number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchglm.writing.answering import answering
from torchglm.writing.nearest import unknown

METHODS = ("holm", "bh", "bonferroni")


@answering
def adjust(p_value: Any, method: str = "holm", dim: int = -1) -> Tensor:
    """P-values adjusted over the dimension `dim`, others being families of tests of their own; NaN is no test.

    `holm`: `max over i <= k of (m - i + 1) p_(i)`, which bounds the chance of any false finding; `bh` (Benjamini and
    Hochberg): `min over i >= k of m p_(i) / i`, which bounds the expected share of false ones among the findings, for
    tests that are independent or positively dependent; `bonferroni`: `m p`. All at most 1, shapes as given.
    Raises `ValueError` for values outside [0, 1] or an unknown method.
    Source: Holm (1979), Scand. J. Statistics 6; Benjamini & Hochberg (1995), JRSS B 57.
    """
    if method.lower() not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    given = torch.as_tensor(p_value, dtype=torch.float64)
    if bool(((given < 0) | (given > 1)).any()):
        raise ValueError("p-values lie between 0 and 1; a value outside was given.")
    if not given.dim():
        return given
    value = given.movedim(dim, -1)
    ordered, order = torch.where(torch.isnan(value), torch.inf, value).sort(-1)
    tests = (~torch.isnan(value)).sum(-1, keepdim=True).to(torch.float64)
    place = torch.arange(1, value.shape[-1] + 1, dtype=torch.float64, device=value.device)
    if method.lower() == "holm":
        found = ((tests - place + 1).clamp(min=1) * ordered).cummax(-1).values
    elif method.lower() == "bh":
        found = (tests / place * ordered).flip(-1).cummin(-1).values.flip(-1)
    else:
        found = tests * ordered
    back = torch.empty_like(found).scatter_(-1, order, found.clamp(max=1))
    return torch.where(torch.isnan(value), torch.nan, back).movedim(-1, dim)
