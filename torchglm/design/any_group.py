"""What random effects multiply in new rows, whichever group these are of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchglm.design.blocks import Block, columns_of
from torchglm.design.frame import Frame
from torchglm.design.parts import Part, by_grouping, parts_of
from torchglm.design.spec import DesignSpec
from torchglm.tables.columns import as_table


def multiplied_columns(spec: DesignSpec) -> list[str]:
    """The columns that random effects multiply."""
    used = dict.fromkeys(text for part in _parts(spec) for text, _ in part.factors)
    return list(dict.fromkeys(name for text in used for name in spec.factors[text].expression.columns))


def effect_values(spec: DesignSpec, data: Any, rows: int, unseen: str | None = None) -> Tensor:
    """(m, q) the number that each random effect of a group multiplies: 1 of `(1 | g)`, 1 and x of `(1 + x | g)`.

    They stand grouping by grouping, as in `spec.groupings`; `data` has so many `rows`, and its columns of groups are
    not read. Raises `ValueError` for a column that is not there.
    """
    columns, parts = multiplied_columns(spec), _parts(spec)
    used = dict.fromkeys(scoped for part in parts for scoped in part.factors)
    coded: dict[tuple[str, bool], list[Block]] = {}
    if columns:
        counts: dict[str, int] = {}
        frame = Frame(spec.reading.applied(as_table(data, columns)), columns)
        policy = unseen or spec.unseen
        coded = {(text, low): spec.factors[text].blocks(frame, low, policy, counts) for text, low in used}
    pieces = [([b for scoped in part.factors for b in coded[scoped]], part.scale) for part in parts]
    numbers, indexed = columns_of(pieces, rows, torch.float64)
    return numbers if indexed is None else indexed.whole(numbers)


def _parts(spec: DesignSpec) -> list[Part]:
    return [part for sets in by_grouping(spec.random).values() for one in sets for part in parts_of(one.terms)]
