"""Some of the rows of a design, as a design."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torchglm.design.spec import Design

if TYPE_CHECKING:
    from torch import Tensor

    from torchglm.rows.indexed import Indexed


def some_rows(design: Design, rows: Tensor) -> Design:
    """The rows of these places `(m,)`, in that order, with their part of the table."""

    def part(columns: Indexed | None) -> Indexed | None:
        return None if columns is None else columns.at(rows)

    return replace(
        design,
        numbers=design.numbers[rows],
        y=None if design.y is None else design.y[rows],
        table=design.table.take(rows.numpy()),
        indexed=part(design.indexed),
        kept=None,
        random=part(design.random),
        codes=None if design.codes is None else design.codes[:, rows],
    )
