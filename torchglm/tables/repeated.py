"""Tables with some rows repeated and columns beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchglm.tables.columns import as_table


def repeated(
    data: Any,
    rows: np.ndarray,
    columns: Mapping[str, np.ndarray],
    category: str,
    codes: np.ndarray,
    levels: Sequence[str],
) -> Any:
    """The rows `rows` (m,) of a table with further columns (m,), of which `category` has `codes` of ordered `levels`.

    A pandas frame gives one, all else an Arrow table. Columns of the same names are replaced.
    """
    if type(data).__module__.split(".")[0] == "pandas":
        import pandas as pd

        found = data.iloc[rows].reset_index(drop=True)
        return found.assign(**{category: pd.Categorical.from_codes(codes, list(levels))}, **columns)
    import pyarrow as pa

    table = as_table(data).take(pa.array(rows))
    coded = pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(list(levels)))
    for name, values in {category: coded, **{name: pa.array(column) for name, column in columns.items()}}.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, values)
    return table
