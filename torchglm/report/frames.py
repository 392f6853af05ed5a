"""Tables of tests as pandas frames."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from torchglm.inference.table import Table


def frame(table: Table) -> pd.DataFrame:
    """The columns of a table over its rows; a batch has a level of the index for each batch dimension."""
    import pandas as pd

    values = {name: value.reshape(-1).cpu().numpy() for name, value in table.columns.items()}
    if not table.batch_shape:
        return pd.DataFrame(values, index=list(table.rows))
    index = pd.MultiIndex.from_tuples(list(product(*(range(k) for k in table.batch_shape), table.rows)))
    return pd.DataFrame(values, index=index)
