"""Labels of the rows of a fit: by themselves, or by the names of columns of its table."""

from __future__ import annotations

from typing import Any

from torchglm.inference.fitted import Fitted
from torchglm.tables.columns import names_of
from torchglm.writing.nearest import nearest


def row_labels(result: Fitted, labels: Any, argument: str) -> Any:
    """`labels` where they stand for themselves; of a text the column of that name, of `"firm + year"` two of them.

    Raises `ValueError` for a column that the fit does not hold, which are those that its formula or a role reads.
    """
    if not isinstance(labels, str):
        return labels
    table = result.context.get("table")
    held = [] if table is None else names_of(table)
    names = [labels] if labels in held else [name.strip() for name in labels.removeprefix("~").split("+")]
    lost = [name for name in names if name not in held]
    if lost or table is None:
        holds = f"columns {', '.join(held)}{nearest(lost[0], held)}" if held else "no table"
        raise ValueError(
            f"{argument}={labels!r}: the fit holds {holds}, and no column {lost[0]!r}. Pass a label for each row, as "
            f"data[{lost[0]!r}]."
        )
    columns = {name: table.column(name).to_pandas() for name in names}
    return columns if len(columns) > 1 else columns[names[0]]
