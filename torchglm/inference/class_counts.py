"""How many rows of a fit of classes are of each class."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows


@torch.no_grad()
def class_counts(source: Iterable[Rows], classes: int) -> Tensor:
    """(B, C) the rows of positive weight of each class, repeats counted."""
    if isinstance(source, Ragged):
        found = [class_counts([rows], classes) for _, rows in source.parts]
        return torch.cat(found)[source.order]
    ranks, total = ranks_of(source), None
    with ranks.together():
        for rows in own_rows(source):
            seen = (rows.weight > 0).to(torch.float64)
            times = seen if rows.repeats is None else seen * rows.repeats.to(torch.float64)
            own = torch.stack([(times * (rows.y == k)).sum(-1) for k in range(classes)], -1)
            total = own if total is None else total + own
    assert total is not None  # every process has rows
    return ranks.sum(total)[0]
