"""Columns of tensors as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


def frame(rows: Sequence[str], columns: Mapping[str, Tensor], batch_shape: Sequence[int]) -> pd.DataFrame:
    """Columns `(*B, rows)` over their rows; a batch has a level of the index for each batch dimension."""
    import pandas as pd

    values = {name: value.reshape(-1).cpu().numpy() for name, value in columns.items()}
    if not batch_shape:
        return pd.DataFrame(values, index=list(rows))
    index = pd.MultiIndex.from_tuples(list(product(*(range(k) for k in batch_shape), rows)))
    return pd.DataFrame(values, index=index)
