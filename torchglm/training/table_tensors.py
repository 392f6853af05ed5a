"""Tables as batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchglm.design import DesignSpec
from torchglm.inputs import GLMBatch, Roles, all_finite
from torchglm.rows.rows import kept_columns
from torchglm.tables import numbers
from torchglm.tables.columns import check_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


class TableRows:
    """Turns Arrow tables into `GLMBatch`: a function of a table, with the columns it needs.

    `design` is a list of numeric columns, or a `DesignSpec`, whose response is then `y` and whose constants are left
    to the model's bias; `y` and the roles are columns. Raises `ValueError` of a table with a value that is missing or
    not finite; `until` may be infinite.
    """

    def __init__(
        self,
        design: Sequence[str] | DesignSpec,
        y: str | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        **roles: Unpack[RoleValues],
    ) -> None:
        columns_of = Roles.of(roles, "a table of rows").columns
        self.extras = columns_of if y is None else {"y": y, **columns_of}
        self.spec = design if isinstance(design, DesignSpec) else None
        if self.spec is not None:
            self.spec.check_fixed("training by minibatches")
        ones = () if self.spec is None else self.spec.ones
        given = design.names if isinstance(design, DesignSpec) else list(design)
        self.kept = [j for j in range(len(given)) if j not in ones]  # which columns are not constant
        self.names = [given[j] for j in self.kept]
        columns = self.names if self.spec is None else list(self.spec.columns)
        response = [] if self.spec is None or y is not None else self.spec.response_columns
        self.columns = list(dict.fromkeys([*columns, *response, *self.extras.values()]))
        self.dtype = dtype

    @property
    def fields(self) -> list[str]:
        """What the batches hold beside `x`."""
        response = self.spec is not None and self.spec.response is not None
        return list(dict.fromkeys([*(["y"] if response else []), *self.extras]))

    def __call__(self, table: pa.Table) -> GLMBatch:
        """The rows of a table as tensors."""
        given: dict[str, Tensor] = {}
        if self.spec is None:
            x = matrix(table, self.names, self.dtype)
        else:
            response = "y" not in self.extras and self.spec.response is not None
            design = self.spec.design(table, response=response, also=list(self.extras.values()), dtype=self.dtype)
            x, table = kept_columns(design.x, self.kept), design.table
            if design.y is not None:
                given["y"] = design.y
        given.update({name: numbers(table, column) for name, column in self.extras.items()})
        for name, values in {"x": x, **given}.items():
            self._check(name, values)
        return GLMBatch(x, **{name: values.to(self.dtype) for name, values in given.items()})

    def _check(self, name: str, values: Tensor) -> None:
        if all_finite(values) or name == "until" and not bool(values.isnan().any()):
            return
        row, *column = (~torch.isfinite(values)).nonzero()[0].tolist()
        what = self.names[column[0]] if column else self.extras.get(name, name)
        raise ValueError(
            f"column {what!r} has a value that is not finite in row {row} of a piece. Fill it in or leave the row out."
        )


def matrix(table: pa.Table, names: Sequence[str], dtype: torch.dtype) -> Tensor:
    """Numeric columns as a matrix `(n, p)`, its rows contiguous; null becomes NaN.

    Arrow turns columns without nulls into rows at once, several times as fast as column by column.
    """
    import pyarrow as pa

    check_columns(names, table.column_names)
    chosen = table.select(list(dict.fromkeys(names)))
    kinds = pa.types.is_float32, pa.types.is_float64, pa.types.is_integer
    plain = all(any(is_kind(column) for is_kind in kinds) for column in chosen.schema.types)
    if plain and len(chosen.column_names) == len(names) > 0 and not any(c.null_count for c in chosen.columns):
        parts = [
            torch.from_numpy(batch.to_tensor(row_major=True).to_numpy()).to(dtype) for batch in chosen.to_batches()
        ]
        return parts[0] if len(parts) == 1 else torch.cat([torch.empty(0, len(names), dtype=dtype), *parts])
    x = torch.empty(table.num_rows, len(names), dtype=dtype)
    for j, name in enumerate(names):
        x[:, j] = numbers(table, name)
    return x
